//! What ten thousand Services cost the agent, beside kube-proxy in the same cluster. `cargo xtask bench scale` makes the
//! cluster and starts this.

mod fill;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench scale",
    about = "Ten thousand Services: time, memory and CPU, beside kube-proxy"
)]
struct Options {
    /// The cluster's administrator
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the Services and their endpoints
    Fill {
        #[arg(long, default_value_t = 10_000)]
        services: u32,
        #[arg(long, default_value_t = 10)]
        endpoints_each: u32,
    },
    /// Remove them
    Clear,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let client = client(&options.kubeconfig).await?;
    match options.action {
        Action::Fill {
            services,
            endpoints_each,
        } => {
            let size = fill::Size {
                services,
                endpoints_each,
            };
            let took = fill::fill(&client, size, |done| {
                if done.is_multiple_of(500) {
                    eprintln!("  {done} Services");
                }
            })
            .await?;
            println!(
                "{services} Services with {endpoints_each} endpoints each, in {:.1} s",
                took.as_secs_f64()
            );
            Ok(())
        }
        Action::Clear => fill::clear(&client).await,
    }
}

async fn client(kubeconfig: &PathBuf) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
