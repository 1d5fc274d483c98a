//! When which connection or Service wants to be looked at: one timer for each. What is due is found out when it fires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::actions::ConnId;
use super::arena::Key;
use crate::Time;

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Conn(ConnId),
    /// A Service as this pod uses it ([`super::pool::Group`]).
    Group(Key),
}

/// A heap in which an owner may stand several times; only the time that the owner remembers counts.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Time, Owner)>>,
}

impl Timers {
    pub(super) fn push(&mut self, at: Time, owner: Owner) {
        self.heap.push(Reverse((at, owner)));
    }

    /// The earliest; it may prove to be outdated.
    pub(super) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop_due(&mut self, now: Time) -> Option<(Time, Owner)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}
