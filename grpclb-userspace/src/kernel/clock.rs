//! The clocks of the machine, as processes outside of any time namespace read them.
//!
//! In a time namespace (`time_namespaces(7)`) `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` differ from the machine's by fixed
//! offsets. The kernel programs read the machine's clock (`bpf_ktime_get_ns`), and other agents of the node may run outside
//! of the namespace. Times that are compared with theirs are read here; all other code measures with `Instant`.

use std::io;

use nix::time::{ClockId, clock_gettime};

/// The offsets of this process's time namespace. They never change once a process runs in it. The kernel shows the namespace
/// of future children, which differs only for a process that called `unshare(CLONE_NEWTIME)` itself.
const OFFSETS: &str = "/proc/self/timens_offsets";

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Reads the machine's clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineClock {
    /// `CLOCK_MONOTONIC` of this process minus the machine's, in nanoseconds.
    monotonic_offset: i128,
    /// `CLOCK_BOOTTIME` of this process minus the machine's, in nanoseconds.
    boottime_offset: i128,
}

impl MachineClock {
    /// Reads the offsets of this process's time namespace. A kernel without time namespaces has no offsets. Offsets that
    /// cannot be read count as none; the check at attach then finds heartbeats that the kernel programs take for stale.
    pub fn new() -> Self {
        match std::fs::read_to_string(OFFSETS) {
            Ok(text) => parse(&text).unwrap_or_else(|| {
                tracing::warn!(
                    "{OFFSETS} has an unknown format: {text:?}; assuming that it holds no offsets"
                );
                Self::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "failed to read {OFFSETS}; assuming that it holds no offsets");
                }
                Self::default()
            }
        }
    }

    /// Returns the machine's `CLOCK_MONOTONIC` in nanoseconds, as `bpf_ktime_get_ns` does.
    pub fn monotonic(&self) -> io::Result<u64> {
        read(ClockId::CLOCK_MONOTONIC, self.monotonic_offset)
    }

    /// Returns the machine's `CLOCK_BOOTTIME` in nanoseconds.
    pub fn boottime(&self) -> io::Result<u64> {
        read(ClockId::CLOCK_BOOTTIME, self.boottime_offset)
    }
}

fn read(clock: ClockId, offset: i128) -> io::Result<u64> {
    let time = clock_gettime(clock)?;
    let nanos = i128::from(time.tv_sec()) * NANOS_PER_SECOND + i128::from(time.tv_nsec());
    Ok(u64::try_from(nanos.saturating_sub(offset).max(0)).unwrap_or(u64::MAX))
}

/// Parses lines of `<clock> <seconds> <nanoseconds>`; seconds may be negative, nanoseconds count upwards from them. Returns
/// `None` unless each line has this form and a clock is named at most once. A clock that is not named has no offset.
fn parse(text: &str) -> Option<MachineClock> {
    let (mut monotonic, mut boottime) = (None, None);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let clock = words.next()?;
        let seconds: i64 = words.next()?.parse().ok()?;
        let nanos: i64 = words.next()?.parse().ok()?;
        if words.next().is_some() {
            return None;
        }
        let offset = i128::from(seconds) * NANOS_PER_SECOND + i128::from(nanos);
        let former = match clock {
            "monotonic" => monotonic.replace(offset),
            "boottime" => boottime.replace(offset),
            _ => None,
        };
        if former.is_some() {
            return None;
        }
    }
    Some(MachineClock {
        monotonic_offset: monotonic.unwrap_or(0),
        boottime_offset: boottime.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(text: &str) -> Option<(i128, i128)> {
        parse(text).map(|clock| (clock.monotonic_offset, clock.boottime_offset))
    }

    #[test]
    fn offsets_are_parsed_as_the_kernel_prints_them() {
        assert_eq!(
            offsets("monotonic           0         0\nboottime            0         0\n"),
            Some((0, 0))
        );
        assert_eq!(
            offsets("monotonic      100000         5\nboottime       -7 500000000\n"),
            Some((100_000_000_000_005, -6_500_000_000))
        );
    }

    #[test]
    fn clock_without_a_line_has_no_offset() {
        assert_eq!(offsets(""), Some((0, 0)));
        assert_eq!(offsets("boottime 3 0\n"), Some((0, 3_000_000_000)));
        assert_eq!(offsets("tai 3 0\nmonotonic 1 0\n"), Some((1_000_000_000, 0)));
    }

    #[test]
    fn malformed_offsets_are_refused() {
        for text in [
            "monotonic\n",
            "monotonic 1\n",
            "monotonic one 0\n",
            "monotonic 1 0 0\n",
            "monotonic 1 0\nmonotonic 2 0\n",
            "monotonic 99999999999999999999 0\n",
            "\n",
            "\0\u{1}garbage",
        ] {
            assert_eq!(offsets(text), None, "{text:?}");
        }
    }

    #[test]
    fn offset_beyond_the_clock_saturates() {
        let far = |offset| read(ClockId::CLOCK_MONOTONIC, offset).unwrap();
        assert_eq!(far(i128::MAX), 0);
        assert_eq!(far(i128::from(i64::MIN) * NANOS_PER_SECOND), u64::MAX);
        let (before, now) = (far(0), MachineClock::default().monotonic().unwrap());
        assert!(now >= before && far(NANOS_PER_SECOND) < now);
    }
}
