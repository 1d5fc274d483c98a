//! The endpoints that a picker knows, and the ones among them that may be picked: the subset, filled up while endpoints of
//! it have failed.
//!
//! All of it follows from the pod's ranking and from each endpoint's health, in [`Members::settle`], which runs when either
//! changes. A pick reads the result only. The policies are not here but in [`super::picker`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::member::{Member, MemberKey, UNRANKED, Use};
use super::subset::rank;
use super::{Endpoint, Service, State};
use crate::time::Time;

/// The known endpoints of one (client pod, Service).
#[derive(Debug, Default)]
pub(super) struct Members {
    slots: Vec<Slot>,
    /// Indices into `slots` of the members that may be picked, in the order of this pod's ranking.
    picked_from: Vec<u32>,
    subset: usize,
    /// The endpoints of the snapshot, and the order in which this pod prefers the eligible ones (indices into `endpoints`).
    endpoints: Arc<[Endpoint]>,
    ranked: Vec<usize>,
    /// When the first of the members that are out may be picked again.
    next_return: Option<Time>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    member: Option<Member>,
}

impl Members {
    /// Replaces the snapshot. Members keep their keys and all their state, and so do endpoints that are not in the snapshot
    /// for as long as they have calls.
    pub(super) fn update(&mut self, now: Time, service: &Service, seed: u64) {
        self.subset = service.subset.max(1);
        self.endpoints = Arc::clone(&service.endpoints);
        self.ranked = rank(&self.endpoints, seed);
        // Draining ones rank last. They are eligible only where there is no other.
        let is_ready = |&&index: &&usize| self.endpoints[index].state == State::Ready;
        let ready = self.ranked.iter().take_while(is_ready).count();
        if ready > 0 {
            self.ranked.truncate(ready);
        }
        // An endpoint that the snapshot has twice is one; equal scores stand side by side.
        let endpoints = &self.endpoints;
        self.ranked.dedup_by(|a, b| endpoints[*a].is_same(&endpoints[*b]));

        let mut known: HashMap<(Arc<str>, SocketAddr), u32> = HashMap::with_capacity(self.slots.len());
        for (slot, index) in self.slots.iter_mut().zip(0..) {
            if let Some(member) = &mut slot.member {
                member.rank = UNRANKED;
                known.insert((Arc::clone(&member.endpoint.id), member.endpoint.address), index);
            }
        }
        for (rank, &index) in self.ranked.iter().enumerate() {
            let endpoint = &self.endpoints[index];
            if let Some(slot) = known.remove(&(Arc::clone(&endpoint.id), endpoint.address))
                && let Some(member) = &mut self.slots[slot as usize].member
            {
                member.endpoint = endpoint.clone();
                member.rank = rank as u32;
            }
        }
        for unranked in known.into_values() {
            self.forget_if_unused(unranked);
        }
        self.settle(now);
    }

    /// Decides anew which endpoints may be picked. Walks the ranking until the subset is full of endpoints that have not
    /// failed; an endpoint that fails is thus replaced by the next in rank, and by another if that one fails too. Failed
    /// endpoints return for another try when their backoff is over, at most as many at a time as the subset has places.
    pub(super) fn settle(&mut self, now: Time) {
        let mut known: Vec<(u32, u32)> = self
            .slots
            .iter()
            .zip(0..)
            .filter_map(|(slot, index)| Some((slot.member.as_ref()?.rank, index)))
            .collect();
        known.sort_unstable();
        let mut known = known.into_iter().peekable();

        self.picked_from.clear();
        self.next_return = None;
        let (mut sound, mut suspects) = (0_usize, 0_usize);
        for rank in 0..self.ranked.len() as u32 {
            if sound == self.subset {
                break;
            }
            let index = match known.next_if(|&(known, _)| known == rank) {
                Some((_, index)) => index,
                None => self.add(rank),
            };
            let Some(member) = &mut self.slots[index as usize].member else {
                continue;
            };
            let out_until = member.out_until(now);
            let now_used = if member.is_sound() {
                sound = sound.saturating_add(1);
                Use::Picked
            } else if out_until.is_none() && suspects < self.subset {
                suspects = suspects.saturating_add(1);
                Use::Picked
            } else {
                Use::Out
            };
            if now_used == Use::Picked {
                if member.used != Use::Picked {
                    member.credit = 0;
                }
                self.picked_from.push(index);
            } else {
                self.next_return = [self.next_return, out_until].into_iter().flatten().min();
            }
            member.used = now_used;
        }
        for (_, index) in known {
            if let Some(member) = &mut self.slots[index as usize].member {
                member.used = Use::Resting;
            }
        }
    }

