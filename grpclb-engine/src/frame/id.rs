//! Stream identifiers: 31 bits, odd ones a client's, even ones a server's (RFC 9113 §5.1.1).

use std::fmt;

/// A stream's number on one connection. The reserved bit is never set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId(u32);

impl StreamId {
    /// Number zero: the connection itself.
    pub const CONNECTION: Self = Self(0);
    /// The largest number, 2^31-1; GOAWAY's "no more" (RFC 9113 §6.8).
    pub const MAX: Self = Self(0x7fff_ffff);

    /// The reserved bit is dropped (RFC 9113 §4.1).
    pub const fn new(number: u32) -> Self {
        Self(number & Self::MAX.0)
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    pub const fn is_connection(self) -> bool {
        self.0 == 0
    }

    /// Odd: opened by the client.
    pub const fn is_client_initiated(self) -> bool {
        self.0 % 2 == 1
    }

    /// Even, and not the connection: opened by the server.
    pub const fn is_server_initiated(self) -> bool {
        self.0 != 0 && self.0.is_multiple_of(2)
    }

    /// The next number of the same end; `None` when they have run out.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        let next = self.0.saturating_add(2);
        if next > Self::MAX.0 {
            None
        } else {
            Some(Self(next))
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.0)
    }
}
