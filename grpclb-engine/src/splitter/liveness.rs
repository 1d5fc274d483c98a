//! Deadlines of connections, and PINGs for clients that want to know whether the other end is alive.

use std::time::Duration;

use super::Splitter;
use super::actions::{Action, ClientId, ConnId, DialError, How, UpstreamId};
use super::arena::Key;
use super::link::UpstreamState;
use super::timers::Owner;
use super::upstream::Blame;
use super::waiting::After;
use crate::Time;
use crate::connection::PingKind;

/// Assumed of a client that PINGs for the first time: gRPC's least keepalive time (gRFC A8).
const LEAST_PING_INTERVAL: Duration = Duration::from_secs(10);

/// A client's PINGs that come sooner than this after one that was looked at ask nothing that was not asked.
const SHORTEST_PING_INTERVAL: Duration = Duration::from_secs(1);

/// The interval after a backend has complained about PINGs for the first time; each further complaint doubles it (gRFC A8).
const FIRST_SLOW_INTERVAL: Duration = Duration::from_secs(20);

/// The longest interval that complaints lead to: the keepalive time of Linux's TCP, and of gRPC's servers.
const LONGEST_PING_INTERVAL: Duration = Duration::from_hours(2);

// ---- Timers ----
impl Splitter {
    /// Sees to it that the connection is looked at when it wants to be.
    pub(super) fn arm(&mut self, id: ConnId) {
        let Some(at) = self.deadline(id) else { return };
        let Some(link) = self.link_mut(id) else { return };
        if link.timer.is_none_or(|timer| at < timer) {
            link.timer = Some(at);
            self.push_timer(at, Owner::Conn(id));
        }
    }

    fn deadline(&self, id: ConnId) -> Option<Time> {
        let link = self.link(id)?;
        if link.closing.is_some() {
            return link.closing;
        }
        let conn = [link.conn.poll_timeout(), link.held].into_iter().flatten().min();
        let ConnId::Upstream(id) = id else { return conn };
        let upstream = self.upstreams.get(id.0)?;
        let own = match upstream.state {
            UpstreamState::Ready => {
                let stall = upstream
                    .blocked_since
                    .filter(|_| !upstream.stalled)
                    .map(|since| since + self.config.stall);
                let idle =
                    (link.conn.streams() == 0).then(|| upstream.last_used + self.idle_limit(upstream.pool));
                let pool = self.pools.get(upstream.pool);
                let dial = pool
                    .filter(|pool| !pool.waiting.is_empty())
                    .and_then(|pool| pool.next_dial);
                let resets = upstream.resets_overdue_at();
                let spare = pool
                    .filter(|pool| !pool.waiting.is_empty())
                    .and_then(|_| link.conn.spare_resets_at());
                [stall, idle, dial, resets, spare].into_iter().flatten().min()
            }
            UpstreamState::Dialing | UpstreamState::Handshaking => {
                let end = upstream.since + self.dial_limit(upstream.state);
                let next = if !upstream.overdue {
                    upstream.dialed + self.config.dial_grace.min(self.config.dial_patience)
                } else if !upstream.late {
                    upstream.dialed + self.config.dial_patience
                } else {
                    end
                };
                Some(next.min(end))
            }
        };
        [conn, own].into_iter().flatten().min()
    }

    /// How long a dial may be in this state.
    fn dial_limit(&self, state: UpstreamState) -> Duration {
        match state {
            UpstreamState::Handshaking => self.config.settings_timeout,
            UpstreamState::Dialing | UpstreamState::Ready => self.config.connect_timeout,
        }
    }

    /// How long a connection of this pool may be without calls.
    fn idle_limit(&self, pool: Key) -> Duration {
        let clients = self
            .pools
            .get(pool)
            .and_then(|pool| self.groups.get(pool.group))
            .map(|group| group.clients);
        if clients == Some(0) {
            self.config.linger
        } else {
            self.config.idle
        }
    }

    pub(super) fn client_timeout(&mut self, now: Time, id: ClientId) {
        if self.is_overdue(now, id.into()) {
            self.actions.push_back(Action::CloseClient {
                client: id,
                how: How::Reset,
            });
            return self.forget(now, id.into());
        }
        while let Some(event) = self
            .clients
            .get_mut(id.0)
            .and_then(|client| client.link.conn.handle_timeout(now))
        {
            self.client_event(now, id, event);
        }
    }

