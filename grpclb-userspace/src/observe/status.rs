//! What the agent tells of itself at one moment: served as JSON by `admin`, drawn as tables by `cli`, counted by
//! [`super::metrics`]. Plain values; `app` fills them in, nothing here asks anybody.
//!
//! The JSON of `/status` and of `grpclb status --json` is these structs, field by field. Fields may be added; they are
//! not renamed or removed within a major version.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name, as error messages carry it.
    pub node: String,
    /// Names this run of the agent; its pins lie in `/sys/fs/bpf/grpclb/<instance>/`.
    pub instance: String,
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    pub phase: Phase,
    pub readiness: Readiness,
    pub source: Source,
    pub kernel: Kernel,
    pub process: Process,
    pub workers: Vec<Worker>,
    pub pods: Vec<Pod>,
    /// Where a file is the source: all Services. In Kubernetes: those that a pod of this node has used since the agent started.
    pub services: Vec<Service>,
    /// Connections to Services that pods already had when they began to be steered, since the agent's start: they came before
    /// the label, with a container's first instruction, or in a gap. [`Pod::bypassing`] has those that are still open.
    #[serde(default)]
    pub early_connections: u64,
    /// Panics of the agent's in a pod's turn, each of which reset that pod's connections and left it to kube-proxy for a while.
    #[serde(default)]
    pub pod_panics: u64,
    /// How many Service ports are known, used or not.
    #[serde(default)]
    pub services_known: u64,
    /// How many Services and ports are left to plain Kubernetes; `grpclb explain` says of each why.
    #[serde(default)]
    pub services_left_alone: u64,
    /// What the data plane counts for the whole agent, by name: limits that were hit, connections refused, replays.
    pub counters: BTreeMap<String, u64>,
}

/// Where the agent stands in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing is steered yet.
    #[default]
    Starting,
    Running,
    /// No new connection is steered; those that exist run out.
    Draining,
}

/// Whether the agent does its work, and if not, every reason why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    /// Sentences for people. Empty when ready.
    pub reasons: Vec<String>,
}

/// Where the Services and pods come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// For people: `file /etc/grpclb/config.yaml`.
    pub name: String,
    /// Seconds since the state in use was read.
    pub age_seconds: u64,
    /// How many times a new state was taken up; the first counts.
    pub generation: u64,
    /// Why the newest state was not taken up. The last good one is in use meanwhile.
    pub error: Option<String>,
    /// Why nothing of this node is steered, where that is wanted: its label.
    #[serde(default)]
    pub switched_off: Option<String>,
    /// Labels and annotations that were not understood since the start; the defaults are in force.
    #[serde(default)]
    pub bad_values: u64,
    /// Times that an object of the source was skipped because it cannot be decoded, since the start.
    #[serde(default)]
    pub undecodable_objects: u64,
    /// From when a change was read until the kernel and the workers had all of it; the first state is not among them.
    #[serde(default)]
    pub in_force: Histogram,
}

/// How long something took, each time since the start, as Prometheus counts it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    pub count: u64,
    pub sum_seconds: f64,
    /// Upper bounds in seconds, increasing, each with how many took at most that.
    pub buckets: Vec<(f64, u64)>,
}

/// The kernel side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The cgroup whose processes are steered; `None` while nothing is attached.
    pub cgroup: Option<String>,
    /// Where the maps are pinned.
    pub pins: String,
    pub programs: Vec<Program>,
    /// Outcomes of connects and the rest that the programs count, by name (`grpclb_abi::COUNTERS`).
    pub counters: BTreeMap<String, u64>,
    /// Why nothing is attached, or what is missing.
    pub error: Option<String>,
}

/// One kernel program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    /// The kernel's id for `bpftool prog show id`; 0 when it is not loaded.
    pub id: u32,
    pub attached: bool,
}

/// What the agent's process uses, as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub resident_bytes: u64,
    /// Bytes that all pods' calls may hold together.
    #[serde(default)]
    pub budget_bytes: u64,
    /// Bytes of it that pods have taken.
    #[serde(default)]
    pub held_bytes: u64,
    /// Memory of all sockets of the agent's cgroup (`sock` in memory.stat); `None` without cgroup v2's memory controller.
    pub socket_bytes: Option<u64>,
    pub open_files: u64,
    pub threads: u64,
    pub cpu_seconds: f64,
}

