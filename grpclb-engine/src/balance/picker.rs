//! The pick itself: the members of one (client pod, Service), their turns, their loads, and who of them is out.
//!
//! The picker does not know connections. It asks for an endpoint's [`Standing`] and prefers one that can take the call
//! now; what the policy had wanted instead is told in [`Choice::wanted`], so that it is dialled in the background.

use std::sync::Arc;

use super::member::Member;
use super::subset::rank;
use super::{Endpoint, MemberKey, Policy, Service, State, backoff};
use crate::rng::Rng;
use crate::time::Time;

/// How far an endpoint's turn may run behind or ahead, in rounds. While an endpoint is dialled, others take its calls;
/// it gets them back when it is there, but not as a flood.
const CREDIT_ROUNDS: i64 = 4;

/// A difference of expected latency below a fifth is noise: the first of two, which was drawn by weight, keeps the call.
const NOISE: f64 = 0.8;

/// What the connections to an endpoint allow at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A connection is up and takes another stream.
    Room,
    /// None has room, and one is being dialled.
    Dialing,
    /// None has room, and one may be dialled.
    Absent,
    /// All connections that there may be are full: a call has to queue.
    Full,
}

impl Standing {
    /// How long a call has to wait: not at all, for a dial, for the end of another call.
    const fn wait(self) -> u8 {
        match self {
            Self::Room => 0,
            Self::Dialing | Self::Absent => 1,
            Self::Full => 2,
        }
    }
}

/// The outcome of a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Where the call goes.
    pub member: MemberKey,
    pub standing: Standing,
    /// Whom the policy wanted, when that one has no room and another takes the call instead: to be dialled.
    pub wanted: Option<MemberKey>,
}

/// The balancing state of one (client pod, Service).
#[derive(Debug)]
pub struct Picker {
    seed: u64,
    policy: Policy,
    subset: usize,
    slots: Vec<Slot>,
    /// Indices into `slots` of the members, in the order of this pod's ranking.
    members: Vec<u32>,
    /// The endpoints of the snapshot, and the ones beyond the subset, best first: who moves up when a member fails.
    endpoints: Arc<[Endpoint]>,
    reserve: std::vec::IntoIter<usize>,
    last_failure: Time,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    member: Option<Member>,
}

impl Picker {
    /// A picker for the client pod with this seed, with the first snapshot.
    pub fn new(service: &Service, seed: u64) -> Self {
        let mut picker = Self {
            seed,
            policy: service.policy,
            subset: 1,
            slots: Vec::new(),
            members: Vec::new(),
            endpoints: Arc::new([]),
            reserve: Vec::new().into_iter(),
            last_failure: Time::ZERO,
        };
        picker.update(Time::ZERO, service);
        picker
    }

    /// Takes up a new snapshot. Members that stay keep their keys, turns, loads and backoffs.
    pub fn update(&mut self, now: Time, service: &Service) {
        self.policy = service.policy;
        self.subset = service.subset.max(1);
        self.endpoints = Arc::clone(&service.endpoints);
        let mut ranked = rank(&self.endpoints, self.seed);
        // Draining ones rank last. They are used only where there is nobody else.
        let ready = ranked
            .iter()
            .take_while(|&&index| self.endpoints[index].state == State::Ready)
            .count();
        if ready > 0 {
            ranked.truncate(ready);
        }
        let reserve = ranked.split_off(ranked.len().min(self.subset));
        self.reserve = reserve.into_iter();

        let mut before: Vec<Option<u32>> = self.members.drain(..).map(Some).collect();
        for index in ranked {
            let endpoint = self.endpoints[index].clone();
            let known = before.iter_mut().find(|slot| {
                slot.and_then(|slot| self.slots[slot as usize].member.as_ref())
                    .is_some_and(|member| member.endpoint.is_same(&endpoint))
            });
            if let Some(slot) = known.and_then(Option::take) {
                if let Some(member) = &mut self.slots[slot as usize].member {
                    member.endpoint = endpoint;
                }
                self.members.push(slot);
            } else {
                self.add(endpoint);
            }
        }
        for gone in before.into_iter().flatten() {
            let slot = &mut self.slots[gone as usize];
            slot.member = None;
            slot.generation = slot.generation.wrapping_add(1);
        }
        self.top_up(now);
    }

