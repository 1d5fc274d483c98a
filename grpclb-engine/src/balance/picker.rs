//! The pick itself: the turns and loads of one (client pod, Service)'s endpoints, and what is said of them. Which endpoints
//! may be picked is [`super::members`]'s.
//!
//! The picker does not know connections. It asks for an endpoint's [`Standing`] and prefers one that can take the call
//! now; what the policy had wanted instead is told in [`Choice::wanted`], so that it is dialled in the background.

use super::member::{Member, UNRANKED, Use};
use super::members::Members;
use super::{Endpoint, MemberKey, Policy, Service, backoff};
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
    members: Members,
    last_failure: Time,
    last_recovery: Option<Time>,
}

impl Picker {
    /// A picker for the client pod with this seed, with the first snapshot.
    pub fn new(service: &Service, seed: u64) -> Self {
        let mut picker = Self {
            seed,
            policy: service.policy,
            members: Members::default(),
            last_failure: Time::ZERO,
            last_recovery: None,
        };
        picker.update(Time::ZERO, service);
        picker
    }

    /// Takes up a new snapshot. Endpoints that are in it keep their keys, turns, loads and backoffs, and so do those that are
    /// not for as long as they have calls.
    pub fn update(&mut self, now: Time, service: &Service) {
        self.policy = service.policy;
        self.members.update(now, service, self.seed);
    }

    /// Chooses an endpoint for a call. `avoid` names members that have refused this call already: they are taken only
    /// when there is nobody else. Where no endpoint may be picked, one whose dial takes long is better than none. `None`: there
    /// is no endpoint, or all have failed a moment ago.
    ///
    /// Nothing is counted yet: [`Self::start`] does when the call is given to the endpoint.
    pub fn pick(
        &mut self,
        now: Time,
        rng: &mut Rng,
        avoid: &[MemberKey],
        mut standing: impl FnMut(MemberKey) -> Standing,
    ) -> Option<Choice> {
        self.members.refresh(now);
        let total = self.advance();
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
        if let Some(member) = self.members.get_mut(choice.member) {
            member.credit = member.credit.saturating_sub(total);
        }
        Some(choice)
    }

    /// A call was given to this endpoint.
    pub fn start(&mut self, key: MemberKey) {
        if let Some(member) = self.members.get_mut(key) {
            member.load.start();
            member.picks = member.picks.saturating_add(1);
        }
    }

    /// A call that was started is over, or has moved to another endpoint.
    pub fn finish(&mut self, key: MemberKey) {
        if let Some(member) = self.members.get_mut(key) {
            member.load.finish();
            if member.rank == UNRANKED {
                self.members.finished(key);
            }
        }
    }

    /// An opaque connection was given to this endpoint; it counts as one call in flight.
    pub fn start_opaque(&mut self, key: MemberKey) {
        self.start(key);
        if let Some(member) = self.members.get_mut(key) {
            member.opaque = member.opaque.saturating_add(1);
        }
    }

    /// An opaque connection is over.
    pub fn finish_opaque(&mut self, key: MemberKey) {
        if let Some(member) = self.members.get_mut(key)
            && let Some(fewer) = member.opaque.checked_sub(1)
        {
            member.opaque = fewer;
            self.finish(key);
        }
    }

    /// The endpoint lost or reset a call.
    pub fn note_error(&mut self, key: MemberKey) {
        if let Some(member) = self.members.get_mut(key) {
            member.errors = member.errors.saturating_add(1);
        }
    }

    /// The endpoint has answered a call: response headers came after `took`.
    pub fn succeed(&mut self, key: MemberKey, now: Time, took: std::time::Duration) {
        let measured = self.policy == Policy::PeakEwma;
        let Some(member) = self.members.get_mut(key) else {
            return;
        };
        if measured {
            member.load.observe(now, took);
        }
        if member.backoff.failures() > 0 {
            let returns = !member.is_sound();
            member.backoff.succeed();
            if returns {
                self.members.settle(now);
            }
        }
    }

    /// The endpoint could not be connected, or proved dead: it leaves the pick for a while. Returns until when.
    ///
    /// A probe ([`Self::take_probe`]) that fails before the endpoint's time is over changes nothing.
    pub fn fail(&mut self, key: MemberKey, now: Time, rng: &mut Rng) -> Option<Time> {
        let member = self.members.get_mut(key)?;
        let probed = std::mem::take(&mut member.probed);
        member.slow_until = None;
        let until = if let Some(until) = member.backoff.until(now).filter(|_| probed) {
            until
        } else {
            self.last_failure = now;
            member.backoff.fail(now, rng)
        };
        self.members.settle(now);
        Some(until)
    }

    /// The endpoint's dial takes longer than calls should wait for while there are others: the endpoint leaves the pick until
    /// [`Self::connected`] or [`Self::fail`], or until `until` if neither is called. Not a failure yet.
    pub fn suspend(&mut self, key: MemberKey, now: Time, until: Time) {
        if let Some(member) = self.members.get_mut(key) {
            member.slow_until = Some(until);
            self.members.settle(now);
        }
    }

    /// The dial that took long was given up, and not for a fault of the endpoint.
    pub fn resume(&mut self, key: MemberKey, now: Time) {
        if let Some(member) = self.members.get_mut(key) {
            member.probed = false;
            if member.slow_until.take().is_some() {
                self.members.settle(now);
            }
        }
    }

