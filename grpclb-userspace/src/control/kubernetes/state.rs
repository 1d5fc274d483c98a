//! All that the API server has told, and what is wanted because of it. Pure: it is told, and settles.
//!
//! A change costs what it touches: a slice that changes has its one Service decided anew, a pod's label the pods of this
//! node. What is decided is compared with what was, so that nothing is told twice.

mod bad_values;
mod judge;
mod news;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::annotations;
use super::endpoints::{Place, Slice};
use super::names::Names;
use super::pods::{Namespace, Pod};
use super::reflector::Told;
use super::routes::Routes;
use super::services::{Around, Outcome, Service};
use super::table::{Put, Table};
use super::wire;
use super::wire::Resource;
use crate::model::{Desired, PodLeftAlone, ServiceId};
use bad_values::BadValues;
pub(super) use bad_values::Complaint;
pub(super) use news::News;

/// Which Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What is known.
#[derive(Debug)]
pub(super) struct State {
    node: Arc<str>,
    names: Names,
    zone: Option<Arc<str>>,
    /// The node's label.
    node_enabled: Option<bool>,
    nodes: Table<()>,
    namespaces: Table<Namespace>,
    pods: Table<Pod>,
    services: Table<Service>,
    /// By their own names, as they are told and forgotten.
    slices: Table<Owned>,
    /// The same by their Services.
    slices_of: HashMap<Arc<str>, Slices>,
    routes: Routes,
    /// The names under which each Service stands in what is wanted.
    decided: HashMap<Arc<str>, Decided>,
    undecided: HashSet<Arc<str>>,
    pods_undecided: bool,
    desired: Desired,
    bad_values: BadValues,
}

/// The slices of one Service, by name; mostly there is one.
type Slices = Vec<(Arc<str>, Arc<Slice>)>;

/// A slice, and its Service.
#[derive(Debug, PartialEq)]
struct Owned {
    service: Arc<str>,
    slice: Arc<Slice>,
}

/// Where what came of a Service stands in [`Desired`].
#[derive(Debug, Default, PartialEq)]
struct Decided {
    ports: Box<[ServiceId]>,
    left_alone: Box<[ServiceId]>,
}