    /// Lets endpoints return whose time out of the pick is over. Costs a comparison when there is none.
    pub(super) fn refresh(&mut self, now: Time) {
        if self.next_return.is_some_and(|next| next <= now) {
            self.settle(now);
        }
    }

    /// When [`Self::refresh`] has something to do.
    pub(super) fn next_return(&self) -> Option<Time> {
        self.next_return
    }

    /// The members that may be picked.
    pub(super) fn picked(&self) -> impl Iterator<Item = (MemberKey, &Member)> {
        self.picked_from.iter().filter_map(|&index| self.at(index))
    }

    pub(super) fn for_each_picked(&mut self, mut change: impl FnMut(&mut Member)) {
        for &index in &self.picked_from {
            if let Some(member) = &mut self.slots[index as usize].member {
                change(member);
            }
        }
    }

    pub(super) fn has_picked(&self) -> bool {
        !self.picked_from.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranked.is_empty()
    }

    pub(super) fn subset(&self) -> usize {
        self.subset
    }

    /// The members of the subset, those that are out included.
    pub(super) fn used(&self) -> impl Iterator<Item = (MemberKey, &Member)> {
        (0..self.slots.len() as u32)
            .filter_map(|index| self.at(index))
            .filter(|(_, member)| member.used != Use::Resting)
    }

    pub(super) fn get(&self, key: MemberKey) -> Option<&Member> {
        self.slots
            .get(key.index())
            .filter(|slot| slot.generation == key.generation)?
            .member
            .as_ref()
    }

    pub(super) fn get_mut(&mut self, key: MemberKey) -> Option<&mut Member> {
        self.slots
            .get_mut(key.index())
            .filter(|slot| slot.generation == key.generation)?
            .member
            .as_mut()
    }

    /// The key of this endpoint if it is known, in use or not.
    pub(super) fn find(&self, endpoint: &Endpoint) -> Option<MemberKey> {
        (0..self.slots.len() as u32)
            .filter_map(|index| self.at(index))
            .find(|(_, member)| member.endpoint.is_same(endpoint))
            .map(|(key, _)| key)
    }

    /// A call or connection of this member is over: forgets the endpoint if the snapshot does not have it any more and
    /// nothing of it is left.
    pub(super) fn finished(&mut self, key: MemberKey) {
        if self.get(key).is_some() {
            self.forget_if_unused(key.index);
        }
    }

    fn at(&self, index: u32) -> Option<(MemberKey, &Member)> {
        let slot = self.slots.get(index as usize)?;
        let generation = slot.generation;
        slot.member
            .as_ref()
            .map(|member| (MemberKey { index, generation }, member))
    }

    fn forget_if_unused(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && slot
                .member
                .as_ref()
                .is_some_and(|member| member.rank == UNRANKED && member.load.in_flight() == 0)
        {
            slot.member = None;
            slot.generation = slot.generation.wrapping_add(1);
        }
    }

    /// Makes the endpoint of this rank known; returns its slot.
    fn add(&mut self, rank: u32) -> u32 {
        let member = Member::new(self.endpoints[self.ranked[rank as usize]].clone(), rank);
        let free = self
            .slots
            .iter()
            .position(|slot| slot.member.is_none())
            .unwrap_or(self.slots.len());
        if free == self.slots.len() {
            self.slots.push(Slot::default());
        }
        self.slots[free].member = Some(member);
        free as u32
    }
}
