//! Deadlines of a Service: endpoints that may be tried again while calls wait, and probes.
//!
//! When an endpoint is back that had failed, what kept it away (a node, a network, a rollout) may have kept the others away
//! too, whose backoff has grown meanwhile. Each of them is dialled once in the background then, spread over half a second;
//! else all calls would go to the one that was tried first, for as long as the backoff lasts.

use super::Splitter;
use super::actions::ClientId;
use super::arena::Key;
use super::timers::Owner;
use super::waiting::SOON;
use crate::Time;
use crate::balance::{Member, MemberKey};

/// An endpoint to be tried before its backoff is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    at: Time,
    member: MemberKey,
    by: ProbeBy,
}

/// How an endpoint is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeBy {
    /// A dial for the pod's pool, or for that of one client connection.
    Dial(Option<ClientId>),
    /// The next connection that is not HTTP/2 may be given it.
    Pick,
}

impl Splitter {
    /// Notes that a connection to the endpoint is up. If the endpoint was out of the pick, the calls of all clients that wait
    /// may have it dialled, and the others that are out may be worth a probe.
    pub(super) fn endpoint_connected(&mut self, now: Time, group_key: Key, key: MemberKey, by: ProbeBy) {
        let Some(group) = self.groups.get_mut(group_key) else {
            return;
        };
        let was_out = |member: &Member| member.out_until(now).is_some();
        let returns = group.picker.get(key).is_some_and(was_out);
        let waits = group.waiting > 0;
        if group.picker.connected(key, now) {
            self.plan_probes(now, group_key, by);
        }
        if returns && waits {
            self.arm_group_at(group_key, now + SOON);
        }
    }

    /// An endpoint is back: the others that are out are to be tried, each at a time of its own.
    fn plan_probes(&mut self, now: Time, group_key: Key, by: ProbeBy) {
        let Some(group) = self.groups.get_mut(group_key) else {
            return;
        };
        let members = group.picker.worth_a_probe(now);
        let spread = u64::try_from(self.config.probe_spread.as_nanos()).unwrap_or(u64::MAX);
        let step = spread.checked_div(members.len() as u64).unwrap_or(0);
        let rng = &mut self.rng;
        group.probes = (0..)
            .zip(members)
            .map(|(n, member)| Probe {
                at: now
                    + std::time::Duration::from_nanos(step.saturating_mul(n).saturating_add(rng.below(step))),
                member,
                by,
            })
            .collect();
        self.arm_group(now, group_key);
    }

    /// Sees to it that the Service is looked at when something of it is due.
    pub(super) fn arm_group(&mut self, now: Time, key: Key) {
        let Some(group) = self.groups.get(key) else { return };
        let probe = group.probes.first().map(|probe| probe.at);
        // What is due already has been looked at, and helps no call that waits.
        let back = group
            .picker
            .next_return()
            .filter(|&at| group.waiting > 0 && at > now);
        if let Some(at) = [probe, back].into_iter().flatten().min() {
            self.arm_group_at(key, at);
        }
    }

    /// The same for calls of this owner, which may have to wait until an endpoint may be dialled again that is connected.
    pub(super) fn arm_waiting(&mut self, now: Time, key: Key, owner: Option<ClientId>) {
        let Some(set) = self.set(key, owner).filter(|set| set.waiting > 0) else {
            return;
        };
        let held_off = set
            .iter()
            .filter_map(|pool| self.pools.get(pool)?.next_dial)
            .filter(|&at| at > now)
            .min();
        if let Some(at) = held_off {
            self.arm_group_at(key, at);
        }
    }

    pub(super) fn arm_group_at(&mut self, key: Key, at: Time) {
        if let Some(group) = self.groups.get_mut(key)
            && group.timer.is_none_or(|timer| at < timer)
        {
            group.timer = Some(at);
            self.push_timer(at, Owner::Group(key));
        }
    }

    pub(super) fn group_timeout(&mut self, now: Time, at: Time, key: Key) {
        let Some(group) = self.groups.get_mut(key).filter(|group| group.timer == Some(at)) else {
            return;
        };
        group.timer = None;
        let due = group.probes.partition_point(|probe| probe.at <= now);
        let due: Vec<Probe> = group.probes.drain(..due).collect();
        for probe in due {
            self.probe(now, key, probe);
        }
        self.relocate(now, key);
    }

    fn probe(&mut self, now: Time, group_key: Key, probe: Probe) {
        let Some(group) = self.groups.get_mut(group_key) else {
            return;
        };
        match probe.by {
            ProbeBy::Pick => group.picker.cut_short(probe.member, now),
            ProbeBy::Dial(owner) => {
                if !group.removed && group.picker.take_probe(probe.member, now) {
                    let pool = self.pool_for(group_key, owner, probe.member);
                    self.dial(now, pool);
                }
            }
        }
    }
}
