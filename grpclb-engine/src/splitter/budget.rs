//! How many bytes may be held in memory: by one pod, and by all pods of the agent together.
//!
//! What counts is DATA that was received and not sent on yet, and request bodies that are kept for another try. A pod
//! takes from the agent's budget in large steps, so the shared counter is seldom touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A pod's step: what it takes from, and gives back to, the agent's budget at once.
const STEP: usize = 256 << 10;

/// The agent's budget in bytes, shared by all pods and workers.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicUsize,
    used: AtomicUsize,
}

impl Budget {
    pub const fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
        }
    }

    /// Bytes that pods have taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that pods may take together.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets the limit in bytes. Bytes that pods have taken stay theirs, also above a lower limit: until they give enough
    /// back, none of them can take more.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) -> bool {
        let limit = self.limit();
        let take = |used: usize| used.checked_add(bytes).filter(|&used| used <= limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Default for Budget {
    /// 256 MiB.
    fn default() -> Self {
        Self::new(256 << 20)
    }
}

/// One pod's part.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    limit: usize,
    taken: usize,
    used: usize,
    peak: usize,
}

impl Share {
    pub(super) fn new(budget: Arc<Budget>, limit: usize) -> Self {
        Self {
            budget,
            limit,
            taken: 0,
            used: 0,
            peak: 0,
        }
    }

    /// Counts bytes that are here already, whether there is room for them or not.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        self.cover();
    }

    /// Counts bytes only if they fit.
    #[must_use]
    pub(super) fn try_charge(&mut self, bytes: usize) -> bool {
        self.charge(bytes);
        if self.is_short() {
            self.discharge(bytes);
            return false;
        }
        true
    }

    pub(super) fn discharge(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.used, "more bytes leave than came");
        self.used = self.used.saturating_sub(bytes);
        let spare = self.taken.saturating_sub(self.used);
        if spare >= 2 * STEP {
            let back = spare / STEP * STEP - STEP;
            self.taken -= back;
            self.budget.give_back(back);
        } else {
            self.cover();
        }
    }

    /// More is here than there should be: windows stop growing, and connections with much of it get no credit.
    pub(super) fn is_short(&self) -> bool {
        self.used > self.limit || self.used > self.taken
    }

    /// Half of the pod's part is used: not the time to promise more.
    pub(super) fn is_tight(&self) -> bool {
        self.used > self.limit / 2 || self.used > self.taken
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    fn cover(&mut self) {
        if self.used > self.taken {
            let more = (self.used - self.taken).div_ceil(STEP) * STEP;
            if self.budget.take(more) {
                self.taken += more;
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_short_beyond_its_own_limit() {
        let mut share = Share::new(Arc::new(Budget::default()), 1000);
        assert!(share.try_charge(1000) && !share.is_short());
        assert!(!share.try_charge(1));
        share.charge(1);
        assert!(share.is_short());
        share.discharge(1);
        assert!(!share.is_short());
    }

    #[test]
    fn lower_limit_refuses_more_and_keeps_what_is_taken() {
        let budget = Arc::new(Budget::new(4 * STEP));
        let mut share = Share::new(Arc::clone(&budget), usize::MAX);
        assert!(share.try_charge(2 * STEP));
        budget.set_limit(STEP);
        assert_eq!((budget.limit(), budget.used()), (STEP, 2 * STEP));
        assert!(!share.is_short());
        assert!(!share.try_charge(1));
        budget.set_limit(3 * STEP);
        assert!(share.try_charge(1));
    }

    #[test]
    fn pods_share_the_agents_limit_and_give_everything_back() {
        let budget = Arc::new(Budget::new(2 * STEP));
        let mut one = Share::new(Arc::clone(&budget), usize::MAX);
        let mut other = Share::new(Arc::clone(&budget), usize::MAX);
        assert!(one.try_charge(STEP + 1));
        assert!(!other.try_charge(1));
        one.discharge(STEP + 1);
        drop(one);
        assert!(other.try_charge(1));
        drop(other);
        assert_eq!(budget.used(), 0);
    }
}
