//! What the rooms tell each other: the Services and pods that are wanted, as immutable values.
//!
//! `control` makes them (from a file, or from the Kubernetes API), `app` compares and hands them on, `data` and
//! `pods` read them. Nothing here decides or acts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use imbl::OrdMap;

/// All that is wanted at one moment. A source of configuration makes one of these and nothing else.
///
/// The Services are a persistent map: a source that changes one of ten thousand shares the rest with the value before, and
/// whoever compares the two looks at little more than that one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub services: OrdMap<ServiceId, Arc<ServicePort>>,
    pub pods: BTreeMap<PodId, Arc<PodSpec>>,
    /// What somebody might expect to be balanced, is left to plain Kubernetes, and why.
    pub left_alone: LeftAlone,
}

/// Services and pods that grpclb knows of and does nothing for, each with the reason: a sentence for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeftAlone {
    pub services: OrdMap<ServiceId, Arc<str>>,
    pub pods: BTreeMap<PodId, PodLeftAlone>,
}

/// A pod that is not to be steered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLeftAlone {
    /// As in [`PodSpec`].
    pub name: Arc<str>,
    pub reason: Arc<str>,
}

/// Names one port of one Service; stable over every change of its contents. In a file `name:port`. In Kubernetes
/// `namespace/name:port`, and with `/ipv6` behind it for the IPv6 addresses of a Service that has both families: each
/// family has endpoints of its own.
pub type ServiceId = Arc<str>;

/// Names a pod: its UID in Kubernetes, its name in a file.
pub type PodId = Arc<str>;

/// One port of a Service: the addresses that clients dial, and what answers.
///
/// `Eq`, so that an `Arc` of it is compared by its address first: whoever walks the difference of two maps meets neighbours
/// of what has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub id: ServiceId,
    /// The Service addresses, IPv4 and IPv6.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub protocol: Protocol,
    pub policy: grpclb_engine::balance::Policy,
    /// How many endpoints one client pod uses at most; 20 unless it says another.
    pub subset: usize,
    /// Annotation `grpclb.io/upstream: per-connection`: do not share upstream connections within a pod.
    pub per_connection: bool,
    pub endpoints: Vec<Endpoint>,
}

impl ServicePort {
    /// Whether the Service itself is unchanged: endpoints come and go by themselves.
    pub fn same_but_for_endpoints(&self, other: &Self) -> bool {
        let of = |service: &Self| {
            let Self {
                id,
                port,
                protocol,
                policy,
                subset,
                per_connection,
                ..
            } = service;
            (id.clone(), *port, *protocol, *policy, *subset, *per_connection)
        };
        of(self) == of(other) && self.addresses == other.addresses
    }
}

/// What the Service port says about its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Declared HTTP/2 (`appProtocol` grpc, kubernetes.io/h2c, …): peeked at without a time limit.
    Http2,
    /// Declares nothing: detected from the client's first bytes, for at most a second.
    #[default]
    Detect,
    /// Declared to be something else: never steered.
    Plain,
}

/// One backend. Its identity is (pod UID, address, port), never only an address: those are used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's UID, or the id from the file.
    pub id: Arc<str>,
    pub address: SocketAddr,
    /// Relative share of the calls, 1 to 65,535.
    pub weight: u32,
    pub state: EndpointState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EndpointState {
    #[default]
    Ready,
    /// Gets no new streams while another is ready; those it has run on.
    Draining,
}

/// A pod whose connections are to be steered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    pub id: PodId,
    /// For people: `namespace/name` in Kubernetes, the id in a file.
    pub name: Arc<str>,
    /// What asks for it, for people.
    pub enabled_by: EnabledBy,
    pub netns: NetnsRef,
    /// Opt-in to `sk_msg` acceleration (off by default: no backpressure, see docs).
    pub accelerate: bool,
    /// TCP ports that its containers declare: our listener takes none of them.
    pub ports: Arc<[u16]>,
    /// Its addresses, once the source knows them: the namespace that was found must have them. Empty: not known (yet).
    pub addresses: Arc<[IpAddr]>,
    /// The operator's wish to reset connections that bypass grpclb.
    pub adopt: Option<Adopt>,
}

impl PodSpec {
    /// A pod of which only the name and the namespace are known.
    pub fn new(id: PodId, netns: NetnsRef) -> Self {
        Self {
            name: Arc::clone(&id),
            id,
            enabled_by: EnabledBy::Configuration,
            netns,
            accelerate: false,
            ports: Arc::default(),
            addresses: Arc::default(),
            adopt: None,
        }
    }

    /// Whether the pod is steered in the same way: what else differs is taken up without touching its connections.
    pub fn steered_like(&self, other: &Self) -> bool {
        (&self.id, &self.netns, self.accelerate) == (&other.id, &other.netns, other.accelerate)
    }
}

/// What asks for a pod to be steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnabledBy {
    /// The configuration file lists it.
    Configuration,
    /// A label of its namespace.
    NamespaceLabel,
    /// A label of its own.
    OwnLabel,
}

/// Connections of a pod that were made before it was steered are to be reset, so that they come back balanced. Done once for
/// each `request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// Tells one wish from the next.
    pub request: Arc<str>,
    /// Connections a second and pod, at least 1.
    pub rate: u32,
}

/// How a pod's network namespace is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// `/run/netns/<name>`, as `ip netns` keeps it.
    Name(String),
    Path(PathBuf),
    Pid(u32),
    /// The pod's sandbox, by the UID that the kubelet names its cgroup with; found among the processes of this machine.
    Sandbox(Arc<str>),
    /// This machine's own namespace (`host`): shared by many, so upstream connections are not pooled.
    Host,
}
