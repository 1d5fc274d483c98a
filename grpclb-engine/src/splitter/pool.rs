//! Groups (one Service as this pod uses it), pools (connections to one endpoint), and how a call comes to a connection:
//! pick, dial, send. Calls that find none at once are [`super::waiting`]'s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::actions::{Action, ClientId, UpstreamId};
use super::arena::{Arena, Key};
use super::call::Place;
use super::config::Config;
use super::link::{Link, Upstream, UpstreamState};
use super::recent::Recent;
use super::recovery::Probe;
use super::resets::PoolCount;
use super::{ServiceKey, Splitter, memory};
use crate::Time;
use crate::balance::{Endpoint, MemberKey, Picker, Service, Standing};
use crate::connection::Role;

/// One Service as this pod uses it.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: ServiceKey,
    pub(super) service: Arc<Service>,
    /// The Service is gone; the group stays until its last client is.
    pub(super) removed: bool,
    pub(super) picker: Picker,
    pub(super) pools: PoolSet,
    /// Calls in all queues, the pod's and those of client connections with pools of their own.
    pub(super) waiting: usize,
    /// Endpoints to be tried before their backoff is over.
    pub(super) probes: Vec<Probe>,
    /// The time for which it stands in the heap of timers.
    pub(super) timer: Option<Time>,
    /// Clients' connections.
    pub(super) clients: usize,
    /// Why an endpoint failed last: for the message of calls that find none.
    pub(super) last_error: String,
    /// Who got the last calls.
    pub(super) recent: Recent<MemberKey>,
    /// Least time between two keepalive PINGs on one connection, after a backend has complained about PINGs (gRFC A8).
    pub(super) ping_interval: Duration,
}

/// The pools that one owner's calls may use: the pod's, or one client connection's.
#[derive(Debug, Default)]
pub(super) struct PoolSet {
    /// By [`MemberKey::index`].
    by_member: Vec<Option<Key>>,
    /// Calls in all of its queues.
    pub(super) waiting: usize,
    /// A call came when no endpoint was connected: until then, calls wait for the endpoint that was picked for them.
    cold_until: Time,
}

/// The connections to one endpoint.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) group: Key,
    /// `None`: the pod's.
    pub(super) owner: Option<ClientId>,
    pub(super) member: MemberKey,
    pub(super) endpoint: Endpoint,
    pub(super) upstreams: Vec<UpstreamId>,
    /// Calls that wait, the oldest first. Those that went elsewhere are skipped when their turn comes; empty when none waits.
    pub(super) waiting: VecDeque<Key>,
    /// The number of calls that wait: keys of `waiting` that are not to be skipped.
    pub(super) waiters: usize,
    /// The endpoint is not used any more: no new streams.
    pub(super) retired: bool,
    /// A further connection failed while another was up: the next one is not tried before.
    pub(super) next_dial: Option<Time>,
}

impl PoolSet {
    pub(super) fn get(&self, pools: &Arena<Pool>, member: MemberKey) -> Option<Key> {
        let key = (*self.by_member.get(member.index())?)?;
        pools.get(key).filter(|pool| pool.member == member).map(|_| key)
    }

    /// Makes this the member's pool, and no other's.
    pub(super) fn set(&mut self, member: MemberKey, pool: Key) {
        self.forget(pool);
        if self.by_member.len() <= member.index() {
            self.by_member.resize(member.index() + 1, None);
        }
        self.by_member[member.index()] = Some(pool);
    }

