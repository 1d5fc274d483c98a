//! The agent's memory budget, and the share of it that one pod may hold.
//!
//! A pod has no fixed share: it may hold as much as is left free by all (a dynamic threshold, after Choudhury and Hahne,
//! "Dynamic queue length thresholds for shared-memory packet switches", 1998). One greedy pod among idle ones thus gets half of
//! the budget, two get a third each, and something is always left for the others. A pod takes from the budget in steps, so the
//! shared counter is seldom touched. [`super::memory`] decides what is charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that a pod takes from, and gives back to, the agent's budget at once.
const STEP: usize = 64 << 10;

/// Bytes of calls, and as many of connections, that a pod may always hold, also while others have used up the budget: its
/// small calls go on.
const FLOOR: usize = 256 << 10;

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

    /// Bytes that pods may hold together.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets the limit in bytes. Bytes that pods hold stay theirs, also above a lower limit: until they have given enough back,
    /// all of them are short of memory.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that no pod has taken.
    fn free(&self) -> usize {
        self.limit().saturating_sub(self.used())
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
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

/// How scarce memory is for one pod, from its share of the budget. Each level includes the measures of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pressure {
    None,
    /// Half of the share is used: receive windows do not grow.
    Tight,
    /// Three quarters are used: connections that hold much get no credit, outputs stay short, no further request is kept
    /// for another try.
    Short,
    /// The share is used up: new streams are refused.
    Refuse,
    /// An eighth more is held than that: calls that hold more than others are ended, new connections are reset.
    Shed,
}

/// The bytes that one pod holds.
///
/// The pressure is measured anew with each step that is taken or given back, and when it is asked for ([`Share::measure`]):
/// counting and looking at it cost next to nothing.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    /// At most so much, whatever is free.
    cap: usize,
    taken: usize,
    /// Bytes that are held for calls.
    calls: usize,
    /// Bytes that connections take by themselves, and what is held outside of the engine.
    fixed: usize,
    peak: usize,
    pressure: Pressure,
}

impl Share {
    pub(super) fn new(budget: Arc<Budget>, cap: usize) -> Self {
        Self {
            budget,
            cap,
            taken: 0,
            calls: 0,
            fixed: 0,
            peak: 0,
            pressure: Pressure::None,
        }
    }

    /// Counts bytes of a call that are here already.
    #[inline]
    pub(super) fn charge(&mut self, bytes: usize) {
        self.calls += bytes;
        self.cover();
    }

    /// Counts bytes of a call only if the share has room for them.
    #[must_use]
    pub(super) fn try_charge(&mut self, bytes: usize) -> bool {
        self.charge(bytes);
        if self.pressure >= Pressure::Short {
            self.discharge(bytes);
            return false;
        }
        true
    }