/// One data worker: a thread that owns the connections of its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub index: u32,
    /// Milliseconds since its last heartbeat; above 500 the kernel steers nothing to it.
    pub heartbeat_age_ms: u64,
    pub pods: u64,
    pub connections: u64,
    /// It did not answer: what is told of its pods is its last answer.
    pub late: bool,
}

/// One enabled pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub id: String,
    /// For people: `namespace/name` in Kubernetes, the id where a file is the source.
    #[serde(default)]
    pub name: String,
    /// The namespace as configured: a name, a path, `pid:N`, `host`, or in Kubernetes the sandbox of a UID.
    pub netns: String,
    pub state: PodState,
    /// Why it is not steered, or what is restricted (IPv6 off).
    pub reason: Option<String>,
    /// The namespace's cookie, the key of the kernel's table; `None` while the namespace is not open.
    pub cookie: Option<u64>,
    /// The agent's listener in the pod; `None` while there is none.
    pub port: Option<u16>,
    pub worker: Option<u32>,
    /// Client connections that are open.
    pub connections: u64,
    /// Connections to backends that are open.
    pub upstreams: u64,
    pub streams: u64,
    /// Open connections to Services that bypass grpclb: made before the pod was steered, or in a gap.
    #[serde(default)]
    pub bypassing: u64,
    /// The same by the Service address that they were made to.
    #[serde(default)]
    pub bypassing_to: BTreeMap<SocketAddr, u64>,
    /// Connections that were reset since `grpclb adopt` asked for it.
    #[serde(default)]
    pub adopted: u64,
    /// What became of the last wish to adopt them.
    #[serde(default)]
    pub adoption: Option<Adoption>,
    /// Milliseconds from when the pod was both wanted and there until it was steered; `None` until then.
    #[serde(default)]
    pub ready_after_ms: Option<u64>,
}

/// Connections that bypassed grpclb were to be reset, so that they come back balanced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Tells one wish from the next: what the annotation says.
    pub request: String,
    /// How many there were; `None` until they were counted.
    pub found: Option<u64>,
    /// How many were reset so far; the others had ended by themselves.
    pub reset: u64,
    pub ended: bool,
    /// Why it ended early.
    pub error: Option<String>,
}

/// How far a pod has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodState {
    /// Wanted, and not there yet; it is tried again.
    #[default]
    Pending,
    /// New connections to known Services come to the agent.
    Steered,
    /// Left alone on purpose (its firewall, another mesh); `reason` says why.
    Unsteered,
    /// Not wanted any more; its connections run out.
    Draining,
}

impl PodState {
    /// Every state, in the order of a pod's life.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Steered, Self::Unsteered, Self::Draining];

    /// The word in JSON, metrics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Steered => "steered",
            Self::Unsteered => "unsteered",
            Self::Draining => "draining",
        }
    }
}

/// One port of one Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// `name:port`.
    pub id: String,
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// `http2`, `detect` or `plain`.
    pub protocol: String,
    /// The annotation's word: `round_robin`, …
    pub policy: String,
    /// Its number in the kernel's table, and in 127.x addresses; `None` when it is not steered.
    pub slot: Option<u32>,
    /// Whether connects to it are steered; if not, `reason` says why.
    pub steered: bool,
    pub reason: Option<String>,
    /// Client connections that are open.
    pub connections: u64,
    /// Client connections relayed byte by byte to one endpoint, since the start.
    pub opaque: u64,
    pub endpoints: Vec<Endpoint>,
}

/// One backend of one Service port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: String,
    pub address: SocketAddr,
    pub weight: u32,
    pub state: EndpointState,
    /// Connections to it that are open.
    pub connections: u64,
    /// Calls that are running on it.
    pub streams: u64,
    /// Calls given to it since the start.
    pub calls: u64,
    /// Of those, the ones that it refused, reset or lost.
    pub errors: u64,
}

/// Whether an endpoint is given new calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    #[default]
    Ready,
    /// No new calls while another is ready.
    Draining,
    /// It failed, and is out of the pick until its backoff ends.
    Failed,
}

impl EndpointState {
    pub const ALL: [Self; 3] = [Self::Ready, Self::Draining, Self::Failed];

    /// The word in JSON, metrics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }
}
