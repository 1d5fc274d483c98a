//! Whom a command asks: the agent of this machine, or all agents of a cluster.

use std::net::SocketAddr;
use std::time::Duration;

use super::cluster::{self, Cluster};
use super::failure::Failure;
use crate::admin;

/// Until an agent of this machine is taken for absent.
const NEARBY: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub(super) struct Options {
    /// Ask the agent that answers at this address of this machine. Without it and without a cluster's options: the agent of this
    /// machine if one answers, else the cluster of the kubeconfig
    #[arg(long, value_name = "ADDR", env = "GRPCLB_ADMIN", conflicts_with_all = ["kubeconfig", "context"])]
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
        if let Some(address) = self.admin {
            return Ok(Whom::Agent(address));
        }
        let asks_cluster =
            self.cluster.kubeconfig.is_some() || self.cluster.context.is_some() || super::is_kubectl_plugin();
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

async fn answers(address: SocketAddr) -> bool {
    let connect = tokio::net::TcpStream::connect(address);
    matches!(tokio::time::timeout(NEARBY, connect).await, Ok(Ok(_)))
}
