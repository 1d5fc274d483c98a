//! Resets of cancelled calls at their backends. Servers end a connection for too many `RST_STREAMs`, so the connection paces
//! them ([`crate::connection::ResetPacing`]), and a cancelled call that waits for its reset goes on running. The rules that
//! keep the wait short:
//!
//! * A connection gets a call only while all its streams could be reset at once, and while few resets wait
//!   ([`Upstream::is_reset_limited`]). The pool dials another connection before that. Reset-limited connections do not count
//!   as the pool's usual ones; [`PoolCount`] has the bounds.
//! * A connection that carries no call, and whose resets would have to wait, is closed ([`Splitter::end_for_resets`]). The
//!   server then ends all its streams.
//! * Resets that wait count against the streams that the pod's clients may open ([`Splitter::refuses`]).
//!
//! The pace itself is [`crate::connection`]'s, and the choice of an endpoint the picker's.

use std::time::Duration;

use bytes::BytesMut;

use super::Splitter;
use super::actions::{ClientId, UpstreamId};
use super::arena::{Arena, Key};
use super::calls::Outcome;
use super::config::Config;
use super::link::Upstream;
use super::pool::Pool;
use super::upstream::Blame;
use crate::Time;
use crate::connection::StreamKey;
use crate::frame::ErrorCode;

/// Resets that leave within 100 ms, however they are paced: five at a time, with a round trip and 5 ms in between.
const PROMPT: usize = 50;

/// The longest wait of a reset on a connection that carries no call.
const PATIENCE: Duration = Duration::from_secs(1);

// ---- One connection ----
impl Upstream {
    /// Returns true if the connection takes a call now.
    pub(super) fn takes_calls(&self, now: Time) -> bool {
        self.takes_calls_with(now, 0)
    }

    /// Returns true if the connection takes a call now and can reset more than `spare` streams beyond those that are open.
    fn takes_calls_with(&self, now: Time, spare: usize) -> bool {
        let conn = &self.link.conn;
        self.is_ready()
            && conn.can_open()
            && conn.waiting_resets() <= PROMPT
            && conn.has_spare_resets(now, spare)
    }

    /// Returns true if the connection gets no calls until some of its streams end or time allows more resets.
    fn is_reset_limited(&self, now: Time) -> bool {
        self.link.conn.waiting_resets() > PROMPT || !self.link.conn.has_spare_resets(now, 0)
    }

    /// Returns true if only the number of its streams limits the connection: few were reset lately.
    fn takes_more_streams(&self, now: Time) -> bool {
        let conn = &self.link.conn;
        self.is_ready()
            && conn.can_open()
            && !self.stalled
            && conn.waiting_resets() == 0
            && conn.has_most_resets(now)
    }

    /// Returns true if the connection carries no call, and closing it ends its streams sooner than their resets would.
    pub(super) fn should_end_for_resets(&self, now: Time) -> bool {
        self.link.calls == 0
            && self.is_ready()
            && self.link.closing.is_none()
            && !self.link.conn.is_closed()
            && (self.is_reset_limited(now) || self.resets_overdue_at().is_some_and(|at| at <= now))
    }

    /// The time from which a connection that carries no call is closed because of resets that still wait.
    pub(super) fn resets_overdue_at(&self) -> Option<Time> {
        let only_resets = self.link.calls == 0 && self.link.conn.waiting_resets() > 0;
        only_resets.then(|| self.last_used + PATIENCE)
    }
}

// ---- A pool's connections ----

/// The numbers of a pool's connections that take calls, or will.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PoolCount {
    live: usize,
    /// Connections among them that are not reset-limited.
    usual: usize,
    /// True if the pool dials, or waits for a backend's SETTINGS.
    pub(super) dialing: bool,
    /// True if it does so for longer than calls wait for it.
    pub(super) late: bool,
}

impl PoolCount {
    pub(super) fn new(now: Time, pool: &Pool, upstreams: &Arena<Upstream>) -> Self {
        let mut count = Self::default();
        let live = pool.upstreams.iter().filter_map(|id| upstreams.get(id.0));
        for upstream in live.filter(|upstream| upstream.is_live()) {
            count.live = count.live.saturating_add(1);
            let usual = usize::from(!upstream.is_reset_limited(now));
            count.usual = count.usual.saturating_add(usual);
            count.dialing |= !upstream.is_ready() && !upstream.late;
            count.late |= !upstream.is_ready() && upstream.late;
        }
        count
    }

    /// Returns true if the bounds allow one more connection.
    pub(super) fn may_grow(self, config: &Config) -> bool {
        self.usual < config.pool && self.live < config.pool_total
    }

    /// Returns true if a further connection failed a moment ago: the next dial waits.
    pub(super) fn is_held_off(self, now: Time, pool: &Pool) -> bool {
        pool.is_held_off(now, self.live)
    }

