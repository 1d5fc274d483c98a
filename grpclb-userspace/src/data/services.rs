//! The Services that a worker knows, by slot, in the engine's words.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use grpclb_engine::balance;

use crate::model::{self, ServicePort};

/// What connections to one slot are for. The engine's snapshots are made when a connection asks for them: of ten thousand
/// Services a node's pods use a few.
#[derive(Debug)]
pub(super) struct Entry {
    service: Arc<ServicePort>,
    pooled: OnceCell<Arc<balance::Service>>,
    per_connection: OnceCell<Arc<balance::Service>>,
}

impl Entry {
    fn new(service: Arc<ServicePort>) -> Self {
        Self {
            service,
            pooled: OnceCell::new(),
            per_connection: OnceCell::new(),
        }
    }

    pub(super) fn port(&self) -> &ServicePort {
        &self.service
    }

    pub(super) fn protocol(&self) -> model::Protocol {
        self.service.protocol
    }

    /// The snapshot for a pod: where many pods share a namespace, upstream connections belong to one client connection.
    pub(super) fn service(&self, shared_namespace: bool) -> &Arc<balance::Service> {
        let per_connection = shared_namespace || self.service.per_connection;
        let snapshot = if per_connection {
            &self.per_connection
        } else {
            &self.pooled
        };
        snapshot.get_or_init(|| Arc::new(engine_service(&self.service, per_connection)))
    }
}

/// All Services, by slot.
#[derive(Debug, Default)]
pub(super) struct Services(HashMap<u32, Entry>);

impl Services {
    pub(super) fn set(&mut self, slot: u32, service: Arc<ServicePort>) {
        self.0.insert(slot, Entry::new(service));
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.0.remove(&slot);
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.0.get(&slot)
    }
}

fn engine_service(service: &ServicePort, per_connection: bool) -> balance::Service {
    balance::Service {
        name: Arc::clone(&service.id),
        policy: service.policy,
        subset: service.subset,
        per_connection,
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
