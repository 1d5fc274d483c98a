//! When which connection or Service wants to be looked at: one timer for each. What is due is found out when it fires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Splitter;
use super::actions::ConnId;
use super::arena::Key;
use crate::Time;

/// Entries up to which outdated ones are left alone.
const FEW: usize = 256;

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Conn(ConnId),
    /// A Service as this pod uses it ([`super::pool::Group`]).
    Group(Key),
}

/// A heap in which an owner may stand several times; only the time that the owner remembers counts.
#[derive(Debug)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Time, Owner)>>,
    /// Entries from which on outdated ones are removed.
    crowded: usize,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            crowded: FEW,
        }
    }
}

impl Timers {
    /// Removes the entries that are outdated. At least as many are added until the next time.
    #[cold]
    fn sweep(&mut self, is_current: impl Fn(Time, Owner) -> bool) {
        self.heap.retain(|&Reverse((at, owner))| is_current(at, owner));
        self.crowded = self.heap.len().saturating_mul(2).max(FEW);
        self.heap.shrink_to(self.crowded);
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

impl Splitter {
    /// Adds an entry for an owner that remembers this time. Outdated entries are bounded by the number of owners: a client that
    /// comes and goes, or cancels, would else leave one behind each time, some for minutes.
    pub(super) fn push_timer(&mut self, at: Time, owner: Owner) {
        if self.timers.heap.len() >= self.timers.crowded {
            let mut timers = std::mem::take(&mut self.timers);
            timers.sweep(|at, owner| {
                let known = match owner {
                    Owner::Conn(id) => self.link(id).and_then(|link| link.timer),
                    Owner::Group(key) => self.groups.get(key).and_then(|group| group.timer),
                };
                known == Some(at)
            });
            self.timers = timers;
        }
        self.timers.heap.push(Reverse((at, owner)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::BytesMut;

    use super::*;
    use crate::balance::{Policy, Service};
    use crate::frame::{self, PREFACE};
    use crate::splitter::{Config, Ended, ServiceKey};

    #[test]
    fn clients_that_come_and_go_leave_few_timers() {
        let mut splitter = Splitter::new(Arc::new(Config::new("n1")), 7, Arc::default());
        let service = Service {
            name: "echo".into(),
            policy: Policy::RoundRobin,
            subset: 20,
            per_connection: false,
            endpoints: Arc::new([]),
        };
        splitter.set_service(Time::ZERO, ServiceKey(1), Arc::new(service));
        for _ in 0..10_000 {
            let client = splitter.open_client(Time::ZERO, ServiceKey(1)).unwrap();
            let mut input = BytesMut::from(&PREFACE[..]);
            frame::write_settings(&mut input, &[]);
            splitter.handle_input(Time::ZERO, client.into(), &mut input);
            while let Some(output) = splitter.transmit(Time::ZERO, client.into()) {
                let written = output.len();
                output.advance(written);
            }
            assert!(splitter.poll_timeout().is_some());
            splitter.handle_closed(Time::ZERO, client.into(), Ended::Eof);
        }
        assert!(
            splitter.timers.heap.len() <= FEW,
            "{}",
            splitter.timers.heap.len()
        );
    }
}