    pub(super) fn forget(&mut self, pool: Key) {
        for slot in &mut self.by_member {
            if *slot == Some(pool) {
                *slot = None;
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Key> + '_ {
        self.by_member.iter().copied().flatten()
    }
}

impl Pool {
    /// Whether a further connection has to wait, since one failed a moment ago. The only connection never has to: an
    /// endpoint without any that fails is the picker's concern.
    pub(super) fn is_held_off(&self, now: Time, live: usize) -> bool {
        live > 0 && self.next_dial.is_some_and(|next| now < next)
    }
}

/// What a pool's connections allow.
pub(super) fn standing(
    now: Time,
    pool: Option<&Pool>,
    upstreams: &Arena<Upstream>,
    config: &Config,
) -> Standing {
    let Some(pool) = pool else { return Standing::Absent };
    let mut stalled = false;
    for upstream in pool.upstreams.iter().filter_map(|id| upstreams.get(id.0)) {
        if upstream.takes_calls(now) {
            if !upstream.stalled {
                return Standing::Room;
            }
            stalled = true;
        }
    }
    let count = PoolCount::new(now, pool, upstreams);
    if count.dialing {
        Standing::Dialing
    } else if count.late {
        // Another endpoint will take the call sooner, but for one that is full as well.
        if stalled || Splitter::beyond_allowance(now, pool, upstreams).is_some() {
            Standing::Room
        } else {
            Standing::Full
        }
    } else if count.may_dial(now, pool, config) {
        Standing::Absent
    } else if stalled || Splitter::beyond_allowance(now, pool, upstreams).is_some() {
        Standing::Room
    } else {
        Standing::Full
    }
}

impl Splitter {
    /// Whose pools the calls of this client use.
    pub(super) fn owner(&self, client: ClientId) -> Option<ClientId> {
        self.clients
            .get(client.0)
            .and_then(|client| client.pools.as_ref())
            .map(|_| client)
    }

    pub(super) fn set_mut(&mut self, group: Key, owner: Option<ClientId>) -> Option<&mut PoolSet> {
        match owner {
            None => self.groups.get_mut(group).map(|group| &mut group.pools),
            Some(client) => self.clients.get_mut(client.0)?.pools.as_mut(),
        }
    }

    pub(super) fn set(&self, group: Key, owner: Option<ClientId>) -> Option<&PoolSet> {
        match owner {
            None => self.groups.get(group).map(|group| &group.pools),
            Some(client) => self.clients.get(client.0)?.pools.as_ref(),
        }
    }

    /// Picks an endpoint for the call and gives it to a connection, or lets it wait for one.
    pub(super) fn place(&mut self, now: Time, key: Key) {
        let Some(call) = self.calls.get(key) else { return };
        let (group_key, owner) = (call.group, self.owner(call.client));
        let Some(group) = self.groups.get_mut(group_key) else {
            return;
        };
        let set = match owner {
            None => Some(&group.pools),
            Some(client) => self
                .clients
                .get(client.0)
                .and_then(|client| client.pools.as_ref()),
        };
        let Some(set) = set else { return };
        let (pools, upstreams, config) = (&self.pools, &self.upstreams, &self.config);
        let cold = now < set.cold_until;
        let choice = group.picker.pick(now, &mut self.rng, &call.avoid, |member| {
            match standing(
                now,
                set.get(pools, member).and_then(|pool| pools.get(pool)),
                upstreams,
                config,
            ) {
                Standing::Absent | Standing::Dialing if cold => Standing::Room,
                known => known,
            }
        });
        let Some(choice) = choice else {
            return self.answer_unreachable(now, key);
        };
        if let Some(wanted) = choice.wanted {
            let pool = self.pool_for(group_key, owner, wanted);
            self.dial(now, pool);
        }
        let pool = self.pool_for(group_key, owner, choice.member);
        if choice.standing == Standing::Room
            && let Some(upstream) = self.usable(now, pool)
        {
            return self.assign(now, key, upstream);
        }
        if !cold {
            self.note_cold_start(now, group_key, owner);
        }
        if self.enqueue(now, pool, key) {
            self.dial(now, pool);
            if let Some(pool) = pool.filter(|_| choice.standing == Standing::Full) {
                // Time alone may make room: more may be reset.
                self.rearm_pool(pool);
            }
        }
    }

    /// Answers a call for which there is no endpoint.
    pub(super) fn answer_unreachable(&mut self, now: Time, key: Key) {
        let group = self.calls.get(key).map(|call| call.group);
        let Some(group) = group.and_then(|group| self.groups.get(group)) else {
            return;
        };
        let reason = if group.picker.is_empty() {
            format!("{} has no endpoint", group.service.name)
        } else {
            format!(
                "no endpoint of {} can be reached; the last one tried: {}",
                group.service.name, group.last_error
            )
        };
        self.answer_unavailable(now, key, &reason);
    }

    /// No call waits on a dial while a connected endpoint has room, but for the very first: those that come while
    /// the first connections are made. Else a first burst would go to whoever answers first.
    fn note_cold_start(&mut self, now: Time, group: Key, owner: Option<ClientId>) {
        let warm = self.is_warm(group, owner);
        let grace = self.config.dial_grace;
        if let Some(set) = self.set_mut(group, owner).filter(|_| !warm) {
            set.cold_until = now + grace;
        }
    }

    /// Some endpoint is connected.
    pub(super) fn is_warm(&self, group: Key, owner: Option<ClientId>) -> bool {
        let ready = |pool: &Pool| {
            pool.upstreams
                .iter()
                .any(|id| self.upstreams.get(id.0).is_some_and(Upstream::is_ready))
        };
        self.set(group, owner)
            .is_some_and(|set| set.iter().any(|pool| self.pools.get(pool).is_some_and(ready)))
    }

    /// The pool of this member; made where there is none. An endpoint that is used again gets the pool back whose last calls
    /// still run: there is one for each owner and endpoint.
    pub(super) fn pool_for(&mut self, group: Key, owner: Option<ClientId>, member: MemberKey) -> Option<Key> {
        if let Some(pool) = self.set(group, owner)?.get(&self.pools, member) {
            return Some(pool);
        }
        let endpoint = self.groups.get(group)?.picker.get(member)?.endpoint().clone();
        let is_its =
            |pool: &Pool| pool.group == group && pool.owner == owner && pool.endpoint.is_same(&endpoint);
        let former = self.pools.iter().find(|(_, pool)| is_its(pool));
        if let Some(former) = former.map(|(key, _)| key)
            && let Some(pool) = self.pools.get_mut(former)
        {
            pool.retired = false;
            pool.member = member;
            pool.endpoint = endpoint;
            self.set_mut(group, owner)?.set(member, former);
            return Some(former);
        }
        let pool = self.pools.insert(Pool {
            group,
            owner,
            member,
            endpoint,
            upstreams: Vec::new(),
            waiting: VecDeque::new(),
            waiters: 0,
            retired: false,
            next_dial: None,
        });
        self.set_mut(group, owner)?.set(member, pool);
        Some(pool)
    }

    /// Asks for one more connection, unless one is on its way or there are enough.
    pub(super) fn dial(&mut self, now: Time, pool_key: Option<Key>) {
        let Some((pool_key, pool)) = pool_key.and_then(|key| Some((key, self.pools.get_mut(key)?))) else {
            return;
        };
        // Those that go away do not count: each has calls that run on, or it ends.
        let count = PoolCount::new(now, pool, &self.upstreams);
        if pool.retired || count.dialing || count.late || !count.may_grow(&self.config) {
            return;
        }
        if count.is_held_off(now, pool) {
            return self.rearm_pool(pool_key);
        }
        pool.next_dial = None;
        let upstream = Upstream {
            link: Link::new(Role::Client, &self.backend_config),
            pool: pool_key,
            state: UpstreamState::Dialing,
            since: now,
            dialed: now,
            overdue: false,
            late: false,
            served: false,
            last_used: now,
            blocked_since: None,
            stalled: false,
            round_trip: None,
            measure_at: super::flow::MEASURE_FROM,
            last_keepalive: None,
            carrier_hint: 0,
            resets: 0,
        };
        let id = UpstreamId(self.upstreams.insert(upstream));
        self.memory.charge_fixed(memory::CONNECTION);
        pool.upstreams.push(id);
        self.stats.dials += 1;
        self.actions.push_back(Action::Dial {
            upstream: id,
            endpoint: pool.endpoint.clone(),
        });
        self.arm(id.into());
    }

    /// Sends the call, or what is known of it so far.
    pub(super) fn assign(&mut self, now: Time, key: Key, id: UpstreamId) {
        let (Some(call), Some(upstream)) = (self.calls.get_mut(key), self.upstreams.get_mut(id.0)) else {
            return;
        };
        let Some(pool) = self.pools.get(upstream.pool) else {
            return;
        };
        let Some(group) = self.groups.get_mut(call.group) else {
            return;
        };
        let Some(request) = call.kept.request() else {
            debug_assert!(false, "a call that waits or may be sent again keeps its request");
            return;
        };
        let conn = &mut upstream.link.conn;
        let limit = conn.peer_settings().max_header_list_size;
        if call.kept.longest_list() > limit as usize {
            return self.answer_request_too_long_for_backend(now, key, limit);
        }
        let ends_with_body = call.request_ended && call.kept.trailers().is_none();
        let Ok(stream) = conn.open(
            now,
            key.index(),
            std::rc::Rc::clone(request),
            ends_with_body && call.kept.is_empty(),
        ) else {
            // `usable` has just said that it can be opened.
            return self.answer_unavailable(now, key, "a connection took no call after all");
        };
        {
            let mut chunks = call.kept.chunks().peekable();
            while let Some(chunk) = chunks.next() {
                conn.send_data(stream, chunk, ends_with_body && chunks.peek().is_none());
            }
        }
        if let Some(trailers) = call.kept.trailers() {
            conn.send_headers(stream, std::rc::Rc::clone(trailers), true);
        }
        upstream.last_used = now;
        group.picker.start(pool.member);
        group.recent.note(pool.member);
        call.member = Some(pool.member);
        upstream.link.calls += 1;
        if let Some(client) = self.clients.get_mut(call.client.0) {
            call.carrier = client.carriers.start(id, &mut upstream.carrier_hint);
        }
        call.place = Place::Sent { upstream: id, stream };
        call.since = now;
        call.sent = 0;
        call.request_sent = false;
        if call.tries > 0 {
            self.stats.replayed += 1;
        }
        call.tries = call.tries.saturating_add(1);
        self.touch(id.into());
    }
}
