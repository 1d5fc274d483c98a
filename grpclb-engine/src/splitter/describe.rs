//! The splitter's state as plain values, for status pages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{ServiceKey, Splitter};
use crate::Time;
use crate::balance::{Endpoint, Policy};

/// One Service as this pod uses it.
#[derive(Clone, Debug)]
pub struct ServiceView {
    pub key: ServiceKey,
    pub name: Arc<str>,
    pub policy: Policy,
    /// Clients' connections.
    pub clients: usize,
    /// Calls that wait for a connection.
    pub waiting: usize,
    pub endpoints: Vec<EndpointView>,
    /// Who got the last calls, the newest first.
    pub recent: Vec<SocketAddr>,
}

/// One endpoint as this pod uses it: a member of its subset, or one whose last calls still run.
#[derive(Clone, Debug)]
pub struct EndpointView {
    pub endpoint: Endpoint,
    /// It is picked for new calls (unless it is out).
    pub member: bool,
    /// Connections that are up.
    pub connections: usize,
    /// Connections that are being dialled.
    pub dialing: usize,
    /// Streams on them.
    pub streams: usize,
    /// Calls given to it so far.
    pub calls: u64,
    /// Calls that it lost or reset.
    pub errors: u64,
    /// Opaque connections.
    pub opaque: u32,
    /// It failed, or its dial takes long, and it is out of the pick for this long.
    pub out_for: Option<Duration>,
    /// Of the policy `peak_ewma`.
    pub latency: Option<Duration>,
}

impl Splitter {
    /// All Services that were set.
    pub fn describe(&self, now: Time) -> Vec<ServiceView> {
        let view = |(group_key, group): (_, &super::Group)| {
            let mut endpoints: Vec<EndpointView> = group
                .picker
                .members()
                .map(|(_, member)| EndpointView {
                    endpoint: member.endpoint().clone(),
                    member: true,
                    connections: 0,
                    dialing: 0,
                    streams: 0,
                    calls: member.picks(),
                    errors: member.errors(),
                    opaque: member.opaque(),
                    out_for: member.out_until(now).map(|until| until.since(now)),
                    latency: member.load().latency(),
                })
                .collect();
            let mut waiting = 0;
            for (pool_key, pool) in self.pools.iter().filter(|(_, pool)| pool.group == group_key) {
                let here = super::call::Place::Waiting(pool_key);
                waiting += pool
                    .waiting
                    .iter()
                    .filter(|&&call| self.calls.get(call).is_some_and(|call| call.place == here))
                    .count();
                let index = endpoints
                    .iter()
                    .position(|view| view.endpoint.is_same(&pool.endpoint));
                let index = index.unwrap_or_else(|| {
                    let mut view = EndpointView::leaving(pool.endpoint.clone());
                    let known = group.picker.find(&pool.endpoint);
                    if let Some(member) = known.and_then(|member| group.picker.get(member)) {
                        (view.calls, view.errors) = (member.picks(), member.errors());
                        view.opaque = member.opaque();
                    }
                    endpoints.push(view);
                    endpoints.len() - 1
                });
                let entry = &mut endpoints[index];
                for upstream in pool.upstreams.iter().filter_map(|id| self.upstreams.get(id.0)) {
                    if upstream.is_ready() {
                        entry.connections += 1;
                        entry.streams += upstream.link.conn.streams();
                    } else {
                        entry.dialing += 1;
                    }
                }
            }
            ServiceView {
                key: group.key,
                name: Arc::clone(&group.service.name),
                policy: group.picker.policy(),
                clients: group.clients,
                waiting,
                endpoints,
                recent: group
                    .recent
                    .newest_first()
                    .filter_map(|&member| Some(group.picker.get(member)?.endpoint().address))
                    .collect(),
            }
        };
        self.groups.iter().map(view).collect()
    }
}

impl EndpointView {
    const fn leaving(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            member: false,
            connections: 0,
            dialing: 0,
            streams: 0,
            calls: 0,
            errors: 0,
            opaque: 0,
            out_for: None,
            latency: None,
        }
    }
}
