//! What pods that have left had counted. Totals of the agent are these and those of the pods that are there: they never
//! fall when a pod goes. Bounded by the Services that there are.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::status::{PodStatus, ServiceStatus};
use crate::model::ServicePort;

/// Totals of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By name, as in [`PodStatus::totals`].
    pub counters: BTreeMap<String, u64>,
    /// By the Service's slot.
    pub services: HashMap<u32, ServiceTotals>,
}

/// Totals of one Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTotals {
    /// Connections that were relayed byte by byte.
    pub opaque: u64,
    /// By the endpoint's id and address.
    pub endpoints: HashMap<(Arc<str>, SocketAddr), EndpointTotals>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointTotals {
    pub calls: u64,
    pub errors: u64,
}

impl Totals {
    /// Takes up what a pod counted in all its life.
    pub(super) fn add(&mut self, pod: &PodStatus) {
        for (name, count) in pod.totals() {
            *self.counters.entry(name.to_owned()).or_default() += count;
        }
        for used in &pod.services {
            let service = self.services.entry(used.slot).or_default();
            service.opaque += used.opaque;
            for endpoint in &used.endpoints {
                let key = (Arc::clone(&endpoint.id), endpoint.address);
                let totals = service.endpoints.entry(key).or_default();
                totals.calls += endpoint.calls;
                totals.errors += endpoint.errors;
            }
        }
    }

    /// Endpoints that a Service does not have any more are told of by nobody.
    pub(super) fn service_changed(&mut self, slot: u32, now: &ServicePort) {
        if let Some(service) = self.services.get_mut(&slot) {
            service.endpoints.retain(|key, _| has(now, key));
        }
    }

    pub(super) fn service_gone(&mut self, slot: u32) {
        self.services.remove(&slot);
    }
}

fn has(service: &ServicePort, (id, address): &(Arc<str>, SocketAddr)) -> bool {
    let mut endpoints = service.endpoints.iter();
    endpoints.any(|endpoint| endpoint.id == *id && endpoint.address == *address)
}

/// Keeps the totals of one Service's endpoints of one pod from falling: an endpoint that leaves the pod's subset and comes
/// back starts from nothing in the engine.
#[derive(Debug, Default)]
pub(super) struct Kept(HashMap<(Arc<str>, SocketAddr), Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// What was told last, by the engine.
    last: EndpointTotals,
    /// What was counted before that.
    before: EndpointTotals,
}

impl Kept {
    /// Adds to `status` what its endpoints had counted before they started anew.
    pub(super) fn keep(&mut self, status: &mut ServiceStatus) {
        let mut told = HashMap::with_capacity(status.endpoints.len());
        for endpoint in &mut status.endpoints {
            let key = (Arc::clone(&endpoint.id), endpoint.address);
            let mut seen = self.0.remove(&key).unwrap_or_default();
            let now = EndpointTotals {
                calls: endpoint.calls,
                errors: endpoint.errors,
            };
            if now.calls < seen.last.calls || now.errors < seen.last.errors {
                seen.before.calls += seen.last.calls;
                seen.before.errors += seen.last.errors;
            }
            seen.last = now;
            endpoint.calls += seen.before.calls;
            endpoint.errors += seen.before.errors;
            told.insert(key, seen);
        }
        // Those that are not told of now may come back.
        self.0.extend(told);
    }

    /// As [`Totals::service_changed`].
    pub(super) fn service_changed(&mut self, now: &ServicePort) {
        self.0.retain(|key, _| has(now, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::EndpointStatus;

    fn service(endpoints: &[(&str, u64, u64)]) -> ServiceStatus {
        let endpoint = |(id, calls, errors): &(&str, u64, u64)| EndpointStatus {
            id: Arc::from(*id),
            address: ([10, 0, 0, 1], 50051).into(),
            draining: false,
            member: true,
            failed: false,
            connections: 0,
            streams: 0,
            calls: *calls,
            errors: *errors,
            opaque: 0,
        };
        ServiceStatus {
            slot: 5,
            name: "a".to_owned(),
            policy: "random".to_owned(),
            client_connections: 0,
            waiting: 0,
            opaque: 2,
            endpoints: endpoints.iter().map(endpoint).collect(),
            recent: Vec::new(),
        }
    }

    fn told(status: &ServiceStatus) -> Vec<(String, u64, u64)> {
        let told = |endpoint: &EndpointStatus| (endpoint.id.to_string(), endpoint.calls, endpoint.errors);
        status.endpoints.iter().map(told).collect()
    }

    #[test]
    fn an_endpoint_that_leaves_the_subset_and_comes_back_goes_on_counting() {
        let mut kept = Kept::default();
        let mut tell = |endpoints| {
            let mut status = service(endpoints);
            kept.keep(&mut status);
            told(&status)
        };
        assert_eq!(tell(&[("a", 10, 1), ("b", 5, 0)])[0], ("a".to_owned(), 10, 1));
        assert_eq!(tell(&[("b", 6, 0)]), [("b".to_owned(), 6, 0)]);
        assert_eq!(tell(&[("a", 2, 0)]), [("a".to_owned(), 12, 1)]);
        assert_eq!(tell(&[("a", 3, 0)]), [("a".to_owned(), 13, 1)]);
    }
}