    /// Returns true if one more connection may be dialled now.
    pub(super) fn may_dial(self, now: Time, pool: &Pool, config: &Config) -> bool {
        self.may_grow(config) && !self.is_held_off(now, pool)
    }
}

impl Splitter {
    /// Returns the connection of the pool that a call goes to now. Connections that are not stalled and can reset many more
    /// streams come first; where the others can reset few, the pool dials another one.
    pub(super) fn usable(&mut self, now: Time, pool_key: Option<Key>) -> Option<UpstreamId> {
        let pool = self.pools.get(pool_key?).filter(|pool| !pool.retired)?;
        let many = self.config.backend.reset_pacing.burst as usize / 4;
        let (mut low, mut stalled) = (None, None);
        for &id in &pool.upstreams {
            let upstream = self.upstreams.get(id.0)?;
            if !upstream.stalled && upstream.takes_calls_with(now, many) {
                return Some(id);
            }
            if upstream.takes_calls(now) {
                if upstream.stalled {
                    stalled = Some(id);
                } else {
                    low = low.or(Some(id));
                }
            }
        }
        if low.is_some() {
            self.dial(now, pool_key);
            return low;
        }
        if PoolCount::new(now, pool, &self.upstreams).may_dial(now, pool, &self.config) {
            return None;
        }
        stalled.or_else(|| Self::beyond_allowance(now, pool, &self.upstreams))
    }

    /// Returns the connection that takes a call beyond its allowance of resets, for a pool that gets no further connection now:
    /// one whose streams stay, such as watches. Their resets may be slow one day; calls that wait for ever would be worse.
    pub(super) fn beyond_allowance(
        now: Time,
        pool: &Pool,
        upstreams: &Arena<Upstream>,
    ) -> Option<UpstreamId> {
        let takers = pool.upstreams.iter().copied().filter(|id| {
            upstreams
                .get(id.0)
                .is_some_and(|upstream| upstream.takes_more_streams(now))
        });
        takers.min_by_key(|id| upstreams.get(id.0).map(|upstream| upstream.link.conn.streams()))
    }

    /// Closes a connection, with GOAWAY, to end the streams whose resets wait on it.
    pub(super) fn end_for_resets(&mut self, now: Time, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        let pool = upstream.pool;
        let conn = &mut upstream.link.conn;
        conn.close(ErrorCode::NO_ERROR, "");
        // The events concern no call: none is left on this connection.
        while conn
            .poll_event(now, &mut BytesMut::new(), &mut self.fields)
            .is_some()
        {}
        self.stats.closed_for_resets = self.stats.closed_for_resets.saturating_add(1);
        self.upstream_over(now, id, "was closed", Blame::Nobody);
        self.close_upstream(now, id);
        self.count_resets(id);
        self.serve(now, pool);
    }
}

// ---- Resets that wait, and new streams ----
impl Splitter {
    /// Notes that a stream of this connection was reset.
    pub(super) fn reset_queued(&mut self, id: UpstreamId) {
        self.count_resets(id);
        self.arm(id.into());
    }

    /// Updates the pod's number of waiting resets by those of this connection.
    pub(super) fn count_resets(&mut self, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        let waiting = if upstream.link.closing.is_some() {
            0
        } else {
            upstream.link.conn.waiting_resets()
        };
        let before = std::mem::replace(&mut upstream.resets, waiting);
        debug_assert!(self.waiting_resets >= before, "the sum holds each of its parts");
        self.waiting_resets = self.waiting_resets.saturating_add(waiting).saturating_sub(before);
    }

    /// Takes a connection that is removed out of the pod's number of waiting resets.
    pub(super) fn forget_resets(&mut self, upstream: &Upstream) {
        self.waiting_resets = self.waiting_resets.saturating_sub(upstream.resets);
    }

    /// Refuses a client's new stream if its streams and the resets that wait exceed `SETTINGS_MAX_CONCURRENT_STREAMS`. Returns
    /// true if it did. The resets are the whole pod's: a client that comes back after a close cannot be told apart.
    pub(super) fn refuses(&mut self, id: ClientId, stream: StreamKey) -> bool {
        // Resets that are about to leave count for nothing.
        let waiting = self.waiting_resets.saturating_sub(PROMPT);
        let Some(client) = self.clients.get_mut(id.0).filter(|_| waiting > 0) else {
            return false;
        };
        let most = self.config.client.max_concurrent_streams as usize;
        if client.link.conn.streams().saturating_add(waiting) <= most {
            return false;
        }
        client.link.conn.set_tag(stream, super::NO_CALL);
        client.link.conn.reset(stream, ErrorCode::REFUSED_STREAM);
        self.stats.count(Outcome::Refused);
        self.touch(id.into());
        true
    }
}
