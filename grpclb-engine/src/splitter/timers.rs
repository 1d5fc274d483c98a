//! When which connection wants to be looked at: one timer for each. What is due is found out when it fires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::actions::ConnId;
use crate::Time;

/// A heap in which a connection may stand several times; only the time that its link remembers counts.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Time, ConnId)>>,
}

impl Timers {
    pub(super) fn push(&mut self, at: Time, id: ConnId) {
        self.heap.push(Reverse((at, id)));
    }

    /// The earliest; it may prove to be outdated.
    pub(super) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop_due(&mut self, now: Time) -> Option<(Time, ConnId)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}
