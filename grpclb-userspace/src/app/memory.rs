//! The agent's memory: how much of it calls may hold, and when memory that is free goes back to the system.
//!
//! The budget follows from the memory limit of the agent's cgroup ([`limits`]) and from the resident set after the first
//! sync, which holds everything that the agent needs whatever its pods do. What pods hold is charged to the budget by the
//! engine; the sockets' memory is the kernel's and is charged to the cgroup as well, so half of what is left is theirs.

mod limits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::process;
use crate::data::DataPlane;
use crate::observe::process::resident_bytes;
use limits::{Limit, Limits};

const MIB: u64 = 1 << 20;

/// The budget where memory is plentiful.
const MOST: u64 = 256 * MIB;
/// The budget where the limit leaves less: a few calls of every pod still go on.
const LEAST: u64 = 8 * MIB;
/// Left to the agent for what grows with time: Services, pods, connections.
const RESERVE: u64 = 32 * MIB;

/// Resident memory that the budget does not explain and that is worth a look of the allocator.
const SPARE: u64 = 16 * MIB;
/// The allocator is asked at most this often: it holds its locks meanwhile, and workers that allocate wait.
const TRIM_INTERVAL: Duration = Duration::from_secs(20);

/// Returns the bytes that all pods may hold together: half of what a memory limit leaves beside the resident set and a
/// reserve, 256 MiB at most and 8 MiB at least. All figures in bytes.
fn budget(limit: Option<u64>, resident: u64) -> u64 {
    let left = |limit: u64| limit.saturating_sub(resident).saturating_sub(RESERVE) / 2;
    limit.map_or(MOST, left).clamp(LEAST, MOST)
}

/// Sets the budget, and gives memory back.
pub(super) struct Memory {
    data: Arc<DataPlane>,
    /// Resident bytes after the first sync; zero before it.
    resident: u64,
    limits: Limits,
    limit: Option<Limit>,
    trim: Trim,
}

impl Memory {
    pub(super) fn new(data: Arc<DataPlane>) -> Self {
        Self {
            data,
            resident: 0,
            limits: Limits::default(),
            limit: None,
            trim: Trim::default(),
        }
    }

    /// The first state is applied: what the agent uses now is what it needs.
    pub(super) fn synced(&mut self) {
        process::give_back_memory();
        self.resident = resident_bytes();
        self.limits = Limits::find();
        self.limit = self.limits.smallest();
        self.trim.done(self.usage(), None);
        self.set_budget();
    }

    /// Called every few seconds, by the main thread: a worker never waits for the allocator on its own account.
    pub(super) fn look(&mut self, now: Instant) {
        let limit = self.limits.smallest();
        if self.limit != limit {
            // Kubernetes changes limits of running pods.
            self.limit = limit;
            self.set_budget();
        }
        let before = self.usage();
        if self.trim.is_due(before, now) {
            process::give_back_memory();
            let after = self.usage();
            self.trim.done(after, Some(now));
            tracing::debug!(
                before = before.resident,
                after = after.resident,
                "gave memory back to the system"
            );
        }
    }

    fn set_budget(&self) {
        let (limit, resident) = (self.limit.as_ref(), self.resident);
        let bytes = budget(limit.map(|limit| limit.bytes), resident);
        self.data
            .set_memory_budget(usize::try_from(bytes).unwrap_or(usize::MAX));
        let (budget_mib, resident_mib) = (bytes / MIB, resident / MIB);
        let Some(limit) = limit else {
            return tracing::info!(
                budget_mib,
                resident_mib,
                "memory budget of all pods; the agent's cgroup has no limit"
            );
        };
        let (limit_mib, set_by) = (limit.bytes / MIB, limit.file.display());
        if bytes == LEAST {
            let enough = (resident + RESERVE + 2 * 32 * MIB) / MIB;
            tracing::warn!(
                budget_mib, resident_mib, limit_mib, %set_by,
                "the memory limit leaves next to nothing for calls: raise it to {enough} MiB or more (resources.limits.memory)"
            );
        } else {
            tracing::info!(budget_mib, resident_mib, limit_mib, %set_by, "memory budget of all pods");
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            resident: resident_bytes(),
            held: self.data.memory().held as u64,
        }
    }
}

/// Memory in use at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    resident: u64,
    /// Charged to the budget.
    held: u64,
}

