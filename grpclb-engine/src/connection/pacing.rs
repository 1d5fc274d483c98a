//! The pace of `RST_STREAMs` to a server; [`ResetPacing`] has the figures and their reasons. A server's own are not paced.

use std::time::Duration;

use super::ResetPacing;
use crate::Time;
use crate::frame::StreamId;

/// A bucket of resets, and the number of those whose streams the server may not have accepted yet.
#[derive(Debug)]
pub(super) struct Pacer {
    rule: ResetPacing,
    tokens: u32,
    /// The time for which `tokens` is right.
    counted: Time,
    /// Resets since the last confirmation whose streams the server may not have accepted.
    unconfirmed: u32,
    /// The highest stream among them.
    last_reset: StreamId,
    /// The SETTINGS frame that confirms them, until the server acknowledges it.
    barrier: Option<Barrier>,
    /// End of the wait for the confirmation.
    blocked_until: Option<Time>,
    /// No reset leaves before this time.
    wait_until: Option<Time>,
    /// The highest stream that the server has accepted, with all before it.
    accepted: StreamId,
    /// The highest stream whose HEADERS the server had read, with all before it, and the time at which that was known.
    read: Option<(StreamId, Time)>,
    /// The least time that a confirmation took.
    round_trip: Option<Duration>,
    /// True once a PING was sent for an unacknowledged barrier.
    asked: bool,
    /// True if the server reads past barriers long before it acknowledges them, or never does: the wait says nothing.
    ignores: bool,
}

/// An unacknowledged SETTINGS frame behind resets.
#[derive(Clone, Copy, Debug)]
struct Barrier {
    sent: Time,
    /// The last stream that was opened before it.
    last: StreamId,
}

/// The answer to [`Pacer::ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    /// This stream's HEADERS have left too recently, or it needs a confirmation; others may go.
    Later,
    /// None may go now.
    Stop,
}

impl Pacer {
    pub(super) const fn new(rule: ResetPacing) -> Self {
        Self {
            rule,
            tokens: rule.burst,
            counted: Time::ZERO,
            unconfirmed: 0,
            last_reset: StreamId::CONNECTION,
            barrier: None,
            blocked_until: None,
            wait_until: None,
            accepted: StreamId::CONNECTION,
            read: None,
            round_trip: None,
            asked: false,
            ignores: false,
        }
    }

    /// Returns true if no wait holds all resets up.
    pub(super) fn may_try(&self) -> bool {
        self.wait_until.is_none() && self.blocked_until.is_none()
    }

    /// The time of the next [`Self::wake`] that changes something.
    pub(super) fn deadline(&self) -> Option<Time> {
        // `may_try` needs both to have passed; a wake-up at the earlier one may find the other.
        [self.wait_until, self.blocked_until].into_iter().flatten().min()
    }

    /// Ends waits that are over. Returns true if a PING should ask whether the server has read the barrier.
    pub(super) fn wake(&mut self, now: Time) -> bool {
        self.refill(now);
        if self.wait_until.is_some_and(|until| until <= now) {
            self.wait_until = None;
        }
        if self.blocked_until.is_some_and(|until| until <= now) {
            self.blocked_until = None;
            self.unconfirmed = 0;
            if self.barrier.is_some() && !self.ignores {
                return !std::mem::replace(&mut self.asked, true);
            }
        }
        false
    }

    /// Decides about the reset of stream `id`, whose HEADERS were encoded at `sent` and which the server has `answered` or
    /// not. [`Verdict::Go`] counts it.
    pub(super) fn ask(&mut self, now: Time, id: StreamId, answered: bool, sent: Time) -> Verdict {
        self.refill(now);
        self.age(now);
        if self.tokens == 0 {
            self.wait_until = Some(self.counted + self.rule.refill);
            return Verdict::Stop;
        }
        let ripe = sent + self.rule.after_headers;
        if now < ripe {
            self.wait_at_most(ripe);
            return Verdict::Later;
        }
        if !answered && id > self.accepted {
            if self.unconfirmed >= self.limit() {
                return Verdict::Later;
            }
            self.unconfirmed = self.unconfirmed.saturating_add(1);
            self.last_reset = self.last_reset.max(id);
        }
        self.tokens = self.tokens.saturating_sub(1);
        Verdict::Go
    }

    /// Notes that a stream's HEADERS are still in the output: its reset is tried again soon.
    pub(super) fn not_written(&mut self, now: Time) {
        self.wait_at_most(now + self.rule.after_headers);
    }

    /// Notes the end of a flush; `last` is the last stream that was opened. Returns true if a barrier must follow its resets.
    pub(super) fn start_barrier(&mut self, now: Time, last: StreamId) -> bool {
        if self.unconfirmed < self.limit() || self.blocked_until.is_some() {
            return false;
        }
        let wait = if self.ignores {
            self.rule.settle
        } else {
            self.rule.patience
        };
        self.blocked_until = Some(now + wait);
        if self.barrier.is_some() {
            return false;
        }
        self.barrier = Some(Barrier { sent: now, last });
        true
    }

