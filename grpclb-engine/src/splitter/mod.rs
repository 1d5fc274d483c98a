//! The splitter of one client pod: its clients' HTTP/2 connections end here, and each of their streams, a call, goes out
//! on a connection to an endpoint of its own. It knows calls, picks and pools; bytes on the wire are [`crate::connection`]'s.
//!
//! # Methods of [`Splitter`]
//!
//! * **Services**: [`Splitter::set_service`], [`Splitter::remove_service`].
//! * **Input**: [`Splitter::open_client`], [`Splitter::handle_input`], [`Splitter::handle_closed`],
//!   [`Splitter::handle_dialed`], [`Splitter::handle_blocked`], [`Splitter::handle_timeout`].
//! * **Output**: [`Splitter::poll_action`] (sockets to make and to close), [`Splitter::poll_dirty`] (connections with
//!   something to send) and [`Splitter::transmit`] (the bytes), [`Splitter::poll_timeout`].
//! * **Commands**: [`Splitter::drain`], [`Splitter::drain_service`]; for connections that are not HTTP/2
//!   [`Splitter::pick_opaque`] with [`Splitter::opaque_connected`], [`Splitter::opaque_failed`] and [`Splitter::opaque_closed`].
//! * **Memory**: [`Splitter::charge_external`], [`Splitter::discharge_external`], [`Splitter::is_short`].
//! * **Getters**: [`Splitter::is_idle`], [`Splitter::stats`], [`Splitter::describe`], [`Splitter::buffered`], [`Splitter::held`],
//!   [`Splitter::wants_input`], [`Splitter::is_congested`].
//!
//! # Order of calls
//!
//! 1. Hand in what has happened, for as many connections as there are: all that their sockets have to say, dials that
//!    ended, time that has passed. All with the same `now`, if you like: it must not run backwards.
//! 2. Then, until both are empty: `poll_action`, and `poll_dirty` with `transmit` for each connection. `transmit` is
//!    called again after each write until it returns `None`, or the socket is full, of which [`Splitter::handle_blocked`] is
//!    told; and once more when the socket is writable again. So what many clients had for one backend leaves in one write. [`Action::ResumeInput`] is 1 once more, with
//!    the bytes that a paused connection has left.
//! 3. Ask `poll_timeout` and call `handle_timeout` at that time; then go on with 2.
//!
//! A connection's id is valid until its `Close…` action was polled and `transmit` returned `None`, or until
//! `handle_closed`. Calls with an id that is not valid any more do nothing.
//!
//! # Where things are
//!
//! | file | subject |
//! | --- | --- |
//! | `client` | what a client's connection says: calls begin, go on, are cancelled |
//! | `upstream` | what a backend's connection says: that it is ready, that it goes, its end |
//! | `response` | what a backend says of one call |
//! | `calls` | all calls; the one place where a call ends, with its outcome |
//! | `call` | one call's state, and the table of its outcomes when its backend is lost |
//! | `pool` | from a call to a connection: pick, dial, wait |
//! | `waiting` | calls that wait for a connection: in a pool's queue, and from there to wherever one can take them |
//! | `resets` | cancelled calls at their backends: which connections may take calls, which end |
//! | `members` | pools when the Service's endpoints change |
//! | `recovery` | deadlines of a Service: endpoints that may be tried again, probes of the others when one is back |
//! | `flow` | from queues to bytes; credit |
//! | `growth` | how large windows become |
//! | `memory`, `budget` | what the pod holds, its share of the agent's budget, and what is done when that is used up |
//! | `answer`, `reply`, `grpc_web` | calls that we answer ourselves |
//! | `liveness` | PINGs for clients that ask whether the other end is alive; deadlines |
//! | `carriers` | which connections carry a client's calls: whom its PINGs ask |

