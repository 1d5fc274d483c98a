//! Our own PINGs (RFC 9113 §6.7): to measure the bandwidth-delay product, and to learn whether the peer is alive.
//! The peer's are answered in `recv`.

use std::time::Duration;

use super::{Connection, Output};
use crate::Time;

/// What a PING of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingKind {
    /// How fast does DATA come: see [`super::Event::Pong`].
    Bandwidth,
    /// Is the peer alive.
    Keepalive,
    /// Has the peer read our first GOAWAY (RFC 9113 §6.8).
    Shutdown,
    /// Has the peer read a SETTINGS frame that it does not acknowledge.
    Barrier,
}

impl PingKind {
    /// In the order of their numbers.
    const ALL: [Self; 4] = [Self::Bandwidth, Self::Keepalive, Self::Shutdown, Self::Barrier];
}

/// One PING at most of each kind is under way.
#[derive(Debug, Default)]
pub(super) struct Pings {
    waiting: [Option<Waiting>; PingKind::ALL.len()],
    /// Distinguishes our PINGs from each other.
    serial: u32,
    /// Position in the output of the first PING since [`Connection::take_pinged`] last returned true.
    first_at: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    serial: u32,
    /// When it was sent; `None`: it is still queued.
    pub(super) sent: Option<Time>,
    /// When its absence means that the peer is dead.
    deadline: Option<Time>,
    /// DATA bytes received before it was sent.
    pub(super) received: u64,
}

/// The first bytes of our PINGs, so that an acknowledgement of somebody else's is told apart.
const MARK: [u8; 3] = *b"glb";

impl Pings {
    /// The payload for a new PING; `None` while one of this kind is under way.
    pub(super) fn start(&mut self, kind: PingKind, deadline: Option<Time>) -> Option<[u8; 8]> {
        let slot = &mut self.waiting[kind as usize];
        if slot.is_some() {
            return None;
        }
        self.serial = self.serial.wrapping_add(1);
        *slot = Some(Waiting {
            serial: self.serial,
            sent: None,
            deadline,
            received: 0,
        });
        let [a, b, c] = MARK;
        let [s0, s1, s2, s3] = self.serial.to_be_bytes();
        Some([a, b, c, kind as u8, s0, s1, s2, s3])
    }

    /// A PING with this payload was written at position `at` of the output.
    pub(super) fn sent(&mut self, payload: [u8; 8], now: Time, received: u64, at: u64) {
        self.first_at.get_or_insert(at);
        if let Some(waiting) = self.find(payload) {
            waiting.sent = Some(now);
            waiting.received = received;
        }
    }

    /// An acknowledgement came; what it answers, if it answers one of ours.
    pub(super) fn acknowledge(&mut self, payload: [u8; 8]) -> Option<(PingKind, Waiting)> {
        let waiting = *self.find(payload)?;
        waiting.sent?;
        let kind = *PingKind::ALL.get(usize::from(payload[3]))?;
        self.waiting[kind as usize] = None;
        Some((kind, waiting))
    }

    pub(super) fn is_waiting(&self, kind: PingKind) -> bool {
        self.waiting[kind as usize].is_some()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.waiting
            .iter()
            .flatten()
            .filter_map(|waiting| waiting.deadline)
            .min()
    }

    /// The kind of a PING whose deadline has passed; it is forgotten.
    pub(super) fn expire(&mut self, now: Time) -> Option<PingKind> {
        let late = PingKind::ALL.into_iter().find(|&kind| {
            self.waiting[kind as usize]
                .is_some_and(|waiting| waiting.deadline.is_some_and(|deadline| deadline <= now))
        })?;
        self.waiting[late as usize] = None;
        Some(late)
    }

    /// Nothing was read for this long: answers have as much more time.
    pub(super) fn postpone(&mut self, paused: Duration) {
        for waiting in self.waiting.iter_mut().flatten() {
            waiting.deadline = waiting.deadline.map(|deadline| deadline + paused);
        }
    }

    fn find(&mut self, payload: [u8; 8]) -> Option<&mut Waiting> {
        let [a, b, c, kind, serial @ ..] = payload;
        let serial = u32::from_be_bytes(serial);
        let slot = self
            .waiting
            .get_mut(usize::from(kind))
            .filter(|_| [a, b, c] == MARK)?;
        slot.as_mut().filter(|waiting| waiting.serial == serial)
    }
}

impl Waiting {
    pub(super) fn round_trip(&self, now: Time) -> Duration {
        self.sent.map_or(Duration::ZERO, |sent| now.since(sent))
    }
}

impl Connection {
    /// Returns whether the socket took a byte of any PING of ours since this last returned true. `output` is this
    /// connection's own. A peer that complains about PINGs without one has nothing to complain about.
    pub fn take_pinged(&mut self, output: &Output) -> bool {
        self.pings.first_at.take_if(|at| output.written() > *at).is_some()
    }
}
