//! Clients and servers that misbehave, for tests of one tenant's effect on another: raw HTTP/2 frames over plain TCP.
//!
//! An attack is bounded in connections, streams and time. It prints one line of figures when its time is over, holds what it
//! has until its standard input ends, and ends. A server serves until it is killed. Well-behaved peers are in `grpclb-peer`.

mod clients;
mod connection;
mod kinds;
mod servers;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use tokio::io::AsyncReadExt as _;

#[allow(
    clippy::pedantic,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub,
    dead_code
)]
mod probe {
    tonic::include_proto!("grpclb.probe");
}

#[derive(Parser)]
enum Arguments {
    /// Attack a server as a client
    #[command(args_override_self = true)]
    Client(Plan),
    /// Serve in an unusual way
    Server {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        name: String,
        #[arg(long, value_enum)]
        kind: servers::Kind,
    },
}

/// An attack's kind and bounds; a bound of 0 means the kind's own.
#[derive(Clone, Debug, clap::Args)]
struct Plan {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long, value_enum)]
    kind: kinds::Kind,
    /// Time until the figures are printed
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections at a time
    #[arg(long, default_value_t = 0)]
    connections: usize,
    /// Streams of one connection
    #[arg(long, default_value_t = 0)]
    streams: usize,
    /// Header fields of one request
    #[arg(long, default_value_t = 0)]
    fields: usize,
    /// Requests a second over all connections; 0: as fast as it can
    #[arg(long, default_value_t = 0)]
    rate: u64,
}

// One thread: an attacker uses one CPU at most.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Client(plan) => {
            let end = Duration::from_secs(plan.seconds);
            let figures = clients::start(plan);
            tokio::time::sleep(end).await;
            println!("{}", figures.to_json());
            let mut ignored = [0; 64];
            while tokio::io::stdin().read(&mut ignored).await? > 0 {}
            // Sockets are closed by the kernel, as at the end of any process.
            std::process::exit(0)
        }
        Arguments::Server { listen, name, kind } => servers::serve(listen, &name, kind).await,
    }
}