mod actions;
mod answer;
#[expect(clippy::arithmetic_side_effects, reason = "counts objects, one at a time")]
mod arena;
#[expect(
    clippy::arithmetic_side_effects,
    reason = "sizes and counts of what is in memory"
)]
mod budget;
mod call;
mod calls;
mod carriers;
#[expect(clippy::arithmetic_side_effects, reason = "counts objects, one at a time")]
mod client;
mod config;
#[expect(clippy::arithmetic_side_effects, reason = "counts objects, one at a time")]
mod describe;
mod flow;
mod growth;
mod grpc_web;
mod link;
mod liveness;
mod members;
#[expect(
    clippy::arithmetic_side_effects,
    reason = "sizes and counts of what is in memory"
)]
mod memory;
mod opaque;
#[expect(clippy::arithmetic_side_effects, reason = "counts objects, one at a time")]
mod pool;
#[expect(clippy::arithmetic_side_effects, reason = "counts objects, one at a time")]
mod recent;
mod recovery;
#[expect(
    clippy::arithmetic_side_effects,
    reason = "sizes and counts of what is in memory"
)]
mod replay;
mod reply;
mod resets;
mod response;
#[expect(clippy::arithmetic_side_effects, reason = "counts objects, one at a time")]
mod stats;
mod timers;
#[expect(clippy::arithmetic_side_effects, reason = "counts objects, one at a time")]
mod upstream;
mod waiting;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

pub use self::actions::{Action, ClientId, ConnId, DialError, Ended, How, OpenClientError, UpstreamId};
pub use self::budget::Budget;
pub use self::config::Config;
pub use self::describe::{EndpointView, ServiceView};
pub use self::stats::Stats;
pub use crate::connection::SocketError;

use self::arena::{Arena, Key};
use self::calls::Calls;
use self::link::{Client, Link, Upstream};
use self::memory::Memory;
use self::pool::{Group, Pool, PoolSet};
use self::replay::Bodies;
use self::timers::Timers;
use crate::Time;
use crate::balance::{Picker, Service};
use crate::connection::{self, Role, Sent};
use crate::hpack::Fields;
use crate::rng::Rng;

/// The agent's number of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey(pub u32);

/// A stream that belongs to no call any more.
const NO_CALL: connection::Tag = u32::MAX;

/// All calls of one client pod: see the module's documentation for the order of calls.
#[derive(Debug)]
pub struct Splitter {
    config: Arc<Config>,
    client_config: Rc<connection::Config>,
    backend_config: Rc<connection::Config>,
    seed: u64,
    rng: Rng,
    memory: Memory,
    fields: Fields,
    by_service: HashMap<ServiceKey, Key>,
    groups: Arena<Group>,
    pools: Arena<Pool>,
    clients: Arena<Client>,
    upstreams: Arena<Upstream>,
    calls: Calls,
    dirty: VecDeque<ConnId>,
    actions: VecDeque<Action>,
    timers: Timers,
    /// Resets that wait on all connections to backends.
    waiting_resets: usize,
    /// What left in one transmit; empty in between.
    sent: Vec<Sent>,
    /// For the next output to be filled.
    buffer: BytesMut,
    /// Of request bodies that are not kept any more.
    bodies: Bodies,
    stats: Stats,
    draining: bool,
}

// ---- Making one; Services ----
impl Splitter {
    /// `seed` decides picks, subsets and jitter: another one for each pod.
    pub fn new(config: Arc<Config>, seed: u64, budget: Arc<Budget>) -> Self {
        Self {
            client_config: Rc::new(config.client.clone()),
            backend_config: Rc::new(config.backend.clone()),
            seed,
            rng: Rng::seeded(seed),
            memory: Memory::new(budget, config.pod_budget),
            fields: Fields::new(config.fields, crate::rng::mix(seed)),
            by_service: HashMap::new(),
            groups: Arena::new(),
            pools: Arena::new(),
            clients: Arena::new(),
            upstreams: Arena::new(),
            calls: Calls::new(),
            dirty: VecDeque::new(),
            actions: VecDeque::new(),
            timers: Timers::default(),
            waiting_resets: 0,
            sent: Vec::new(),
            buffer: BytesMut::new(),
            bodies: Bodies::default(),
            stats: Stats::default(),
            draining: false,
            config,
        }
    }

    /// Sets a Service, or takes up a new snapshot of it. An endpoint that is gone or drains gets no new streams; those
    /// that it has run on, then its connections close. Without any endpoint, clients are told to go.
    pub fn set_service(&mut self, now: Time, key: ServiceKey, service: Arc<Service>) {
        if let Some(&group_key) = self.by_service.get(&key) {
            let Some(group) = self.groups.get_mut(group_key) else {
                return;
            };
            group.picker.update(now, &service);
            group.service = service;
            group.removed = false;
            self.follow_members(now, group_key);
            self.relocate(now, group_key);
            self.send_away_if_empty(now, group_key);
        } else {
            let group = self.groups.insert(Group {
                key,
                picker: Picker::new(&service, crate::rng::mix(self.seed ^ u64::from(key.0))),
                service,
                removed: false,
                pools: PoolSet::default(),
                waiting: 0,
                probes: Vec::new(),
                timer: None,
                clients: 0,
                last_error: String::from("none"),
                recent: recent::Recent::default(),
                ping_interval: Duration::ZERO,
            });
            self.by_service.insert(key, group);
        }
    }

