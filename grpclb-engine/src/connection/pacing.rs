//! When our `RST_STREAMs` to a server may leave: see [`ResetPacing`] for why and how much. A server's own are not paced.

use super::ResetPacing;
use crate::Time;

/// A bucket of resets, and the count of those that the server may not have read yet.
#[derive(Debug)]
pub(super) struct Pacer {
    rule: ResetPacing,
    tokens: u32,
    /// When `tokens` was right.
    counted: Time,
    /// Resets of unanswered streams since the last confirmation.
    unconfirmed: u32,
    /// A SETTINGS frame of ours is under way that will confirm them.
    barrier: bool,
    /// Nothing may leave before.
    wait_until: Option<Time>,
}

/// Whether a reset may leave now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    /// This stream's HEADERS have left too recently; others may go.
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
            barrier: false,
            wait_until: None,
        }
    }

    /// Whether a look at the queue of resets is worth it.
    pub(super) fn may_try(&self) -> bool {
        self.wait_until.is_none() && !(self.barrier && self.unconfirmed >= self.rule.unconfirmed)
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.wait_until
    }

    /// Time has passed.
    pub(super) fn wake(&mut self, now: Time) {
        if self.wait_until.is_some_and(|until| until <= now) {
            self.wait_until = None;
        }
    }

    /// May a stream be reset now that the server has answered or not, and whose HEADERS were encoded at `sent`?
    pub(super) fn ask(&mut self, now: Time, answered: bool, sent: Time) -> Verdict {
        self.refill(now);
        if self.tokens == 0 {
            self.wait_until = Some(self.counted + self.rule.refill);
            return Verdict::Stop;
        }
        let ripe = sent + self.rule.after_headers;
        if now < ripe {
            self.wait_at_most(ripe);
            return Verdict::Later;
        }
        if !answered && self.unconfirmed >= self.rule.unconfirmed {
            return Verdict::Later;
        }
        self.tokens = self.tokens.saturating_sub(1);
        self.unconfirmed = self.unconfirmed.saturating_add(u32::from(!answered));
        Verdict::Go
    }

    /// The stream's HEADERS are still in the output: look again soon.
    pub(super) fn not_written(&mut self, now: Time) {
        self.wait_at_most(now + self.rule.after_headers);
    }

    /// Whether a barrier should be sent behind the resets of this flush; it then is under way.
    pub(super) fn start_barrier(&mut self) -> bool {
        let needed = !self.barrier && self.unconfirmed >= self.rule.unconfirmed;
        self.barrier |= needed;
        needed
    }

    /// The server has read all that left before the barrier.
    pub(super) fn confirm(&mut self, now: Time) {
        self.barrier = false;
        self.unconfirmed = 0;
        // Whatever was to be looked at earlier waits, too.
        self.wait_until = Some(now + self.rule.settle);
    }

    fn wait_at_most(&mut self, until: Time) {
        self.wait_until = Some(self.wait_until.map_or(until, |earlier| earlier.min(until)));
    }

    fn refill(&mut self, now: Time) {
        let refill = self.rule.refill.as_nanos().max(1);
        let earned = u32::try_from(
            now.since(self.counted)
                .as_nanos()
                .checked_div(refill)
                .unwrap_or(0),
        )
        .unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(self.rule.burst);
            self.counted = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn nothing_is_reset_in_the_pause_behind_a_confirmation_though_something_else_is_due() {
        let rule = ResetPacing::default();
        let mut pacer = Pacer::new(rule);
        let now = Time::ZERO + Duration::from_secs(1);
        for _ in 0..rule.unconfirmed {
            assert_eq!(pacer.ask(now, false, Time::ZERO), Verdict::Go);
        }
        assert_eq!(
            pacer.ask(now, false, now),
            Verdict::Later,
            "its HEADERS have just left"
        );
        assert!(pacer.start_barrier());
        pacer.confirm(now);
        assert_eq!(pacer.deadline(), Some(now + rule.settle));
        pacer.wake(now + rule.after_headers);
        assert!(!pacer.may_try());
        pacer.wake(now + rule.settle);
        assert!(pacer.may_try());
    }
}