    /// Chooses an endpoint for a call. `avoid` names members that have refused this call already: they are taken only
    /// when there is nobody else. `None`: there is no endpoint, or all have failed a moment ago.
    ///
    /// Nothing is counted yet: [`Self::start`] does when the call is given to the endpoint.
    pub fn pick(
        &mut self,
        now: Time,
        rng: &mut Rng,
        avoid: &[MemberKey],
        mut standing: impl FnMut(MemberKey) -> Standing,
    ) -> Option<Choice> {
        let total = self.advance(now);
        let wanted = match self.choose(now, rng, |key| !avoid.contains(&key)) {
            Some(wanted) => wanted,
            None if avoid.is_empty() => self.last_resort(now)?,
            None => match self.choose(now, rng, |_| true) {
                Some(wanted) => wanted,
                None => self.last_resort(now)?,
            },
        };
        let mut choice = Choice {
            member: wanted,
            standing: standing(wanted),
            wanted: None,
        };
        for wait in 0..choice.standing.wait() {
            let other = self.choose(now, rng, |key| {
                !avoid.contains(&key) && standing(key).wait() == wait
            });
            if let Some(member) = other {
                choice = Choice {
                    member,
                    standing: standing(member),
                    wanted: Some(wanted),
                };
                break;
            }
        }
        // One that is dialled already needs no help: another one, then.
        if choice
            .wanted
            .is_some_and(|wanted| standing(wanted) == Standing::Dialing)
        {
            choice.wanted = self.choose(now, rng, |key| {
                !avoid.contains(&key) && standing(key) == Standing::Absent
            });
        }
        if let Some(member) = self.member_mut(choice.member) {
            member.credit = member.credit.saturating_sub(total);
        }
        Some(choice)
    }

    /// A call was given to this endpoint.
    pub fn start(&mut self, key: MemberKey) {
        if let Some(member) = self.member_mut(key) {
            member.load.start();
            member.picks = member.picks.saturating_add(1);
        }
    }

    /// A call that was started is over, or has moved to another endpoint.
    pub fn finish(&mut self, key: MemberKey) {
        if let Some(member) = self.member_mut(key) {
            member.load.finish();
        }
    }

    /// An opaque connection was given to this endpoint; it counts as one call in flight.
    pub fn start_opaque(&mut self, key: MemberKey) {
        self.start(key);
        if let Some(member) = self.member_mut(key) {
            member.opaque = member.opaque.saturating_add(1);
        }
    }

    /// An opaque connection is over.
    pub fn finish_opaque(&mut self, key: MemberKey) {
        if let Some(member) = self.member_mut(key)
            && let Some(fewer) = member.opaque.checked_sub(1)
        {
            member.opaque = fewer;
            member.load.finish();
        }
    }

    /// The endpoint lost or reset a call.
    pub fn note_error(&mut self, key: MemberKey) {
        if let Some(member) = self.member_mut(key) {
            member.errors = member.errors.saturating_add(1);
        }
    }

    /// The endpoint has answered a call: response headers came after `took`.
    pub fn succeed(&mut self, key: MemberKey, now: Time, took: std::time::Duration) {
        let measured = self.policy == Policy::PeakEwma;
        if let Some(member) = self.member_mut(key) {
            if member.backoff.failures() > 0 {
                member.backoff.succeed();
            }
            if measured {
                member.load.observe(now, took);
            }
        }
    }

    /// The endpoint could not be connected, or proved dead: it leaves the pick for a while. Returns until when.
    pub fn fail(&mut self, key: MemberKey, now: Time, rng: &mut Rng) -> Option<Time> {
        let member = self.member_mut(key)?;
        let until = member.backoff.fail(now, rng);
        member.credit = 0;
        self.last_failure = now;
        self.top_up(now);
        Some(until)
    }

    /// A connection to the endpoint is up: it may be picked. Only an answered call ends its row of failures.
    pub fn connected(&mut self, key: MemberKey) {
        if let Some(member) = self.member_mut(key) {
            member.backoff.forgive();
        }
    }

    /// The member, unless it has left.
    pub fn get(&self, key: MemberKey) -> Option<&Member> {
        self.slots
            .get(key.index())
            .filter(|slot| slot.generation == key.generation)?
            .member
            .as_ref()
    }

    /// All members, in the order of this pod's ranking.
    pub fn members(&self) -> impl Iterator<Item = (MemberKey, &Member)> {
        self.members.iter().filter_map(|&index| {
            let slot = &self.slots[index as usize];
            slot.member.as_ref().map(|member| {
                (
                    MemberKey {
                        index,
                        generation: slot.generation,
                    },
                    member,
                )
            })
        })
    }

