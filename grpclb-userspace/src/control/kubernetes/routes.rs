//! Which Services have a producer route of the Gateway API: whoever implements that for Services routes their calls.
//!
//! A server need not have the Gateway API, and an agent need not be allowed to read it: Services do not wait for routes that
//! cannot be told.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::reflector::Told;
use super::table::{Put, Table};
use super::wire::Resource;
use super::wire::json::Route;

/// All routes that have Services of their own namespace as parents.
#[derive(Debug, Default)]
pub(super) struct Routes {
    grpc: OfKind,
    http: OfKind,
    /// By Service (`namespace/name`): its routes, for people.
    by_parent: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
}

/// Routes of one kind, by what they are called for people: `GRPCRoute namespace/name`.
#[derive(Debug, Default)]
struct OfKind {
    parents: Table<Box<[Arc<str>]>>,
    /// They cannot be read.
    failed: bool,
}

impl Routes {
    /// Whether it is known which there are, or that this cannot be known.
    pub(super) fn are_known(&self) -> bool {
        [&self.grpc, &self.http]
            .iter()
            .all(|kind| kind.parents.is_whole() || kind.failed)
    }

    /// A route that has this Service as its parent, for people.
    pub(super) fn of(&self, service: &str) -> Option<&str> {
        let routes = self.by_parent.get(service)?;
        routes.first().map(|route| &**route)
    }

    /// Takes up what is told of `GRPCRoute`s, and returns the Services that it touches.
    pub(super) fn grpc(&mut self, told: Told<Route>) -> Vec<Arc<str>> {
        self.grpc.take_up("GRPCRoute", told, &mut self.by_parent)
    }

    /// The same of `HTTPRoute`s.
    pub(super) fn http(&mut self, told: Told<Route>) -> Vec<Arc<str>> {
        self.http.take_up("HTTPRoute", told, &mut self.by_parent)
    }
}

type ByParent = HashMap<Arc<str>, BTreeSet<Arc<str>>>;

impl OfKind {
    fn take_up(&mut self, kind: &str, told: Told<Route>, by_parent: &mut ByParent) -> Vec<Arc<str>> {
        let name = |route: &Route| -> Arc<str> {
            let metadata = route.metadata();
            format!("{kind} {}/{}", metadata.namespace, metadata.name).into()
        };
        let mut touched = Vec::new();
        match told {
            Told::Listing => self.parents.listing(),
            Told::Is(route) => {
                let (name, parents) = (name(&route), parents(&route));
                match self.parents.put(&name, parents.clone()) {
                    Put::Same => return touched,
                    Put::New => {}
                    Put::Instead(before) => detach(&name, before, by_parent, &mut touched),
                }
                for parent in parents {
                    by_parent
                        .entry(Arc::clone(&parent))
                        .or_default()
                        .insert(Arc::clone(&name));
                    touched.push(parent);
                }
            }
            Told::Gone(route) => {
                let name = name(&route);
                if let Some(before) = self.parents.remove(&name) {
                    detach(&name, before, by_parent, &mut touched);
                }
            }
            Told::Listed => {
                self.failed = false;
                for (name, before) in self.parents.listed() {
                    detach(&name, before, by_parent, &mut touched);
                }
            }
            Told::Failed(_) => self.failed = true,
            Told::Skipped(_) | Told::Confirmed => {}
        }
        touched
    }
}

/// A route is no longer attached to these.
fn detach(name: &str, parents: Box<[Arc<str>]>, by_parent: &mut ByParent, touched: &mut Vec<Arc<str>>) {
    for parent in parents {
        if let Some(routes) = by_parent.get_mut(&parent) {
            routes.remove(name);
            if routes.is_empty() {
                by_parent.remove(&parent);
            }
        }
        touched.push(parent);
    }
}

/// Returns the Services for which a route is a producer route (GEP-1426): those of its own namespace. For these it counts for all
/// clients. A route for a single port of a Service counts for all of the Service.
///
/// For a Service of another namespace it is a consumer route, which means the clients of the route's namespace alone. A Service is
/// left alone for all clients or for none, so that such a route is passed over: whoever may write it has no say about the clients
/// of other namespaces.
fn parents(route: &Route) -> Box<[Arc<str>]> {
    let own = &route.metadata().namespace;
    let is_own = |namespace: &Option<String>| namespace.as_ref().is_none_or(|namespace| namespace == own);
    let mut services: Vec<Arc<str>> = route
        .parents
        .iter()
        .filter(|parent| parent.is_service() && is_own(&parent.namespace))
        .map(|parent| format!("{own}/{}", parent.name).into())
        .collect();
    services.sort_unstable();
    services.dedup();
    services.into()
}