    /// The Service is gone: clients are told to go. What they still call before they have heard of it is served by the
    /// endpoints that were known last; with the last client these go, too.
    pub fn remove_service(&mut self, now: Time, key: ServiceKey) {
        let Some(&group_key) = self.by_service.get(&key) else {
            return;
        };
        if let Some(group) = self.groups.get_mut(group_key) {
            group.removed = true;
        }
        self.send_away(now, |client| client.group == group_key);
        self.retire_if_removed(now, group_key);
    }

    /// Lets go of the endpoints of a Service that is gone, once no client needs them.
    fn retire_if_removed(&mut self, now: Time, group_key: Key) {
        let Some(group) = self.groups.get_mut(group_key) else {
            return;
        };
        if !group.removed || group.clients > 0 {
            return;
        }
        let empty = Service {
            endpoints: Arc::new([]),
            ..Service::clone(&group.service)
        };
        group.picker.update(now, &empty);
        group.service = Arc::new(empty);
        self.follow_members(now, group_key);
        self.drop_group_if_unused(group_key);
    }

    fn send_away_if_empty(&mut self, now: Time, group_key: Key) {
        if self
            .groups
            .get(group_key)
            .is_some_and(|group| group.picker.is_empty())
        {
            self.send_away(now, |client| client.group == group_key);
        }
    }

    fn drop_group_if_unused(&mut self, group_key: Key) {
        let Some(group) = self.groups.get(group_key) else {
            return;
        };
        let has_pools = self.pools.iter().any(|(_, pool)| pool.group == group_key);
        if group.removed && group.clients == 0 && !has_pools {
            let key = group.key;
            self.groups.remove(group_key);
            self.by_service.remove(&key);
        }
    }
}

// ---- Input ----
impl Splitter {
    /// A client's connection that proved to be HTTP/2. Its bytes, preface included, come by [`Self::handle_input`].
    pub fn open_client(&mut self, now: Time, service: ServiceKey) -> Result<ClientId, OpenClientError> {
        let group_key = *self.by_service.get(&service).ok_or(OpenClientError::NoService)?;
        if self.memory.refuses_connections() {
            self.stats.clients_refused = self.stats.clients_refused.saturating_add(1);
            return Err(OpenClientError::OutOfMemory);
        }
        let group = self.groups.get_mut(group_key).ok_or(OpenClientError::NoService)?;
        group.clients = group.clients.saturating_add(1);
        let unserved = group.removed || group.picker.is_empty();
        let id = ClientId(self.clients.insert(Client {
            link: Link::new(Role::Server, &self.client_config),
            group: group_key,
            pools: group.service.per_connection.then(PoolSet::default),
            pings: 0,
            carriers: carriers::Carriers::default(),
            data_since_ping: false,
            last_keepalive: None,
        }));
        self.stats.clients_opened = self.stats.clients_opened.saturating_add(1);
        self.memory.charge_fixed(memory::CONNECTION);
        self.touch(id.into());
        if (self.draining || unserved)
            && let Some(client) = self.clients.get_mut(id.0)
        {
            client.link.conn.shutdown(now);
        }
        Ok(id)
    }

    /// Bytes that came by this connection. What stays in `input` is the beginning of a frame, or, while
    /// [`Self::wants_input`] is false, all that is not to be read yet: keep it for the next call.
    pub fn handle_input(&mut self, now: Time, id: ConnId, input: &mut BytesMut) {
        match id {
            ConnId::Client(id) => self.client_input(now, id, input),
            ConnId::Upstream(id) => self.upstream_input(now, id, input),
        }
    }

    /// Whether this connection's socket should be read. Ask before each read: while the answer is no, the socket is left
    /// alone, so that TCP slows the peer, until [`Action::ResumeInput`] comes.
    pub fn wants_input(&self, id: ConnId) -> bool {
        self.link(id).is_none_or(|link| !link.paused)
    }

