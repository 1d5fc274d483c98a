//! Services and pods from the Kubernetes API, for one node.

use std::path::PathBuf;

use super::Watch;

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
    #[error("the Kubernetes API as a source is not built into this agent yet: use --config FILE")]
    NotBuilt,
}

/// Follows the API. Must be called within a tokio runtime.
///
/// # Errors
/// It is unclear how the API is to be reached.
pub(super) fn watch(_options: &Options) -> Result<Watch, Error> {
    Err(Error::NotBuilt)
}
