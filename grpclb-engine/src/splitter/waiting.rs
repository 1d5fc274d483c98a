//! Calls that wait for a connection: in a pool's queue, and from there to wherever one can take them.
//!
//! A call waits only while no endpoint that may be picked has a connection for it, nor may be dialled for one. Whatever
//! changes that (a snapshot, an endpoint that is back, a backoff that is over, a stream that ended) moves the oldest calls.

use std::collections::VecDeque;
use std::time::Duration;

use super::Splitter;
use super::actions::ClientId;
use super::arena::Key;
use super::call::Place;
use super::pool::{Pool, standing};
use crate::Time;
use crate::balance::Standing;

/// Places that an empty queue of calls keeps.
const KEPT: usize = 128;

/// When calls are looked at that what has just changed may concern, once for all that changes until then.
pub(super) const SOON: Duration = Duration::from_millis(1);

/// Why calls that wait are picked for anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// A dial has failed, or takes long.
    VainDial,
    /// Their endpoint is not used any more, or calls may go elsewhere since the dial has its time behind it that they
    /// should wait for.
    Change,
}

impl Splitter {
    /// Returns true if half as many calls of a Service wait for a connection as may: whatever reads for the pod should slow down.
    pub fn is_congested(&self) -> bool {
        let most = self.config.queue / 2;
        self.groups.iter().any(|(_, group)| group.waiting > most)
    }

    /// Lets the call wait in this pool's queue; false if it was answered, for there are too many.
    pub(super) fn enqueue(&mut self, now: Time, pool_key: Option<Key>, key: Key) -> bool {
        let Some(pool_key) = pool_key else { return false };
        let Some((group, owner)) = self.pools.get(pool_key).map(|pool| (pool.group, pool.owner)) else {
            return false;
        };
        let most = self.config.queue;
        let Some(set) = self.set_mut(group, owner) else {
            return false;
        };
        if set.waiting >= most {
            self.stats.queue_full = self.stats.queue_full.saturating_add(1);
            self.answer_unavailable(now, key, &format!("{most} calls wait for a connection already"));
            return false;
        }
        set.waiting = set.waiting.saturating_add(1);
        if let Some(group) = self.groups.get_mut(group) {
            group.waiting = group.waiting.saturating_add(1);
        }
        self.stats.queued = self.stats.queued.saturating_add(1);
        if let Some(call) = self.calls.get_mut(key) {
            call.place = Place::Waiting(pool_key);
            call.since = now;
        }
        if let Some(pool) = self.pools.get_mut(pool_key) {
            // Calls that were cancelled leave their keys behind.
            if pool.waiting.len() >= 64 && pool.waiting.len().is_power_of_two() {
                let calls = &self.calls;
                pool.waiting.retain(|&key| {
                    calls
                        .get(key)
                        .is_some_and(|call| call.place == Place::Waiting(pool_key))
                });
            }
            pool.waiting.push_back(key);
            pool.waiters = pool.waiters.saturating_add(1);
        }
        self.arm_group(now, group);
        self.arm_waiting(now, group, owner);
        true
    }

    /// The call waits no more: it is sent, moved, or over.
    pub(super) fn leave_queue(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        let Place::Waiting(pool) = call.place else { return };
        call.place = Place::Nowhere;
        let Some(pool) = self.pools.get_mut(pool) else {
            debug_assert!(false, "a pool outlives the calls of its queue");
            return;
        };
        debug_assert!(pool.waiters > 0, "a pool counts its calls that wait");
        pool.waiters = pool.waiters.saturating_sub(1);
        if pool.waiters == 0 {
            // Keys of calls that were cancelled must not look as if calls waited: nobody needs a dial.
            pool.waiting.clear();
            pool.waiting.shrink_to(KEPT);
        }
        let (group, owner) = (pool.group, pool.owner);
        if let Some(group) = self.groups.get_mut(group) {
            debug_assert!(group.waiting > 0, "a Service counts its calls that wait");
            group.waiting = group.waiting.saturating_sub(1);
        }
        if let Some(set) = self.set_mut(group, owner) {
            debug_assert!(set.waiting > 0, "a set of pools counts its calls that wait");
            set.waiting = set.waiting.saturating_sub(1);
        }
    }

