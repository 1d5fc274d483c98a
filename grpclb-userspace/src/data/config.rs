//! What the data plane is given at its start and with each pod.

use std::fmt;
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::panics::{OnPanic, OnTurn};

/// Everything that the data plane must know before its first pod.
#[derive(Clone)]
pub struct Config {
    /// Threads; at least 1. A pod belongs to one of them.
    pub workers: usize,
    /// Our own error messages to clients begin with `grpclb-agent/<node>:`.
    pub node: Arc<str>,
    /// `SO_MARK` of the sockets that we dial (the connect hooks leave them alone). Setting it takes `CAP_NET_ADMIN`;
    /// `None` sets nothing.
    pub mark: Option<u32>,
    /// The slot that `pods` dials to see whether the listener is reached; its connections get the token and end.
    pub probe_slot: u32,
    /// What the probe is answered with: names this agent instance.
    pub probe_token: Arc<str>,
    /// Called with the worker's number from that worker's own loop: when it starts, every 100 ms while it has pods, and every
    /// 250 ms else.
    pub heartbeat: Arc<dyn Fn(usize) + Send + Sync>,
    /// The slot of a connection accepted over IPv6, where the address cannot carry it.
    pub identify: Arc<dyn Fn(BorrowedFd<'_>) -> Option<u32> + Send + Sync>,
    /// Called for each connection whose port declares nothing, with the Service's slot, when it has shown whether it is HTTP/2.
    pub detected: Arc<dyn Fn(u32, bool) + Send + Sync>,
    /// Called from a worker's loop with a pod's id and the panic's message and location, after a panic in that pod's turn: the
    /// pod's listeners are closed and its connections reset, so it must not be steered until it is added again.
    pub panicked: OnPanic,
    /// Called at each entry into a pod's code. Tests raise a panic by it; the agent leaves it empty.
    pub on_turn: Option<OnTurn>,
    /// For picks and jitter: takes another value with each start.
    pub seed: u64,
    pub dial: DialTimes,
}

/// How long dials to backends may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialTimes {
    /// Then calls and connections that wait are given to another endpoint, if another may be picked.
    pub patience: Duration,
    /// From the SYN to the TCP connection; then the endpoint has failed.
    pub connect: Duration,
    /// From the TCP connection to the SETTINGS of an HTTP/2 backend; then the endpoint has failed.
    pub settings: Duration,
}

impl Default for DialTimes {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(1),
            connect: Duration::from_secs(20),
            settings: Duration::from_secs(20),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("workers", &self.workers)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// The listening sockets of one pod, made in its network namespace and bound to its loopback device.
#[derive(Debug)]
pub struct Listeners {
    pub v4: TcpListener,
    pub v6: Option<TcpListener>,
}

/// How a pod leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The pod is gone: its sockets are reset, so that nothing of ours keeps its network namespace alive.
    Reset,
    /// The pod is no longer steered: its clients are told to go (GOAWAY), its connections end in their own time, and
    /// its listeners close after the last of them.
    Drain,
}

/// Why the data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data plane needs at least one worker")]
    NoWorkers,
    #[error("cannot start data worker {worker}: {source}")]
    Thread { worker: usize, source: std::io::Error },
}
