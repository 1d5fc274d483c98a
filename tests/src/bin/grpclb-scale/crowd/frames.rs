//! The frames of a watch (control/kubernetes/wire.rs in grpclb-userspace says how they come), read for no more than what it
//! takes to go on after a break: which version was told last, and whether the list was whole.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use prost::Message;
use prost::bytes::{Buf as _, Bytes, BytesMut};

/// What each enveloped object begins with.
const MAGIC: &[u8] = b"k8s\0";
/// On the bookmark that ends a streamed list.
const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// How far a watch has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Up to where all was told; empty until the list was whole.
    pub(super) version: String,
    input: BytesMut,
}

impl Progress {
    /// Another request goes on from where the last one broke off; half a frame of that one is nothing to it.
    pub(super) fn goes_on(&mut self) {
        self.input.clear();
    }

    /// Takes up what has come.
    ///
    /// # Errors
    /// The server ends the watch with a refusal, which is [`Expired`] where it has forgotten the version.
    pub(super) fn read(&mut self, piece: &[u8]) -> Result<()> {
        self.input.extend_from_slice(piece);
        while let Some(event) = self.next_event()? {
            let object = event.object.unwrap_or_default().raw;
            match &*event.kind {
                b"BOOKMARK" => {
                    let bookmark = metadata(object)?;
                    if !self.version.is_empty() || bookmark.annotations.contains_key(LIST_ENDS) {
                        self.version = bookmark.resource_version;
                    }
                }
                b"ERROR" => return Err(refusal(object)?),
                // The objects of a list come in no order: only its end tells how far it is.
                _ if self.version.is_empty() => {}
                _ => self.version = metadata(object)?.resource_version,
            }
        }
        Ok(())
    }

    fn next_event(&mut self) -> Result<Option<WatchEvent>> {
        let Some((length, rest)) = self.input.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if rest.len() < length {
            return Ok(None);
        }
        self.input.advance(4);
        Ok(Some(WatchEvent::decode(self.input.split_to(length).freeze())?))
    }
}

/// 410: the version to go on from is too old for the server.
#[derive(Debug)]
pub(super) struct Expired;

impl std::fmt::Display for Expired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server no longer has that version")
    }
}

impl std::error::Error for Expired {}

fn refusal(object: Bytes) -> Result<anyhow::Error> {
    let status: Status = unenveloped(object)?;
    Ok(match status.code {
        410 => Expired.into(),
        code => anyhow::anyhow!("{} ({code})", status.message),
    })
}

fn metadata(object: Bytes) -> Result<Metadata> {
    let object: Object = unenveloped(object)?;
    object.metadata.context("an object without metadata")
}

fn unenveloped<T: Message + Default>(mut object: Bytes) -> Result<T> {
    if !object.starts_with(MAGIC) {
        bail!("not protobuf as Kubernetes sends it");
    }
    object.advance(MAGIC.len());
    Ok(T::decode(Unknown::decode(object)?.raw)?)
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

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Object {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "3")]
    message: String,
    #[prost(int32, tag = "6")]
    code: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: &'static str, object: &impl Message) -> Vec<u8> {
        let unknown = Unknown {
            raw: object.encode_to_vec().into(),
        };
        let event = WatchEvent {
            kind: Bytes::from_static(kind.as_bytes()),
            object: Some(RawExtension {
                raw: [MAGIC, &unknown.encode_to_vec()].concat().into(),
            }),
        };
        let event = event.encode_to_vec();
        [&(event.len() as u32).to_be_bytes()[..], &event].concat()
    }

    fn object(version: &str, annotations: &[&str]) -> Object {
        Object {
            metadata: Some(Metadata {
                resource_version: version.to_owned(),
                annotations: annotations
                    .iter()
                    .map(|&key| (key.to_owned(), String::new()))
                    .collect(),
            }),
        }
    }

    #[test]
    fn a_watch_goes_on_from_what_was_told_last_and_not_from_the_middle_of_a_list() {
        let mut progress = Progress::default();
        progress.read(&frame("ADDED", &object("7", &[]))).unwrap();
        assert_eq!(progress.version, "");
        let end = frame("BOOKMARK", &object("9", &[LIST_ENDS]));
        let (half, rest) = end.split_at(end.len() / 2);
        progress.read(half).unwrap();
        assert_eq!(progress.version, "");
        progress.read(rest).unwrap();
        assert_eq!(progress.version, "9");
        progress.read(&frame("MODIFIED", &object("12", &[]))).unwrap();
        progress
            .read(&frame("BOOKMARK", &object("15", &[]))[..6])
            .unwrap();
        progress.goes_on();
        assert_eq!(progress.version, "12");
    }

    #[test]
    fn a_version_that_the_server_has_forgotten_is_told_from_other_refusals() {
        let of = |code| Status {
            message: "no".to_owned(),
            code,
        };
        let refusal = |code| Progress::default().read(&frame("ERROR", &of(code))).unwrap_err();
        assert!(refusal(410).is::<Expired>());
        assert!(!refusal(500).is::<Expired>());
    }
}
