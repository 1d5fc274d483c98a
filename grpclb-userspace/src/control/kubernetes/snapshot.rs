//! What was wanted last, kept for an agent that starts while the API server is away.
//!
//! A file in the agents' directory: [`HEADER`], a [`About`], [`Record`]s, and the CRC-32 of all of that. It counts for this
//! boot of this node only: afterwards no pod is what it was. It is written beside the old one and renamed over it. Two agents
//! that overlap may write at once; what comes of that has the wrong checksum and is not taken up.

mod keeper;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

pub(super) use keeper::Keeper;
use prost::Message;

use crate::model;
use crate::model::Desired;

const NAME: &str = "kubernetes.snapshot";
/// What it is called while it is written.
const NEW_NAME: &str = "kubernetes.snapshot.new";
/// Another format has another number.
const HEADER: &[u8] = b"grpclb snapshot 1\n";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whether a file of the agents' directory is a snapshot, by its name.
pub fn is_snapshot(name: &str) -> bool {
    [NAME, NEW_NAME].contains(&name)
}

/// Where the snapshot of a node is, and what it must be of.
#[derive(Clone, Debug)]
pub(super) struct Place {
    path: PathBuf,
    node: String,
    boot: String,
}

/// Why there is no snapshot to take up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is of another version of grpclb, or no snapshot")]
    OtherVersion,
    #[error("is of another boot of this node")]
    OtherBoot,
    #[error("is of node {0:?}")]
    OtherNode(String),
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    #[error("is damaged: {0}")]
    Malformed(#[from] prost::DecodeError),
}

impl Place {
    pub(super) fn new(directory: &Path, node: &str) -> io::Result<Self> {
        Ok(Self {
            path: directory.join(NAME),
            node: node.to_owned(),
            boot: std::fs::read_to_string(BOOT_ID)?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps this state, in place of the one before.
    pub(super) fn write(&self, desired: &Desired, now: SystemTime) -> io::Result<()> {
        let written = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let about = About {
            boot: self.boot.clone(),
            node: self.node.clone(),
            written: written.as_secs(),
        };
        let new = self.path.with_file_name(NEW_NAME);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        let mut out = Checked {
            file: BufWriter::with_capacity(1 << 16, file),
            crc: crc32fast::Hasher::new(),
            buffer: Vec::new(),
        };
        out.write(HEADER)?;
        out.record(&about)?;
        for part in parts(desired) {
            out.record(&Record { part: Some(part) })?;
        }
        out.finish()?;
        std::fs::rename(new, &self.path)
    }

    /// The state that was kept, and when that was.
    pub(super) fn read(&self) -> Result<(Desired, SystemTime), Error> {
        let bytes = std::fs::read(&self.path)?;
        let Some(rest) = bytes.strip_prefix(HEADER) else {
            return Err(Error::OtherVersion);
        };
        let Some((mut records, crc)) = rest.split_last_chunk::<4>() else {
            return Err(Error::Damaged("it is cut off"));
        };
        let whole = &bytes[..bytes.len() - crc.len()];
        if crc32fast::hash(whole) != u32::from_le_bytes(*crc) {
            return Err(Error::Damaged("its checksum is wrong"));
        }
        let about = About::decode_length_delimited(&mut records)?;
        if about.boot != self.boot {
            return Err(Error::OtherBoot);
        }
        if about.node != self.node {
            return Err(Error::OtherNode(about.node));
        }
        let mut desired = Desired::default();
        while !records.is_empty() {
            let record = Record::decode_length_delimited(&mut records)?;
            let part = record.part.ok_or(Error::Damaged("a record is empty"))?;
            take_up(part, &mut desired).ok_or(Error::Damaged("a record makes no sense"))?;
        }
        let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(about.written);
        Ok((desired, written))
    }
}

/// A file and the checksum of what was written to it.
struct Checked {
    file: BufWriter<File>,
    crc: crc32fast::Hasher,
    buffer: Vec<u8>,
}

impl Checked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.file.write_all(bytes)
    }

    fn record(&mut self, message: &impl Message) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        message
            .encode_length_delimited(&mut buffer)
            .map_err(io::Error::other)?;
        let written = self.write(&buffer);
        self.buffer = buffer;
        written
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.write_all(&self.crc.finalize().to_le_bytes())?;
        self.file.flush()
    }
}

#[derive(Clone, PartialEq, Message)]
struct About {
    #[prost(string, tag = "1")]
    boot: String,
    #[prost(string, tag = "2")]
    node: String,
    /// Seconds since 1970.
    #[prost(uint64, tag = "3")]
    written: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(oneof = "Part", tags = "1, 2, 3, 4")]
    part: Option<Part>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Part {
    #[prost(message, tag = "1")]
    Service(ServicePort),
    #[prost(message, tag = "2")]
    Pod(PodSpec),
    #[prost(message, tag = "3")]
    ServiceLeftAlone(LeftAlone),
    #[prost(message, tag = "4")]
    PodLeftAlone(LeftAlone),
}

#[derive(Clone, PartialEq, Message)]
struct ServicePort {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, repeated, tag = "2")]
    addresses: Vec<String>,
    #[prost(uint32, tag = "3")]
    port: u32,
    /// Declared HTTP/2; else it is detected. (What is plain is not among the Services.)
    #[prost(bool, tag = "4")]
    http2: bool,
    #[prost(string, tag = "5")]
    policy: String,
    #[prost(uint32, tag = "6")]
    subset: u32,
    #[prost(bool, tag = "7")]
    per_connection: bool,
    #[prost(message, repeated, tag = "8")]
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, PartialEq, Message)]
struct Endpoint {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(bool, tag = "3")]
    draining: bool,
    #[prost(uint32, tag = "4")]
    weight: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PodSpec {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    sandbox: String,
    #[prost(bool, tag = "4")]
    accelerate: bool,
    #[prost(uint32, repeated, tag = "5")]
    ports: Vec<u32>,
    #[prost(string, repeated, tag = "6")]
    addresses: Vec<String>,
    #[prost(string, optional, tag = "7")]
    adopt: Option<String>,
    #[prost(uint32, tag = "8")]
    adopt_rate: u32,
    /// By a label of its own, and not its namespace's.
    #[prost(bool, tag = "9")]
    own_label: bool,
}

