//! How long a failed endpoint stays out of the pick: exponential, from 1 s to 2 min, with jitter.

use std::time::Duration;

use crate::rng::Rng;
use crate::time::Time;

/// The wait after the first failure in a row.
pub(super) const FIRST: Duration = Duration::from_secs(1);
/// The longest wait before jitter.
pub(super) const LONGEST: Duration = Duration::from_mins(2);

/// The failures of one endpoint, in a row.
///
/// The values are those of gRPC's connection backoff (1 s × 1.6ⁿ up to 120 s, ± 20 %): a backend sees no more dials
/// from us than it would from its clients.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    until: Option<Time>,
}

impl Backoff {
    /// Notes a failure; the endpoint is out until the time returned.
    pub fn fail(&mut self, now: Time, rng: &mut Rng) -> Time {
        let mut wait = FIRST.as_nanos() as u64;
        let longest = LONGEST.as_nanos() as u64;
        for _ in 0..self.failures.min(16) {
            wait = (wait / 10).saturating_mul(16).min(longest);
        }
        self.failures = self.failures.saturating_add(1);
        // Between 80 % and 120 %: pods that lost the same backend at the same moment do not all come back at once.
        let fifth = wait / 5;
        let jittered = fifth
            .saturating_mul(4)
            .saturating_add(rng.below(fifth.saturating_mul(2).saturating_add(1)));
        let until = now + Duration::from_nanos(jittered);
        self.until = Some(until);
        until
    }

    /// The endpoint may be picked again, but the next failure still counts as one more in a row.
    pub fn forgive(&mut self) {
        self.until = None;
    }

    /// The endpoint has answered a call: the next failure is a first one.
    pub fn succeed(&mut self) {
        self.failures = 0;
        self.until = None;
    }

    /// The endpoint has failed and has not been connected since, whether or not its time is over.
    pub fn is_suspect(&self) -> bool {
        self.until.is_some()
    }

    /// The endpoint may be tried now, whatever is left of its time.
    pub fn cut_short(&mut self, now: Time) {
        self.until = self.until.map(|until| until.min(now));
    }

    /// Until when the endpoint is out, if it is.
    pub fn until(&self, now: Time) -> Option<Time> {
        self.until.filter(|&until| now < until)
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_one_second_to_two_minutes_within_a_fifth() {
        let mut rng = Rng::seeded(7);
        let mut backoff = Backoff::default();
        let mut expected = 1.0_f64;
        for _ in 0..40 {
            let wait = backoff.fail(Time::ZERO, &mut rng).since(Time::ZERO).as_secs_f64();
            assert!(
                (expected * 0.799..=expected * 1.201).contains(&wait),
                "{wait} s where {expected} s was due"
            );
            expected = (expected * 1.6).min(120.0);
        }
    }

    #[test]
    fn a_success_makes_the_next_failure_a_first_one_and_forgiveness_does_not() {
        let mut rng = Rng::seeded(7);
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.fail(Time::ZERO, &mut rng);
        }
        backoff.forgive();
        assert_eq!(backoff.until(Time::ZERO), None);
        assert!(backoff.fail(Time::ZERO, &mut rng).since(Time::ZERO) > Duration::from_mins(1));
        backoff.succeed();
        assert!(backoff.fail(Time::ZERO, &mut rng).since(Time::ZERO) <= Duration::from_millis(1200));
    }

    #[test]
    fn an_endpoint_is_back_when_its_wait_is_over() {
        let mut backoff = Backoff::default();
        let until = backoff.fail(Time::ZERO, &mut Rng::seeded(1));
        assert_eq!(backoff.until(Time::from_nanos(until.as_nanos() - 1)), Some(until));
        assert_eq!(backoff.until(until), None);
    }
}
