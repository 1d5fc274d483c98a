//! The agent's HTTP answers: read-only, on loopback, and the metrics alone on a port of their own.
//!
//! | path | answer |
//! | --- | --- |
//! | `/status` | [`crate::observe::Status`] as JSON |
//! | `/explain?pod=NAME&service=NAME:PORT&namespace=NAME` | [`Explanation`] as JSON; without a namespace any pod of that name |
//! | `/check` | what `grpclb check` finds in the agent's place, as JSON |
//! | `/readyz` | 200 `ready`, or 503 with a reason a line; on both ports, the reasons on loopback only |
//! | `/livez` | 200 as long as the process answers; the watchdog ends one whose workers stand still; on both ports |
//! | `/metrics` | Prometheus text, on both ports |
//!
//! A kubelet's probes come from outside of the pod, so they cannot reach loopback: they ask the metrics port.
//!
//! It runs on a thread and a runtime of its own, so that neither a scrape nor a stuck client costs the data plane
//! anything. It knows no other room: `app` gives it a [`StatusSource`].
//!
//! [`server`] holds the connections and their limits, [`answer`] is the table above.

mod answer;
mod server;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use crate::observe::Status;
use crate::observe::explain::{Explanation, Question};
use crate::observe::status::Readiness;

pub use server::Admin;

/// Where the admin answers, unless told otherwise. docs/configuration.md has the table of all ports.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 28_101);
/// Where metrics are scraped, unless told otherwise: all addresses of both families, for an agent's pod has those of its
/// cluster. Where the kernel has no IPv6, it means those of IPv4.
pub const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 28_102);

/// Where the answers come from.
pub trait StatusSource: Send + Sync + 'static {
    /// A snapshot of everything, made for this question. It is given 2 s, then the client gets 503.
    fn status(&self) -> Pin<Box<dyn Future<Output = Status> + Send + '_>>;

    /// The status' readiness alone. A kubelet asks every few seconds: this is to cost next to nothing.
    fn readiness(&self) -> Readiness;

    /// What this machine has and lacks, as JSON; given 4 s, for everything is tried out.
    fn check(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>>;

    /// Why a pod's calls to a Service are balanced, or are not; as quick as [`status`](Self::status).
    fn explain(&self, question: Question) -> Pin<Box<dyn Future<Output = Explanation> + Send + '_>>;
}

/// Which ports are opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// Must be a loopback address: what is told there is for this node alone.
    pub admin: SocketAddr,
    /// `None`: no metrics port; the admin port has them still.
    pub metrics: Option<SocketAddr>,
}

/// Why the admin could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "--admin {0} is not a loopback address: the admin port is for this node alone (use --metrics for Prometheus)"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address} for {purpose}: {cause}; choose another with {option}")]
    Listen {
        address: SocketAddr,
        purpose: &'static str,
        option: &'static str,
        cause: std::io::Error,
    },
    #[error("cannot start the admin's thread: {0}")]
    Thread(std::io::Error),
}

/// Opens the ports and answers until the [`Admin`] is dropped.
pub fn start(config: &Config, source: Arc<dyn StatusSource>) -> Result<Admin, Error> {
    server::start(config, source)
}

#[cfg(test)]
mod tests;