    pub(super) fn upstream_timeout(&mut self, now: Time, id: UpstreamId) {
        if self.is_overdue(now, id.into()) {
            self.actions.push_back(Action::CloseUpstream {
                upstream: id,
                how: How::Reset,
            });
            return self.forget(now, id.into());
        }
        while let Some(event) = self
            .upstreams
            .get_mut(id.0)
            .and_then(|up| up.link.conn.handle_timeout(now))
        {
            self.upstream_event(now, id, event);
        }
        let idle_limit = self
            .upstreams
            .get(id.0)
            .map(|upstream| self.idle_limit(upstream.pool));
        let (Some(upstream), Some(idle_limit)) = (self.upstreams.get_mut(id.0), idle_limit) else {
            return;
        };
        if upstream.link.closing.is_some() {
            return;
        }
        let pool = upstream.pool;
        if upstream.is_ready() {
            if self
                .upstreams
                .get(id.0)
                .is_some_and(|upstream| upstream.should_end_for_resets(now))
            {
                return self.end_for_resets(now, id);
            }
            self.dial_again(now, pool);
            let Some(upstream) = self.upstreams.get_mut(id.0) else {
                return;
            };
            if upstream
                .blocked_since
                .is_some_and(|since| now.since(since) >= self.config.stall)
                && !upstream.stalled
            {
                upstream.stalled = true;
                self.stats.stalls = self.stats.stalls.saturating_add(1);
                self.dial(now, Some(pool));
            } else if upstream.link.conn.streams() == 0 && now.since(upstream.last_used) >= idle_limit {
                self.shut_upstream(now, id);
            }
        } else {
            self.dial_timeout(now, id);
        }
    }

    /// A dial is looked at: it has failed, or takes longer than calls should wait for.
    fn dial_timeout(&mut self, now: Time, id: UpstreamId) {
        let (grace, patience) = (self.config.dial_grace, self.config.dial_patience);
        let Some(upstream) = self.upstreams.get(id.0) else {
            return;
        };
        let limit = self.dial_limit(upstream.state);
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        let (pool, took) = (upstream.pool, now.since(upstream.dialed));
        if now.since(upstream.since) >= limit {
            self.upstream_over(now, id, &DialError::TimedOut.to_string(), Blame::Connection);
            self.actions.push_back(Action::CloseUpstream {
                upstream: id,
                how: How::Reset,
            });
            self.forget(now, id.into());
        } else if took >= patience && !upstream.late {
            (upstream.overdue, upstream.late) = (true, true);
            self.suspend_if_alone(now, id);
            self.place_waiting(now, pool, After::VainDial);
            self.relocate_around(now, pool);
        } else if took >= grace && !upstream.overdue {
            upstream.overdue = true;
            self.place_waiting(now, pool, After::Change);
        }
    }

    /// A dial takes long: its endpoint leaves the pick, unless another connection shows that it is alive.
    pub(super) fn suspend_if_alone(&mut self, now: Time, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get(id.0) else {
            return;
        };
        let until = upstream.since + self.dial_limit(upstream.state);
        let Some(pool) = self.pools.get(upstream.pool) else {
            return;
        };
        let is_up = |id: &UpstreamId| {
            let upstream = self.upstreams.get(id.0);
            upstream.is_some_and(|upstream| upstream.is_ready() && upstream.is_live())
        };
        if !pool.upstreams.iter().any(is_up)
            && let Some(group) = self.groups.get_mut(pool.group)
        {
            group.picker.suspend(pool.member, now, until);
        }
    }

    /// Calls wait for a further connection, and its time has come, or for what may be reset on this one.
    fn dial_again(&mut self, now: Time, pool_key: Key) {
        let Some(pool) = self.pools.get_mut(pool_key) else {
            return;
        };
        let due = pool.next_dial.is_some_and(|next| next <= now);
        if due {
            pool.next_dial = None;
        }
        if due || !pool.waiting.is_empty() {
            self.serve(now, pool_key);
        }
    }

    fn is_overdue(&self, now: Time, id: ConnId) -> bool {
        self.link(id)
            .and_then(|link| link.closing)
            .is_some_and(|closing| closing <= now)
    }

    /// The connection's record goes.
    pub(super) fn forget(&mut self, now: Time, id: ConnId) {
        match id {
            ConnId::Client(id) => self.forget_client(now, id),
            ConnId::Upstream(upstream) => {
                if let Some(gone) = self.upstreams.remove(upstream.0) {
                    self.forget_resets(&gone);
                    self.forget_memory(id, gone.link.charged);
                }
            }
        }
    }
}

