//! Settings: their identifiers, their ranges, and the payload of a SETTINGS frame (RFC 9113 §6.5).

use std::fmt;

use bytes::Bytes;

use super::{Error, MAX_MAX_FRAME_SIZE, MAX_WINDOW, MIN_MAX_FRAME_SIZE};

/// A setting's identifier. Those that nobody has registered are kept, and ignored by everybody (RFC 9113 §6.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SettingId(pub u16);

impl SettingId {
    /// Bytes of dynamic table that the sender's HPACK decoder keeps.
    pub const HEADER_TABLE_SIZE: Self = Self(0x1);
    /// 0 or 1.
    pub const ENABLE_PUSH: Self = Self(0x2);
    /// Streams that the receiver may have open.
    pub const MAX_CONCURRENT_STREAMS: Self = Self(0x3);
    /// Bytes, 0 to 2^31-1.
    pub const INITIAL_WINDOW_SIZE: Self = Self(0x4);
    /// Bytes, 2^14 to 2^24-1.
    pub const MAX_FRAME_SIZE: Self = Self(0x5);
    /// Bytes as RFC 9113 §6.5.2 counts them: name, value and 32 a field. Advice only.
    pub const MAX_HEADER_LIST_SIZE: Self = Self(0x6);
    /// 0 or 1 (RFC 8441).
    pub const ENABLE_CONNECT_PROTOCOL: Self = Self(0x8);

    /// Whether the RFC allows this value.
    pub(super) const fn check(self, value: u32) -> Result<(), Error> {
        let in_range = match self {
            Self::ENABLE_PUSH | Self::ENABLE_CONNECT_PROTOCOL => value <= 1,
            Self::INITIAL_WINDOW_SIZE => value <= MAX_WINDOW,
            Self::MAX_FRAME_SIZE => MIN_MAX_FRAME_SIZE <= value && value <= MAX_MAX_FRAME_SIZE,
            _ => true,
        };
        if in_range {
            Ok(())
        } else {
            Err(Error::SettingOutOfRange { setting: self, value })
        }
    }
}

impl fmt::Display for SettingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::HEADER_TABLE_SIZE => "SETTINGS_HEADER_TABLE_SIZE",
            Self::ENABLE_PUSH => "SETTINGS_ENABLE_PUSH",
            Self::MAX_CONCURRENT_STREAMS => "SETTINGS_MAX_CONCURRENT_STREAMS",
            Self::INITIAL_WINDOW_SIZE => "SETTINGS_INITIAL_WINDOW_SIZE",
            Self::MAX_FRAME_SIZE => "SETTINGS_MAX_FRAME_SIZE",
            Self::MAX_HEADER_LIST_SIZE => "SETTINGS_MAX_HEADER_LIST_SIZE",
            Self::ENABLE_CONNECT_PROTOCOL => "SETTINGS_ENABLE_CONNECT_PROTOCOL",
            Self(other) => return write!(f, "setting {other:#x}"),
        })
    }
}

impl fmt::Debug for SettingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The settings of one frame, in the order in which they take effect (RFC 9113 §6.5.3). Every value is within its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsPayload(Bytes);

impl SettingsPayload {
    /// Checks each value. `payload` is a multiple of six bytes.
    pub(super) fn parse(payload: Bytes) -> Result<Self, Error> {
        let settings = Self(payload);
        settings
            .iter()
            .try_for_each(|(setting, value)| setting.check(value))?;
        Ok(settings)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SettingId, u32)> + '_ {
        self.0
            .as_chunks::<6>()
            .0
            .iter()
            .map(|&[id0, id1, v0, v1, v2, v3]| {
                (
                    SettingId(u16::from_be_bytes([id0, id1])),
                    u32::from_be_bytes([v0, v1, v2, v3]),
                )
            })
    }

    /// How many settings the frame holds; a flood of them costs the receiver this much.
    pub fn len(&self) -> usize {
        self.0.len() / 6
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
