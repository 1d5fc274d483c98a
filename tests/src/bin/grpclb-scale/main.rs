//! What ten thousand Services cost the agent, beside kube-proxy in the same cluster. `cargo xtask bench scale` makes the
//! cluster and starts this.

mod crowd;
mod fill;
mod measure;
mod processes;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use grpclb_tests::cluster::Cluster;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench scale",
    about = "Ten thousand Services: time, memory and CPU, beside kube-proxy"
)]
struct Options {
    /// The cluster's administrator; without it, the cluster that `GRPCLB_CLUSTER` names
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Measure, in a cluster of `cargo xtask cluster` that has the images
    Measure {
        #[command(flatten)]
        plan: measure::Plan,
        /// Print the figures as JSON
        #[arg(long)]
        json: bool,
        /// Write the tables to a file, too
        #[arg(long)]
        markdown: Option<PathBuf>,
    },
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
    let kubeconfig = match options.kubeconfig {
        Some(kubeconfig) => kubeconfig,
        None => Cluster::find()?.kubeconfig(),
    };
    match options.action {
        Action::Measure { plan, json, markdown } => {
            let report = measure::run(plan, &Cluster::find()?).await?;
            if let Some(path) = markdown {
                std::fs::write(&path, report.to_string()).with_context(|| path.display().to_string())?;
            }
            if json {
                println!("{}", serde_json::to_string(&report)?);
            } else {
                println!("{report}");
            }
            Ok(())
        }
        Action::Fill {
            services,
            endpoints_each,
        } => {
            let size = fill::Size {
                services,
                endpoints_each,
            };
            let took = fill::fill(&client(&kubeconfig).await?, size, |done| {
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
        Action::Clear => fill::clear(&client(&kubeconfig).await?).await,
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