    /// A connection to the endpoint is up: it may be picked. Only an answered call ends its row of failures.
    ///
    /// Returns true where an endpoint that had failed is back: what kept it away may have kept others away too, which are
    /// worth a probe ([`Self::take_probe`]). True at most once a second, since an endpoint may come and go.
    pub fn connected(&mut self, key: MemberKey, now: Time) -> bool {
        let Some(member) = self.members.get_mut(key).filter(|member| !member.is_sound()) else {
            return false;
        };
        let had_failed = member.backoff.is_suspect();
        member.probed = false;
        member.slow_until = None;
        member.backoff.forgive();
        self.members.settle(now);
        let first = self
            .last_recovery
            .is_none_or(|last| now.since(last) >= backoff::FIRST);
        if had_failed && first {
            self.last_recovery = Some(now);
        }
        had_failed && first
    }

    /// The endpoints that have failed and are out of the pick, the first of this pod's ranking first, at most as many as the
    /// subset has places.
    pub fn worth_a_probe(&self, now: Time) -> Vec<MemberKey> {
        let mut out: Vec<(u32, MemberKey)> = self
            .members
            .used()
            .filter(|(_, member)| member.backoff.until(now).is_some() && !member.is_slow(now))
            .map(|(key, member)| (member.rank, key))
            .collect();
        out.sort_unstable_by_key(|&(rank, _)| rank);
        out.truncate(self.members.subset());
        out.into_iter().map(|(_, key)| key).collect()
    }

    /// Notes that the endpoint is dialled though its time out of the pick is not over. False if it has returned meanwhile, or
    /// is not used any more.
    pub fn take_probe(&mut self, key: MemberKey, now: Time) -> bool {
        let Some(member) = self.members.get_mut(key) else {
            return false;
        };
        let worth = member.used == Use::Out && member.backoff.until(now).is_some() && !member.is_slow(now);
        member.probed |= worth;
        worth
    }

    /// As [`Self::take_probe`] for endpoints that only a pick can try: it may be picked from now on.
    pub fn cut_short(&mut self, key: MemberKey, now: Time) {
        if let Some(member) = self.members.get_mut(key) {
            member.backoff.cut_short(now);
            self.members.settle(now);
        }
    }

    /// When [`Self::wake`] has something to do.
    pub fn next_return(&self) -> Option<Time> {
        let next = self.members.next_return();
        if self.members.has_picked() {
            next
        } else {
            next.map(|next| next.min(self.last_failure + backoff::FIRST))
        }
    }

    /// Lets endpoints return whose time out of the pick is over; where all are out, one of them once a second.
    pub fn wake(&mut self, now: Time) {
        self.members.refresh(now);
        if !self.members.has_picked() {
            self.retry_failed(now);
        }
    }

    /// Returns true if an endpoint other than this one may be picked.
    pub fn has_other(&mut self, now: Time, key: MemberKey) -> bool {
        self.members.refresh(now);
        self.members.picked().any(|(other, _)| other != key)
    }

    /// The endpoint, unless it is known no more.
    pub fn get(&self, key: MemberKey) -> Option<&Member> {
        self.members.get(key)
    }

    /// All endpoints of the subset, those that are out included.
    pub fn members(&self) -> impl Iterator<Item = (MemberKey, &Member)> {
        self.members.used()
    }

    /// The endpoints that may be picked.
    pub fn picked(&self) -> impl Iterator<Item = (MemberKey, &Member)> {
        self.members.picked()
    }

    /// The endpoint's key, if it is known: in use, or with calls that still run.
    pub fn find(&self, endpoint: &Endpoint) -> Option<MemberKey> {
        self.members.find(endpoint)
    }

    /// Returns true if the endpoint belongs to the subset, also while it is out.
    pub fn is_used(&self, key: MemberKey) -> bool {
        self.get(key).is_some_and(|member| member.used != Use::Resting)
    }

    /// The snapshot has no endpoint.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// No member may be picked: one that has failed is tried all the same, or else one whose dial is under way.
    fn last_resort(&mut self, now: Time) -> Option<MemberKey> {
        self.retry_failed(now).or_else(|| {
            self.members
                .used()
                .filter(|(_, member)| member.is_slow(now))
                .min_by_key(|(_, member)| member.rank)
                .map(|(key, _)| key)
        })
    }

    /// Lets an endpoint return that has failed, whatever its backoff says, but at most once a second: two minutes of errors
    /// after everything has come back would be worse than a few vain dials.
    fn retry_failed(&mut self, now: Time) -> Option<MemberKey> {
        if now.since(self.last_failure) < backoff::FIRST {
            return None;
        }
        let (key, _) = self
            .members
            .used()
            .filter(|(_, member)| !member.is_slow(now))
            .min_by_key(|(_, member)| (member.backoff.until(now), member.rank))?;
        self.cut_short(key, now);
        Some(key)
    }

    /// Gives every member that may be picked its due (smooth weighted round robin, as nginx has it) and returns the sum.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "64 bits hold four rounds of 32-bit weights"
    )]
    fn advance(&mut self) -> i64 {
        if self.policy != Policy::RoundRobin {
            return 0;
        }
        let total: i64 = self
            .members
            .picked()
            .map(|(_, member)| i64::from(member.weight()))
            .sum();
        let most = total.saturating_mul(CREDIT_ROUNDS);
        self.members.for_each_picked(|member| {
            member.credit = (member.credit + i64::from(member.weight())).clamp(-most, most);
        });
        total
    }

    /// The policy's choice among the members that may be picked and that `allowed` lets pass.
    fn choose(
        &self,
        now: Time,
        rng: &mut Rng,
        mut allowed: impl FnMut(MemberKey) -> bool,
    ) -> Option<MemberKey> {
        let mut usable = |except: Option<MemberKey>, visit: &mut dyn FnMut(MemberKey, &Member) -> bool| {
            self.members
                .picked()
                .filter(|&(key, _)| Some(key) != except && allowed(key))
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
