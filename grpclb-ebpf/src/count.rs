//! Counting: one per-CPU figure for each outcome, no atomics.

use grpclb_abi::Counter;

use crate::maps::COUNTERS;

/// Adds one to this CPU's figure.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(figures) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: `Counters` is `repr(C)`, all u64, one for each `Counter` in order (asserted in grpclb-abi), and only
        // this CPU writes here.
        unsafe { *figures.cast::<u64>().add(counter as usize) += 1 };
    }
}
