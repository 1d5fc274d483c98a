//! The Services that a worker knows, by slot, in the engine's words.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use grpclb_engine::balance;

use super::news::{Hearer, News};
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
#[derive(Debug)]
pub(super) struct Services {
    table: HashMap<u32, Entry>,
    news: Hearer,
    /// Slots that a pod may use and that stand for something else since the pods were told last.
    changed: Vec<u32>,
}

impl Services {
    pub(super) fn new(news: Hearer) -> Self {
        Self {
            table: HashMap::new(),
            news,
            changed: Vec::new(),
        }
    }

    /// What the slot stands for, as it was heard last.
    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.table.get(&slot)
    }

    /// What the slot stands for now, for a pod that is told of changes from here on.
    pub(super) fn begin_use(&mut self, slot: u32) -> Option<&Entry> {
        self.news.uses(slot);
        self.hear();
        self.get(slot)
    }

    /// Takes up what was told, and returns the slots whose change the pods have to be told of.
    pub(super) fn take_changed(&mut self) -> Vec<u32> {
        self.hear();
        std::mem::take(&mut self.changed)
    }

    fn hear(&mut self) {
        while let Some(News { slot, service }) = self.news.next() {
            match service {
                Some(service) => self.table.insert(slot, Entry::new(service)),
                None => self.table.remove(&slot),
            };
            if self.news.may_use(slot) {
                self.changed.push(slot);
            }
        }
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
