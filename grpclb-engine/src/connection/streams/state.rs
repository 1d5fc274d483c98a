//! The states of a stream (RFC 9113 §5.1) and what each event does in each of them.
//!
//! ```text
//!                              +--------+
//!                 send HEADERS |        | recv HEADERS
//!                     ,--------|  idle  |--------.
//!                    /         |        |         \
//!                   v          +--------+          v
//!                    `-------->+--------+<--------'
//!              recv END_STREAM |        | send END_STREAM
//!                     ,--------|  open  |--------.
//!                    v         |        |         v
//!            +-------------+   +--------+   +-------------+
//!            | half-closed |       |        | half-closed |
//!            |  (remote)   |       |        |   (local)   |
//!            +-------------+       |        +-------------+
//!                    |             | RST_STREAM    |
//!     send END_STREAM|             v               | recv END_STREAM
//!     or RST_STREAM  |         +--------+          | or RST_STREAM
//!                    `-------->| closed |<---------'
//!                              +--------+
//! ```
//!
//! The RFC's two reserved states are left out: neither end of ours lets the other push (`SETTINGS_ENABLE_PUSH` 0), so
//! `PUSH_PROMISE` ends the connection before it reaches a stream. `idle` and `closed` are split by what the RFC says in
//! words: who may open the stream, and how it was closed.
//!
//! Deviations: `WINDOW_UPDATE` and `RST_STREAM` in any closed state are ignored, since they may have been on their way
//! (§5.1 allows both); of a stream whose end we no longer remember everything is ignored, so that a late frame never
//! costs an honest peer its connection ("an endpoint can perform this minimal processing for all closed streams").

use crate::frame::ErrorCode;

/// Where a stream stands on the wire: what was queued but not sent does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Never used, and not the peer's to open: our own numbers, and a server's, which may not push.
    Idle,
    /// Never used, and the peer may open it.
    IdlePeer,
    Open,
    /// We sent `END_STREAM`.
    HalfClosedLocal,
    /// The peer sent `END_STREAM`.
    HalfClosedRemote,
    /// Closed by `END_STREAM` both ways.
    Ended,
    /// Closed by the peer's `RST_STREAM`.
    ResetByPeer,
    /// Closed by our `RST_STREAM`, which the peer may not have seen yet.
    ResetByUs,
    /// Closed so long ago that we do not remember how.
    Forgotten,
}

/// What can happen to a stream. A HEADERS or DATA frame with `END_STREAM` is two events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEvent {
    RecvHeaders,
    RecvData,
    RecvEndStream,
    RecvReset,
    RecvWindowUpdate,
    RecvPriority,
    SendHeaders,
    SendData,
    SendEndStream,
    SendReset,
}

/// What an event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The event is right; the stream is then in this state.
    To(State),
    /// The frame is read (HPACK, windows) and forgotten.
    Ignore,
    /// `RST_STREAM` with this code (RFC 9113 §5.4.2).
    StreamError(ErrorCode),
    /// GOAWAY with this code, and the end of the connection (RFC 9113 §5.4.1).
    ConnectionError(ErrorCode),
    /// We must not send this: asking for it is a bug of ours, and nothing is sent.
    Forbidden,
}

impl State {
    pub const ALL: [Self; 9] = [
        Self::Idle,
        Self::IdlePeer,
        Self::Open,
        Self::HalfClosedLocal,
        Self::HalfClosedRemote,
        Self::Ended,
        Self::ResetByPeer,
        Self::ResetByUs,
        Self::Forgotten,
    ];

    /// The table of transitions: every outcome of every event (RFC 9113 §5.1).
    #[expect(
        clippy::match_same_arms,
        reason = "a table in the RFC's order reads better than one sorted by outcome"
    )]
    pub const fn on(self, event: StreamEvent) -> Outcome {
        use ErrorCode as Code;
        use Outcome::{ConnectionError, Forbidden, Ignore, StreamError, To};
        use State as S;
        use StreamEvent as E;
        match (self, event) {
            // PRIORITY is right in every state, and means nothing any more (§5.3.2).
            (_, E::RecvPriority) => Ignore,

            (S::IdlePeer, E::RecvHeaders) | (S::Idle, E::SendHeaders) => To(S::Open),
            (
                S::Idle | S::IdlePeer,
                E::RecvHeaders | E::RecvData | E::RecvEndStream | E::RecvReset | E::RecvWindowUpdate,
            ) => ConnectionError(Code::PROTOCOL_ERROR),
            (S::Idle | S::IdlePeer, E::SendHeaders | E::SendData | E::SendEndStream | E::SendReset) => {
                Forbidden
            }

            (S::Open | S::HalfClosedLocal, E::RecvHeaders | E::RecvData) => To(self),
            (S::Open, E::RecvEndStream) => To(S::HalfClosedRemote),
            (S::HalfClosedLocal, E::RecvEndStream) => To(S::Ended),
            (S::HalfClosedRemote, E::RecvHeaders | E::RecvData | E::RecvEndStream) => {
                StreamError(Code::STREAM_CLOSED)
            }
            (S::Open | S::HalfClosedLocal | S::HalfClosedRemote, E::RecvReset) => To(S::ResetByPeer),
            (S::Open | S::HalfClosedLocal | S::HalfClosedRemote, E::RecvWindowUpdate) => To(self),

            (S::Open | S::HalfClosedRemote, E::SendHeaders | E::SendData) => To(self),
            (S::Open, E::SendEndStream) => To(S::HalfClosedLocal),
            (S::HalfClosedRemote, E::SendEndStream) => To(S::Ended),
            (S::HalfClosedLocal, E::SendHeaders | E::SendData | E::SendEndStream) => Forbidden,
            (S::Open | S::HalfClosedLocal | S::HalfClosedRemote, E::SendReset) => To(S::ResetByUs),

            // What was on its way when the stream closed (§5.1, "closed").
            (S::Ended | S::ResetByPeer | S::ResetByUs | S::Forgotten, E::RecvReset | E::RecvWindowUpdate) => {
                Ignore
            }
            (S::ResetByUs | S::Forgotten, E::RecvHeaders | E::RecvData | E::RecvEndStream) => Ignore,
            (S::Ended, E::RecvHeaders | E::RecvData | E::RecvEndStream) => {
                ConnectionError(Code::STREAM_CLOSED)
            }
            (S::ResetByPeer, E::RecvHeaders | E::RecvData | E::RecvEndStream) => {
                StreamError(Code::STREAM_CLOSED)
            }
            // "After receiving DATA on a closed stream, RST_STREAM may be answered": our stream errors say so once.
            (S::ResetByPeer, E::SendReset) => To(S::ResetByUs),
            (
                S::Ended | S::ResetByPeer | S::ResetByUs | S::Forgotten,
                E::SendHeaders | E::SendData | E::SendEndStream | E::SendReset,
            ) => Forbidden,
        }
    }

    /// Whether the stream counts against a limit on concurrent streams (RFC 9113 §5.1.2).
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedLocal | Self::HalfClosedRemote)
    }

    /// Whether the peer may still send DATA and HEADERS.
    pub const fn can_receive(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedLocal)
    }

    /// Whether we may still send DATA and HEADERS.
    pub const fn can_send(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedRemote)
    }
}

impl StreamEvent {
    pub const ALL: [Self; 10] = [
        Self::RecvHeaders,
        Self::RecvData,
        Self::RecvEndStream,
        Self::RecvReset,
        Self::RecvWindowUpdate,
        Self::RecvPriority,
        Self::SendHeaders,
        Self::SendData,
        Self::SendEndStream,
        Self::SendReset,
    ];
}
