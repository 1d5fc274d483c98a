//! Ticks at a steady pace, from the kernel's timer (timerfd(2)).
//!
//! A tick of tokio's own timers wakes a thread twice when it is more than 64 ms away (once to move it to a finer wheel) and
//! makes it wake itself once more; of a worker that has nothing to do, that was most of the work.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(super) struct Ticks {
    timer: AsyncFd<Timer>,
    period: Duration,
}

impl Ticks {
    /// The first tick comes after `period`, which is not zero.
    #[allow(deprecated)] // its successor is unsafe, to promise what holds here: `Timer` owns its descriptor for life
    pub(super) fn every(period: Duration) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        timer.set(period)?;
        Ok(Self {
            timer: AsyncFd::with_interest(timer, Interest::READABLE)?,
            period,
        })
    }

    pub(super) fn period(&self) -> Duration {
        self.period
    }

    /// From now on, another pace.
    pub(super) fn change(&mut self, period: Duration) -> io::Result<()> {
        self.timer.get_ref().set(period)?;
        self.period = period;
        Ok(())
    }

    /// Waits for the next tick; those that were missed count as one. Nothing is lost when the future is dropped.
    pub(super) async fn tick(&self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            if let Ok(ticked) = ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
                return ticked;
            }
        }
    }
}

struct Timer(TimerFd);

impl Timer {
    fn set(&self, period: Duration) -> io::Result<()> {
        let period = Expiration::Interval(TimeSpec::from_duration(period));
        Ok(self.0.set(period, TimerSetTimeFlags::empty())?)
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn ticks_keep_their_pace_and_take_up_another() {
        let begun = Instant::now();
        let mut ticks = Ticks::every(Duration::from_millis(20)).unwrap();
        for _ in 0..5 {
            ticks.tick().await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(100));
        ticks.change(Duration::from_millis(200)).unwrap();
        let changed = Instant::now();
        ticks.tick().await.unwrap();
        assert!(changed.elapsed() >= Duration::from_millis(200));
    }

    #[tokio::test]
    async fn what_was_missed_is_one_tick() {
        let ticks = Ticks::every(Duration::from_millis(50)).unwrap();
        std::thread::park_timeout(Duration::from_millis(500));
        ticks.tick().await.unwrap();
        let late = Instant::now();
        ticks.tick().await.unwrap();
        ticks.tick().await.unwrap();
        // At the next two of the regular moments, not at once.
        assert!(late.elapsed() >= Duration::from_millis(50));
    }
}
