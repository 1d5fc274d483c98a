//! What a client's connection says: calls begin, go on and are cancelled.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::actions::{Action, ClientId, How};
use super::arena::Key;
use super::call::{Call, Place};
use super::calls::Outcome;
use super::link::{CLOSE_PATIENCE, DRAIN_PATIENCE};
use super::{Splitter, memory};
use crate::Time;
use crate::connection::{Cause, CloseReason, Event, HeadersKind, StreamKey, Tag};
use crate::frame::ErrorCode;
use crate::hpack::HeaderList;

impl Splitter {
    pub(super) fn client_input(&mut self, now: Time, id: ClientId, input: &mut BytesMut) {
        loop {
            let Some(client) = self.clients.get_mut(id.0) else {
                return input.clear();
            };
            let Some(event) = client.link.conn.poll_event(now, input, &mut self.fields) else {
                client.link.note_paused();
                if let Some((before, now)) = client.link.recharge() {
                    self.charge_difference(before, now);
                }
                break;
            };
            self.client_event(now, id, event);
        }
        self.relay_keepalive(now, id);
        self.hold_unfinished(now, id.into());
        self.touch_if_wanted(id.into());
        self.arm(id.into());
    }

    pub(super) fn client_event(&mut self, now: Time, id: ClientId, event: Event) {
        match event {
            Event::Headers {
                stream,
                headers,
                end_stream,
                kind: HeadersKind::Request,
                ..
            } => {
                self.begin_call(now, id, stream, headers, end_stream);
            }
            Event::Headers {
                stream, tag, headers, ..
            } => self.request_trailers(now, id, stream, tag, headers),
            Event::Data {
                stream,
                tag,
                chunk,
                end_stream,
            } => {
                self.request_data(now, id, stream, tag, chunk, end_stream);
            }
            Event::Reset {
                stream,
                tag,
                code,
                cause,
                ..
            } => {
                // What the client did wrong is not the backend's business: to it, the call is cancelled.
                let code = if cause == Cause::Peer {
                    code_for_backend(code)
                } else {
                    ErrorCode::CANCEL
                };
                if let Some(key) = self.calls.of_client(id, stream, tag) {
                    self.end_call(now, key, Outcome::Cancelled(code));
                }
            }
            Event::Closed { reason, .. } => self.client_over(now, id, reason),
            Event::Slowed { limit } => self.stats.client_limits[limit as usize] += 1,
            // A client that goes away opens no more streams; that is all.
            Event::GoAway { .. } | Event::Ready | Event::Capacity | Event::Pong { .. } => {}
        }
    }

    fn begin_call(
        &mut self,
        now: Time,
        id: ClientId,
        stream: StreamKey,
        request: Rc<HeaderList>,
        ended: bool,
    ) {
        self.stats.calls += 1;
        if self.refuses(id, stream) {
            return self.fields.give_back_list(request);
        }
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        if self.memory.refuses_streams() {
            client.link.conn.reset(stream, ErrorCode::REFUSED_STREAM);
            self.stats.refused_for_memory += 1;
            self.stats.count(Outcome::Refused);
            return self.fields.give_back_list(request);
        }
        self.memory.charge(memory::CALL + request.memory());
        let oversized = request.oversized();
        let window = self.config.client.initial_window;
        let key = self
            .calls
            .insert(Call::new(id, stream, client.group, request, ended, now, window));
        client.link.conn.set_tag(stream, key.index());
        client.link.calls += 1;
        if oversized {
            self.answer_oversized_request(now, key);
        } else {
            self.place(now, key);
        }
    }

    fn request_data(
        &mut self,
        now: Time,
        id: ClientId,
        stream: StreamKey,
        tag: Tag,
        chunk: Bytes,
        end: bool,
    ) {
        let len = chunk.len() as u32;
        let chunk = self.memory.own(chunk);
        let Some(key) = self.calls.of_client(id, stream, tag) else {
            // Of a call that is over: nobody else gives the credit back.
            if let Some(client) = self.clients.get_mut(id.0) {
                client.link.conn.release(stream, len);
            }
            return;
        };
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        call.request_ended |= end;
        let place = call.place;
        if place == Place::Nowhere {
            if let Some(client) = self.clients.get_mut(id.0) {
                client.link.conn.release(stream, len);
            }
            return;
        }
        call.received = call.received.saturating_add(u64::from(len));
        // A call that waits keeps all; the window bounds it.
        let waits = matches!(place, Place::Waiting(_));
        if call.kept.is_whole() {
            let fits = call.kept.bytes().saturating_add(chunk.len()) <= self.config.replay;
            if waits {
                self.memory.charge(chunk.len());
                call.kept.push(&chunk, &mut self.bodies);
            } else if fits && self.memory.try_charge(chunk.len()) {
                call.kept.push(&chunk, &mut self.bodies);
            } else {
                self.discard_replay(key);
                self.stats.replay_given_up += 1;
            }
        }
        self.charge(now, id.into(), len);
        if !end {
            self.foresee(key, id.into(), stream, len);
        }
        if let Place::Sent { upstream, stream } = place
            && let Some(upstream_link) = self.upstreams.get_mut(upstream.0)
        {
            upstream_link.link.conn.send_data(stream, chunk, end);
            self.touch(upstream.into());
        }
        if self.memory.is_over() {
            self.shed(now, key);
        }
    }

