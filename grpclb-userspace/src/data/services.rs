//! The Services that a worker knows, by slot, in the engine's words.

use std::collections::HashMap;
use std::sync::Arc;

use grpclb_engine::balance;

use crate::model::{self, ServicePort};

/// What connections to one slot are for.
#[derive(Debug)]
pub(super) struct Entry {
    pub protocol: model::Protocol,
    pooled: Arc<balance::Service>,
    per_connection: Arc<balance::Service>,
}

impl Entry {
    fn new(service: &ServicePort) -> Self {
        let pooled = Arc::new(engine_service(service));
        let per_connection = if pooled.per_connection {
            Arc::clone(&pooled)
        } else {
            Arc::new(balance::Service {
                per_connection: true,
                ..balance::Service::clone(&pooled)
            })
        };
        Self {
            protocol: service.protocol,
            pooled,
            per_connection,
        }
    }

    /// The snapshot for a pod: where many pods share a namespace, upstream connections belong to one client connection.
    pub(super) fn service(&self, shared_namespace: bool) -> &Arc<balance::Service> {
        if shared_namespace {
            &self.per_connection
        } else {
            &self.pooled
        }
    }
}

/// All Services, by slot.
#[derive(Debug, Default)]
pub(super) struct Services(HashMap<u32, Entry>);

impl Services {
    pub(super) fn set(&mut self, slot: u32, service: &ServicePort) {
        self.0.insert(slot, Entry::new(service));
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.0.remove(&slot);
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.0.get(&slot)
    }
}

fn engine_service(service: &ServicePort) -> balance::Service {
    balance::Service {
        name: Arc::clone(&service.id),
        policy: service.policy,
        subset: service.subset,
        per_connection: service.per_connection,
        endpoints: service.endpoints.iter().map(engine_endpoint).collect(),
    }
}

fn engine_endpoint(endpoint: &model::Endpoint) -> balance::Endpoint {
    balance::Endpoint {
        id: Arc::clone(&endpoint.id),
        address: endpoint.address,
        weight: endpoint.weight,
        state: match endpoint.state {
            model::EndpointState::Ready => balance::State::Ready,
            model::EndpointState::Draining => balance::State::Draining,
        },
    }
}