#[derive(Clone, PartialEq, Message)]
struct LeftAlone {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    reason: String,
    /// Of a pod.
    #[prost(string, tag = "3")]
    name: String,
}

fn parts(desired: &Desired) -> impl Iterator<Item = Part> {
    let services = desired
        .services
        .values()
        .map(|port| Part::Service(service_part(port)));
    let pods = desired
        .pods
        .values()
        .filter_map(|pod| pod_part(pod))
        .map(Part::Pod);
    let services_left = desired.left_alone.services.iter().map(|(id, reason)| {
        Part::ServiceLeftAlone(LeftAlone {
            id: id.to_string(),
            reason: reason.to_string(),
            name: String::new(),
        })
    });
    let pods_left = desired.left_alone.pods.iter().map(|(id, left)| {
        Part::PodLeftAlone(LeftAlone {
            id: id.to_string(),
            reason: left.reason.to_string(),
            name: left.name.to_string(),
        })
    });
    services.chain(pods).chain(services_left).chain(pods_left)
}

fn service_part(port: &model::ServicePort) -> ServicePort {
    let endpoint = |endpoint: &model::Endpoint| Endpoint {
        id: endpoint.id.to_string(),
        address: endpoint.address.to_string(),
        draining: endpoint.state == model::EndpointState::Draining,
        weight: endpoint.weight,
    };
    ServicePort {
        id: port.id.to_string(),
        addresses: texts(&port.addresses),
        port: port.port.into(),
        http2: port.protocol == model::Protocol::Http2,
        policy: port.policy.to_string(),
        subset: u32::try_from(port.subset).unwrap_or(u32::MAX),
        per_connection: port.per_connection,
        endpoints: port.endpoints.iter().map(endpoint).collect(),
    }
}

/// `None` for a pod that is not found by its sandbox: this source makes none.
fn pod_part(pod: &model::PodSpec) -> Option<PodSpec> {
    let model::NetnsRef::Sandbox(sandbox) = &pod.netns else {
        return None;
    };
    Some(PodSpec {
        id: pod.id.to_string(),
        name: pod.name.to_string(),
        sandbox: sandbox.to_string(),
        accelerate: pod.accelerate,
        ports: pod.ports.iter().copied().map(u32::from).collect(),
        addresses: texts(&pod.addresses),
        adopt: pod.adopt.as_ref().map(|adopt| adopt.request.to_string()),
        adopt_rate: pod.adopt.as_ref().map_or(0, |adopt| adopt.rate),
        own_label: pod.enabled_by == model::EnabledBy::OwnLabel,
    })
}

/// `None` for what this program did not write.
fn take_up(part: Part, desired: &mut Desired) -> Option<()> {
    match part {
        Part::Service(part) => {
            let port = service_port(&part)?;
            desired.services.insert(Arc::clone(&port.id), Arc::new(port));
        }
        Part::Pod(part) => {
            let pod = pod_spec(part)?;
            desired.pods.insert(Arc::clone(&pod.id), Arc::new(pod));
        }
        Part::ServiceLeftAlone(left) => {
            let reason = left.reason.into();
            desired.left_alone.services.insert(left.id.into(), reason);
        }
        Part::PodLeftAlone(left) => {
            let reason = model::PodLeftAlone {
                name: left.name.into(),
                reason: left.reason.into(),
            };
            desired.left_alone.pods.insert(left.id.into(), reason);
        }
    }
    Some(())
}

fn service_port(part: &ServicePort) -> Option<model::ServicePort> {
    let endpoint = |endpoint: &Endpoint| {
        let state = if endpoint.draining {
            model::EndpointState::Draining
        } else {
            model::EndpointState::Ready
        };
        Some(model::Endpoint {
            id: endpoint.id.as_str().into(),
            address: endpoint.address.parse::<SocketAddr>().ok()?,
            weight: endpoint.weight,
            state,
        })
    };
    Some(model::ServicePort {
        id: part.id.as_str().into(),
        addresses: addresses(&part.addresses)?,
        port: u16::try_from(part.port).ok()?,
        protocol: if part.http2 {
            model::Protocol::Http2
        } else {
            model::Protocol::Detect
        },
        policy: part.policy.parse().ok()?,
        subset: part.subset as usize,
        per_connection: part.per_connection,
        endpoints: part.endpoints.iter().map(endpoint).collect::<Option<_>>()?,
    })
}

fn pod_spec(part: PodSpec) -> Option<model::PodSpec> {
    let ports: Option<Vec<u16>> = part.ports.iter().map(|&port| port.try_into().ok()).collect();
    Some(model::PodSpec {
        name: part.name.into(),
        enabled_by: if part.own_label {
            model::EnabledBy::OwnLabel
        } else {
            model::EnabledBy::NamespaceLabel
        },
        accelerate: part.accelerate,
        ports: ports?.into(),
        addresses: addresses(&part.addresses)?.into(),
        adopt: part.adopt.map(|request| model::Adopt {
            request: request.into(),
            rate: part.adopt_rate,
        }),
        ..model::PodSpec::new(part.id.into(), model::NetnsRef::Sandbox(part.sandbox.into()))
    })
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn addresses(texts: &[String]) -> Option<Vec<IpAddr>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
