//! The kinds of attacks, and how large each is by itself.

/// Each kind is one connection's behaviour; [`crate::clients`] has it in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Open calls, each of many one-byte references to an entry of the static table
    HeaderReferences,
    /// Field blocks that are never finished
    UnfinishedBlocks,
    /// Open calls with 900 KB of distinct fields
    LargeHeaders,
    /// Open calls with 64 KB of body, one a connection
    UnreadBody,
    /// Calls whose large responses are not read from the socket
    UnreadResponses,
    /// Calls whose large responses get no stream credit
    NoCredit,
    /// HEADERS with `RST_STREAM` behind it
    RapidReset,
    /// Calls that are cancelled as the next begins, beside one that stays
    Cancels,
    /// Many calls, then the end of the connection
    Abandon,
    /// More streams than are allowed, before anything is read
    UnreadSettings,
    /// Field blocks of 11 KB that stand for 43 MB
    OversizedBlocks,
    /// Open calls that name a field of 4 KB many times
    Expanding,
    /// PINGs beside many open streams
    Pings,
    /// Requests with fields that a server may refuse
    BadFields,
    /// Connections that send a part of the preface
    Undetected,
    /// Connections that are opened and closed
    Connects,
    /// SETTINGS, `WINDOW_UPDATE`, PRIORITY, empty DATA and unknown frames in turn
    ControlFrames,
    /// Connections that speak another protocol, a megabyte of it
    Opaque,
    /// Calls that are reset with `NO_ERROR` after 64 KB of body
    NoErrorResets,
}

impl Kind {
    /// Connections, streams of a connection and fields of a request.
    pub(crate) fn size(self) -> (usize, usize, usize) {
        match self {
            Self::HeaderReferences => (50, 100, 29_000),
            Self::UnfinishedBlocks => (500, 1, 1_000),
            Self::LargeHeaders => (10, 37, 900),
            Self::UnreadBody => (5_000, 1, 0),
            Self::UnreadResponses | Self::NoCredit => (200, 10, 0),
            Self::RapidReset | Self::Cancels | Self::BadFields | Self::NoErrorResets => (1, 1, 0),
            Self::Abandon | Self::Pings => (1, 10_000, 0),
            Self::UnreadSettings => (4, 12_200, 0),
            Self::OversizedBlocks => (4, 1, 11_000),
            Self::Expanding => (10, 100, 250),
            Self::Undetected => (2_000, 1, 0),
            Self::Opaque => (500, 1, 0),
            Self::Connects => (8, 1, 0),
            Self::ControlFrames => (4, 1, 0),
        }
    }
}