    /// The member that is this endpoint, if it is one.
    pub fn find(&self, endpoint: &Endpoint) -> Option<MemberKey> {
        self.members()
            .find(|(_, member)| member.endpoint.is_same(endpoint))
            .map(|(key, _)| key)
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    fn member_mut(&mut self, key: MemberKey) -> Option<&mut Member> {
        self.slots
            .get_mut(key.index())
            .filter(|slot| slot.generation == key.generation)?
            .member
            .as_mut()
    }

    fn add(&mut self, endpoint: Endpoint) {
        let member = Member::new(endpoint);
        let free = self
            .slots
            .iter()
            .position(|slot| slot.member.is_none())
            .unwrap_or(self.slots.len());
        if free == self.slots.len() {
            self.slots.push(Slot::default());
        }
        self.slots[free].member = Some(member);
        self.members.push(free as u32);
    }

    /// Lets the next in rank in while members are out, up to twice the subset.
    fn top_up(&mut self, now: Time) {
        while self.members.len() < self.subset.saturating_mul(2)
            && self
                .members()
                .filter(|(_, member)| member.backoff.until(now).is_none())
                .count()
                < self.subset
        {
            let Some(next) = self.reserve.next() else { return };
            let endpoint = self.endpoints[next].clone();
            self.add(endpoint);
        }
    }

    /// All members are out. One of them is tried again nevertheless, but at most once a second: two minutes of errors
    /// after everything has come back would be worse than a few vain dials.
    fn last_resort(&mut self, now: Time) -> Option<MemberKey> {
        if self.members.is_empty() || now.since(self.last_failure) < backoff::FIRST {
            return None;
        }
        let (key, _) = self
            .members()
            .min_by_key(|(_, member)| member.backoff.until(now))?;
        self.connected(key);
        Some(key)
    }

    /// Gives every usable member its due (smooth weighted round robin, as nginx has it) and returns the sum.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "64 bits hold four rounds of 32-bit weights"
    )]
    fn advance(&mut self, now: Time) -> i64 {
        if self.policy != Policy::RoundRobin {
            return 0;
        }
        let mut total = 0;
        for &index in &self.members {
            if let Some(member) = &mut self.slots[index as usize].member
                && member.backoff.until(now).is_none()
            {
                total += i64::from(member.weight());
            }
        }
        let most = total * CREDIT_ROUNDS;
        for &index in &self.members {
            if let Some(member) = &mut self.slots[index as usize].member
                && member.backoff.until(now).is_none()
            {
                member.credit = (member.credit + i64::from(member.weight())).clamp(-most, most);
            }
        }
        total
    }

    /// The policy's choice among the members that are not out and that `allowed` lets pass.
    fn choose(
        &self,
        now: Time,
        rng: &mut Rng,
        mut allowed: impl FnMut(MemberKey) -> bool,
    ) -> Option<MemberKey> {
        let mut usable = |except: Option<MemberKey>, visit: &mut dyn FnMut(MemberKey, &Member) -> bool| {
            self.members()
                .filter(|&(key, member)| {
                    Some(key) != except && member.backoff.until(now).is_none() && allowed(key)
                })
                .find(|&(key, member)| visit(key, member))
                .map(|(key, _)| key)
        };
        if self.policy == Policy::RoundRobin {
            // Who has equal claims is drawn: in an order that is the same in every round, calls of two kinds that alternate
            // would each meet their own half of the endpoints for ever.
            let (mut best, mut equals) = (None, 0_u64);
            usable(None, &mut |key, member| {
                equals = match best {
                    Some((_, credit)) if member.credit < credit => return false,
                    Some((_, credit)) if member.credit == credit => equals.saturating_add(1),
                    _ => 1,
                };
                if rng.below(equals) == 0 {
                    best = Some((key, member.credit));
                }
                false
            });
            return best.map(|(key, _)| key);
        }

        let mut draw = |except| {
            let mut total = 0_u64;
            usable(except, &mut |_, member| {
                total = total.saturating_add(u64::from(member.weight()));
                false
            });
            if total == 0 {
                return None;
            }
            let mut left = rng.below(total);
            usable(except, &mut |_, member| {
                let weight = u64::from(member.weight());
                let here = left < weight;
                left = left.saturating_sub(weight);
                here
            })
        };
        let first = draw(None)?;
        if self.policy == Policy::Random {
            return Some(first);
        }
        let Some(second) = draw(Some(first)) else {
            return Some(first);
        };
        let (a, b) = (self.get(first)?, self.get(second)?);
        let second_is_better = if self.policy == Policy::LeastRequest {
            b.load.pressure(b.weight()) < a.load.pressure(a.weight())
        } else {
            let mean = f64::midpoint(f64::from(a.weight()), f64::from(b.weight()));
            let cost = |member: &Member| member.load.expected(now, f64::from(member.weight()) / mean);
            cost(b) < cost(a) * NOISE
        };
        Some(if second_is_better { second } else { first })
    }
}
