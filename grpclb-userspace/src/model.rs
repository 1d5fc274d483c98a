//! What the rooms tell each other: the Services and pods that are wanted, as immutable values.
//!
//! `control` makes them (from a file, later from the Kubernetes API), `app` compares and hands them on, `data` and
//! `pods` read them. Nothing here decides or acts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// All that is wanted at one moment. A new source of configuration makes one of these and nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub services: BTreeMap<ServiceId, Arc<ServicePort>>,
    pub pods: BTreeMap<PodId, Arc<PodSpec>>,
}

/// Names one port of one Service, `name:port`; stable over every change of its contents.
pub type ServiceId = Arc<str>;

/// Names a pod: its UID in Kubernetes, its name in a file.
pub type PodId = Arc<str>;

/// One port of a Service: the addresses that clients dial, and what answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    pub id: ServiceId,
    /// The Service addresses, IPv4 and IPv6.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub protocol: Protocol,
    pub policy: grpclb_engine::balance::Policy,
    /// How many endpoints one client pod uses at most (SPLITTER.md: 20).
    pub subset: usize,
    /// Annotation `grpclb.io/upstream: per-connection`: do not share upstream connections within a pod.
    pub per_connection: bool,
    pub endpoints: Vec<Endpoint>,
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

/// One backend. Its identity is (pod UID, address, port), never only an address (rule 4 of the design).
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
    pub netns: NetnsRef,
    /// Opt-in to `sk_msg` acceleration (off by default: no backpressure, see docs).
    pub accelerate: bool,
}

/// How a pod's network namespace is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// `/run/netns/<name>`, as `ip netns` keeps it.
    Name(String),
    Path(PathBuf),
    Pid(u32),
    /// This machine's own namespace (`host`): shared by many, so upstream connections are not pooled.
    Host,
}
