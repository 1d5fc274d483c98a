//! What may be set. The defaults are the founding decisions.

use std::sync::Arc;
use std::time::Duration;

use crate::connection;

/// How a pod's splitter behaves; one for all pods of an agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name: our own errors begin with `grpclb-agent/<node>:`.
    pub node: Arc<str>,
    /// SETTINGS and limits towards clients.
    pub client: connection::Config,
    /// SETTINGS and limits towards backends.
    pub backend: connection::Config,
    /// Connections to one endpoint, at most, that are not limited by the resets that they may still send.
    pub pool: usize,
    /// Connections to one endpoint, at most, those included.
    pub pool_total: usize,
    /// Calls of one (pod, Service) that wait for a connection, at most.
    pub queue: usize,
    /// A dial that has not come to the backend's SETTINGS in this time goes on in the background: its calls are given to
    /// other endpoints, and the endpoint leaves the pick, as long as others can be asked.
    pub dial_patience: Duration,
    /// From the dial to the TCP connection, at most; then the endpoint has failed.
    pub connect_timeout: Duration,
    /// From the TCP connection to the backend's SETTINGS, at most; then the endpoint has failed.
    pub settings_timeout: Duration,
    /// Calls that came before any endpoint was connected wait this long for the one that was picked for them; then they
    /// go to one that is. Without it a first burst would go to whoever answers first.
    pub dial_grace: Duration,
    /// When an endpoint is back that had failed, the others that are out are dialled once each, spread over this time.
    pub probe_spread: Duration,
    /// A connection window that stays used up for this long, while streams wait for it, takes no more calls.
    pub stall: Duration,
    /// A connection without calls is closed after this time.
    pub idle: Duration,
    /// The same when the pod has no client connection of the Service any more.
    pub linger: Duration,
    /// Bytes of a request's body that are kept for another try.
    pub replay: usize,
    /// How often a call is sent, at most.
    pub tries: u8,
    /// Bytes that one pod may hold, at most; less when less of the agent's [`super::Budget`] is free.
    pub pod_budget: usize,
    /// A stream's receive window, at most.
    pub window: u32,
    /// A backend that does not answer a keepalive PING in this time is dead.
    pub keepalive: Duration,
    /// Bytes of header fields that one pod interns.
    pub fields: usize,
}

impl Config {
    pub fn new(node: impl Into<Arc<str>>) -> Self {
        Self {
            node: node.into(),
            client: connection::Config::to_client(),
            backend: connection::Config::to_backend(),
            pool: 4,
            // 800 open calls on each: 10,000 of one client fit.
            pool_total: 16,
            queue: 10_000,
            dial_patience: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(20),
            settings_timeout: Duration::from_secs(20),
            dial_grace: Duration::from_millis(50),
            probe_spread: Duration::from_millis(500),
            stall: Duration::from_millis(50),
            idle: Duration::from_mins(5),
            linger: Duration::from_secs(5),
            replay: 64 << 10,
            tries: 3,
            pod_budget: usize::MAX,
            window: 4 << 20,
            keepalive: Duration::from_secs(20),
            fields: 1 << 20,
        }
    }
}
