//! The errors that we answer ourselves: trailers-only responses for gRPC, a plain status for others.

use std::fmt::Write as _;
use std::rc::Rc;

use bytes::Bytes;

use crate::hpack::{Field, Fields, HeaderList, Indexing};

/// The gRPC status codes that we use (github.com/grpc/grpc/blob/master/doc/statuscodes.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    ResourceExhausted = 8,
    Unavailable = 14,
}

impl Status {
    const fn grpc(self) -> &'static str {
        match self {
            Self::ResourceExhausted => "8",
            Self::Unavailable => "14",
        }
    }
}

/// Whether a request is a gRPC call: by its content type, as the gRPC protocol has it.
pub(super) fn is_grpc(content_type: Option<&Field>) -> bool {
    content_type.is_some_and(|field| field.value().starts_with(b"application/grpc"))
}

/// A response that is headers only (gRPC), to be sent with `END_STREAM`.
pub(super) fn trailers_only(fields: &mut Fields, status: Status, message: &str) -> Rc<HeaderList> {
    let mut list = HeaderList::from_pairs(fields, [(":status", "200"), ("content-type", "application/grpc")]);
    push_status(fields, &mut list, status, message);
    Rc::new(list)
}

/// Trailers for a gRPC response that cannot be finished.
pub(super) fn trailers(fields: &mut Fields, status: Status, message: &str) -> Rc<HeaderList> {
    let mut list = HeaderList::new();
    push_status(fields, &mut list, status, message);
    Rc::new(list)
}

/// A plain response; its content follows.
pub(super) fn plain(fields: &mut Fields, status: &str, message: &str) -> (Rc<HeaderList>, Bytes) {
    let length = message.len().to_string();
    let pairs = [
        (":status", status),
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", &length),
    ];
    (
        Rc::new(HeaderList::from_pairs(fields, pairs)),
        Bytes::copy_from_slice(message.as_bytes()),
    )
}

fn push_status(fields: &mut Fields, list: &mut HeaderList, status: Status, message: &str) {
    list.push(
        fields.intern(b"grpc-status", status.grpc().as_bytes()),
        Indexing::Index,
    );
    // Messages differ: they would only push useful fields out of the tables.
    list.push(
        fields.intern(b"grpc-message", percent_encode(message).as_bytes()),
        Indexing::Without,
    );
}

/// As the gRPC protocol wants `grpc-message`: all but printable ASCII, and the percent sign, as `%XX`.
fn percent_encode(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for &byte in message.as_bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded_as_grpc_asks() {
        assert_eq!(
            percent_encode("grpclb-agent/n1: 100% ü\n"),
            "grpclb-agent/n1: 100%25 %C3%BC%0A"
        );
    }
}
