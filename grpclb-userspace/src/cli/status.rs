//! `grpclb status`: what the agent of this node does, now.

use std::net::SocketAddr;

use super::client::{self, Error};
use super::{Exit, render};
use crate::admin;

/// Show what the agent does: pods, Services, endpoints, connections, counters
///
/// Ends with 0 when the agent is ready, 1 when it is not, 3 when none answers.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Where the agent's admin answers
    #[arg(long, value_name = "ADDR", default_value_t = admin::DEFAULT_ADMIN, env = "GRPCLB_ADMIN")]
    admin: SocketAddr,
    /// Print the agent's JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            super::complain(&format!("cannot start: {error}"));
            return Exit::Failed;
        }
    };
    let status = match runtime.block_on(client::status(options.admin)) {
        Ok(status) => status,
        Err(error) => {
            super::complain(&error.to_string());
            return match error {
                Error::Unreachable { .. } | Error::Timeout(_) => Exit::Unreachable,
                Error::NotAnAgent { .. } => Exit::Failed,
            };
        }
    };
    let exit = if status.readiness.ready {
        Exit::Success
    } else {
        Exit::No
    };
    if options.json {
        return super::print_json(&status, exit);
    }
    super::print(&render::status(&status, super::colours()), exit)
}