    #[inline]
    pub(super) fn discharge(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.calls, "more bytes of calls leave than came");
        self.calls = self.calls.saturating_sub(bytes);
        self.uncover();
    }

    /// Counts bytes that belong to no call.
    pub(super) fn charge_fixed(&mut self, bytes: usize) {
        self.fixed += bytes;
        self.cover();
    }

    pub(super) fn discharge_fixed(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.fixed, "more fixed bytes leave than came");
        self.fixed = self.fixed.saturating_sub(bytes);
        self.uncover();
    }

    /// Bytes that the pod may hold now: as much as is free, or its cap.
    pub(super) fn threshold(&self) -> usize {
        self.budget.free().min(self.cap)
    }

    /// The pressure when it was last measured.
    #[inline]
    pub(super) fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// Measures the pressure: other pods may have taken memory or given some back.
    pub(super) fn measure(&mut self) -> Pressure {
        self.pressure = self.pressure_above_floor(self.calls);
        self.pressure
    }

    /// How scarce memory is now for connections and for what is held outside of the engine.
    pub(super) fn fixed_pressure(&self) -> Pressure {
        self.pressure_above_floor(self.fixed)
    }

    fn pressure_above_floor(&self, held: usize) -> Pressure {
        let (used, threshold) = (self.used(), self.threshold());
        if used <= threshold / 2 {
            Pressure::None
        } else if used <= threshold / 4 * 3 || held <= FLOOR.min(self.cap / 4 * 3) {
            Pressure::Tight
        } else if used <= threshold {
            Pressure::Short
        } else if used <= threshold.saturating_add(threshold / 8) {
            Pressure::Refuse
        } else {
            Pressure::Shed
        }
    }

    /// All bytes that are held.
    pub(super) fn used(&self) -> usize {
        self.calls + self.fixed
    }

    /// Bytes that are held for calls.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// All bytes that were held at most so far, to a step.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    #[inline]
    fn cover(&mut self) {
        if self.used() > self.taken {
            self.take();
        }
    }

    #[cold]
    fn take(&mut self) {
        let more = (self.used() - self.taken).div_ceil(STEP) * STEP;
        self.budget.take(more);
        self.taken += more;
        self.peak = self.peak.max(self.taken);
        self.measure();
    }

    #[inline]
    fn uncover(&mut self) {
        let used = self.used();
        if self.taken - used >= 2 * STEP || used == 0 && self.taken > 0 {
            self.give_back();
        }
    }

    /// Keeps a step beyond what is used, so that small ups and downs cost nothing.
    #[cold]
    fn give_back(&mut self) {
        let used = self.used();
        let keep = if used == 0 { 0 } else { STEP };
        let back = (self.taken - used - keep) / STEP * STEP;
        self.taken -= back;
        self.budget.give_back(back);
        self.measure();
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

    const MIB: usize = 1 << 20;

    #[test]
    fn share_is_short_beyond_three_quarters_of_its_cap() {
        let mut share = Share::new(Arc::new(Budget::default()), 16 * STEP);
        assert!(share.try_charge(12 * STEP));
        assert!(!share.try_charge(1));
        share.charge(1);
        assert_eq!(share.pressure(), Pressure::Short);
        share.discharge(2 * STEP);
        assert_eq!(share.pressure(), Pressure::Tight);
    }

    #[test]
    fn greedy_pod_gets_half_of_the_budget_and_two_get_a_third_each() {
        let budget = Arc::new(Budget::new(60 * MIB));
        let fill = |share: &mut Share| {
            if share.pressure() < Pressure::Refuse {
                share.charge(MIB / 4);
            }
        };
        let mut one = Share::new(Arc::clone(&budget), usize::MAX);
        (0..240).for_each(|_| fill(&mut one));
        assert!((29 * MIB..=31 * MIB).contains(&one.used()), "{}", one.used());
        drop(one);
        let mut both = [(); 2].map(|()| Share::new(Arc::clone(&budget), usize::MAX));
        (0..240).for_each(|_| both.iter_mut().for_each(fill));
        for share in &both {
            assert!((19 * MIB..=21 * MIB).contains(&share.used()), "{}", share.used());
        }
    }

    #[test]
    fn small_calls_fit_while_others_have_used_up_the_budget() {
        let budget = Arc::new(Budget::new(MIB));
        let mut greedy = Share::new(Arc::clone(&budget), usize::MAX);
        greedy.charge(2 * MIB);
        assert_eq!(greedy.pressure(), Pressure::Shed);
        let mut small = Share::new(Arc::clone(&budget), usize::MAX);
        small.charge_fixed(MIB);
        assert!(small.try_charge(FLOOR));
        assert!(!small.try_charge(1));
    }

    #[test]
    fn pressure_rises_with_what_is_held() {
        let mut share = Share::new(Arc::new(Budget::new(usize::MAX)), 16 * MIB);
        let mut levels = Vec::new();
        for _ in 0..20 {
            share.charge(MIB);
            levels.push(share.pressure());
        }
        assert!(levels.is_sorted());
        let at = |mib: usize| levels[mib - 1];
        assert_eq!(
            [at(8), at(12), at(13), at(16), at(17), at(18), at(19)],
            [
                Pressure::None,
                Pressure::Tight,
                Pressure::Short,
                Pressure::Short,
                Pressure::Refuse,
                Pressure::Refuse,
                Pressure::Shed
            ]
        );
    }

    #[test]
    fn lower_limit_makes_pods_short_and_a_higher_one_relieves_them() {
        let budget = Arc::new(Budget::new(64 * MIB));
        let mut share = Share::new(Arc::clone(&budget), usize::MAX);
        assert!(share.try_charge(4 * MIB));
        budget.set_limit(MIB);
        assert_eq!(share.measure(), Pressure::Shed);
        budget.set_limit(64 * MIB);
        assert_eq!(share.measure(), Pressure::None);
    }

    #[test]
    fn everything_taken_is_given_back() {
        let budget = Arc::new(Budget::default());
        let mut share = Share::new(Arc::clone(&budget), usize::MAX);
        share.charge(10 * STEP + 1);
        share.charge_fixed(100);
        share.discharge(10 * STEP + 1);
        assert!(budget.used() <= 2 * STEP);
        share.discharge_fixed(100);
        assert_eq!(budget.used(), 0);
        share.charge(5);
        drop(share);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn many_connections_make_a_pod_short_though_its_calls_are_small() {
        let mut share = Share::new(Arc::new(Budget::new(16 * MIB)), usize::MAX);
        share.charge(FLOOR);
        share.charge_fixed(9 * MIB);
        assert_eq!(share.measure(), Pressure::Tight, "its small calls go on");
        assert_eq!(share.fixed_pressure(), Pressure::Shed);
        share.discharge_fixed(9 * MIB - FLOOR);
        assert_eq!(share.fixed_pressure(), Pressure::None);
    }

    #[test]
    fn few_connections_are_allowed_while_others_have_used_up_the_budget() {
        let budget = Arc::new(Budget::new(MIB));
        let mut greedy = Share::new(Arc::clone(&budget), usize::MAX);
        greedy.charge(2 * MIB);
        let mut other = Share::new(budget, usize::MAX);
        other.charge_fixed(FLOOR);
        assert_eq!(other.fixed_pressure(), Pressure::Tight);
    }
}