// ---- PINGs ----
impl Splitter {
    /// A client that PINGs without having got DATA asks whether we are alive. Since we answer, a dead backend would stay
    /// hidden: the backends that carry its calls are asked too, never more often than it asks.
    ///
    /// A PING costs no more than a few comparisons, or, once in [`SHORTEST_PING_INTERVAL`], a look at each connection that
    /// carries a call of the client; the number of its streams does not matter.
    pub(super) fn relay_keepalive(&mut self, now: Time, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        let pings = client.link.conn.peer_pings();
        if pings == client.pings {
            return;
        }
        client.pings = pings;
        if std::mem::take(&mut client.data_since_ping) {
            return;
        }
        let interval = client
            .last_keepalive
            .map_or(LEAST_PING_INTERVAL, |last| now.since(last));
        if interval < SHORTEST_PING_INTERVAL {
            return;
        }
        client.last_keepalive = Some(now);
        let carriers = std::mem::take(&mut client.carriers);
        for id in carriers.iter() {
            let Some(upstream) = self.upstreams.get_mut(id.0) else {
                continue;
            };
            let least = self
                .pools
                .get(upstream.pool)
                .and_then(|pool| self.groups.get(pool.group))
                .map_or(interval, |group| group.ping_interval.max(interval));
            // A tenth less is the clock's jitter.
            let due = upstream
                .last_keepalive
                .is_none_or(|last| now.since(last).saturating_mul(10) >= least.saturating_mul(9));
            if due
                && upstream
                    .link
                    .conn
                    .ping(now, PingKind::Keepalive, self.config.keepalive)
            {
                upstream.last_keepalive = Some(now);
                self.stats.pings_relayed = self.stats.pings_relayed.saturating_add(1);
                self.touch(id.into());
                self.arm(id.into());
            }
        }
        if let Some(client) = self.clients.get_mut(id.0) {
            client.carriers = carriers;
        }
    }

    /// The backend said `too_many_pings`: all connections of its Service get half as many (gRFC A8). It counts only if a
    /// PING of ours has left on that connection since the last one that counted: nobody slows others by repeating it.
    pub(super) fn slow_pings(&mut self, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        let link = &mut upstream.link;
        if !link.conn.take_pinged(&link.output) {
            return;
        }
        if let Some(pool) = self.pools.get(upstream.pool)
            && let Some(group) = self.groups.get_mut(pool.group)
        {
            group.ping_interval = group
                .ping_interval
                .saturating_mul(2)
                .clamp(FIRST_SLOW_INTERVAL, LONGEST_PING_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::BytesMut;

    use super::*;
    use crate::balance::{Endpoint, Policy, Service, State};
    use crate::frame::{self, PREFACE, StreamId};
    use crate::splitter::arena::lookups;
    use crate::splitter::{Config, ServiceKey};

    /// Look-ups for one PING of a client with so many calls on one connection to a backend.
    fn lookups_of_a_ping(calls: u32) -> u64 {
        let mut now = Time::ZERO;
        let mut config = Config::new("n1");
        // All calls fit one connection.
        config.backend.reset_pacing.burst = 100_000;
        let mut splitter = Splitter::new(Arc::new(config), 7, Arc::default());
        let service = Service {
            name: "echo".into(),
            policy: Policy::RoundRobin,
            subset: 20,
            per_connection: false,
            endpoints: Arc::new([Endpoint {
                id: "pod-0".into(),
                address: ([10, 0, 0, 1], 50051).into(),
                weight: 1,
                state: State::Ready,
            }]),
        };
        splitter.set_service(now, ServiceKey(1), Arc::new(service));
        let client = splitter.open_client(now, ServiceKey(1)).unwrap();
        let mut input = BytesMut::from(&PREFACE[..]);
        frame::write_settings(&mut input, &[]);
        for n in 0..calls {
            frame::write_headers(&mut input, StreamId::new(2 * n + 1), true, 1 << 14, |block| {
                block.extend_from_slice(b"\x83\x86\x84\x01\x01a");
            });
        }
        splitter.handle_input(now, client.into(), &mut input);
        let Some(Action::Dial { upstream, .. }) = splitter.poll_action() else {
            panic!("the first call causes a dial");
        };
        assert!(splitter.handle_dialed(now, upstream, Ok(())));
        let mut input = BytesMut::new();
        frame::write_settings(&mut input, &[]);
        splitter.handle_input(now, upstream.into(), &mut input);
        assert_eq!(
            splitter.upstreams.get(upstream.0).unwrap().link.calls,
            calls as usize
        );
        now += Duration::from_secs(10);
        let mut input = BytesMut::new();
        frame::write_ping(&mut input, false, [0; 8]);
        let lookups = lookups::of(|| splitter.handle_input(now, client.into(), &mut input));
        assert_eq!(splitter.stats().pings_relayed, 1);
        lookups
    }

    #[test]
    fn a_ping_costs_the_same_with_ten_streams_and_with_ten_thousand() {
        let few = lookups_of_a_ping(10);
        assert_eq!(lookups_of_a_ping(10_000), few);
        assert!(few < 50, "{few} look-ups");
    }
}