    /// The socket has ended by itself; it may be closed without further ado.
    pub fn handle_closed(&mut self, now: Time, id: ConnId, ended: Ended) {
        let Some(link) = self.link_mut(id) else { return };
        if !link.conn.is_closed() {
            match ended {
                Ended::Eof => link.conn.handle_eof(),
                Ended::Error(error) => link.conn.handle_socket_error(error),
            }
            self.handle_input(now, id, &mut BytesMut::new());
        }
        self.forget(now, id);
    }

    /// The dial that [`Action::Dial`] asked for has ended. False: it took too long, or nobody needs it any more; a socket
    /// is to be closed.
    #[must_use]
    pub fn handle_dialed(&mut self, now: Time, upstream: UpstreamId, result: Result<(), DialError>) -> bool {
        self.upstream_dialed(now, upstream, result)
    }

    /// When [`Self::handle_timeout`] wants to be called; it may prove to be early.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some((at, owner)) = self.timers.pop_due(now) {
            let id = match owner {
                timers::Owner::Conn(id) => id,
                timers::Owner::Group(group) => {
                    self.group_timeout(now, at, group);
                    continue;
                }
            };
            let Some(link) = self.link_mut(id).filter(|link| link.timer == Some(at)) else {
                continue;
            };
            link.timer = None;
            self.look_at_held(now, id);
            match id {
                ConnId::Client(id) => self.client_timeout(now, id),
                ConnId::Upstream(id) => self.upstream_timeout(now, id),
            }
            self.touch_if_wanted(id);
            self.resume_input(id);
            self.arm(id);
        }
    }

    /// Lets the owner of the socket go on if the connection reads again.
    pub(super) fn resume_input(&mut self, id: ConnId) {
        if let Some(link) = self.link_mut(id)
            && link.paused
            && link.conn.wants_input()
        {
            link.paused = false;
            self.actions.push_back(Action::ResumeInput { id });
        }
    }
}

// ---- Output, commands, getters ----
impl Splitter {
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next connection with something to send.
    pub fn poll_dirty(&mut self) -> Option<ConnId> {
        loop {
            let id = self.dirty.pop_front()?;
            if let Some(link) = self.link_mut(id) {
                link.dirty = false;
                return Some(id);
            }
        }
    }

    /// Tells all clients to go (GOAWAY in two steps). Their calls go on, and connections that still come are served and
    /// told the same.
    pub fn drain(&mut self, now: Time) {
        self.draining = true;
        self.send_away(now, |_| true);
    }

    /// Tells the clients of one Service to go.
    pub fn drain_service(&mut self, now: Time, key: ServiceKey) {
        if let Some(&group) = self.by_service.get(&key) {
            self.send_away(now, |client| client.group == group);
        }
    }

    /// No client is connected and nothing is left to be done for one.
    pub fn is_idle(&self) -> bool {
        self.clients.len() == 0 && self.calls.len() == 0
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Bytes that are held for calls.
    pub fn buffered(&self) -> usize {
        self.memory.calls()
    }

    /// All bytes that are charged to the pod, its connections included.
    pub fn held(&self) -> usize {
        self.memory.held()
    }

    /// The largest [`Self::held`] so far, to a step of 64 KiB.
    pub fn held_peak(&self) -> usize {
        self.memory.peak()
    }

    fn send_away(&mut self, now: Time, which: impl Fn(&Client) -> bool) {
        for key in self.clients.keys() {
            if let Some(client) = self.clients.get_mut(key).filter(|client| which(client)) {
                client.link.conn.shutdown(now);
                self.touch(ClientId(key).into());
            }
        }
    }

    fn link(&self, id: ConnId) -> Option<&Link> {
        match id {
            ConnId::Client(id) => self.clients.get(id.0).map(|client| &client.link),
            ConnId::Upstream(id) => self.upstreams.get(id.0).map(|upstream| &upstream.link),
        }
    }

    fn link_mut(&mut self, id: ConnId) -> Option<&mut Link> {
        match id {
            ConnId::Client(id) => self.clients.get_mut(id.0).map(|client| &mut client.link),
            ConnId::Upstream(id) => self.upstreams.get_mut(id.0).map(|upstream| &mut upstream.link),
        }
    }

    /// The connection has something to send.
    fn touch(&mut self, id: ConnId) {
        if let Some(link) = self.link_mut(id)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push_back(id);
        }
    }

    fn touch_if_wanted(&mut self, id: ConnId) {
        if self.link(id).is_some_and(|link| link.conn.wants_transmit()) {
            self.touch(id);
        }
    }
}
