//! Where the wanted Services and pods come from. A source makes [`Desired`] values and tells its [`Health`]; what is done
//! with them is not its concern.
//!
//! Two sources: [`mod@file`] and [`kubernetes`]. Another one joins as a variant of [`Source`] and a folder beside them: it sends
//! whole [`Desired`] values on the same channel, keeps its last good one when its origin fails, and says so in [`Health`].

pub mod file;
pub mod kubernetes;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::model::{Desired, ServiceId};

/// Which source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A YAML file (docs/configuration.md), read again when it changes.
    File(PathBuf),
    /// The Kubernetes API (docs/kubernetes.md), watched.
    Kubernetes(kubernetes::Options),
}

impl fmt::Display for Source {
    /// For people: `file /etc/grpclb/config.yaml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Kubernetes(options) => write!(f, "the Kubernetes API, for node {}", options.node),
        }
    }
}

/// How a source does.
#[derive(Clone, Debug)]
pub struct Health {
    /// Where the state in use comes from, for people: `file /etc/grpclb/config.yaml`.
    pub origin: Arc<str>,
    /// The state in use is whole. Before that it must not be acted on: nothing is known, which is not that nothing is wanted.
    pub synced: bool,
    /// When the state in use was read, or last confirmed by its origin.
    pub read_at: Instant,
    /// How many states were taken up; the first is 1.
    pub generation: u64,
    /// Why the newest state was not taken up; the last good one stays in use. Cleared by the next good one.
    pub error: Option<String>,
    /// Why nothing of this node is steered, where that is wanted: its label.
    pub switched_off: Option<String>,
    /// Values that were not understood, and left the default in force, since the start; a broken file is an `error` instead.
    pub bad_values: u64,
    /// Times that an object of the source was skipped because it cannot be decoded, since the start.
    pub undecodable_objects: u64,
}

/// A source at work. Dropped, it stops watching; both receivers then keep their last value.
#[derive(Debug)]
pub struct Watch {
    /// What is wanted; a new value only when it differs from the last.
    pub desired: watch::Receiver<Arc<Desired>>,
    pub health: watch::Receiver<Health>,
    /// Asks about endpoints that are not wanted, too; only where the source has such.
    pub explainer: Option<Explainer>,
    /// Writes Events on pods; only where the source has such.
    pub events: Option<PodEvents>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Has Events written on pods.
#[derive(Clone, Debug)]
pub struct PodEvents(mpsc::Sender<kubernetes::Report>);

/// An Event of type Warning on a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    pub uid: Arc<str>,
    /// `namespace/name`.
    pub name: Arc<str>,
    /// In CamelCase, as the Events of Kubernetes have it.
    pub reason: &'static str,
    pub message: String,
}

impl PodEvents {
    /// Never blocks. The Event is written later; where too many wait, this one is not.
    pub fn report(&self, event: PodEvent) {
        let _full = self.0.try_send(event.into());
    }
}

/// Asks the source of a Service's endpoints, those that get no calls included.
#[derive(Clone, Debug)]
pub struct Explainer(mpsc::Sender<Question>);

/// A Service port, and who wants to know.
type Question = (ServiceId, oneshot::Sender<Vec<JudgedEndpoint>>);

/// An endpoint that the source knows of, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedEndpoint {
    /// As in [`crate::model::Endpoint`].
    pub id: Arc<str>,
    pub address: SocketAddr,
    /// The node that it is on, where that is known.
    pub node: Option<Arc<str>>,
    pub gets_calls: bool,
    /// Why, for people: `gets no calls: it is not ready`.
    pub verdict: String,
}

impl Explainer {
    /// Every endpoint of a Service port, by address. Empty for one that the source does not balance, and when it has ended.
    pub async fn endpoints(&self, service: ServiceId) -> Vec<JudgedEndpoint> {
        let (answer, answered) = oneshot::channel();
        let asked = self.0.send((service, answer)).await;
        match asked {
            Ok(()) => answered.await.unwrap_or_default(),
            Err(_ended) => Vec::new(),
        }
    }
}

/// Why a source could not be started. Later failures are told by [`Health`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] file::Error),
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
    #[error("cannot watch {source_name} for changes: {cause}")]
    Watch {
        source_name: String,
        cause: std::io::Error,
    },
}

/// Reads the source once, then keeps reading as it changes. Must be called within a tokio runtime.
///
/// # Errors
/// A file's first state cannot be read or is invalid, or it is unclear how the API is to be reached: there is nothing to fall
/// back to, so the agent should not start. An API that does not answer is no error: see [`Health::synced`].
pub fn watch(source: &Source) -> Result<Watch, Error> {
    match source {
        Source::File(path) => file::watch(path),
        Source::Kubernetes(options) => Ok(kubernetes::watch(options)?),
    }
}
