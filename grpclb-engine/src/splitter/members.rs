//! Pools follow the members of the Service's snapshot: who leaves gets no new calls, who comes back is used again.

use super::Splitter;
use super::actions::{ConnId, How};
use super::arena::Key;
use super::waiting::After;
use crate::Time;

impl Splitter {
    /// A further snapshot of the Service: pools follow their members.
    pub(super) fn follow_members(&mut self, now: Time, group_key: Key) {
        let mut displaced = Vec::new();
        for pool_key in self.pools.keys() {
            let Some(pool) = self
                .pools
                .get_mut(pool_key)
                .filter(|pool| pool.group == group_key)
            else {
                continue;
            };
            let Some(group) = self.groups.get(group_key) else {
                return;
            };
            let owner = pool.owner;
            let used = group.picker.find(&pool.endpoint);
            if let Some(member) = used.filter(|&member| group.picker.is_used(member)) {
                pool.retired = false;
                pool.member = member;
                if let Some(endpoint) = group.picker.get(member) {
                    pool.endpoint = endpoint.endpoint().clone();
                }
                if let Some(set) = self.set_mut(group_key, owner) {
                    set.set(member, pool_key);
                }
            } else {
                pool.retired = true;
                displaced.push(pool_key);
            }
        }
        for pool_key in displaced {
            self.place_waiting(now, pool_key, After::Change);
            self.retire(now, pool_key);
        }
    }

    /// Ends the connections of a retired pool that carry no call, and the pool when it has none.
    pub(super) fn retire(&mut self, now: Time, pool_key: Key) {
        let Some(pool) = self.pools.get(pool_key).filter(|pool| pool.retired) else {
            return;
        };
        let (group, owner) = (pool.group, pool.owner);
        for id in pool.upstreams.clone() {
            match self.upstreams.get(id.0) {
                Some(upstream) if !upstream.is_ready() => self.end_upstream(now, id, How::Reset),
                Some(upstream) if upstream.link.conn.streams() == 0 => self.shut_upstream(now, id),
                _ => {}
            }
        }
        if let Some(set) = self.set_mut(group, owner) {
            set.forget(pool_key);
        }
        self.drop_pool_if_empty(pool_key);
    }

    pub(super) fn drop_pool_if_empty(&mut self, pool_key: Key) {
        if self
            .pools
            .get(pool_key)
            .is_some_and(|pool| pool.retired && pool.upstreams.is_empty())
        {
            self.pools.remove(pool_key);
        }
    }

    /// All connections of this group's pools have another deadline.
    pub(super) fn rearm_group(&mut self, group: Key) {
        let pools: Vec<Key> = self
            .pools
            .iter()
            .filter(|(_, pool)| pool.group == group)
            .map(|(key, _)| key)
            .collect();
        for pool in pools {
            self.rearm_pool(pool);
        }
    }

    /// All connections of this pool have another deadline.
    pub(super) fn rearm_pool(&mut self, pool: Key) {
        let Some(pool) = self.pools.get(pool) else { return };
        for id in pool.upstreams.clone() {
            self.arm(ConnId::Upstream(id));
        }
    }
}
