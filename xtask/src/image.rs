//! `cargo xtask image`: container images, made without Docker: the agent's, and one for tests.

mod agent;
mod archive;
mod sbom;
mod test;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

pub(crate) use archive::{Entry, Image};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The image of the cluster's tests (a gRPC server and client, and a shell) instead of the agent's
    #[arg(long)]
    test: bool,
    /// The version in the image's labels and in its tag; the workspace's own without it
    #[arg(long)]
    tag: Option<String>,
    /// Write the agent's files into this folder instead of an archive, as deploy/Dockerfile does
    #[arg(long, conflicts_with = "test")]
    files: Option<PathBuf>,
    /// The agent built without optimisation: in half a minute, for trying things out
    #[arg(long, conflicts_with = "test")]
    debug: bool,
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let written = if options.test {
        test::build(options.no_install)?
    } else {
        let version = options.tag.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
        agent::build(
            version,
            options.debug,
            options.files.as_deref(),
            options.no_install,
        )?
    };
    println!("{}", written.display());
    Ok(())
}