    fn request_trailers(
        &mut self,
        now: Time,
        id: ClientId,
        stream: StreamKey,
        tag: Tag,
        trailers: Rc<HeaderList>,
    ) {
        let Some(key) = self.calls.of_client(id, stream, tag) else {
            return;
        };
        if trailers.oversized() {
            return self.answer_oversized_request(now, key);
        }
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        if let Place::Sent { upstream, .. } = call.place
            && let Some(upstream) = self.upstreams.get(upstream.0)
        {
            let limit = upstream.link.conn.peer_settings().max_header_list_size;
            if trailers.size() > limit as usize {
                return self.answer_request_too_long_for_backend(now, key, limit);
            }
        }
        call.request_ended = true;
        let place = call.place;
        if call.kept.is_whole() {
            let waits = matches!(place, Place::Waiting(_));
            if waits {
                self.memory.charge(trailers.memory());
            }
            if waits || self.memory.try_charge(trailers.memory()) {
                call.kept.set_trailers(Rc::clone(&trailers));
            } else {
                self.discard_replay(key);
                self.stats.replay_given_up += 1;
            }
        }
        if let Place::Sent { upstream, stream } = place
            && let Some(upstream_link) = self.upstreams.get_mut(upstream.0)
        {
            let large = trailers.memory() >= memory::SMALL;
            upstream_link.link.conn.send_headers(stream, trailers, true);
            if large {
                self.charge_connection(upstream.into());
            }
            self.touch(upstream.into());
        }
        if self.memory.is_over() {
            self.shed(now, key);
        }
    }

    fn client_over(&mut self, now: Time, id: ClientId, reason: CloseReason) {
        if let CloseReason::Limit(limit) = reason {
            self.stats.client_limits[limit as usize] += 1;
        }
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        let patience = match reason {
            CloseReason::Drained => DRAIN_PATIENCE,
            _ => CLOSE_PATIENCE,
        };
        client.link.closing = Some(now + patience);
        let calls: Vec<_> = client.link.conn.tags().collect();
        for (stream, tag) in calls {
            if let Some(key) = self.calls.of_client(id, stream, tag) {
                self.end_call(now, key, Outcome::Cancelled(ErrorCode::CANCEL));
            }
        }
        if self.clients.get(id.0).is_some_and(|client| client.link.calls > 0) {
            // Calls whose streams have ended here while the backend still takes the request, and the one whose frame
            // was one too many: the connection does not list them.
            for key in self.calls.keys_where(|call| call.client == id) {
                self.end_call(now, key, Outcome::Cancelled(ErrorCode::CANCEL));
            }
        }
        self.actions.push_back(Action::CloseClient {
            client: id,
            how: How::Graceful,
        });
        self.touch(id.into());
    }

    /// The client's record goes, and what was there only for it.
    pub(super) fn forget_client(&mut self, now: Time, id: ClientId) {
        let Some(client) = self.clients.remove(id.0) else {
            return;
        };
        self.stats.clients_closed += 1;
        self.forget_memory(id.into(), client.link.charged);
        if client.pools.is_some() {
            let own: Vec<Key> = self
                .pools
                .iter()
                .filter(|(_, pool)| pool.owner == Some(id))
                .map(|(key, _)| key)
                .collect();
            for pool_key in own {
                let Some(pool) = self.pools.get_mut(pool_key) else {
                    continue;
                };
                pool.retired = true;
                for upstream in pool.upstreams.clone() {
                    self.end_upstream(now, upstream, How::Graceful);
                }
                self.drop_pool_if_empty(pool_key);
            }
        }
        let Some(group) = self.groups.get_mut(client.group) else {
            return;
        };
        debug_assert!(group.clients > 0, "a group counts its clients");
        group.clients = group.clients.saturating_sub(1);
        if group.clients == 0 {
            self.rearm_group(client.group);
            self.retire_if_removed(now, client.group);
        }
    }
}

/// The code with which a client's reset reaches the backend. `NO_ERROR` is a server's (RFC 9113 §8.1): from a client it means
/// that the response is not wanted. Codes that speak of the client's own connection, that only a server may send, or that
/// nobody has registered say nothing to the backend but that the call is cancelled.
const fn code_for_backend(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::INTERNAL_ERROR | ErrorCode::CONNECT_ERROR => code,
        _ => ErrorCode::CANCEL,
    }
}
