//! What the splitter asks of whoever owns the sockets, and what it is told of them.

use super::arena::Key;
use crate::balance::Endpoint;
use crate::connection::SocketError;

/// A client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub(super) Key);

/// A connection to a backend, from the moment in which it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub(super) Key);

/// Any connection. An id is never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnId {
    Client(ClientId),
    Upstream(UpstreamId),
}

impl ConnId {
    /// A small number: no other open connection of its side has the same, later ones may.
    pub const fn index(self) -> usize {
        let (Self::Client(ClientId(key)) | Self::Upstream(UpstreamId(key))) = self;
        key.index() as usize
    }
}

/// Something to be done with sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to this endpoint and tell the outcome by [`super::Splitter::handle_dialed`].
    Dial {
        upstream: UpstreamId,
        endpoint: Endpoint,
    },
    CloseClient {
        client: ClientId,
        how: How,
    },
    /// Also ends a dial that is under way.
    CloseUpstream {
        upstream: UpstreamId,
        how: How,
    },
    /// The connection reads again ([`super::Splitter::wants_input`]): hand in what it left by
    /// [`super::Splitter::handle_input`], even if nothing has come since, then read the socket again.
    ResumeInput {
        id: ConnId,
    },
}

/// How a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// When all that is left to transmit is written.
    Graceful,
    /// At once, with a TCP reset.
    Reset,
}

/// How a socket ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed its side.
    Eof,
    Error(SocketError),
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// What the system says.
    #[error("{0}")]
    Socket(#[from] SocketError),
    /// Our own deadline has passed; the system was still trying.
    #[error("no answer in time")]
    TimedOut,
    /// The dial failed before there was a socket: the pod's network namespace cannot be entered.
    #[error("cannot connect")]
    Other,
}

/// Why a client's connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenClientError {
    #[error("no such Service was set")]
    NoService,
    #[error("the pod holds more than its share of the agent's memory")]
    OutOfMemory,
}
