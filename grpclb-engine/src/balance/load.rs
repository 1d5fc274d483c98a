//! What an endpoint has to do for us: calls in flight, and how fast it answered lately.

use std::time::Duration;

use crate::time::Time;

/// How fast an old peak is forgotten: after this time 37 % of it are left.
const DECAY: Duration = Duration::from_secs(10);
/// The cost of an endpoint that has work from us but has not answered yet: it is avoided until it does.
const UNMEASURED: f64 = 1e9;

/// Calls in flight and latency of one endpoint, as seen from one client pod.
///
/// The latency is that of Finagle's "peak EWMA": a sample above the average replaces it, one below moves it by its age.
#[derive(Clone, Debug, Default)]
pub struct Load {
    in_flight: u32,
    /// Nanoseconds until the response headers; zero before the first sample.
    latency: f64,
    sampled_at: Time,
}

impl Load {
    pub fn start(&mut self) {
        self.in_flight = self.in_flight.saturating_add(1);
    }

    pub fn finish(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A call's response headers came after `took`.
    pub fn observe(&mut self, now: Time, took: Duration) {
        let sample = took.as_nanos() as f64;
        let old = self.latency_at(now);
        self.latency = if sample >= old {
            sample
        } else {
            let kept = (-now.since(self.sampled_at).as_secs_f64() / DECAY.as_secs_f64()).exp();
            old * kept + sample * (1.0 - kept)
        };
        self.sampled_at = now;
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The moving average, if there was a sample.
    pub fn latency(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.latency / 1e9)
            .ok()
            .filter(|latency| !latency.is_zero())
    }

    /// Calls in flight for each unit of weight.
    pub fn pressure(&self, weight: u32) -> f64 {
        f64::from(self.in_flight) / f64::from(weight)
    }

    /// Expected latency of one more call, in nanoseconds. An idle endpoint without a sample costs nothing: it is tried.
    pub fn expected(&self, now: Time, share: f64) -> f64 {
        let latency = self.latency_at(now);
        let waiting = f64::from(self.in_flight) / share;
        if latency > 0.0 {
            latency * (1.0 + waiting)
        } else if self.in_flight > 0 {
            UNMEASURED * (1.0 + waiting)
        } else {
            0.0
        }
    }

    /// The average, decayed: an endpoint that was slow once and got no calls since must come back some time.
    fn latency_at(&self, now: Time) -> f64 {
        self.latency * (-now.since(self.sampled_at).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let mut load = Load::default();
        load.observe(Time::ZERO, MS);
        load.observe(Time::ZERO, 100 * MS);
        assert_eq!(load.latency(), Some(100 * MS));
        load.observe(Time::ZERO + MS, MS);
        assert!(load.latency().unwrap() > 99 * MS, "{:?}", load.latency());
        assert!(load.expected(Time::ZERO + 3 * DECAY, 1.0) < 6e6);
    }

    #[test]
    fn an_endpoint_that_has_never_answered_is_tried_once_and_then_avoided() {
        let mut silent = Load::default();
        let mut slow = Load::default();
        slow.observe(Time::ZERO, 100 * MS);
        assert!(silent.expected(Time::ZERO, 1.0) < slow.expected(Time::ZERO, 1.0));
        silent.start();
        assert!(silent.expected(Time::ZERO, 1.0) > slow.expected(Time::ZERO, 1.0));
    }
}
