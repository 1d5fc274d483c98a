//! Ends the process when a data worker stands still.
//!
//! The kernel stops steering to a worker 500 ms after its last heartbeat, but connections that are there would hang for
//! as long as it stands. Three seconds later nothing is lost by ending: their sockets carry `SO_LINGER {1, 0}`, so the
//! clients see a reset, never a clean end of stream, and the kernel lets go of links and listeners at once. There is no
//! core dump, which would hold both for its duration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the watchdog looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// So many looks in a row without a beat: 3 s. Looks are counted, not time: after SIGSTOP and SIGCONT, or a suspended
/// machine, the workers have their chance before they are judged.
const LOOKS: u32 = 6;

/// Counts the beats of every worker.
#[derive(Debug)]
pub(super) struct Beats {
    workers: Vec<Beat>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Beat {
    count: AtomicU64,
    last_ms: AtomicU64,
}

impl Beats {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        let workers = (0..workers).map(|_| Beat::default()).collect();
        Arc::new(Self {
            workers,
            start: Instant::now(),
        })
    }

    /// Called from the worker's own loop.
    pub(super) fn beat(&self, worker: usize) {
        if let Some(beat) = self.workers.get(worker) {
            beat.count.fetch_add(1, Ordering::Relaxed);
            beat.last_ms
                .store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Time since each worker's last beat.
    pub(super) fn ages(&self) -> Vec<Duration> {
        let now = self.start.elapsed();
        let age =
            |beat: &Beat| now.saturating_sub(Duration::from_millis(beat.last_ms.load(Ordering::Relaxed)));
        self.workers.iter().map(age).collect()
    }
}

/// Starts the watchdog's thread, for the life of the process.
pub(super) fn start(beats: Arc<Beats>) -> std::io::Result<()> {
    let watch = move || {
        let mut watchdog = Watchdog::new(beats.workers.len());
        loop {
            std::thread::park_timeout(INTERVAL);
            let counts = beats
                .workers
                .iter()
                .map(|beat| beat.count.load(Ordering::Relaxed));
            if let Some(worker) = watchdog.look(counts) {
                end(worker);
            }
        }
    };
    std::thread::Builder::new().name("watchdog".into()).spawn(watch)?;
    Ok(())
}

/// Not `exit`, which runs destructors and might wait for the very thread that stands still.
fn end(worker: usize) -> ! {
    let message = "a data worker has stood still for 3 s: ending, so that its connections are reset and new ones go the \
                   plain way";
    tracing::error!(worker, "{message}");
    std::process::abort()
}

/// What was seen so far.
struct Watchdog {
    seen: Vec<(u64, u32)>,
}

impl Watchdog {
    fn new(workers: usize) -> Self {
        Self {
            seen: vec![(0, 0); workers],
        }
    }

    /// One look at the counts; the worker that has stood still for too long, if there is one.
    fn look(&mut self, counts: impl Iterator<Item = u64>) -> Option<usize> {
        let mut still = None;
        for (worker, ((last, looks), count)) in self.seen.iter_mut().zip(counts).enumerate() {
            *looks = if *last == count { *looks + 1 } else { 0 };
            *last = count;
            if *looks >= LOOKS {
                still = still.or(Some(worker));
            }
        }
        still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_for_three_seconds_is_named() {
        let mut watchdog = Watchdog::new(2);
        for look in 1..LOOKS {
            assert_eq!(
                watchdog.look([u64::from(look), 0].into_iter()),
                None,
                "look {look}"
            );
        }
        assert_eq!(watchdog.look([99, 0].into_iter()), Some(1));
    }

    #[test]
    fn one_beat_in_time_is_enough() {
        let mut watchdog = Watchdog::new(1);
        for look in 0..10 * u64::from(LOOKS) {
            let beats = look / u64::from(LOOKS - 1);
            assert_eq!(watchdog.look([beats].into_iter()), None, "look {look}");
        }
    }

    #[test]
    fn beats_are_counted_for_each_worker_alone() {
        let beats = Beats::new(2);
        beats.beat(1);
        beats.beat(7);
        let counts: Vec<u64> = beats
            .workers
            .iter()
            .map(|beat| beat.count.load(Ordering::Relaxed))
            .collect();
        assert_eq!(counts, [0, 1]);
        assert_eq!(beats.ages().len(), 2);
    }
}
