//! An object that cannot be decoded, with as much of its name as can.
//!
//! All of an object's strings are its author's to write, and the API server checks few of them: an object that is refused here
//! must not keep others of its kind from being read. [`Undecodable::protobuf`] and [`Undecodable::json`] read the name with
//! decoders that look at nothing else.

use std::fmt;

use bytes::Bytes;
use prost::Message;
use serde::Deserialize;

use super::{Error, ObjectMeta};

/// Characters of a name that are shown to people: as many as a name has at most.
const MAX_SHOWN: usize = 253;

/// An object that cannot be decoded.
#[derive(Debug)]
pub(in super::super) struct Undecodable {
    /// Name, namespace and resource version; each is empty if it cannot be read.
    pub(in super::super) metadata: ObjectMeta,
    /// Position in the page of the list, or among the events of the watch. The first is 1; 0 if it is not known.
    pub(in super::super) position: u64,
    cause: Error,
}

impl Undecodable {
    pub(super) fn protobuf(object: Bytes, cause: prost::DecodeError) -> Box<Self> {
        let (mut outer, mut inner) = (Outer::default(), Inner::default());
        // Fields that precede the one that cannot be decoded remain.
        let _undecodable = outer.merge(object);
        let _undecodable = inner.merge(outer.metadata);
        Self::named(
            [inner.namespace, inner.name, inner.resource_version].map(|bytes| text(&bytes)),
            cause.into(),
        )
    }

    pub(super) fn json(object: &[u8], cause: serde_json::Error) -> Box<Self> {
        let Outline { metadata } = serde_json::from_slice(object).unwrap_or_default();
        Self::named(
            [metadata.namespace, metadata.name, metadata.resource_version],
            Error::Json(cause),
        )
    }

    fn named([namespace, name, resource_version]: [String; 3], cause: Error) -> Box<Self> {
        Box::new(Self {
            metadata: ObjectMeta {
                name,
                namespace,
                resource_version,
                ..ObjectMeta::default()
            },
            position: 0,
            cause,
        })
    }
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| text.chars().take(MAX_SHOWN).collect::<String>();
        let (namespace, name) = (shown(&self.metadata.namespace), shown(&self.metadata.name));
        match (&*namespace, &*name) {
            (_, "") => write!(f, "object {}", self.position)?,
            ("", name) => write!(f, "{}", name.escape_debug())?,
            (namespace, name) => write!(f, "{}/{}", namespace.escape_debug(), name.escape_debug())?,
        }
        write!(f, ": {}", self.cause)
    }
}

fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).unwrap_or_default().to_owned()
}

/// Any object, in protobuf.
#[derive(Clone, PartialEq, Message)]
struct Outer {
    #[prost(bytes = "bytes", tag = "1")]
    metadata: Bytes,
}

/// Its metadata.
#[derive(Clone, PartialEq, Message)]
struct Inner {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    namespace: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    resource_version: Bytes,
}

/// Any object, in JSON.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Outline {
    metadata: Names,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Names {
    name: String,
    namespace: String,
    resource_version: String,
}
