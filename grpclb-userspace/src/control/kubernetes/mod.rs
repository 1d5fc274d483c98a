//! Services and pods from the Kubernetes API, for one node. docs/kubernetes.md says what is taken from where and why.
//!
//! - [`api`]: a request; [`wire`]: the answers, in protobuf; [`causes`]: what went wrong, for people;
//! - [`reflector`]: follows one kind of object, whatever breaks;
//! - [`state`] with [`table`] and [`names`]: what was told, and what follows from it;
//! - [`services`], [`endpoints`], [`routes`], [`pods`], [`annotations`]: the rules, pure;
//! - [`snapshot`]: the last state, for a start without the API server; [`complaints`]: bad values and the like, told to people, within [`limits`];
//! - [`source`]: drives all of it.

pub mod annotations;
mod api;
pub mod causes;
pub mod clock;
mod complaints;
mod endpoints;
mod limits;
mod names;
mod pods;
mod reflector;
pub mod remedies;
mod routes;
mod services;
mod snapshot;
mod source;
mod state;
mod table;
mod wire;

use std::path::PathBuf;

use super::Watch;
pub(super) use complaints::Report;
pub use snapshot::is_snapshot;

/// What the source has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// This node's name in the cluster: only its pods are watched.
    pub node: String,
    /// A kubeconfig; without one the pod's service account, or the user's own kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Where the last state is kept for a start without the API server; on a tmpfs.
    pub run_dir: PathBuf,
}

/// Why the source could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no way to the Kubernetes API: {0}; say --kubeconfig FILE, or set KUBECONFIG")]
    Kubeconfig(kube::config::KubeconfigError),
    #[error("this pod's service account gives no way to the Kubernetes API: {0}")]
    ServiceAccount(kube::config::InClusterError),
    #[error("cannot make a client of the Kubernetes API: {0}")]
    Client(kube::Error),
    #[error("cannot read the kubeconfig: {0}")]
    Thread(std::io::Error),
}

/// Follows the API. Must be called within a tokio runtime.
///
/// # Errors
/// It is unclear how the API is to be reached. Whether it answers is told by [`super::Health`].
pub(super) fn watch(options: &Options) -> Result<Watch, Error> {
    let api = api::Api::new(options)?;
    Ok(source::start(options, api))
}