impl Usage {
    /// Resident bytes that pods do not hold.
    fn unexplained(self) -> u64 {
        self.resident.saturating_sub(self.held)
    }
}

/// Decides when the allocator is asked to give memory back.
#[derive(Debug, Default)]
struct Trim {
    /// Unexplained bytes that the allocator could not give back.
    floor: u64,
    last: Option<Instant>,
}

impl Trim {
    /// Returns whether much more is resident than pods hold and than was left the last time: a burst, or a large state, has
    /// ended and the allocator keeps its memory.
    fn is_due(&mut self, usage: Usage, now: Instant) -> bool {
        self.floor = self.floor.min(usage.unexplained());
        let spare = usage.unexplained() - self.floor;
        let rested = |last: Instant| now.saturating_duration_since(last) >= TRIM_INTERVAL;
        spare >= SPARE && self.last.is_none_or(rested)
    }

    /// The allocator has been asked; `after` is left.
    fn done(&mut self, after: Usage, now: Option<Instant>) {
        (self.floor, self.last) = (after.unexplained(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(resident: u64, held: u64) -> Usage {
        Usage {
            resident: resident * MIB,
            held: held * MIB,
        }
    }

    #[test]
    fn budget_is_half_of_what_the_limit_leaves_within_bounds() {
        assert_eq!(budget(None, 40 * MIB), 256 * MIB);
        assert_eq!(budget(Some(1024 * MIB), 40 * MIB), 256 * MIB);
        assert_eq!(budget(Some(584 * MIB), 40 * MIB), 256 * MIB);
        assert_eq!(budget(Some(256 * MIB), 40 * MIB), 92 * MIB);
        assert_eq!(budget(Some(128 * MIB), 40 * MIB), 28 * MIB);
        assert_eq!(budget(Some(u64::MAX), 40 * MIB), 256 * MIB);
    }

    #[test]
    fn budget_of_a_tiny_limit_is_eight_mib() {
        for limit in [0, 1, 40 * MIB, 72 * MIB, 80 * MIB] {
            assert_eq!(budget(Some(limit), 40 * MIB), 8 * MIB);
        }
        assert_eq!(budget(Some(64 * MIB), u64::MAX), 8 * MIB);
    }

    #[test]
    fn memory_is_given_back_when_what_was_held_has_gone() {
        let now = Instant::now();
        let mut trim = Trim::default();
        trim.done(usage(30, 0), None);
        assert!(!trim.is_due(usage(35, 0), now), "nothing has happened");
        assert!(!trim.is_due(usage(140, 100), now), "it is in use");
        assert!(trim.is_due(usage(140, 10), now), "it was in use");
        trim.done(usage(42, 10), Some(now));
        assert!(!trim.is_due(usage(42, 10), now + TRIM_INTERVAL));
    }

    /// What is in use beside what is charged cannot be given back; both can once the burst is over.
    #[test]
    fn memory_is_given_back_after_a_burst_during_which_none_could_be() {
        let now = Instant::now();
        let mut trim = Trim::default();
        trim.done(usage(20, 0), None);
        assert!(trim.is_due(usage(250, 138), now));
        trim.done(usage(250, 138), Some(now));
        let later = now + TRIM_INTERVAL;
        assert!(!trim.is_due(usage(250, 138), later), "the burst goes on");
        assert!(trim.is_due(usage(246, 0), later), "it is over");
    }

    #[test]
    fn memory_is_given_back_whatever_held_it() {
        let now = Instant::now();
        let mut trim = Trim::default();
        trim.done(usage(30, 0), None);
        assert!(trim.is_due(usage(60, 0), now), "not charged to the budget");
        // The allocator could give nothing back: it is not asked for the same again.
        trim.done(usage(60, 0), Some(now));
        let later = now + 10 * TRIM_INTERVAL;
        assert!(!trim.is_due(usage(70, 0), later));
        assert!(!trim.is_due(usage(30, 0), later), "it has gone by itself");
        assert!(trim.is_due(usage(50, 0), later), "and has come again");
    }

    #[test]
    fn allocator_is_not_asked_more_often_than_every_twenty_seconds() {
        let now = Instant::now();
        let mut trim = Trim::default();
        trim.done(usage(30, 0), Some(now));
        assert!(!trim.is_due(usage(100, 0), now + TRIM_INTERVAL / 2));
        assert!(trim.is_due(usage(100, 0), now + TRIM_INTERVAL));
    }
}
