//! HTTP/2's frame layer, RFC 9113 sections 4 and 6: bytes in, frames out, and the writers for the way back.
//!
//! A [`Reader`] checks everything that one frame, or an unfinished field block, shows by itself: lengths, padding, stream
//! zero or not, values of settings, and that nothing stands between HEADERS and its CONTINUATIONs. It knows no stream
//! states, no windows and no roles; those belong to `connection`. Field blocks are opaque here; `hpack` reads them.
//!
//! Payloads are never copied: a chunk shares the memory of the buffer that it was read into. DATA is cut through, so a
//! piece of a DATA frame (1 KiB, or its end) goes on as soon as it is there.

mod error;
mod id;
#[expect(
    clippy::arithmetic_side_effects,
    reason = "lengths of 24 bits, and of what is in memory"
)]
mod reader;
mod settings;
#[expect(
    clippy::arithmetic_side_effects,
    reason = "lengths of 24 bits, and of what is in memory"
)]
mod write;

use bytes::Bytes;

pub use error::{Error, ErrorCode};
pub use id::StreamId;
pub use reader::Reader;
pub use settings::{SettingId, SettingsPayload};
pub use write::{
    write_data_header, write_goaway, write_headers, write_ping, write_rst_stream, write_settings,
    write_settings_ack, write_window_update,
};

/// What a client sends before its first frame (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes before every frame's payload (RFC 9113 §4.1).
pub const FRAME_HEADER_LEN: usize = 9;

/// `SETTINGS_MAX_FRAME_SIZE` before any SETTINGS, and the least that it may be set to (RFC 9113 §6.5.2).
pub const MIN_MAX_FRAME_SIZE: u32 = 16_384;

/// The most that `SETTINGS_MAX_FRAME_SIZE` may be set to (RFC 9113 §6.5.2).
pub const MAX_MAX_FRAME_SIZE: u32 = (1 << 24) - 1;

/// The most that a flow-control window may be (RFC 9113 §6.9.1).
pub const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Both flow-control windows before any SETTINGS or `WINDOW_UPDATE` (RFC 9113 §6.9.2).
pub const DEFAULT_WINDOW: u32 = 65_535;

/// One frame as a [`Reader`] hands it over, or one piece of a DATA frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A piece of a DATA frame, as much as has arrived. A frame without data is one empty piece.
    Data {
        stream: StreamId,
        chunk: Bytes,
        /// What the whole frame takes from both windows, padding and its length byte included (RFC 9113 §6.9.1).
        /// Counted once, with the first piece; zero on all later ones.
        flow_controlled: u32,
        /// Only ever true on a frame's last piece.
        end_stream: bool,
    },
    Headers {
        stream: StreamId,
        fragment: Bytes,
        end_stream: bool,
        end_headers: bool,
        priority: Option<Priority>,
    },
    /// Certainly of the stream whose field block is unfinished: the reader has checked it.
    Continuation {
        stream: StreamId,
        fragment: Bytes,
        end_headers: bool,
    },
    Priority {
        stream: StreamId,
        priority: Priority,
    },
    RstStream {
        stream: StreamId,
        code: ErrorCode,
    },
    /// Each value has been checked against RFC 9113 §6.5.2.
    Settings(SettingsPayload),
    SettingsAck,
    /// We allow none (`SETTINGS_ENABLE_PUSH` 0), so the field block is dropped: this ends the connection.
    PushPromise {
        stream: StreamId,
        promised: StreamId,
    },
    Ping {
        ack: bool,
        payload: [u8; 8],
    },
    GoAway {
        last_stream: StreamId,
        code: ErrorCode,
        debug: Bytes,
    },
    /// `stream` is [`StreamId::CONNECTION`] for the connection's window. `increment` is 1 to 2^31-1.
    WindowUpdate {
        stream: StreamId,
        increment: u32,
    },
    /// A type that RFC 9113 does not know, to be ignored (§5.5); its payload is skipped as it arrives.
    Unknown {
        kind: u8,
        stream: StreamId,
        len: u32,
    },
}

/// RFC 7540's priority, which RFC 9113 §5.3 keeps on the wire and asks everybody to ignore, a stream that depends on
/// itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    pub depends_on: StreamId,
    pub exclusive: bool,
    /// 0 to 255, for weights of 1 to 256.
    pub weight: u8,
}

/// Frame types, RFC 9113 §6.
mod kind {
    pub(super) const DATA: u8 = 0x0;
    pub(super) const HEADERS: u8 = 0x1;
    pub(super) const PRIORITY: u8 = 0x2;
    pub(super) const RST_STREAM: u8 = 0x3;
    pub(super) const SETTINGS: u8 = 0x4;
    pub(super) const PUSH_PROMISE: u8 = 0x5;
    pub(super) const PING: u8 = 0x6;
    pub(super) const GOAWAY: u8 = 0x7;
    pub(super) const WINDOW_UPDATE: u8 = 0x8;
    pub(super) const CONTINUATION: u8 = 0x9;
}

/// Frame flags, RFC 9113 §6. A flag that a type does not define is ignored.
mod flag {
    pub(super) const ACK: u8 = 0x1;
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}