    /// Notes that the barrier was acknowledged: the server has read all that left before it.
    pub(super) fn confirm(&mut self, now: Time) {
        if let Some(barrier) = self.barrier.take() {
            let took = now.since(barrier.sent);
            if took < self.rule.patience {
                self.round_trip = Some(self.round_trip.map_or(took, |least| least.min(took)));
                self.ignores = false;
            }
            self.note_read(now, barrier.last);
        }
        self.unconfirmed = 0;
        self.blocked_until = None;
        // Whatever was to be looked at earlier waits, too.
        self.wait_until = Some(now + self.rule.settle);
    }

    /// Notes that the server has answered stream `id`. Servers accept streams in order, so it has accepted all before it.
    pub(super) fn answered(&mut self, now: Time, id: StreamId) {
        if id <= self.accepted {
            return;
        }
        self.accepted = id;
        match self.barrier {
            None if id >= self.last_reset => self.unconfirmed = 0,
            Some(barrier) if id > barrier.last => self.passed_barrier(now),
            _ => {}
        }
    }

    /// Notes that the server has read past the barrier without acknowledging it. h2 acknowledges in order, so this server is
    /// another one, and resets to it wait for no acknowledgement any more.
    pub(super) fn passed_barrier(&mut self, now: Time) {
        if let Some(barrier) = self.barrier
            && !self.ignores
        {
            self.ignores = true;
            self.note_read(now, barrier.last);
            if self.blocked_until.is_some() {
                self.blocked_until = Some(now + self.rule.settle);
            }
        }
    }

    /// Number of resets that the bucket holds at `now`.
    pub(super) fn allowance(&self, now: Time) -> u32 {
        self.tokens.saturating_add(self.earned(now)).min(self.rule.burst)
    }

    /// [`Self::allowance`] at its last update, which is never more than that now.
    pub(super) const fn least_allowance(&self) -> u32 {
        self.tokens
    }

    /// The time at which the allowance will exceed `resets`; `None` if it never will, or did at its last update.
    pub(super) fn allows_at(&self, resets: usize) -> Option<Time> {
        let resets = u32::try_from(resets).ok().filter(|&n| n < self.rule.burst)?;
        let missing = resets
            .saturating_add(1)
            .checked_sub(self.tokens)
            .filter(|&n| n > 0)?;
        Some(self.counted + self.rule.refill.saturating_mul(missing))
    }

    /// Number of unaccepted streams that may be reset before the next confirmation.
    fn limit(&self) -> u32 {
        if self.round_trip.is_some_and(|least| least >= self.rule.far) {
            self.rule.unconfirmed.max(self.rule.unconfirmed_far)
        } else {
            self.rule.unconfirmed
        }
    }

    fn note_read(&mut self, now: Time, last: StreamId) {
        self.age(now);
        if self.read.is_none() && last > self.accepted {
            self.read = Some((last, now));
        }
    }

    /// Counts streams that were read long ago as accepted.
    fn age(&mut self, now: Time) {
        if let Some((last, at)) = self.read
            && now.since(at) >= self.rule.accepted_after
        {
            self.accepted = self.accepted.max(last);
            self.read = None;
        }
    }

    fn wait_at_most(&mut self, until: Time) {
        self.wait_until = Some(self.wait_until.map_or(until, |earlier| earlier.min(until)));
    }

    fn earned(&self, now: Time) -> u32 {
        let refill = self.rule.refill.as_nanos().max(1);
        let earned = now
            .since(self.counted)
            .as_nanos()
            .checked_div(refill)
            .unwrap_or(0);
        u32::try_from(earned).unwrap_or(u32::MAX)
    }

