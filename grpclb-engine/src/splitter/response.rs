//! What a backend says of one call: its response, piece by piece, or that there will be none.

use std::rc::Rc;

use bytes::Bytes;

use super::actions::UpstreamId;
use super::arena::Key;
use super::call::{Loss, Place, Response, Verdict, verdict};
use super::calls::Outcome;
use super::reply::Status;
use super::{NO_CALL, Splitter, memory};
use crate::Time;
use crate::connection::{HeadersKind, StreamKey, Tag};
use crate::frame::ErrorCode;
use crate::hpack::HeaderList;

impl Splitter {
    pub(super) fn response_headers(
        &mut self,
        now: Time,
        key: Key,
        headers: Rc<HeaderList>,
        ended: bool,
        kind: HeadersKind,
    ) {
        if headers.oversized() {
            return self.answer_oversized_response(now, key);
        }
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        let id = call.client;
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        let conn = &mut client.link.conn;
        let limit = conn.peer_settings().max_header_list_size;
        let too_long = headers.size() > limit as usize;
        match kind {
            HeadersKind::Informational => {
                call.response = Response::Informed;
                if too_long {
                    // The client can do without.
                    return;
                }
            }
            HeadersKind::Response => {
                if !too_long {
                    call.response = Response::Headers;
                }
                if let (Some(member), Some(group)) = (call.member, self.groups.get_mut(call.group)) {
                    group.picker.succeed(member, now, now.since(call.since));
                }
                if let Place::Sent { upstream, .. } = call.place
                    && let Some(upstream) = self.upstreams.get_mut(upstream.0)
                {
                    upstream.served = true;
                }
            }
            HeadersKind::Trailers | HeadersKind::Request => {}
        }
        let large = headers.memory() >= memory::SMALL;
        if !too_long {
            conn.send_headers(call.stream, headers, ended);
        }
        if kind == HeadersKind::Response {
            self.discard_replay(key);
        }
        if too_long {
            return self.answer_response_too_long_for_client(now, key, limit);
        }
        if large {
            self.charge_connection(id.into());
        }
        self.touch(id.into());
        if self.memory.is_over() && self.shed(now, key) {
            return;
        }
        if ended {
            self.response_ended(now, key);
        }
    }

    pub(super) fn response_data(
        &mut self,
        now: Time,
        id: UpstreamId,
        stream: StreamKey,
        tag: Tag,
        chunk: Bytes,
        ended: bool,
    ) {
        let len = chunk.len() as u32;
        let chunk = self.memory.own(chunk);
        let Some(key) = self.calls.of_upstream(id, stream, tag) else {
            if let Some(upstream) = self.upstreams.get_mut(id.0) {
                upstream.link.conn.release(stream, len);
            }
            return;
        };
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        call.pending = call.pending.saturating_add(u64::from(len));
        let (client, client_stream) = (call.client, call.stream);
        if let Some(link) = self.clients.get_mut(client.0) {
            link.link.conn.send_data(client_stream, chunk, ended);
        }
        self.touch(client.into());
        self.charge(now, id.into(), len);
        if self.memory.is_over() && self.shed(now, key) {
            return;
        }
        if !ended {
            self.foresee(key, id.into(), stream, len);
        }
        self.measure(now, id);
        if ended {
            self.response_ended(now, key);
        }
    }

    /// `END_STREAM` of the response has come. The request may go on (RFC 9113 §8.1).
    fn response_ended(&mut self, now: Time, key: Key) {
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        call.response = Response::Ended;
        call.conclude(Outcome::Completed, &mut self.stats);
        let (group, member) = (call.group, call.member.take());
        if let (Some(member), Some(group)) = (member, self.groups.get_mut(group)) {
            group.picker.finish(member);
        }
        if let Place::Sent { upstream, .. } = call.place
            && let Some(upstream) = self.upstreams.get_mut(upstream.0)
        {
            upstream.last_used = now;
        }
    }