    /// The oldest call that waits in this pool; it leaves the queue.
    fn next_waiting(&mut self, pool_key: Key) -> Option<Key> {
        loop {
            let waiting = &mut self.pools.get_mut(pool_key)?.waiting;
            let key = waiting.pop_front()?;
            if self
                .calls
                .get(key)
                .is_some_and(|call| call.place == Place::Waiting(pool_key))
            {
                self.leave_queue(key);
                return Some(key);
            }
        }
    }

    /// Gives calls that wait to this pool's connections: its own, then others' that need not wait where they are.
    pub(super) fn serve(&mut self, now: Time, pool_key: Key) {
        let Some((group, owner)) = self.pools.get(pool_key).map(|pool| (pool.group, pool.owner)) else {
            return;
        };
        while self.set(group, owner).is_some_and(|set| set.waiting > 0) {
            let Some(upstream) = self.usable(now, Some(pool_key)) else {
                break;
            };
            let next = self
                .next_waiting(pool_key)
                .or_else(|| self.steal(now, group, owner, pool_key));
            let Some(key) = next else { return };
            self.assign(now, key, upstream);
        }
        let Some(pool) = self.pools.get(pool_key) else {
            return;
        };
        if !pool.waiting.is_empty() {
            self.dial(now, Some(pool_key));
        } else if standing(now, Some(pool), &self.upstreams, &self.config) == Standing::Absent {
            // Full, but for another connection: calls of other queues may have waited for less.
            self.relocate_around(now, pool_key);
        }
    }

    /// The oldest call in the other queues of this owner, but for queues whose dial has only just begun.
    fn steal(&mut self, now: Time, group: Key, owner: Option<ClientId>, thief: Key) -> Option<Key> {
        let mut oldest: Option<(Time, Key)> = None;
        for key in self.set(group, owner)?.iter().filter(|&key| key != thief) {
            let Some(pool) = self.pools.get(key).filter(|pool| !self.waits_well(now, pool)) else {
                continue;
            };
            let first = pool
                .waiting
                .iter()
                .filter_map(|&call| self.calls.get(call))
                .find(|call| call.place == Place::Waiting(key));
            if let Some(call) = first
                && oldest.is_none_or(|(since, _)| call.since < since)
            {
                oldest = Some((call.since, key));
            }
        }
        self.next_waiting(oldest?.1)
    }

    /// The pool's dial has only just begun: calls wait for the endpoint that was picked for them.
    fn waits_well(&self, now: Time, pool: &Pool) -> bool {
        let grace = self.config.dial_grace;
        pool.upstreams
            .iter()
            .filter_map(|id| self.upstreams.get(id.0))
            .any(|upstream| {
                !upstream.is_ready()
                    && upstream.is_live()
                    && now.since(upstream.dialed) < grace
                    && !upstream.overdue
            })
    }

    /// Picks anew for all calls that wait in this pool. After a dial that failed or takes long, calls that have waited as long
    /// as a dial may take are answered, unless an endpoint is connected: else they would go from one dead endpoint to the
    /// next for ever.
    pub(super) fn place_waiting(&mut self, now: Time, pool_key: Key, after: After) {
        let Some((group, owner)) = self.pools.get(pool_key).map(|pool| (pool.group, pool.owner)) else {
            return;
        };
        let hopeless = after == After::VainDial && !self.is_warm(group, owner);
        let mut waiting = Vec::new();
        while let Some(key) = self.next_waiting(pool_key) {
            waiting.push(key);
        }
        for key in waiting {
            let since = self.calls.get(key).map(|call| call.since);
            if hopeless && since.is_some_and(|since| now.since(since) >= self.config.connect_timeout) {
                self.answer_unreachable(now, key);
            } else {
                self.place_again(now, key);
            }
        }
    }

    /// Picks anew for a call that has waited and keeps its age.
    fn place_again(&mut self, now: Time, key: Key) {
        let since = self.calls.get(key).map(|call| call.since);
        self.place(now, key);
        if let (Some(since), Some(call)) = (since, self.calls.get_mut(key))
            && matches!(call.place, Place::Waiting(_))
        {
            call.since = since;
        }
    }

