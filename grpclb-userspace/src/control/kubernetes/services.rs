//! From a Service and its slices to the ports that are balanced, and to what is left to plain Kubernetes, with the reason. Pure.
//!
//! docs/kubernetes.md has what is left alone as a table; `tests` has a test for each of its rows.

mod protocol;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::annotations::{self, BadValue, ENABLED, ServiceSettings};
use super::endpoints::{self, Endpoint, Family, Place, Slice, Verdict, Wanted};
use super::names::Names;
use super::wire;
use super::wire::Resource;
use crate::model::{Protocol, ServiceId, ServicePort};

/// Other owners' names that say: this one is ours.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
pub(super) const WAYPOINT: &str = "istio.io/use-waypoint";
const CILIUM_GLOBAL: &str = "service.cilium.io/global";
const CILIUM_L7: &str = "service.cilium.io/lb-l7";

/// What a Service says of itself, with what is needed of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Service {
    /// `namespace/name`.
    pub(super) key: Arc<str>,
    pub(super) namespace: Arc<str>,
    settings: ServiceSettings,
    /// Why it is left alone as a whole, as far as it says so itself.
    left: Option<Arc<str>>,
    /// Its label [`WAYPOINT`].
    waypoint: Option<Arc<str>>,
    addresses: Box<[IpAddr]>,
    /// TCP ports that may be balanced.
    ports: Box<[Port]>,
    /// Ports and addresses that are left alone whatever happens around the Service.
    beside: Box<[(ServiceId, Arc<str>)]>,
    local_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: Arc<str>,
    number: u16,
    protocol: Protocol,
}

/// What others say of a Service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Around<'a> {
    /// The namespace's label [`WAYPOINT`].
    pub(super) waypoint: Option<&'a str>,
    /// A `GRPCRoute` or `HTTPRoute` has it as its parent: its kind and name.
    pub(super) route: Option<&'a str>,
}

/// What comes of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) ports: Vec<ServicePort>,
    pub(super) left_alone: Vec<(ServiceId, Arc<str>)>,
}

impl Service {
    pub(super) fn new(wire: &wire::Service, names: &mut Names, bad: &mut Vec<BadValue>) -> Self {
        let metadata = wire.metadata();
        let none = wire::ServiceSpec::default();
        let spec = wire.spec.as_ref().unwrap_or(&none);
        let key = names.get(&format!("{}/{}", metadata.namespace, metadata.name));
        let settings = annotations::service(metadata, bad);
        let left = left_as_a_whole(metadata, spec, &settings);
        let mut beside = addresses_beside(&key, spec, names);
        let mut ports = Vec::with_capacity(spec.ports.len());
        for port in &spec.ports {
            let Some(number) = u16::try_from(port.port).ok().filter(|&number| number != 0) else {
                continue; // the API server lets none through
            };
            match protocol::of(port) {
                Ok(protocol) => ports.push(Port {
                    name: names.get(&port.name),
                    number,
                    protocol,
                }),
                Err(reason) => {
                    let id = match port.protocol.as_str() {
                        "TCP" | "" => format!("{key}:{number}"),
                        other => format!("{key}:{number}/{}", other.to_ascii_lowercase()),
                    };
                    beside.push((id.into(), names.get(&reason)));
                }
            }
        }
        Self {
            namespace: names.get(&metadata.namespace),
            settings,
            left: left.map(|reason| names.get(&reason)),
            waypoint: metadata.label(WAYPOINT).map(|waypoint| names.get(waypoint)),
            addresses: cluster_addresses(spec),
            ports: ports.into(),
            beside: beside.into(),
            local_only: spec.internal_traffic_policy == "Local",
            key,
        }
    }

    /// What comes of it, with its slices and what others say.
    pub(super) fn decide<'s>(
        &self,
        slices: &(impl Iterator<Item = &'s Slice> + Clone),
        around: Around<'_>,
        place: Place<'_>,
    ) -> Outcome {
        if let Some(reason) = self.left.clone().or_else(|| self.left_because_of_others(around)) {
            return Outcome {
                ports: Vec::new(),
                left_alone: vec![(Arc::clone(&self.key), reason)],
            };
        }
        let both = self.has(Family::V4) && self.has(Family::V6);
        let mut outcome = Outcome {
            ports: Vec::new(),
            left_alone: self.beside.to_vec(),
        };
        for family in [Family::V4, Family::V6] {
            let addresses = self.addresses.iter().copied();
            let addresses: Vec<IpAddr> = addresses.filter(|&a| Family::of(a) == family).collect();
            if addresses.is_empty() {
                continue;
            }
            for port in &self.ports {
                outcome.ports.push(ServicePort {
                    id: self.id(port.number, both && family == Family::V6),
                    addresses: addresses.clone(),
                    port: port.number,
                    protocol: port.protocol,
                    policy: self.settings.policy,
                    subset: self.settings.subset,
                    per_connection: self.settings.per_connection,
                    endpoints: endpoints::eligible(slices.clone(), self.wanted(port, family), place),
                });
            }
        }
        outcome
    }

