//! Which endpoints of a Service's port get calls from this node: kube-proxy's rules, in kube-proxy's order. Pure.
//!
//! The rules are those of `pkg/proxy/endpointslicecache.go` and `pkg/proxy/topology.go` of Kubernetes 1.36; docs/kubernetes.md
//! has them as a table. Where kube-proxy leaves the outcome to the order of a map, the choice here is fixed.

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::names::Names;
use super::wire;
use crate::model;

/// An EndpointSlice, with what is needed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) family: Family,
    pub(super) ports: Box<[SlicePort]>,
    pub(super) endpoints: Box<[Endpoint]>,
}

/// Addresses of one family only are in a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A TCP port of a slice. It is matched by its name: a Service's `targetPort` was resolved by whoever wrote the slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlicePort {
    pub(super) name: Arc<str>,
    pub(super) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    /// The pod's UID; the address where no pod is named.
    pub(super) id: Arc<str>,
    pub(super) location: Arc<Location>,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

/// Where an endpoint is, and for which nodes and zones it is meant (its hints): the same for many endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Location {
    pub(super) node: Option<Arc<str>>,
    pub(super) for_nodes: Box<[Arc<str>]>,
    pub(super) for_zones: Box<[Arc<str>]>,
}

impl Slice {
    /// What is needed of a slice; `None` for one of names (`FQDN`), which nobody can dial.
    pub(super) fn new(wire: &wire::EndpointSlice, names: &mut Names) -> Option<Self> {
        let family = match wire.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let ports = wire.ports.iter();
        let endpoints = wire.endpoints.iter();
        Some(Self {
            family,
            ports: ports.filter_map(|port| slice_port(port, names)).collect(),
            endpoints: endpoints
                .filter_map(|wire| endpoint(wire, family, names))
                .collect(),
        })
    }

    pub(super) fn has_hints(&self) -> bool {
        let hinted = |location: &Location| !location.for_nodes.is_empty() || !location.for_zones.is_empty();
        self.endpoints.iter().any(|endpoint| hinted(&endpoint.location))
    }
}

/// kube-proxy, too, ignores a port without a name or a number; the API server writes both.
fn slice_port(wire: &wire::EndpointPort, names: &mut Names) -> Option<SlicePort> {
    if wire.protocol.as_deref().unwrap_or("TCP") != "TCP" {
        return None;
    }
    let port = u16::try_from(wire.port?).ok().filter(|&port| port != 0)?;
    let name = names.get(wire.name.as_deref()?);
    Some(SlicePort { name, port })
}

fn endpoint(wire: &wire::Endpoint, family: Family, names: &mut Names) -> Option<Endpoint> {
    // Only the first counts (k8s.io/api/discovery/v1: consumers must handle all addresses alike, and kube-proxy uses the first).
    let address: IpAddr = wire::text(wire.addresses.first()?)?.parse().ok()?;
    let dialled = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
    if Family::of(address) != family || !dialled {
        return None;
    }
    let pod = wire.target.as_ref().filter(|target| target.kind == "Pod");
    let uid = pod
        .and_then(|pod| wire::text(&pod.uid))
        .filter(|uid| !uid.is_empty());
    let id = uid.map_or_else(|| address.to_string().into(), Arc::from);
    let conditions = wire.conditions.clone().unwrap_or_default();
    Some(Endpoint {
        address,
        id,
        location: names.location(wire),
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
    })
}

/// Where this agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) node: &'a str,
    /// The node's label `topology.kubernetes.io/zone`.
    pub(super) zone: Option<&'a str>,
}

/// What is asked for: the endpoints of one port, in one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The port's name in the Service; may be empty.
    pub(super) port: &'a str,
    pub(super) family: Family,
    /// `internalTrafficPolicy: Local`.
    pub(super) local_only: bool,
}

/// What becomes of an endpoint, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Gets calls.
    Ready,
    /// Gets calls because no endpoint is ready: it terminates, and still serves.
    LastResort,
    NotReady,
    Terminating,
    /// `internalTrafficPolicy: Local`, and it is on another node.
    OtherNode,
    /// Hints say that it is for other nodes.
    ForOtherNodes,
    /// Hints say that it is for other zones.
    ForOtherZones,
}

impl Verdict {
    pub(super) fn gets_calls(self) -> bool {
        matches!(self, Self::Ready | Self::LastResort)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "gets calls: it is ready",
            Self::LastResort => "gets calls: it terminates, but still serves, and no endpoint is ready",
            Self::NotReady => "gets no calls: it is not ready",
            Self::Terminating => "gets no calls: it terminates",
            Self::OtherNode => "gets no calls: internalTrafficPolicy is Local, and it is on another node",
            Self::ForOtherNodes => "gets no calls: the hints of its slice give it to other nodes",
            Self::ForOtherZones => "gets no calls: the hints of its slice give it to other zones",
        })
    }
}

