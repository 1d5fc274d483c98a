//! The connection preface (RFC 9113 §3.4): a client's 24 bytes, then each end's SETTINGS before any other frame.

use bytes::{Buf, BytesMut};

use crate::frame::PREFACE;

/// What is still expected before the peer's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// The client's 24 bytes from this one on.
    Magic(usize),
    /// The peer's first frame, which is SETTINGS and no acknowledgement.
    Settings,
    Nothing,
}

/// The bytes are not an HTTP/2 client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotHttp2;

impl Expect {
    /// Consumes the client's 24 bytes as they come; true when they are complete.
    pub(super) fn read_magic(&mut self, input: &mut BytesMut) -> Result<bool, NotHttp2> {
        let Self::Magic(at) = *self else { return Ok(true) };
        let expected = &PREFACE[at..];
        let here = expected.len().min(input.len());
        if input[..here] != expected[..here] {
            return Err(NotHttp2);
        }
        input.advance(here);
        let complete = here == expected.len();
        *self = if complete {
            Self::Settings
        } else {
            Self::Magic(at.saturating_add(here))
        };
        Ok(complete)
    }
}
