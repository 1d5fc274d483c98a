//! When a connection reads none of the peer's frames: while too many answers wait to be written, while its owner holds the
//! input back, and until a limit's pause is over. The peer is slowed by TCP, and nothing is lost.

use std::time::Duration;

use super::{Connection, Event, Limit};
use crate::Time;

/// Shortest pause that a limit causes: each costs a timer and a wake-up.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// Reasons for which the connection does not read now; mostly none.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// A set of reasons, so that the question before each frame costs one comparison.
    reasons: u8,
    /// End of the pause that a limit caused.
    until: Option<Time>,
    /// Since when nothing is read.
    since: Option<Time>,
}

/// Too many control frames wait.
const CONTROL_QUEUE: u8 = 1;
/// The owner holds the input back.
const HELD: u8 = 2;
/// A limit was reached.
const LIMIT: u8 = 4;

impl Pause {
    /// Returns true if frames are left unread.
    pub(super) const fn is_on(&self) -> bool {
        self.reasons != 0
    }

    pub(super) const fn deadline(&self) -> Option<Time> {
        self.until
    }

    /// Whether an answer of the peer's may wait among the bytes that are not read. A peer that does not read ours is waited for
    /// no longer than any other.
    pub(super) const fn hides_answers(&self) -> bool {
        self.reasons & !CONTROL_QUEUE != 0
    }

    /// The caller has left bytes unread at `now`.
    pub(super) fn note(&mut self, now: Time) {
        self.since.get_or_insert(now);
    }

    const fn start(&mut self, reason: u8) {
        self.reasons |= reason;
    }

    /// Takes one reason away; the duration of the whole pause if it was the last.
    fn end(&mut self, reason: u8, now: Time) -> Option<Duration> {
        if self.reasons & reason == 0 {
            return None;
        }
        self.reasons &= !reason;
        if self.reasons != 0 {
            return None;
        }
        Some(self.since.take().map_or(Duration::ZERO, |since| now.since(since)))
    }
}

impl Connection {
    /// Whether the connection reads its peer's frames now. While it does not, [`Self::poll_event`] leaves all of `input`
    /// unread: the caller keeps the bytes, reads no more from the socket, and calls `poll_event` with what it kept when this is
    /// true again. That may be after [`Self::transmit`], [`Self::handle_timeout`], or `hold_input(false)`.
    pub const fn wants_input(&self) -> bool {
        !self.pause.is_on() || self.closed
    }

    /// Reads nothing from now on, or goes on reading. For an owner that has no memory for what the peer would send.
    pub fn hold_input(&mut self, now: Time, hold: bool) {
        if hold {
            self.pause.start(HELD);
            self.pause.note(now);
        } else {
            self.end_pause(HELD, now);
        }
    }

    /// As many control frames wait as may: nothing is read until half of them have left.
    pub(super) fn note_control_queue(&mut self, now: Time) {
        let limit = self.config.limits.control_queue.max(1);
        if self.control.len() >= limit && self.pause.reasons & CONTROL_QUEUE == 0 {
            self.pause.start(CONTROL_QUEUE);
            self.note_limit(Limit::ControlQueue);
        } else if self.control.len() <= limit / 2 {
            self.end_pause(CONTROL_QUEUE, now);
        }
    }

    /// The peer has reached a limit: nothing is read for this long.
    pub(super) fn pause_for(&mut self, limit: Limit, duration: Duration, now: Time) {
        let until = now + duration.max(LEAST_PAUSE);
        self.pause.start(LIMIT);
        self.pause.until = Some(self.pause.until.map_or(until, |earlier| earlier.max(until)));
        self.note_limit(limit);
    }

    /// Tells the owner, once for each time that the peer is slowed.
    pub(super) fn note_limit(&mut self, limit: Limit) {
        self.events.push_back(Event::Slowed { limit });
    }

    /// Time has passed.
    pub(super) fn wake_pause(&mut self, now: Time) {
        if self.pause.until.is_some_and(|until| until <= now) {
            self.pause.until = None;
            self.end_pause(LIMIT, now);
        }
    }

    /// The peer's frames were held up by us: the time that they had begins later by as much.
    fn end_pause(&mut self, reason: u8, now: Time) {
        if let Some(paused) = self.pause.end(reason, now) {
            self.inbound.postpone(paused);
            self.pings.postpone(paused);
        }
    }
}
