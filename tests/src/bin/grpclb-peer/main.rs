//! The tonic peer: a gRPC server, a client that runs scenarios, and a load. `peers/README.md` describes arguments and
//! output, which are the same in all languages.

mod client;
mod dial;
mod load;
mod scenarios;
mod server;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

#[allow(
    clippy::pedantic,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub
)]
mod probe {
    tonic::include_proto!("grpclb.probe");
}

/// The largest message of any scenario is 10 MB.
const MAX_MESSAGE: usize = 64 << 20;
/// Large metadata is one of the scenarios.
const MAX_HEADER_LIST: u32 = 1 << 20;

#[derive(Parser)]
enum Arguments {
    Server {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        name: String,
        #[arg(long)]
        executions: PathBuf,
        #[arg(long)]
        max_concurrent_streams: Option<u32>,
    },
    Client {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long, value_delimiter = ',')]
        scenarios: Vec<String>,
    },
    Load(load::Plan),
    Dial {
        #[arg(long)]
        target: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse() {
        Arguments::Server {
            listen,
            name,
            executions,
            max_concurrent_streams,
        } => server::serve(listen, name, &executions, max_concurrent_streams).await,
        Arguments::Client { target, scenarios } => {
            for scenario in scenarios {
                println!("{}", scenarios::run(target, &scenario).await);
            }
            Ok(())
        }
        Arguments::Load(plan) => load::run(plan).await,
        Arguments::Dial { target } => dial::run(target).await,
    }
}
