//! Deadlines of connections, and PINGs for clients that want to know whether the other end is alive.

use std::time::Duration;

use super::actions::{Action, ClientId, ConnId, DialError, How, UpstreamId};
use super::arena::Key;
use super::call::Place;
use super::link::UpstreamState;
use super::{NO_CALL, Splitter};
use crate::Time;
use crate::connection::PingKind;

/// Assumed of a client that PINGs for the first time: gRPC's least keepalive time (gRFC A8).
const LEAST_PING_INTERVAL: Duration = Duration::from_secs(10);

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
            self.timers.push(at, id);
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
                [stall, idle, dial].into_iter().flatten().min()
            }
            _ if !upstream.overdue => {
                Some(upstream.since + self.config.dial_grace.min(self.config.dial_timeout))
            }
            _ => Some(upstream.since + self.config.dial_timeout),
        };
        [conn, own].into_iter().flatten().min()
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
                self.stats.stalls += 1;
                self.dial(now, Some(pool));
            } else if upstream.link.conn.streams() == 0 && now.since(upstream.last_used) >= idle_limit {
                self.shut_upstream(now, id);
            }
        } else if now.since(upstream.since) >= self.config.dial_timeout {
            self.upstream_over(now, id, &DialError::TimedOut.to_string(), true);
            self.actions.push_back(Action::CloseUpstream {
                upstream: id,
                how: How::Reset,
            });
            self.forget(now, id.into());
        } else if now.since(upstream.since) >= self.config.dial_grace && !upstream.overdue {
            upstream.overdue = true;
            self.place_waiting(now, pool);
        }
    }

    /// Calls wait for a further connection, and its time has come.
    fn dial_again(&mut self, now: Time, pool_key: Key) {
        if let Some(pool) = self.pools.get_mut(pool_key)
            && pool.next_dial.is_some_and(|next| next <= now)
        {
            pool.next_dial = None;
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
            .replace(now)
            .map_or(LEAST_PING_INTERVAL, |last| now.since(last));
        let mut upstreams: Vec<UpstreamId> = Vec::new();
        for (_, tag) in client.link.conn.tags().filter(|&(_, tag)| tag != NO_CALL) {
            let call = self
                .calls
                .tagged(tag)
                .and_then(|key| self.calls.get(key))
                .filter(|call| call.client == id);
            if let Some(Place::Sent { upstream, .. }) = call.map(|call| call.place)
                && !upstreams.contains(&upstream)
            {
                upstreams.push(upstream);
            }
        }
        for id in upstreams {
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
                .is_none_or(|last| now.since(last) >= least.saturating_sub(least / 10));
            if due
                && upstream
                    .link
                    .conn
                    .ping(now, PingKind::Keepalive, self.config.keepalive)
            {
                upstream.last_keepalive = Some(now);
                self.stats.pings_relayed += 1;
                self.touch(id.into());
                self.arm(id.into());
            }
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
