//! How long changes of the configuration take until they are in force.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::observe::status::Histogram;

/// In seconds. A change of one slice takes under a millisecond; one that waits for seconds has an agent that is starved.
const BOUNDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

/// Counts them.
#[derive(Debug)]
pub(super) struct Delays(Mutex<Histogram>);

impl Default for Delays {
    fn default() -> Self {
        Self(Mutex::new(Histogram {
            buckets: BOUNDS.map(|bound| (bound, 0)).to_vec(),
            ..Histogram::default()
        }))
    }
}

impl Delays {
    /// One more change is in force.
    pub(super) fn note(&self, delay: Duration) {
        let seconds = delay.as_secs_f64();
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.count += 1;
        counted.sum_seconds += seconds;
        for (_, count) in counted.buckets.iter_mut().filter(|(bound, _)| seconds <= *bound) {
            *count += 1;
        }
    }

    pub(super) fn told(&self) -> Histogram {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
