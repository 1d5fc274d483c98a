//! Answers what becomes of each endpoint of a Service, for people.

use std::sync::Arc;

use super::State;
use crate::control::JudgedEndpoint;
use crate::control::kubernetes::endpoints::Family;

impl State {
    /// Every endpoint of a Service port, as its id names it, with what becomes of it.
    pub(in super::super) fn judge(&self, id: &str) -> Vec<JudgedEndpoint> {
        let Some((key, port)) = id.rsplit_once(':') else {
            return Vec::new();
        };
        let (port, v6) = match port.strip_suffix("/ipv6") {
            Some(port) => (port, true),
            None => (port, false),
        };
        let (Some(service), Ok(port)) = (self.services.get(key), port.parse()) else {
            return Vec::new();
        };
        let family = if v6 || !service.has(Family::V4) {
            Family::V6
        } else {
            Family::V4
        };
        let slices = self.slices_of.get(key).into_iter().flatten();
        service
            .judge(port, family, slices.map(|(_, slice)| &**slice), self.place())
            .into_iter()
            .map(|(address, endpoint, verdict)| JudgedEndpoint {
                id: Arc::clone(&endpoint.id),
                address,
                node: endpoint.location.node.clone(),
                gets_calls: verdict.gets_calls(),
                verdict: verdict.to_string(),
            })
            .collect()
    }
}