/// The endpoints that get calls, by address.
pub(super) fn eligible<'s>(
    slices: impl Iterator<Item = &'s Slice>,
    wanted: Wanted<'_>,
    place: Place<'_>,
) -> Vec<model::Endpoint> {
    let judged = judge(slices, wanted, place);
    let mut eligible = Vec::with_capacity(judged.iter().filter(|(.., verdict)| verdict.gets_calls()).count());
    eligible.extend(judged.into_iter().filter_map(|(address, endpoint, verdict)| {
        let state = match verdict {
            Verdict::Ready => model::EndpointState::Ready,
            Verdict::LastResort => model::EndpointState::Draining,
            _ => return None,
        };
        Some(model::Endpoint {
            id: Arc::clone(&endpoint.id),
            address,
            weight: 1,
            state,
        })
    }));
    eligible
}

/// Every endpoint once, by address, with what becomes of it.
pub(super) fn judge<'s>(
    slices: impl Iterator<Item = &'s Slice>,
    wanted: Wanted<'_>,
    place: Place<'_>,
) -> Vec<(SocketAddr, &'s Endpoint, Verdict)> {
    let candidates = candidates(slices, wanted);
    let local = |endpoint: &Endpoint| endpoint.location.node.as_deref() == Some(place.node);
    let in_reach = |endpoint: &Endpoint| !wanted.local_only || local(endpoint);
    let any_ready = candidates
        .iter()
        .any(|(_, endpoint)| endpoint.ready && in_reach(endpoint));
    // Hints are for `internalTrafficPolicy: Cluster` only.
    let topology = if wanted.local_only {
        Topology::Any
    } else {
        topology(candidates.iter().map(|(_, endpoint)| *endpoint), place)
    };
    let verdict = |endpoint: &Endpoint| {
        if !in_reach(endpoint) {
            Verdict::OtherNode
        } else if endpoint.ready {
            // Tested first: with publishNotReadyAddresses, a pod that terminates is ready.
            topology.verdict(endpoint, place)
        } else if endpoint.serving && endpoint.terminating {
            if any_ready {
                Verdict::Terminating
            } else {
                Verdict::LastResort
            }
        } else {
            Verdict::NotReady
        }
    };
    candidates
        .into_iter()
        .map(|(address, endpoint)| (address, endpoint, verdict(endpoint)))
        .collect()
}

/// The endpoints of a port, each address once. An address can stand in two slices while it moves from one to the other, and
/// a new pod can have that of one that still terminates: the one that does not terminate counts, then one that is ready.
fn candidates<'s>(
    slices: impl Iterator<Item = &'s Slice>,
    wanted: Wanted<'_>,
) -> Vec<(SocketAddr, &'s Endpoint)> {
    let mut found = Vec::new();
    for slice in slices.filter(|slice| slice.family == wanted.family) {
        for port in slice.ports.iter().filter(|port| *port.name == *wanted.port) {
            let dialled = |endpoint: &'s Endpoint| (SocketAddr::new(endpoint.address, port.port), endpoint);
            found.extend(slice.endpoints.iter().map(dialled));
        }
    }
    found.sort_by_key(|(address, endpoint)| (*address, endpoint.terminating, Reverse(endpoint.ready)));
    found.dedup_by_key(|(address, _)| *address);
    found
}

/// Whose hints count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    Any,
    Node,
    Zone,
}

/// Hints count only if every ready endpoint has one and one of them fits; those for nodes before those for zones.
fn topology<'e>(endpoints: impl Iterator<Item = &'e Endpoint>, place: Place<'_>) -> Topology {
    let (mut all_for_nodes, mut one_for_node) = (true, false);
    let (mut all_for_zones, mut one_for_zone) = (true, false);
    for endpoint in endpoints.filter(|endpoint| endpoint.ready) {
        all_for_nodes &= !endpoint.location.for_nodes.is_empty();
        all_for_zones &= !endpoint.location.for_zones.is_empty();
        one_for_node |= endpoint.is_for_node(place);
        one_for_zone |= endpoint.is_for_zone(place);
    }
    if all_for_nodes && one_for_node {
        Topology::Node
    } else if all_for_zones && one_for_zone {
        Topology::Zone
    } else {
        Topology::Any
    }
}

impl Topology {
    fn verdict(self, endpoint: &Endpoint, place: Place<'_>) -> Verdict {
        match self {
            Self::Node if !endpoint.is_for_node(place) => Verdict::ForOtherNodes,
            Self::Zone if !endpoint.is_for_zone(place) => Verdict::ForOtherZones,
            Self::Any | Self::Node | Self::Zone => Verdict::Ready,
        }
    }
}

impl Endpoint {
    fn is_for_node(&self, place: Place<'_>) -> bool {
        let mut nodes = self.location.for_nodes.iter();
        nodes.any(|node| **node == *place.node)
    }

    fn is_for_zone(&self, place: Place<'_>) -> bool {
        // kube-proxy takes a node without the label for one in the zone "".
        let zone = place.zone.unwrap_or_default();
        let mut zones = self.location.for_zones.iter();
        zones.any(|hinted| **hinted == *zone)
    }
}

#[cfg(test)]
mod tests;
