//! How long to wait before the API server is asked again: longer after each failure, and never all agents at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// After the first failure, at most.
const FIRST: Duration = Duration::from_millis(500);
/// After many, at most.
const MOST: Duration = Duration::from_secs(15);
/// What lasted so long was no failure of what came before it.
const STEADY: Duration = Duration::from_secs(20);

/// The pauses of one follower.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// After an attempt that failed, having lasted so long.
    pub(super) fn after_failure(&mut self, lasted: Duration) -> Duration {
        if lasted >= STEADY {
            self.failures = 0;
        }
        let most = FIRST.saturating_mul(1 << self.failures.min(10)).min(MOST);
        self.failures += 1;
        most / 2 + random_up_to(most / 2)
    }

    /// After one that came to its end: at once, unless it ended as soon as it began.
    pub(super) fn after_end(&mut self, lasted: Duration) -> Duration {
        if lasted >= Duration::from_secs(1) {
            self.failures = 0;
            return Duration::ZERO;
        }
        // A list in pages may be that short, and goes on as a watch; a server that ends every watch at once slows us down.
        self.failures += 1;
        if self.failures <= 2 {
            Duration::ZERO
        } else {
            self.after_failure(lasted)
        }
    }
}

/// A random time below `most`.
pub(in super::super) fn random_up_to(most: Duration) -> Duration {
    // std's only source of randomness: each RandomState has keys of its own.
    let random = RandomState::new().build_hasher().finish();
    most.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_start_again_after_a_steady_time() {
        let mut backoff = Backoff::default();
        for most in [500, 1000, 2000, 4000, 8000, 15_000, 15_000] {
            let pause = backoff.after_failure(Duration::ZERO).as_millis();
            assert!((most / 2..=most).contains(&pause), "{pause} of {most}");
        }
        assert!(backoff.after_failure(STEADY) <= FIRST);
    }

    #[test]
    fn a_server_that_ends_every_watch_at_once_is_asked_ever_less() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..6).map(|_| backoff.after_end(Duration::ZERO)).collect();
        assert_eq!(pauses[..2], [Duration::ZERO; 2]);
        assert!(pauses[5] > Duration::from_secs(5), "{pauses:?}");
        assert_eq!(backoff.after_end(Duration::from_mins(4)), Duration::ZERO);
    }

    #[test]
    fn random_times_differ_and_stay_below() {
        let most = Duration::from_secs(1);
        let times: Vec<_> = (0..100).map(|_| random_up_to(most)).collect();
        assert!(times.iter().all(|time| *time < most));
        assert!(times.iter().any(|time| *time < most / 2) && times.iter().any(|time| *time >= most / 2));
    }
}
