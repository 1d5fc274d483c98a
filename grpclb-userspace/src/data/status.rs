//! What the data plane says about itself: plain values, collected from the workers when somebody asks.

use std::net::SocketAddr;
use std::sync::Arc;

use super::totals::Totals;
use grpclb_engine::balance::State;
use grpclb_engine::splitter::{EndpointView, ServiceView};

/// One snapshot of a worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerStatus {
    pub pods: Vec<PodStatus>,
    /// What pods that have left had counted.
    pub departed: Totals,
    /// Pods that failed by a panic of the agent's, since the start.
    pub panics: u64,
}

/// One client pod.
#[derive(Clone, Debug)]
pub struct PodStatus {
    pub pod: String,
    pub worker: usize,
    pub draining: bool,
    /// Open HTTP/2 connections of the pod's clients.
    pub client_connections: usize,
    /// Open HTTP/2 connections to backends.
    pub upstream_connections: usize,
    /// Open connections that are relayed byte by byte.
    pub opaque_connections: usize,
    pub accept: AcceptCounters,
    pub opaque: OpaqueCounters,
    pub services: Vec<ServiceStatus>,
    /// Bytes that are held for its calls: received and not sent on, or kept for another try.
    pub buffered: usize,
    /// All bytes that are charged to the pod: its connections and what waits in opaque ones included.
    pub held: usize,
    /// The engine's totals of this pod, by name (`calls`, `replayed`, a limit that was hit, …).
    pub counters: Vec<(String, u64)>,
}

/// What became of the connections that a pod's listeners took in; totals since the pod was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcceptCounters {
    pub accepted: u64,
    pub probes: u64,
    /// Reset: the address named no Service.
    pub unknown_service: u64,
    /// Proved to be HTTP/2.
    pub http2: u64,
    /// Proved to be something else.
    pub opaque: u64,
    /// Said nothing for the time that undeclared ports are given; relayed as opaque.
    pub silent: u64,
    /// Ended or were reset before they proved to be anything.
    pub ended_early: u64,
    /// Reset before they were detected, for the pod held more memory than it may.
    pub undetected_reset: u64,
    /// `accept` failed: no descriptors or no memory.
    pub failed: u64,
}

/// Opaque connections; totals since the pod was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpaqueCounters {
    pub dials: u64,
    pub failed_dials: u64,
    /// Reset because no endpoint took the connection.
    pub unserved: u64,
    /// Reset because the pod held more memory than it may.
    pub refused: u64,
    pub ended: u64,
    pub reset: u64,
    pub bytes_from_clients: u64,
    pub bytes_to_clients: u64,
}

/// One Service port as a client pod uses it.
#[derive(Clone, Debug)]
pub struct ServiceStatus {
    pub slot: u32,
    pub name: String,
    pub policy: String,
    /// Open HTTP/2 connections of the pod's clients.
    pub client_connections: usize,
    /// Calls that wait for a connection.
    pub waiting: usize,
    /// Connections that were relayed byte by byte, since the pod was added.
    pub opaque: u64,
    pub endpoints: Vec<EndpointStatus>,
    /// Who got the last calls, the newest first.
    pub recent: Vec<SocketAddr>,
}

/// One endpoint as a client pod uses it.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    pub id: Arc<str>,
    pub address: SocketAddr,
    pub draining: bool,
    /// It is of the pod's subset: picked for new calls, unless it failed.
    pub member: bool,
    /// It failed, and is out of the pick until its backoff ends.
    pub failed: bool,
    /// Open HTTP/2 connections.
    pub connections: usize,
    /// Calls in flight.
    pub streams: usize,
    /// Calls given to it since the pod was added.
    pub calls: u64,
    /// Calls that it failed, by a reset or by its death.
    pub errors: u64,
    /// Opaque connections in flight.
    pub opaque: usize,
}

impl PodStatus {
    /// Everything that it counts, by name.
    pub fn totals(&self) -> impl Iterator<Item = (&str, u64)> {
        let (accept, opaque) = (&self.accept, &self.opaque);
        let own = [
            ("accepted", accept.accepted),
            ("probes", accept.probes),
            ("unknown_service", accept.unknown_service),
            ("http2", accept.http2),
            ("opaque", accept.opaque),
            ("silent", accept.silent),
            ("ended_early", accept.ended_early),
            ("undetected_reset", accept.undetected_reset),
            ("accept_failed", accept.failed),
            ("opaque_dials", opaque.dials),
            ("opaque_failed_dials", opaque.failed_dials),
            ("opaque_unserved", opaque.unserved),
            ("opaque_refused", opaque.refused),
            ("opaque_ended", opaque.ended),
            ("opaque_reset", opaque.reset),
            ("opaque_bytes_from_clients", opaque.bytes_from_clients),
            ("opaque_bytes_to_clients", opaque.bytes_to_clients),
        ];
        let engine = self.counters.iter().map(|(name, count)| (name.as_str(), *count));
        own.into_iter().chain(engine)
    }
}

impl ServiceStatus {
    pub(super) fn new(view: &ServiceView, opaque: u64) -> Self {
        Self {
            slot: view.key.0,
            name: view.name.to_string(),
            policy: view.policy.to_string(),
            client_connections: view.clients,
            waiting: view.waiting,
            opaque,
            endpoints: view.endpoints.iter().map(EndpointStatus::new).collect(),
            recent: view.recent.clone(),
        }
    }
}

impl EndpointStatus {
    fn new(view: &EndpointView) -> Self {
        Self {
            id: Arc::clone(&view.endpoint.id),
            address: view.endpoint.address,
            draining: view.endpoint.state == State::Draining,
            member: view.member,
            failed: view.out_for.is_some(),
            connections: view.connections,
            streams: view.streams,
            calls: view.calls,
            errors: view.errors,
            opaque: view.opaque as usize,
        }
    }
}
