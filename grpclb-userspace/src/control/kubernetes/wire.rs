//! What the API server sends, in protobuf: the messages with just the fields that are needed, and what they come wrapped in.
//!
//! The tags are those of `generated.proto` in k8s.io/api and k8s.io/apimachinery; fields that are not named here are skipped
//! while decoding and cost nothing. The strings of endpoints, of which there are the most by far, are parts of what was received
//! ([`text`]) and no copies. Nothing is decided here.
//!
//! An object comes as `k8s\0` and a [`Unknown`] that holds it (k8s.io/apimachinery/pkg/runtime/serializer/protobuf). A watch is a
//! row of frames, each a length of four bytes, most significant first, and a [`WatchEvent`] without that envelope, in which the
//! object has it again.

pub(super) mod json;
mod undecodable;

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
pub(super) use undecodable::Undecodable;

/// `Accept` of a whole object, of a list of them, and of a watch.
pub(super) const ACCEPT: &str = "application/vnd.kubernetes.protobuf";
/// `Accept` of metadata alone: a list.
pub(super) const ACCEPT_METADATA_LIST: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
/// `Accept` of metadata alone: a watch.
pub(super) const ACCEPT_METADATA: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// What each enveloped object begins with.
const MAGIC: &[u8] = b"k8s\0";
/// The largest frame of a watch that is taken: etcd keeps no object above 1.5 MiB, by default.
const MAX_FRAME: usize = 16 << 20;
/// On the bookmark that ends a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What came is not what the API server is to send.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("not protobuf as Kubernetes sends it: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("not protobuf as Kubernetes sends it: the bytes `k8s\\0` at the start are missing")]
    NoMagic,
    #[error("not JSON as Kubernetes sends it: {0}")]
    Json(serde_json::Error),
    #[error("a watch event of {0} bytes: at most {MAX_FRAME} are taken")]
    FrameTooLarge(usize),
}

/// An object that can be listed and watched.
pub(super) trait Resource: Sized + Send + 'static {
    fn metadata(&self) -> &ObjectMeta;

    /// Returns an object that has these metadata and nothing else.
    fn from_metadata(metadata: ObjectMeta) -> Self;

    /// Decodes a page of a list. An object of it that cannot be decoded does not keep the others back.
    ///
    /// # Errors
    /// The page itself cannot be decoded.
    fn list(bytes: Bytes) -> Result<Page<Self>, Error>;

    /// Takes the next event off the bytes received of a watch; `None` until all of its bytes are there.
    ///
    /// # Errors
    /// The event itself cannot be decoded. An object that cannot be is [`Event::Undecodable`].
    fn next_event(input: &mut BytesMut) -> Result<Option<Event<Self>>, Error>;
}

/// A page of a list: its metadata and its objects, in the server's order.
pub(super) type Page<R> = (ListMeta, Vec<Result<R, Box<Undecodable>>>);

/// Takes an object out of its envelope.
pub(super) fn object<T: Message + Default>(bytes: Bytes) -> Result<T, Error> {
    Ok(T::decode(unwrap(bytes)?)?)
}

fn list<T: Message + Default>(bytes: Bytes) -> Result<Page<T>, Error> {
    let list: List = object(bytes)?;
    let items = list.items.into_iter().map(decoded).collect();
    Ok((list.metadata.unwrap_or_default(), items))
}

fn decoded<T: Message + Default>(bytes: Bytes) -> Result<T, Box<Undecodable>> {
    T::decode(bytes.clone()).map_err(|error| Undecodable::protobuf(bytes, error))
}

fn unwrap(mut bytes: Bytes) -> Result<Bytes, Error> {
    if !bytes.starts_with(MAGIC) {
        return Err(Error::NoMagic);
    }
    bytes.advance(MAGIC.len());
    Ok(Unknown::decode(bytes)?.raw)
}

fn next_event<T: Message + Default>(input: &mut BytesMut) -> Result<Option<Event<T>>, Error> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_FRAME {
        return Err(Error::FrameTooLarge(length));
    }
    if rest.len() < length {
        input.reserve(4 + length - input.len());
        return Ok(None);
    }
    input.advance(4);
    let event = WatchEvent::decode(input.split_to(length).freeze())?;
    let raw = event.object.unwrap_or_default().raw;
    Ok(Some(match &*event.kind {
        b"ADDED" | b"MODIFIED" => decoded(unwrap(raw)?).map_or_else(Event::Undecodable, Event::Applied),
        b"DELETED" => decoded(unwrap(raw)?).map_or_else(Event::Undecodable, Event::Deleted),
        b"BOOKMARK" => {
            // Of whatever kind it is: only the metadata are set.
            let bookmark = object::<PartialObjectMetadata>(raw)?.metadata.unwrap_or_default();
            Event::Bookmark {
                ends_list: bookmark.annotations.contains_key(INITIAL_EVENTS_END),
                version: bookmark.resource_version,
            }
        }
        _ => Event::Error(object(raw)?),
    }))
}

/// One step of a watch.
#[derive(Debug)]
pub(super) enum Event<T> {
    Applied(T),
    Deleted(T),
    /// An object that was added, changed or deleted, and that cannot be decoded.
    Undecodable(Box<Undecodable>),
    /// Everything up to here was told.
    Bookmark {
        version: String,
        /// What came before was the whole list.
        ends_list: bool,
    },
    Error(Status),
}

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WatchEvent {
    #[prost(bytes = "bytes", tag = "1")]
    kind: Bytes,
    #[prost(message, optional, tag = "2")]
    object: Option<RawExtension>,
}

