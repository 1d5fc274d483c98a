//! What clients' connections and connections to backends have in common: the protocol's end, the output, a timer.

use std::rc::Rc;
use std::time::Duration;

use super::actions::{ClientId, ConnId, UpstreamId};
use super::carriers::Carriers;
use super::memory::Charged;
use super::pool::PoolSet;
use crate::Time;
use crate::connection::{Config, Connection, Output, Role};

use super::arena::Key;

/// How long a socket may take to accept our last bytes before it is reset.
pub(super) const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// The same for a client whose connection has ended in good order: the rest of its last responses is among these bytes.
pub(super) const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// A connection with what belongs to its socket.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conn: Connection,
    pub(super) output: Output,
    /// Its input is not read; [`super::Action::ResumeInput`] follows when it is again.
    pub(super) paused: bool,
    /// Stands in the list of connections with something to send.
    pub(super) dirty: bool,
    /// The time for which it stands in the heap of timers.
    pub(super) timer: Option<Time>,
    /// Its end was decided: by when its last bytes must have left.
    pub(super) closing: Option<Time>,
    /// DATA bytes that came by it and have not left to the other side.
    pub(super) buffered: u64,
    pub(super) charged: Charged,
    /// Its credit is held back; when to look whether it still has to be.
    pub(super) held: Option<Time>,
    /// Its input is held back, too: it has begun a field block that it does not finish.
    pub(super) input_held: bool,
    /// The stream window that its big messages have needed lately; 0: no stream needed more than what it begins with.
    pub(super) bulk: u32,
    /// Calls that are on it, those included whose streams on it have ended.
    pub(super) calls: usize,
}

impl Link {
    pub(super) fn new(role: Role, config: &Rc<Config>) -> Self {
        Self {
            conn: Connection::new(role, Rc::clone(config)),
            output: Output::default(),
            paused: false,
            dirty: false,
            timer: None,
            closing: None,
            buffered: 0,
            charged: Charged::default(),
            held: None,
            input_held: false,
            bulk: 0,
            calls: 0,
        }
    }

    /// After input: the owner of the socket may have to keep the rest of it.
    pub(super) const fn note_paused(&mut self) {
        self.paused |= !self.conn.wants_input();
    }
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) link: Link,
    pub(super) group: Key,
    /// Its own connections to backends, where they are not the pod's.
    pub(super) pools: Option<PoolSet>,
    /// PINGs of its that were looked at.
    pub(super) pings: u64,
    /// Connections to backends that carry its calls.
    pub(super) carriers: Carriers,
    /// DATA left to it since its last PING: the next one may be to measure bandwidth.
    pub(super) data_since_ping: bool,
    /// Its last PING that was for keepalive.
    pub(super) last_keepalive: Option<Time>,
}

/// A connection to a backend.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Upstream {
    pub(super) link: Link,
    pub(super) pool: Key,
    pub(super) state: UpstreamState,
    /// When it came into its state.
    pub(super) since: Time,
    /// When it was asked for.
    pub(super) dialed: Time,
    /// The calls that waited for it were given to others.
    pub(super) overdue: bool,
    /// Its dial takes longer than calls should wait for: it goes on in the background.
    pub(super) late: bool,
    /// It has answered a call.
    pub(super) served: bool,
    /// When a call began or ended on it.
    pub(super) last_used: Time,
    /// Its window is used up, and streams wait for it.
    pub(super) blocked_since: Option<Time>,
    /// It was so for long: no more calls.
    pub(super) stalled: bool,
    /// The least round trip measured.
    pub(super) round_trip: Option<Duration>,
    /// When so many DATA bytes have been received, the round trip is measured again.
    pub(super) measure_at: u64,
    pub(super) last_keepalive: Option<Time>,
    /// Its slot in the [`Carriers`] of the client that used it last.
    pub(super) carrier_hint: u32,
    /// Its part of [`super::Splitter::waiting_resets`].
    pub(super) resets: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamState {
    Dialing,
    /// Connected; the backend's SETTINGS have not come.
    Handshaking,
    Ready,
}

impl Upstream {
    pub(super) fn is_ready(&self) -> bool {
        self.state == UpstreamState::Ready
    }

    /// Whether it counts as one of the pool's connections: those that go away do not, nor those without stream ids.
    pub(super) fn is_live(&self) -> bool {
        self.link.closing.is_none()
            && !self.link.conn.is_going_away()
            && !self.link.conn.is_closed()
            && !self.link.conn.is_exhausted()
    }
}

impl From<ClientId> for ConnId {
    fn from(id: ClientId) -> Self {
        Self::Client(id)
    }
}

impl From<UpstreamId> for ConnId {
    fn from(id: UpstreamId) -> Self {
        Self::Upstream(id)
    }
}
