//! What is wrong with a frame, whom it concerns, and the code that says so to the peer.

use std::fmt;

use super::{SettingId, StreamId};

/// An error code of `RST_STREAM` and GOAWAY (RFC 9113 §7). Codes that nobody has registered are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    pub const NO_ERROR: Self = Self(0x0);
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    pub const INTERNAL_ERROR: Self = Self(0x2);
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    pub const STREAM_CLOSED: Self = Self(0x5);
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub const REFUSED_STREAM: Self = Self(0x7);
    pub const CANCEL: Self = Self(0x8);
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    pub const CONNECT_ERROR: Self = Self(0xa);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);

    /// The name in RFC 9113 §7; `None` for a code that it does not list.
    pub const fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        if self.0 < NAMES.len() as u32 {
            Some(NAMES[self.0 as usize])
        } else {
            None
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The peer broke the frame layer's rules. [`Error::stream`] says whether that ends a stream or the connection,
/// [`Error::code`] says what to tell the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the peer sent a frame of {len} bytes, more than the {max} that we allow")]
    TooLong { len: u32, max: u32 },
    #[error("the peer sent a {frame} frame of {len} bytes, which that type cannot have")]
    WrongLength { frame: &'static str, len: u32 },
    #[error("the peer sent a {frame} frame on stream 0")]
    NotOnConnection { frame: &'static str },
    #[error("the peer sent a {frame} frame on stream {stream}; it belongs on stream 0")]
    NotOnStream { frame: &'static str, stream: StreamId },
    #[error("the peer sent more padding than the {frame} frame holds")]
    Padding { frame: &'static str },
    #[error("the peer interrupted the field block of stream {stream}")]
    BlockInterrupted { stream: StreamId },
    #[error("the peer sent CONTINUATION on stream {stream} without a field block to continue")]
    NothingToContinue { stream: StreamId },
    #[error("the peer set {setting} to {value}, which is out of range")]
    SettingOutOfRange { setting: SettingId, value: u32 },
    #[error("the peer sent a WINDOW_UPDATE of zero on the connection")]
    ZeroIncrement,
    #[error("the peer sent a PUSH_PROMISE for stream {promised}, which a server cannot open")]
    PromisedStream { promised: StreamId },
    /// A stream error.
    #[error("the peer sent a WINDOW_UPDATE of zero on stream {stream}")]
    ZeroStreamIncrement { stream: StreamId },
    /// A stream error.
    #[error("the peer sent a PRIORITY frame of {len} bytes on stream {stream}; it has 5")]
    PriorityLength { stream: StreamId, len: u32 },
}

impl Error {
    /// The stream that ends, for a stream error (RFC 9113 §5.4.2): the frame has been consumed and reading may go on.
    /// `None` for a connection error (§5.4.1): nothing more can be read.
    pub const fn stream(&self) -> Option<StreamId> {
        match *self {
            Self::ZeroStreamIncrement { stream } | Self::PriorityLength { stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// The code for `RST_STREAM` or GOAWAY.
    pub const fn code(&self) -> ErrorCode {
        match *self {
            Self::TooLong { .. } | Self::WrongLength { .. } | Self::PriorityLength { .. } => {
                ErrorCode::FRAME_SIZE_ERROR
            }
            Self::SettingOutOfRange {
                setting: SettingId::INITIAL_WINDOW_SIZE,
                ..
            } => ErrorCode::FLOW_CONTROL_ERROR,
            Self::SettingOutOfRange { .. }
            | Self::NotOnConnection { .. }
            | Self::NotOnStream { .. }
            | Self::Padding { .. }
            | Self::BlockInterrupted { .. }
            | Self::NothingToContinue { .. }
            | Self::ZeroIncrement
            | Self::PromisedStream { .. }
            | Self::ZeroStreamIncrement { .. } => ErrorCode::PROTOCOL_ERROR,
        }
    }
}