impl State {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            names: Names::default(),
            zone: None,
            node_enabled: None,
            nodes: Table::default(),
            namespaces: Table::default(),
            pods: Table::default(),
            services: Table::default(),
            slices: Table::default(),
            slices_of: HashMap::new(),
            routes: Routes::default(),
            decided: HashMap::new(),
            undecided: HashSet::new(),
            pods_undecided: true,
            desired: Desired::default(),
            bad_values: BadValues::default(),
        }
    }

    /// What is wanted, as of the last [`settle`](Self::settle).
    pub(super) fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Whether the pods of this node are known, and all that decides about them.
    pub(super) fn knows_pods(&self) -> bool {
        self.nodes.is_whole() && self.namespaces.is_whole() && self.pods.is_whole()
    }

    /// Whether all Services are known, with all their endpoints.
    pub(super) fn knows_services(&self) -> bool {
        self.services.is_whole() && self.slices.is_whole() && self.routes.are_known()
    }

    /// Returns how many bad values were found since the last call, and those of them that are to be reported.
    pub(super) fn take_complaints(&mut self) -> (u64, Vec<Complaint>) {
        self.bad_values.take()
    }

    /// Whether a pod of this node may use the object.
    pub(super) fn concerns_this_node(&self, complaint: &Complaint) -> bool {
        let enabled = !self.desired.pods.is_empty();
        match complaint.kind {
            "Namespace" => self.pods.iter().any(|(_, pod)| *pod.namespace == *complaint.name),
            "Service" => enabled,
            _ => true,
        }
    }

    pub(super) fn take_up(&mut self, news: News) {
        match news {
            News::Namespace(told) => self.namespace(told),
            News::Node(told) => self.own_node(told),
            News::Pod(told) => self.pod(told),
            News::Service(told) => self.service(told),
            News::Slice(told) => self.slice(told),
            News::GrpcRoute(told) => self.undecided.extend(self.routes.grpc(told)),
            News::HttpRoute(told) => self.undecided.extend(self.routes.http(told)),
        }
    }

    /// Forgets all Services: nobody follows them any more.
    pub(super) fn forget_services(&mut self) {
        self.services = Table::default();
        self.bad_values.forget_all("Service");
        self.slices = Table::default();
        self.slices_of = HashMap::new();
        self.routes = Routes::default();
        self.decided = HashMap::new();
        self.undecided = HashSet::new();
        self.desired.services.clear();
        self.desired.left_alone.services.clear();
    }

    fn own_node(&mut self, told: Told<wire::PartialObjectMetadata>) {
        match told {
            Told::Listing => self.nodes.listing(),
            Told::Is(node) if node.metadata().name == *self.node => {
                let metadata = node.metadata();
                self.nodes.put(&Arc::clone(&self.node), ());
                let mut bad = Vec::new();
                let enabled = annotations::node(metadata, &mut bad);
                self.bad_values.note("Node", metadata, &bad);
                let zone = metadata.label(ZONE).map(|zone| self.names.get(zone));
                self.know_node(enabled, zone);
            }
            Told::Listed => {
                if !self.nodes.listed().is_empty() {
                    self.know_node(None, None);
                }
            }
            Told::Is(_) | Told::Gone(_) | Told::Skipped(_) | Told::Confirmed | Told::Failed(_) => {}
        }
    }

    fn know_node(&mut self, enabled: Option<bool>, zone: Option<Arc<str>>) {
        if self.node_enabled != enabled {
            self.node_enabled = enabled;
            self.pods_undecided = true;
        }
        if self.zone != zone {
            self.zone = zone;
            let hinted = self.slices_of.iter();
            let hinted = hinted.filter(|(_, slices)| slices.iter().any(|(_, slice)| slice.has_hints()));
            self.undecided
                .extend(hinted.map(|(service, _)| Arc::clone(service)));
        }
    }

    fn namespace(&mut self, told: Told<wire::PartialObjectMetadata>) {
        match told {
            Told::Listing => self.namespaces.listing(),
            Told::Is(object) => {
                let metadata = object.metadata();
                let mut bad = Vec::new();
                let namespace = Namespace::new(metadata, &mut self.names, &mut bad);
                self.bad_values.note("Namespace", metadata, &bad);
                let name = self.names.get(&metadata.name);
                let waypoint = namespace.waypoint.clone();
                let before = match self.namespaces.put(&name, namespace) {
                    Put::Same => return,
                    Put::New => None,
                    Put::Instead(before) => before.waypoint,
                };
                self.pods_undecided = true;
                if before != waypoint {
                    self.decide_namespace(&name);
                }
            }
            Told::Gone(object) => {
                self.bad_values.forget("Namespace", object.metadata());
                self.namespaces.remove(&object.metadata().name);
                self.pods_undecided = true;
            }
            Told::Listed => {
                for (name, _) in self.namespaces.listed() {
                    self.bad_values.forget_key("Namespace", &name);
                    self.decide_namespace(&name);
                }
                self.pods_undecided = true;
            }
            Told::Skipped(_) | Told::Confirmed | Told::Failed(_) => {}
        }
    }

    /// The Services of a namespace are to be decided anew.
    fn decide_namespace(&mut self, namespace: &str) {
        let inside = self
            .services
            .iter()
            .filter(|(_, service)| *service.namespace == *namespace);
        self.undecided.extend(inside.map(|(key, _)| Arc::clone(key)));
    }

    fn pod(&mut self, told: Told<wire::Pod>) {
        match told {
            Told::Listing => self.pods.listing(),
            Told::Is(object) => {
                let mut bad = Vec::new();
                let pod = Pod::new(&object, &mut self.names, &mut bad);
                self.bad_values.note("Pod", object.metadata(), &bad);
                let name = Arc::clone(&pod.name);
                self.pods_undecided |= self.pods.put(&name, pod) != Put::Same;
            }
            Told::Gone(object) => {
                self.bad_values.forget("Pod", object.metadata());
                self.pods_undecided |= self.pods.remove(&key(object.metadata())).is_some();
            }
            Told::Listed => {
                for (name, _) in self.pods.listed() {
                    self.bad_values.forget_key("Pod", &name);
                }
                self.pods_undecided = true;
            }
            Told::Skipped(_) | Told::Confirmed | Told::Failed(_) => {}
        }
    }

    fn service(&mut self, told: Told<wire::Service>) {
        match told {
            Told::Listing => self.services.listing(),
            Told::Is(object) => {
                let mut bad = Vec::new();
                let service = Service::new(&object, &mut self.names, &mut bad);
                self.bad_values.note("Service", object.metadata(), &bad);
                let key = Arc::clone(&service.key);
                if self.services.put(&key, service) != Put::Same {
                    self.undecided.insert(key);
                }
            }
            Told::Gone(object) => {
                self.bad_values.forget("Service", object.metadata());
                let key = key(object.metadata());
                if self.services.remove(&key).is_some() {
                    self.undecided.insert(key.into());
                }
            }
            Told::Listed => {
                for (key, _) in self.services.listed() {
                    self.bad_values.forget_key("Service", &key);
                    self.undecided.insert(key);
                }
            }
            Told::Skipped(_) | Told::Confirmed | Told::Failed(_) => {}
        }
    }

    fn slice(&mut self, told: Told<wire::EndpointSlice>) {
        match told {
            Told::Listing => self.slices.listing(),
            Told::Is(object) => self.slice_is(&object),
            Told::Gone(object) => {
                let key = key(object.metadata());
                if let Some(owned) = self.slices.remove(&key) {
                    self.disown(&key, &owned.service);
                }
            }
            Told::Listed => {
                for (key, owned) in self.slices.listed() {
                    self.disown(&key, &owned.service);
                }
            }
            Told::Skipped(_) | Told::Confirmed | Told::Failed(_) => {}
        }
    }

    fn slice_is(&mut self, object: &wire::EndpointSlice) {
        let metadata = object.metadata();
        let key: Arc<str> = key(metadata).into();
        let slice = Slice::new(object, &mut self.names);
        let service = metadata.label(SERVICE_NAME).filter(|service| !service.is_empty());
        let (Some(slice), Some(service)) = (slice, service) else {
            // Of names, or of no Service.
            if let Some(owned) = self.slices.remove(&key) {
                self.disown(&key, &owned.service);
            }
            return;
        };
        let service = self.names.get(&format!("{}/{service}", metadata.namespace));
        let slice = Arc::new(slice);
        let owned = Owned {
            service: Arc::clone(&service),
            slice: Arc::clone(&slice),
        };
        match self.slices.put(&key, owned) {
            Put::Same => return,
            Put::Instead(before) if before.service != service => self.disown(&key, &before.service),
            Put::New | Put::Instead(_) => {}
        }
        self.undecided.insert(Arc::clone(&service));
        let slices = self.slices_of.entry(service).or_default();
        match slices.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(at) => slices[at].1 = slice,
            Err(at) => {
                slices.reserve_exact(1);
                slices.insert(at, (key, slice));
            }
        }
    }

    /// A slice is no longer a Service's.
    fn disown(&mut self, key: &str, service: &Arc<str>) {
        if let Some(slices) = self.slices_of.get_mut(service) {
            slices.retain(|(known, _)| **known != *key);
            if slices.is_empty() {
                self.slices_of.remove(service);
            }
        }
        self.undecided.insert(Arc::clone(service));
    }

    /// Decides what was touched. Whether what is wanted differs from before.
    pub(super) fn settle(&mut self) -> bool {
        let mut changed = false;
        if self.knows_pods() && std::mem::take(&mut self.pods_undecided) {
            changed |= self.decide_pods();
        }
        if self.knows_services() && self.namespaces.is_whole() && self.nodes.is_whole() {
            for key in std::mem::take(&mut self.undecided) {
                changed |= self.decide_service(&key);
            }
        }
        changed
    }

    /// Why nothing of this node is steered, if its label asks for that.
    pub(super) fn node_switched_off(&self) -> Option<String> {
        (self.node_enabled == Some(false))
            .then(|| format!("this node's label {} is false", annotations::ENABLED))
    }

    fn decide_pods(&mut self) -> bool {
        let plain = Namespace::default();
        let (mut pods, mut left_alone) = (BTreeMap::new(), BTreeMap::new());
        for (_, pod) in self.pods.iter() {
            let namespace = self.namespaces.get(&pod.namespace).unwrap_or(&plain);
            let id = Arc::clone(&pod.id);
            match pod.decide(namespace, self.node_enabled) {
                Ok(spec) => {
                    // The same value where it is equal: comparing is then quick.
                    let spec = match self.desired.pods.get(&id) {
                        Some(known) if **known == spec => Arc::clone(known),
                        _ => Arc::new(spec),
                    };
                    pods.insert(id, spec);
                }
                Err(reason) => {
                    let left = PodLeftAlone {
                        name: Arc::clone(&pod.name),
                        reason: self.names.get(&reason),
                    };
                    left_alone.insert(id, left);
                }
            }
        }
        let changed = self.desired.pods != pods || self.desired.left_alone.pods != left_alone;
        self.desired.pods = pods;
        self.desired.left_alone.pods = left_alone;
        changed
    }

    fn decide_service(&mut self, key: &Arc<str>) -> bool {
        let outcome = match self.services.get(key) {
            Some(service) => {
                let namespace = self.namespaces.get(&service.namespace);
                let around = Around {
                    waypoint: namespace.and_then(|namespace| namespace.waypoint.as_deref()),
                    route: self.routes.of(key),
                };
                let slices = self.slices_of.get(key).into_iter().flatten();
                service.decide(&slices.map(|(_, slice)| &**slice), around, self.place())
            }
            None => Outcome::default(),
        };
        let before = self.decided.remove(key).unwrap_or_default();
        let (mut changed, mut decided) = (false, Decided::default());

        decided.ports = outcome.ports.iter().map(|port| Arc::clone(&port.id)).collect();
        for port in outcome.ports {
            if self
                .desired
                .services
                .get(&port.id)
                .is_none_or(|known| **known != port)
            {
                changed = true;
                self.desired.services.insert(Arc::clone(&port.id), Arc::new(port));
            }
        }
        decided.left_alone = outcome.left_alone.iter().map(|(id, _)| Arc::clone(id)).collect();
        let left_alone = &mut self.desired.left_alone.services;
        for (id, reason) in outcome.left_alone {
            if left_alone.get(&id) != Some(&reason) {
                changed = true;
                left_alone.insert(id, reason);
            }
        }
        for id in before.ports.iter().filter(|id| !decided.ports.contains(id)) {
            changed |= self.desired.services.remove(id).is_some();
        }
        for id in before
            .left_alone
            .iter()
            .filter(|id| !decided.left_alone.contains(id))
        {
            changed |= left_alone.remove(id).is_some();
        }
        if decided == before {
            decided = before; // its strings are those that stand in what is wanted
        }
        if decided != Decided::default() {
            self.decided.insert(Arc::clone(key), decided);
        }
        changed
    }

    fn place(&self) -> Place<'_> {
        Place {
            node: &self.node,
            zone: self.zone.as_deref(),
        }
    }
}

/// What an object is called: `namespace/name`.
fn key(metadata: &wire::ObjectMeta) -> String {
    format!("{}/{}", metadata.namespace, metadata.name)
}

#[cfg(test)]
mod tests;
