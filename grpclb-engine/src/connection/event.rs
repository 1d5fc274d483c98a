//! What a connection tells its owner.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::{Limit, PingKind, StreamKey, Tag};
use crate::frame::{self, ErrorCode, StreamId};
use crate::hpack::{self, HeaderList};
use crate::message::Malformed;

/// One thing that the owner must know. Events come in the order of the peer's frames.
#[derive(Debug)]
pub enum Event {
    /// The peer's first SETTINGS are here; streams may be opened.
    Ready,
    /// The peer's SETTINGS or the end of a stream made room: [`super::Connection::can_open`] is true again.
    Capacity,
    /// A header section. `headers.oversized()` tells that it was longer than ours may be and lacks fields: the owner
    /// answers (431, or trailers with `RESOURCE_EXHAUSTED`) and ends the stream; it has not been validated.
    Headers {
        stream: StreamKey,
        /// Zero for a new request: the owner names it with [`super::Connection::set_tag`].
        tag: Tag,
        headers: Rc<HeaderList>,
        end_stream: bool,
        kind: HeadersKind,
    },
    /// A piece of a DATA frame, as much as has arrived; empty only with `end_stream`. Its bytes count against the
    /// stream's window until [`super::Connection::release`].
    Data {
        stream: StreamKey,
        tag: Tag,
        chunk: Bytes,
        end_stream: bool,
    },
    /// The stream ended without its `END_STREAMs`. The key is stale; nothing more comes of it.
    Reset {
        stream: StreamKey,
        tag: Tag,
        code: ErrorCode,
        cause: Cause,
        /// Its HEADERS were encoded (see [`super::Connection::has_left`] for what the socket took). Always true for streams of the peer.
        left: bool,
    },
    /// The peer will take no more streams. [`Event::Reset`] with [`Cause::GoAway`] follows for each that it did not process.
    GoAway {
        last_stream: StreamId,
        code: ErrorCode,
        debug: Bytes,
    },
    /// The peer answered our PING.
    Pong {
        kind: PingKind,
        /// From the flush that sent the PING to now.
        round_trip: Duration,
        /// DATA bytes received in between: with the round trip, the bandwidth-delay product.
        received: u64,
    },
    /// The peer has reached a limit that does not end the connection: it is slowed, or only counted ([`Limit::ends`]).
    Slowed { limit: Limit },
    /// The connection is over; comes once, and is the last event. What is left to send (a GOAWAY) is in the next
    /// transmit; then the socket is closed. Streams that were open get no event of their own.
    Closed {
        code: ErrorCode,
        reason: CloseReason,
        by: By,
    },
}

/// Which part of a message a header section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadersKind {
    Request,
    /// 1xx; the final response follows.
    Informational,
    Response,
    Trailers,
}

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The peer's `RST_STREAM`.
    Peer,
    /// The peer broke a rule that ends the stream alone (RFC 9113 §5.4.2); our `RST_STREAM` is on its way.
    Local(&'static str),
    /// The peer's message is malformed (RFC 9113 §8.1.1); our `RST_STREAM` is on its way.
    Malformed(Malformed),
    /// The peer's GOAWAY says that it did not and will not process the stream (RFC 9113 §6.8).
    GoAway,
}

/// Which end ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Peer,
    Local,
}

/// An error of a connection's socket, by the names of the system (`connect(2)`, `tcp(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    #[error("connection refused (ECONNREFUSED)")]
    Refused,
    #[error("connection reset by peer (ECONNRESET)")]
    Reset,
    #[error("connection aborted (ECONNABORTED)")]
    Aborted,
    #[error("broken pipe (EPIPE)")]
    BrokenPipe,
    /// The peer acknowledged nothing for as long as TCP retransmits.
    #[error("connection timed out (ETIMEDOUT)")]
    TimedOut,
    #[error("no route to host (EHOSTUNREACH)")]
    HostUnreachable,
    #[error("host is down (EHOSTDOWN)")]
    HostDown,
    #[error("network is unreachable (ENETUNREACH)")]
    NetworkUnreachable,
    #[error("network is down (ENETDOWN)")]
    NetworkDown,
    /// A firewall of this node drops what is sent.
    #[error("operation not permitted (EPERM)")]
    NotPermitted,
    /// A firewall on the way, or a route, prohibits it.
    #[error("permission denied (EACCES)")]
    PermissionDenied,
    /// No source address or port is free.
    #[error("cannot assign requested address (EADDRNOTAVAIL)")]
    AddressNotAvailable,
    #[error("too many open files (EMFILE)")]
    TooManyFiles,
    #[error("no buffer space available (ENOBUFS)")]
    NoBuffers,
    #[error("cannot allocate memory (ENOMEM)")]
    NoMemory,
    /// Any other error, by its number.
    #[error("socket error (errno {0})")]
    Other(i32),
}

impl SocketError {
    /// Returns whether the peer's host or the way to it failed, so that further connections to it would fail as well.
    pub const fn is_unreachable(self) -> bool {
        matches!(
            self,
            Self::TimedOut
                | Self::HostUnreachable
                | Self::HostDown
                | Self::NetworkUnreachable
                | Self::NetworkDown
        )
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    #[error("the peer closed its side")]
    Eof,
    #[error("{0}")]
    Socket(#[from] SocketError),
    #[error("all streams have ended after GOAWAY")]
    Drained,
    #[error("closed by us")]
    Local,
    #[error("{0}")]
    Frame(#[from] frame::Error),
    #[error("{0}")]
    Hpack(#[from] hpack::Error),
    #[error("{0}")]
    Protocol(&'static str),
    #[error("limit reached: {0}")]
    Limit(Limit),
    #[error("the peer answered no PING in time")]
    PingTimeout,
}

/// What left in one transmit of one stream: see [`super::Connection::transmit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub tag: Tag,
    /// DATA payload bytes that were moved to the output.
    pub bytes: u32,
    /// `END_STREAM` or `RST_STREAM` left: nothing more is sent for this tag.
    pub end: bool,
}
