//! What a backend's connection says: that it is ready, that it goes, its end. What it says of a call is `response`'s.

use bytes::BytesMut;

use super::Splitter;
use super::actions::{Action, DialError, How, UpstreamId};
use super::arena::Key;
use super::call::{Call, Loss, Place};
use super::link::{CLOSE_PATIENCE, UpstreamState};
use super::recovery::ProbeBy;
use super::waiting::{After, SOON};
use crate::Time;
use crate::balance::MemberKey;
use crate::connection::{Cause, CloseReason, Event, PingKind, StreamKey, Tag};
use crate::frame::ErrorCode;

/// A connection that ends sooner than this after its SETTINGS, and has answered no call, has failed: its endpoint is
/// left alone for a while. In good order it may end ten times as soon.
const SHORT_LIFE: std::time::Duration = std::time::Duration::from_secs(1);

/// The result of a connection's end for the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The endpoint has not failed.
    Nobody,
    /// The connection, or its dial, was of no use; others to the same endpoint may be.
    Connection,
    /// The endpoint cannot be reached any more.
    Endpoint,
}

impl Splitter {
    pub(super) fn upstream_dialed(
        &mut self,
        now: Time,
        id: UpstreamId,
        result: Result<(), DialError>,
    ) -> bool {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return false;
        };
        if upstream.state != UpstreamState::Dialing {
            return false;
        }
        match result {
            Ok(()) => {
                upstream.state = UpstreamState::Handshaking;
                upstream.since = now;
                if upstream.late {
                    self.suspend_if_alone(now, id);
                }
                self.touch(id.into());
                self.arm(id.into());
                true
            }
            Err(error) => {
                self.upstream_over(now, id, &error.to_string(), Blame::Connection);
                self.forget(now, id.into());
                false
            }
        }
    }

    pub(super) fn upstream_input(&mut self, now: Time, id: UpstreamId, input: &mut BytesMut) {
        loop {
            let Some(upstream) = self.upstreams.get_mut(id.0) else {
                return input.clear();
            };
            let Some(event) = upstream.link.conn.poll_event(now, input, &mut self.fields) else {
                upstream.link.note_paused();
                if let Some((before, now)) = upstream.link.recharge() {
                    self.charge_difference(before, now);
                }
                break;
            };
            self.upstream_event(now, id, event);
        }
        self.hold_unfinished(now, id.into());
        self.after_upstream(now, id);
    }

    /// There may be room for calls that wait, or nothing to keep a retired pool's connection for.
    pub(super) fn after_upstream(&mut self, now: Time, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get(id.0) else {
            return;
        };
        let pool_key = upstream.pool;
        let spent = upstream.should_end_for_resets(now);
        let ready = upstream.is_ready();
        if upstream.link.conn.waiting_resets() != upstream.resets {
            self.count_resets(id);
        }
        if spent {
            self.end_for_resets(now, id);
        } else if ready && self.some_wait(pool_key) {
            self.serve(now, pool_key);
        }
        if self.pools.get(pool_key).is_some_and(|pool| pool.retired) {
            self.retire(now, pool_key);
        }
        self.touch_if_wanted(id.into());
        self.arm(id.into());
    }

    fn some_wait(&self, pool: Key) -> bool {
        let Some(pool) = self.pools.get(pool) else {
            return false;
        };
        let set = match pool.owner {
            None => self.groups.get(pool.group).map(|group| &group.pools),
            Some(client) => self
                .clients
                .get(client.0)
                .and_then(|client| client.pools.as_ref()),
        };
        set.is_some_and(|set| set.waiting > 0)
    }

    pub(super) fn upstream_event(&mut self, now: Time, id: UpstreamId, event: Event) {
        match event {
            Event::Ready => self.upstream_ready(now, id),
            Event::Headers {
                stream,
                tag,
                headers,
                end_stream,
                kind,
            } => {
                if let Some(key) = self.calls.of_upstream(id, stream, tag) {
                    self.response_headers(now, key, headers, end_stream, kind);
                }
            }
            Event::Data {
                stream,
                tag,
                chunk,
                end_stream,
            } => {
                self.response_data(now, id, stream, tag, chunk, end_stream);
            }
            Event::Reset {
                stream,
                tag,
                code,
                cause,
                left,
            } => {
                let Some(key) = self.calls.of_upstream(id, stream, tag) else {
                    return;
                };
                let loss = match cause {
                    _ if !left => Loss::NeverLeft,
                    Cause::GoAway => Loss::NotProcessed,
                    Cause::Peer => Loss::Reset(code),
                    Cause::Local(_) | Cause::Malformed(_) => Loss::Broken,
                };
                let why = match cause {
                    Cause::GoAway => "went away".to_owned(),
                    Cause::Peer => format!("reset the call: {code}"),
                    Cause::Local(rule) => format!("broke HTTP/2: {rule}"),
                    Cause::Malformed(fault) => format!("sent a malformed response: {fault}"),
                };
                self.lost(now, key, loss, &why);
            }
            Event::GoAway { code, debug, .. } => self.upstream_goes(now, id, code, &debug),
            Event::Pong {
                kind: PingKind::Bandwidth,
                round_trip,
                ..
            } => {
                if let Some(upstream) = self.upstreams.get_mut(id.0) {
                    let least = upstream
                        .round_trip
                        .map_or(round_trip, |known| known.min(round_trip));
                    upstream.round_trip = Some(least);
                }
            }
            Event::Closed { code, reason, .. } => self.upstream_closed(now, id, code, reason),
            Event::Slowed { limit } => self.stats.backend_limits[limit as usize] += 1,
            Event::Capacity | Event::Pong { .. } => {}
        }
    }

    fn upstream_ready(&mut self, now: Time, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        upstream.state = UpstreamState::Ready;
        upstream.since = now;
        upstream.last_used = now;
        let pool_key = upstream.pool;
        if let Some(pool) = self.pools.get(pool_key) {
            let (group, member, by) = (pool.group, pool.member, ProbeBy::Dial(pool.owner));
            self.endpoint_connected(now, group, member, by);
        }
        // `after_upstream` serves those that wait.
    }

    /// GOAWAY: calls go elsewhere from now on; those that it took go on. The connection ends when they have.
    fn upstream_goes(&mut self, now: Time, id: UpstreamId, code: ErrorCode, debug: &[u8]) {
        self.stats.goaways += 1;
        if code == ErrorCode::ENHANCE_YOUR_CALM && debug.starts_with(b"too_many_pings") {
            self.slow_pings(id);
        }
        // It does not count any more: the endpoint may be dialled for calls that wait elsewhere, unless this is its end.
        let pool = self.upstreams.get(id.0).map(|upstream| upstream.pool);
        let group = pool.and_then(|pool| self.pools.get(pool)).map(|pool| pool.group);
        if let Some(key) = group
            && self.groups.get(key).is_some_and(|group| group.waiting > 0)
        {
            self.arm_group_at(key, now + SOON);
        }
    }

    fn upstream_closed(&mut self, now: Time, id: UpstreamId, code: ErrorCode, reason: CloseReason) {
        if let CloseReason::Limit(limit) = reason {
            self.stats.backend_limits[limit as usize] += 1;
        }
        let Some(upstream) = self.upstreams.get(id.0) else {
            return;
        };
        // An end of stream and a reset are the same to HTTP/2: both are sudden without GOAWAY.
        let lost = matches!(reason, CloseReason::Eof | CloseReason::Socket(_));
        let in_order = matches!(reason, CloseReason::Drained | CloseReason::Local)
            || (lost && upstream.link.conn.is_going_away());
        // One that says goodbye at once and serves nobody would be dialled again for ever. One that was not needed for
        // a while and then went in order has done nothing wrong.
        let least = if in_order { SHORT_LIFE / 10 } else { SHORT_LIFE };
        let useless = !upstream.is_ready() || (!upstream.served && now.since(upstream.since) < least);
        let dead = match reason {
            CloseReason::PingTimeout => true,
            CloseReason::Socket(error) => error.is_unreachable(),
            _ => false,
        };
        let why = if let CloseReason::Socket(error) = reason {
            format!("lost its connection: {error}")
        } else if code == ErrorCode::NO_ERROR || in_order {
            format!("ended its connection: {reason}")
        } else {
            format!("ended its connection: {code}, {reason}")
        };
        if !in_order {
            self.stats.upstreams_lost += 1;
        }
        let blame = if dead {
            Blame::Endpoint
        } else if useless {
            Blame::Connection
        } else {
            Blame::Nobody
        };
        self.upstream_over(now, id, &why, blame);
        self.close_upstream(now, id);
    }

    /// The connection carries nothing any more: its calls and those that waited for it go elsewhere.
    pub(super) fn upstream_over(&mut self, now: Time, id: UpstreamId, why: &str, blame: Blame) {
        let failed = blame != Blame::Nobody;
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        let pool_key = upstream.pool;
        let was_ready = upstream.is_ready();
        upstream.link.closing = Some(now + CLOSE_PATIENCE);
        let link = &upstream.link;
        let streams: Vec<(StreamKey, Tag, bool)> = link
            .conn
            .tags()
            .map(|(stream, tag)| (stream, tag, link.conn.has_left(stream, &link.output)))
            .collect();
        let mut member: Option<(Key, MemberKey)> = None;
        let mut displaced = false;
        if let Some(pool) = self.pools.get_mut(pool_key) {
            pool.upstreams.retain(|&other| other != id);
            let another = pool.upstreams.iter().any(|other| {
                self.upstreams
                    .get(other.0)
                    .is_some_and(|upstream| upstream.is_ready() && upstream.is_live())
            });
            if another && (blame == Blame::Connection || failed && !was_ready) {
                // The endpoint is alive: it only takes no further connection, or says goodbye to it at once.
                pool.next_dial = Some(now + SHORT_LIFE);
                displaced = true;
            } else if failed {
                member = Some((pool.group, pool.member));
            }
            if !was_ready {
                self.stats.dials_failed += u64::from(failed);
            }
            if failed && let Some(group) = self.groups.get_mut(pool.group) {
                group.last_error = format!("{} {why}", pool.endpoint.address);
            }
        }
        if let Some((group, member)) = member
            && let Some(group) = self.groups.get_mut(group)
        {
            group.picker.fail(member, now, &mut self.rng);
        }
        for (stream, tag, left) in streams {
            if let Some(key) = self.calls.of_upstream(id, stream, tag) {
                self.lost(now, key, if left { Loss::Broken } else { Loss::NeverLeft }, why);
            }
        }
        if self
            .upstreams
            .get(id.0)
            .is_some_and(|upstream| upstream.link.calls > 0)
        {
            // Their streams have ended here, but the calls have not: the connection does not list them.
            let on_it = |call: &Call| matches!(call.place, Place::Sent { upstream, .. } if upstream == id);
            for key in self.calls.keys_where(on_it) {
                self.lost(now, key, Loss::Broken, why);
            }
        }
        displaced |= self.pools.get(pool_key).is_some_and(|pool| {
            let alive = |id: &UpstreamId| {
                self.upstreams
                    .get(id.0)
                    .is_some_and(super::link::Upstream::is_live)
            };
            !pool.waiting.is_empty() && !pool.upstreams.iter().any(alive)
        });
        if displaced {
            self.place_waiting(now, pool_key, After::VainDial);
        }
        self.relocate_around(now, pool_key);
        let group = self.pools.get(pool_key).map(|pool| pool.group);
        self.drop_pool_if_empty(pool_key);
        if let Some(group) = group {
            self.drop_group_if_unused(group);
        }
    }

    /// Closes the socket when what is left (a GOAWAY) is written.
    pub(super) fn close_upstream(&mut self, now: Time, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        upstream.link.closing = Some(now + CLOSE_PATIENCE);
        self.actions.push_back(Action::CloseUpstream {
            upstream: id,
            how: How::Graceful,
        });
        self.touch(id.into());
        self.arm(id.into());
    }

    /// A connection without calls ends in order.
    pub(super) fn shut_upstream(&mut self, now: Time, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        if upstream.link.closing.is_none() && !upstream.link.conn.is_closed() {
            upstream.link.conn.shutdown(now);
            let Some(event) = upstream
                .link
                .conn
                .poll_event(now, &mut BytesMut::new(), &mut self.fields)
            else {
                return;
            };
            self.upstream_event(now, id, event);
        }
    }

    /// Ends a connection, or a dial, that nobody waits for any more.
    pub(super) fn end_upstream(&mut self, now: Time, id: UpstreamId, how: How) {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        if upstream.link.closing.is_some() {
            return;
        }
        let is_ready = upstream.is_ready();
        if let Some(pool) = self.pools.get_mut(upstream.pool) {
            pool.upstreams.retain(|&other| other != id);
            if !is_ready && let Some(group) = self.groups.get_mut(pool.group) {
                group.picker.resume(pool.member, now);
            }
        }
        self.actions
            .push_back(Action::CloseUpstream { upstream: id, how });
        self.forget(now, id.into());
    }
}