    fn refill(&mut self, now: Time) {
        let earned = self.earned(now);
        if earned > 0 {
            let tokens = self.tokens.saturating_add(earned);
            if tokens >= self.rule.burst {
                self.tokens = self.rule.burst;
                self.counted = now;
            } else {
                self.tokens = tokens;
                self.counted += self.rule.refill.saturating_mul(earned);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::ZERO;

    fn at(millis: u64) -> Time {
        START + Duration::from_secs(1) + Duration::from_millis(millis)
    }

    fn id(stream: u32) -> StreamId {
        StreamId::new(2 * stream + 1)
    }

    /// Resets as many of 1000 unanswered streams, from `first` on, as may leave at `now`.
    fn reset(pacer: &mut Pacer, now: Time, first: u32) -> u32 {
        let went = (first..1000)
            .take_while(|&stream| pacer.may_try() && pacer.ask(now, id(stream), false, START) == Verdict::Go)
            .count();
        went as u32
    }

    #[test]
    fn no_reset_leaves_in_settle_pause_though_another_is_due() {
        let rule = ResetPacing::default();
        let mut pacer = Pacer::new(rule);
        let now = at(0);
        assert_eq!(reset(&mut pacer, now, 0), rule.unconfirmed);
        assert_eq!(
            pacer.ask(now, id(1000), false, now),
            Verdict::Later,
            "its HEADERS have just left"
        );
        assert!(pacer.start_barrier(now, id(1000)));
        pacer.confirm(now);
        assert_eq!(pacer.deadline(), Some(now + rule.settle));
        pacer.wake(now + rule.after_headers);
        assert!(!pacer.may_try());
        pacer.wake(now + rule.settle);
        assert!(pacer.may_try());
    }

    #[test]
    fn streams_below_answered_one_need_no_confirmation() {
        let mut pacer = Pacer::new(ResetPacing::default());
        pacer.answered(at(0), id(500));
        assert_eq!(reset(&mut pacer, at(1), 0), 501 + 5);
    }

    #[test]
    fn streams_read_long_ago_need_no_confirmation() {
        let rule = ResetPacing::default();
        let mut pacer = Pacer::new(rule);
        assert_eq!(reset(&mut pacer, at(0), 0), 5);
        assert!(pacer.start_barrier(at(0), id(500)));
        pacer.confirm(at(1));
        let later = at(1) + rule.accepted_after;
        pacer.wake(later);
        assert_eq!(reset(&mut pacer, later, 5), 496 + 5);
    }

    #[test]
    fn batches_grow_when_round_trip_is_long() {
        let rule = ResetPacing::default();
        let mut pacer = Pacer::new(rule);
        let mut sent = 0;
        let mut now = at(0);
        for expected in [5, 10, 10] {
            let more = reset(&mut pacer, now, sent);
            assert_eq!(more, expected);
            sent += more;
            assert!(pacer.start_barrier(now, id(sent)));
            now += Duration::from_millis(50);
            pacer.confirm(now);
            now += rule.settle;
            pacer.wake(now);
        }
    }

    #[test]
    fn missing_acknowledgement_delays_resets_for_patience_only() {
        let rule = ResetPacing::default();
        let mut pacer = Pacer::new(rule);
        assert_eq!(reset(&mut pacer, at(0), 0), 5);
        assert!(pacer.start_barrier(at(0), id(1000)));
        assert!(!pacer.wake(at(999)));
        assert_eq!(reset(&mut pacer, at(999), 5), 0);
        assert!(pacer.wake(at(1000)), "a PING asks");
        assert_eq!(reset(&mut pacer, at(1000), 5), 5);
        assert!(!pacer.start_barrier(at(1000), id(1000)), "one is under way");
        // The server answers the PING, and not the SETTINGS before it.
        pacer.passed_barrier(at(1001));
        let mut sent = 10;
        for round in 1..=10 {
            let now = at(1001) + rule.settle * round;
            pacer.wake(now);
            sent += reset(&mut pacer, now, sent);
            assert!(!pacer.start_barrier(now, id(1000)));
        }
        assert_eq!(sent, 60, "five in each pause");
    }

    #[test]
    fn late_acknowledgement_confirms_and_ping_asks_once() {
        let mut pacer = Pacer::new(ResetPacing::default());
        assert_eq!(reset(&mut pacer, at(0), 0), 5);
        assert!(pacer.start_barrier(at(0), id(5)));
        assert!(pacer.wake(at(1000)));
        pacer.confirm(at(1100));
        pacer.wake(at(1200));
        assert_eq!(reset(&mut pacer, at(1200), 100), 5);
        assert!(pacer.start_barrier(at(1200), id(1000)));
        assert!(!pacer.wake(at(2200)), "too many PINGs cost a connection");
        assert_eq!(reset(&mut pacer, at(2200), 105), 5);
    }

    #[test]
    fn allowance_refills_with_time_and_names_when_it_suffices() {
        let rule = ResetPacing {
            burst: 3,
            unconfirmed: 100,
            ..ResetPacing::default()
        };
        let mut pacer = Pacer::new(rule);
        assert_eq!(reset(&mut pacer, at(0), 0), 3);
        assert_eq!(pacer.allowance(at(0)), 0);
        assert_eq!(pacer.allows_at(0), Some(at(33)));
        assert_eq!(pacer.allows_at(1), Some(at(66)));
        assert_eq!(pacer.allows_at(3), None, "more than the bucket holds");
        assert_eq!(pacer.allowance(at(70)), 2);
        assert_eq!(pacer.allowance(at(1_000_000)), 3);
        // A token that is taken late costs no time.
        pacer.wake(at(50));
        assert_eq!(pacer.allows_at(1), Some(at(66)));
    }
}