    /// Something has changed for this pool's owner: as [`Self::relocate`]. Calls of other owners follow a moment later, once
    /// for all that changes until then.
    pub(super) fn relocate_around(&mut self, now: Time, pool_key: Key) {
        let Some((group_key, owner)) = self.pools.get(pool_key).map(|pool| (pool.group, pool.owner)) else {
            return;
        };
        let Some(group) = self.groups.get_mut(group_key).filter(|group| group.waiting > 0) else {
            return;
        };
        group.picker.wake(now);
        self.relocate_of(now, group_key, owner);
        self.arm_group(now, group_key);
        let here = self.set(group_key, owner).map_or(0, |set| set.waiting);
        if self
            .groups
            .get(group_key)
            .is_some_and(|group| group.waiting > here)
        {
            self.arm_group_at(group_key, now + SOON);
        }
    }

    /// Something has changed for this Service: calls that wait where no connection can take them go to where one can, or can
    /// be made, the oldest first.
    pub(super) fn relocate(&mut self, now: Time, group_key: Key) {
        let Some(group) = self.groups.get_mut(group_key) else {
            return;
        };
        if group.waiting > 0 {
            group.picker.wake(now);
            if group.pools.waiting > 0 {
                self.relocate_of(now, group_key, None);
            }
            if self
                .groups
                .get(group_key)
                .is_some_and(|group| group.waiting > group.pools.waiting)
            {
                for client in self.clients.keys() {
                    let client = ClientId(client);
                    let waits = self.clients.get(client.0).is_some_and(|client| {
                        client.group == group_key
                            && client.pools.as_ref().is_some_and(|pools| pools.waiting > 0)
                    });
                    if waits {
                        self.relocate_of(now, group_key, Some(client));
                    }
                }
            }
        }
        self.arm_group(now, group_key);
    }

    fn relocate_of(&mut self, now: Time, group: Key, owner: Option<ClientId>) {
        if self.has_place(now, group, owner) {
            self.move_oldest(now, group, owner);
        }
        self.arm_waiting(now, group, owner);
    }

    fn move_oldest(&mut self, now: Time, group: Key, owner: Option<ClientId>) {
        let Some(set) = self.set(group, owner) else { return };
        let stuck: Vec<Key> = set
            .iter()
            .filter(|&key| {
                self.pools
                    .get(key)
                    .is_some_and(|pool| !pool.waiting.is_empty() && !self.waits_well(now, pool))
            })
            .collect();
        // Taken out, so that each call is picked for once.
        let mut queues: Vec<(Key, VecDeque<Key>)> = stuck
            .into_iter()
            .filter_map(|key| {
                let pool = self.pools.get_mut(key)?;
                Some((key, std::mem::take(&mut pool.waiting)))
            })
            .collect();
        while self.has_place(now, group, owner) {
            let Some(key) = self.oldest(&mut queues) else {
                break;
            };
            self.leave_queue(key);
            self.place_again(now, key);
        }
        for (pool_key, rest) in queues {
            // Those that came back to the queue are the older ones.
            if let Some(pool) = self.pools.get_mut(pool_key).filter(|pool| pool.waiters > 0) {
                pool.waiting.extend(rest);
            }
        }
    }

    /// Takes the call out of these queues that has waited longest.
    fn oldest(&self, queues: &mut [(Key, VecDeque<Key>)]) -> Option<Key> {
        let mut oldest: Option<(Time, usize)> = None;
        for (n, (pool, queue)) in queues.iter_mut().enumerate() {
            let here = Place::Waiting(*pool);
            while let Some(&first) = queue.front() {
                if let Some(call) = self.calls.get(first).filter(|call| call.place == here) {
                    if oldest.is_none_or(|(since, _)| call.since < since) {
                        oldest = Some((call.since, n));
                    }
                    break;
                }
                queue.pop_front();
            }
        }
        queues.get_mut(oldest?.1)?.1.pop_front()
    }

    /// Whether an endpoint that may be picked takes another call, or may be dialled for it.
    fn has_place(&self, now: Time, group: Key, owner: Option<ClientId>) -> bool {
        let (Some(set), Some(group)) = (self.set(group, owner), self.groups.get(group)) else {
            return false;
        };
        set.waiting > 0
            && group.picker.picked().any(|(member, _)| {
                let pool = set.get(&self.pools, member).and_then(|pool| self.pools.get(pool));
                let standing = standing(now, pool, &self.upstreams, &self.config);
                matches!(standing, Standing::Room | Standing::Absent)
            })
    }
}