    /// The call's stream at its backend has ended before the response did: the table says what becomes of the call.
    pub(super) fn lost(&mut self, now: Time, key: Key, loss: Loss, why: &str) {
        let Some(call) = self.calls.get(key) else { return };
        let verdict = verdict(call.response, loss, call.can_repeat(loss, self.config.tries));
        let (member, endpoint) = (call.member, self.endpoint_of(key));
        if verdict != Verdict::Settle {
            self.note_error(key);
        }
        self.leave_backend(now, key, None);
        match verdict {
            Verdict::Again => {
                if let (Some(call), Some(member)) = (self.calls.get_mut(key), member)
                    && !call.avoid.contains(&member)
                {
                    call.avoid.push(member);
                }
                self.place(now, key);
            }
            Verdict::Refuse => self.reset_client(now, key, ErrorCode::REFUSED_STREAM, Outcome::Refused),
            Verdict::Relay(ErrorCode::NO_ERROR) => self.relay_no_error(now, key),
            Verdict::Relay(code) => self.reset_client(now, key, code, Outcome::ResetByBackend),
            Verdict::Unavailable => self.answer_unavailable(now, key, &format!("{endpoint} {why}")),
            Verdict::Break => {
                self.conclude(key, Outcome::Broken);
                self.break_response(now, key, Status::Unavailable, &format!("{endpoint} {why}"));
            }
            Verdict::Settle => self.settle(now, key),
        }
    }

    /// The backend reset the call with `NO_ERROR` before its response was complete. What came of it leaves first, as with the
    /// backend itself (RFC 9113 §8.1); until then the call holds it.
    fn relay_no_error(&mut self, now: Time, key: Key) {
        self.conclude(key, Outcome::ResetByBackend);
        if let Some(call) = self.calls.get_mut(key) {
            // The client's side is reset whether it has ended its own or not.
            call.request_ended = false;
        }
        self.settle(now, key);
    }

    /// Takes the call from its backend: `reset` tells the backend, `None` if it knows.
    pub(super) fn leave_backend(&mut self, now: Time, key: Key, reset: Option<ErrorCode>) {
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        if let Some(member) = call.member.take()
            && let Some(group) = self.groups.get_mut(call.group)
        {
            group.picker.finish(member);
        }
        let Place::Sent { upstream: id, stream } = call.place else {
            return;
        };
        call.place = Place::Nowhere;
        if let Some(client) = self.clients.get_mut(call.client.0) {
            client.carriers.finish(call.carrier);
        }
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        // Bytes that the client has not read yet stay charged: else a backend that ends its streams early, beside a client
        // that does not read, would get credit for ever more.
        call.pending_from = (call.pending > 0).then_some(id);
        debug_assert!(upstream.link.calls > 0, "a connection counts its calls");
        upstream.link.calls = upstream.link.calls.saturating_sub(1);
        upstream.last_used = now;
        let held = upstream.link.held.is_some();
        if upstream.link.conn.tag(stream).is_some() {
            upstream.link.conn.set_tag(stream, NO_CALL);
            if let Some(code) = reset {
                upstream.link.conn.reset(stream, code);
                self.touch(id.into());
                self.reset_queued(id);
            }
        } // else both ends have ended it
        if held {
            self.relieve(id.into());
        }
    }

    /// Names the backend of a call for messages.
    fn endpoint_of(&self, key: Key) -> String {
        let endpoint = || {
            let Place::Sent { upstream, .. } = self.calls.get(key)?.place else {
                return None;
            };
            let pool = self.upstreams.get(upstream.0)?.pool;
            Some(self.pools.get(pool)?.endpoint.address.to_string())
        };
        endpoint().unwrap_or_else(|| "the backend".to_owned())
    }

    fn note_error(&mut self, key: Key) {
        if let Some(call) = self.calls.get(key)
            && let (Some(member), Some(group)) = (call.member, self.groups.get_mut(call.group))
        {
            group.picker.note_error(member);
        }
    }
}