    /// Every endpoint of one of its ports in one family, with what becomes of it.
    pub(super) fn judge<'s>(
        &self,
        number: u16,
        family: Family,
        slices: impl Iterator<Item = &'s Slice>,
        place: Place<'_>,
    ) -> Vec<(SocketAddr, &'s Endpoint, Verdict)> {
        let port = self.ports.iter().find(|port| port.number == number);
        port.map(|port| endpoints::judge(slices, self.wanted(port, family), place))
            .unwrap_or_default()
    }

    fn wanted<'a>(&self, port: &'a Port, family: Family) -> Wanted<'a> {
        Wanted {
            port: &port.name,
            family,
            local_only: self.local_only,
        }
    }

    pub(super) fn has(&self, family: Family) -> bool {
        self.addresses
            .iter()
            .any(|&address| Family::of(address) == family)
    }

    fn id(&self, port: u16, ipv6_of_both: bool) -> ServiceId {
        let family = if ipv6_of_both { "/ipv6" } else { "" };
        format!("{}:{port}{family}", self.key).into()
    }

    fn left_because_of_others(&self, around: Around<'_>) -> Option<Arc<str>> {
        let (waypoint, on) = match &self.waypoint {
            Some(own) => (Some(&**own), "it"),
            None => (around.waypoint, "its namespace"),
        };
        if let Some(waypoint) = waypoint.filter(|&waypoint| waypoint != "none") {
            let reason =
                format!("{on} has the label {WAYPOINT}={waypoint}: Istio's waypoint balances its calls");
            return Some(reason.into());
        }
        let route = around.route?;
        Some(
            format!("{route} has it as its parent: whoever implements the Gateway API routes its calls")
                .into(),
        )
    }
}

/// Why a Service is left alone by what it says itself.
fn left_as_a_whole(
    metadata: &wire::ObjectMeta,
    spec: &wire::ServiceSpec,
    settings: &ServiceSettings,
) -> Option<String> {
    if spec.kind == "ExternalName" {
        return Some("it is an ExternalName Service: a name in DNS, with no address to steer".to_owned());
    }
    if spec.cluster_ip == "None" {
        return Some("it is headless: clients get its pods' addresses from DNS and dial those".to_owned());
    }
    if cluster_addresses(spec).is_empty() {
        return Some("it has no cluster address (yet)".to_owned());
    }
    if settings.enabled == Some(false) {
        return Some(format!("its label {ENABLED} is false"));
    }
    if let Some(proxy) = metadata.label(PROXY_NAME) {
        return Some(format!("its label {PROXY_NAME} gives it to the proxy {proxy:?}"));
    }
    if spec.session_affinity == "ClientIP" {
        let reason =
            "its sessionAffinity is ClientIP: all of a client's connections are to stay with one pod";
        return Some(reason.to_owned());
    }
    if metadata.annotation(CILIUM_GLOBAL) == Some("true") {
        return Some(format!(
            "its annotation {CILIUM_GLOBAL} is true: Cilium adds endpoints of other clusters, which no slice here has"
        ));
    }
    if let Some("enabled") = metadata.annotation(CILIUM_L7) {
        return Some(format!(
            "its annotation {CILIUM_L7} is enabled: Cilium's Envoy balances its calls"
        ));
    }
    None
}

/// The addresses of a Service that are not its cluster's: they are left to whoever serves them.
fn addresses_beside(key: &str, spec: &wire::ServiceSpec, names: &mut Names) -> Vec<(ServiceId, Arc<str>)> {
    let mut beside: Vec<(ServiceId, Arc<str>)> = Vec::new();
    for port in spec.ports.iter().filter(|port| port.node_port != 0) {
        let protocol = port.protocol.to_ascii_lowercase();
        let id = format!("{key}:{}/{protocol}/node-port", port.port);
        let reason = format!("connections to the node port {} go the plain way", port.node_port);
        beside.push((id.into(), reason.into()));
    }
    if spec.kind == "LoadBalancer" {
        let reason = names.get("connections to the load balancer's address go the plain way");
        beside.push((format!("{key}/load-balancer").into(), reason));
    }
    if !spec.external_ips.is_empty() {
        let reason = names.get("connections to its external addresses go the plain way");
        beside.push((format!("{key}/external").into(), reason));
    }
    beside
}

fn cluster_addresses(spec: &wire::ServiceSpec) -> Box<[IpAddr]> {
    // A server that knows one family only may set just the first.
    let all = if spec.cluster_ips.is_empty() {
        std::slice::from_ref(&spec.cluster_ip)
    } else {
        &spec.cluster_ips
    };
    all.iter().filter_map(|address| address.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
