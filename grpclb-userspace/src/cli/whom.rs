//! Whom a command asks: the agent of this machine, or all agents of a cluster.

use std::net::SocketAddr;
use std::time::Duration;

use super::Exit;
use super::cluster::{self, Cluster};
use super::failure::Failure;
use crate::admin;

/// Where the agent of this machine answers, if not at its default address.
const ADMIN: &str = "GRPCLB_ADMIN";
/// Until an agent of this machine is taken for absent.
const NEARBY: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub(super) struct Options {
    /// Ask the agent that answers at this address of this machine [env: `GRPCLB_ADMIN`]. Without it and without a cluster's options:
    /// the agent of this machine if one answers, else the cluster of the kubeconfig
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["kubeconfig", "context"])]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    cluster: cluster::Options,
}

/// Who is asked.
#[derive(Clone, Debug)]
pub(super) enum Whom {
    Agent(SocketAddr),
    Cluster(Cluster),
}

impl Options {
    /// # Errors
    /// There is nobody to ask, or the kubeconfig cannot be used.
    pub(super) async fn find(&self) -> Result<Whom, Failure> {
        let asks_cluster =
            self.cluster.kubeconfig.is_some() || self.cluster.context.is_some() || super::is_kubectl_plugin();
        // Not by clap: a variable that is set for other commands must not stand in the way of `--kubeconfig`.
        let address = match self.admin {
            None if !asks_cluster => from_environment()?,
            given => given,
        };
        if let Some(address) = address {
            return Ok(Whom::Agent(address));
        }
        if !asks_cluster && answers(admin::DEFAULT_ADMIN).await {
            return Ok(Whom::Agent(admin::DEFAULT_ADMIN));
        }
        if !asks_cluster && !Cluster::is_configured() {
            return Err(Failure::Nobody(admin::DEFAULT_ADMIN));
        }
        Ok(Whom::Cluster(self.find_cluster().await?))
    }

    /// The cluster, for what no single agent can do.
    pub(super) async fn find_cluster(&self) -> Result<Cluster, Failure> {
        Ok(Cluster::find(&self.cluster).await?)
    }
}

fn from_environment() -> Result<Option<SocketAddr>, Failure> {
    let Some(address) = std::env::var_os(ADMIN).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let parsed = address.to_str().and_then(|address| address.parse().ok());
    let wrong = || {
        Failure::Said(
            Exit::Usage,
            format!(
                "{ADMIN}: {} is no address: expected ADDRESS:PORT",
                address.display()
            ),
        )
    };
    parsed.map(Some).ok_or_else(wrong)
}

async fn answers(address: SocketAddr) -> bool {
    let connect = tokio::net::TcpStream::connect(address);
    matches!(tokio::time::timeout(NEARBY, connect).await, Ok(Ok(_)))
}