#[derive(Clone, PartialEq, Message)]
struct RawExtension {
    #[prost(bytes = "bytes", tag = "1")]
    raw: Bytes,
}

/// A page of a list of any kind.
#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    items: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListMeta {
    #[prost(string, tag = "2")]
    pub(super) resource_version: String,
    /// Asks for the next page; empty on the last.
    #[prost(string, tag = "3")]
    pub(super) next: String,
}

/// Why a request was refused.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(string, tag = "3")]
    pub(super) message: String,
    #[prost(string, tag = "4")]
    pub(super) reason: String,
    #[prost(int32, tag = "6")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectMeta {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
    #[prost(string, tag = "5")]
    pub(super) uid: String,
    #[prost(string, tag = "6")]
    pub(super) resource_version: String,
    #[prost(btree_map = "string, string", tag = "11")]
    pub(super) labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl ObjectMeta {
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

/// An object of which only the metadata were asked for, or are needed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialObjectMetadata {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<ObjectMeta>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Service {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub(super) spec: Option<ServiceSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServiceSpec {
    #[prost(message, repeated, tag = "1")]
    pub(super) ports: Vec<ServicePort>,
    #[prost(string, tag = "3")]
    pub(super) cluster_ip: String,
    #[prost(string, tag = "4")]
    pub(super) kind: String,
    #[prost(string, repeated, tag = "5")]
    pub(super) external_ips: Vec<String>,
    #[prost(string, tag = "7")]
    pub(super) session_affinity: String,
    #[prost(string, repeated, tag = "18")]
    pub(super) cluster_ips: Vec<String>,
    #[prost(string, tag = "22")]
    pub(super) internal_traffic_policy: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServicePort {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) protocol: String,
    #[prost(int32, tag = "3")]
    pub(super) port: i32,
    #[prost(int32, tag = "5")]
    pub(super) node_port: i32,
    #[prost(string, optional, tag = "6")]
    pub(super) app_protocol: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndpointSlice {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<ObjectMeta>,
    #[prost(message, repeated, tag = "2")]
    pub(super) endpoints: Vec<Endpoint>,
    #[prost(message, repeated, tag = "3")]
    pub(super) ports: Vec<EndpointPort>,
    #[prost(string, tag = "4")]
    pub(super) address_type: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Endpoint {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) addresses: Vec<Bytes>,
    #[prost(message, optional, tag = "2")]
    pub(super) conditions: Option<EndpointConditions>,
    #[prost(message, optional, tag = "4")]
    pub(super) target: Option<ObjectReference>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(super) node_name: Option<Bytes>,
    #[prost(message, optional, tag = "8")]
    pub(super) hints: Option<EndpointHints>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndpointConditions {
    #[prost(bool, optional, tag = "1")]
    pub(super) ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(super) serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    pub(super) terminating: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndpointHints {
    #[prost(message, repeated, tag = "1")]
    pub(super) zones: Vec<Named>,
    #[prost(message, repeated, tag = "2")]
    pub(super) nodes: Vec<Named>,
}

/// `ForZone` and `ForNode`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Named {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndpointPort {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) protocol: Option<String>,
    #[prost(int32, optional, tag = "3")]
    pub(super) port: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectReference {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) kind: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) uid: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Pod {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub(super) spec: Option<PodSpec>,
    #[prost(message, optional, tag = "3")]
    pub(super) status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSpec {
    #[prost(message, repeated, tag = "2")]
    pub(super) containers: Vec<Container>,
    #[prost(bool, tag = "11")]
    pub(super) host_network: bool,
    #[prost(message, repeated, tag = "20")]
    pub(super) init_containers: Vec<Container>,
    #[prost(string, tag = "29")]
    pub(super) runtime_class: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Container {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "6")]
    pub(super) ports: Vec<ContainerPort>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerPort {
    #[prost(int32, tag = "3")]
    pub(super) port: i32,
    #[prost(string, tag = "4")]
    pub(super) protocol: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodStatus {
    #[prost(string, tag = "1")]
    pub(super) phase: String,
    #[prost(message, repeated, tag = "12")]
    pub(super) ips: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodIp {
    #[prost(string, tag = "1")]
    pub(super) ip: String,
}

/// A string that was left where it was received; `None` if it is no UTF-8, which the API server does not send.
pub(super) fn text(bytes: &Bytes) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// What metadata an object without any has.
static NO_METADATA: ObjectMeta = ObjectMeta {
    name: String::new(),
    namespace: String::new(),
    uid: String::new(),
    resource_version: String::new(),
    labels: BTreeMap::new(),
    annotations: BTreeMap::new(),
};

macro_rules! resources {
    ($($kind:ty),*) => {$(
        impl Resource for $kind {
            fn metadata(&self) -> &ObjectMeta {
                self.metadata.as_ref().unwrap_or(&NO_METADATA)
            }

            fn from_metadata(metadata: ObjectMeta) -> Self {
                let mut object = Self::default();
                object.metadata.replace(metadata);
                object
            }

            fn list(bytes: Bytes) -> Result<Page<Self>, Error> {
                list(bytes)
            }

            fn next_event(input: &mut BytesMut) -> Result<Option<Event<Self>>, Error> {
                next_event(input)
            }
        }
    )*};
}

resources!(PartialObjectMetadata, Service, EndpointSlice, Pod);

#[cfg(test)]
mod tests;
