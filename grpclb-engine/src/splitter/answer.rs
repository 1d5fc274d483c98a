//! Calls that we answer ourselves, and how they then come to their end.

use super::Splitter;
use super::actions::ClientId;
use super::arena::Key;
use super::call::Response;
use super::calls::Outcome;
use super::reply::{self, Failure, Form, Status};
use crate::Time;
use crate::frame::ErrorCode;
use crate::hpack::MAX_FIELDS;

impl Splitter {
    /// Nothing of the call will run, or whatever ran cannot be asked: UNAVAILABLE, or 503.
    pub(super) fn answer_unavailable(&mut self, now: Time, key: Key, why: &str) {
        self.conclude(key, Outcome::Unavailable);
        self.answer(now, key, Status::Unavailable, "503", why);
    }

    /// The request's headers or trailers are longer than our `SETTINGS_MAX_HEADER_LIST_SIZE`.
    pub(super) fn answer_oversized_request(&mut self, now: Time, key: Key) {
        let why = format!(
            "the request's headers exceed {} bytes or {MAX_FIELDS} fields",
            self.config.client.max_header_list_size
        );
        self.answer_oversized(now, key, "431", &why);
    }

    /// The backend's header list is longer than what we told it to send at most.
    pub(super) fn answer_oversized_response(&mut self, now: Time, key: Key) {
        let why = format!(
            "the response's headers exceed {} bytes or {MAX_FIELDS} fields",
            self.config.backend.max_header_list_size
        );
        self.answer_oversized(now, key, "502", &why);
    }

    /// The backend's header list is longer than the client takes (its `SETTINGS_MAX_HEADER_LIST_SIZE`, in bytes).
    pub(super) fn answer_response_too_long_for_client(&mut self, now: Time, key: Key, limit: u32) {
        let why = format!("the response's headers exceed {limit} bytes, the client's limit");
        self.answer_oversized(now, key, "502", &why);
    }

    /// The request's headers or trailers are longer than the backend takes (its `SETTINGS_MAX_HEADER_LIST_SIZE`, in bytes).
    pub(super) fn answer_request_too_long_for_backend(&mut self, now: Time, key: Key, limit: u32) {
        let why = format!("the request's headers exceed {limit} bytes, the backend's limit");
        self.answer_oversized(now, key, "431", &why);
    }

    /// What can be said depends on how much of the response the client has.
    fn answer_oversized(&mut self, now: Time, key: Key, http: &'static str, why: &str) {
        self.conclude(key, Outcome::Oversized);
        let Some(response) = self.calls.get(key).map(|call| call.response) else {
            return;
        };
        self.leave_backend(now, key, Some(ErrorCode::CANCEL));
        match response {
            Response::Nothing | Response::Informed => {
                self.answer(now, key, Status::ResourceExhausted, http, why);
            }
            Response::Headers => self.break_response(now, key, Status::ResourceExhausted, why),
            Response::Ended => self.settle(now, key),
        }
    }

    /// The response has begun and cannot be finished: trailers with this status. Where there are no trailers to say it, a
    /// reset does: a truncated body must not look whole.
    pub(super) fn break_response(&mut self, now: Time, key: Key, status: Status, why: &str) {
        let Some(call) = self.calls.get(key) else { return };
        let limit = self.client_limit(call.client);
        let message = self.message(why);
        let trailers = (Form::of(call.content_type.as_ref()) == Form::Grpc)
            .then(|| reply::trailers(&mut self.fields, status, &message, limit));
        let Some(trailers) = trailers.flatten() else {
            return self.reset_client(now, key, ErrorCode::INTERNAL_ERROR, Outcome::Broken);
        };
        if let Some(client) = self.clients.get_mut(call.client.0) {
            client.link.conn.send_headers(call.stream, trailers, true);
        }
        self.settle(now, key);
    }

    /// Resets the client's stream; the call is over.
    pub(super) fn reset_client(&mut self, now: Time, key: Key, code: ErrorCode, outcome: Outcome) {
        let Some(call) = self.calls.get(key) else { return };
        let (id, stream) = (call.client, call.stream);
        if let Some(client) = self.clients.get_mut(id.0) {
            client.link.conn.reset(stream, code);
        }
        self.touch(id.into());
        self.end_call(now, key, outcome);
    }

    /// The response is complete, and no backend is concerned any more. What the client still has of its request is not
    /// wanted (RFC 9113 §8.1); the call is over when the response has left.
    pub(super) fn settle(&mut self, now: Time, key: Key) {
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        call.response = Response::Ended;
        call.request_sent = true;
        let discarded = call.unsent();
        call.released = call.received;
        let unfinished = !std::mem::replace(&mut call.request_ended, true);
        let (id, stream) = (call.client, call.stream);
        self.discard_replay(key);
        if let Some(client) = self.clients.get_mut(id.0) {
            client.link.conn.release(stream, discarded as u32);
            if unfinished {
                client.link.conn.reset(stream, ErrorCode::NO_ERROR);
            }
        }
        self.uncharge(id.into(), discarded);
        self.touch(id.into());
        if self.calls.get(key).is_some_and(|call| call.answered) {
            self.end_call(now, key, Outcome::Completed);
        }
    }

    fn answer(&mut self, now: Time, key: Key, status: Status, http: &'static str, why: &str) {
        self.leave_queue(key);
        let message = self.message(why);
        let Some(call) = self.calls.get(key) else { return };
        let failure = Failure {
            status,
            http,
            message: &message,
            content_type: call.content_type.as_ref(),
            head: call.head,
            limit: self.client_limit(call.client),
        };
        let Some(reply) = failure.reply(&mut self.fields) else {
            // The client takes no response at all.
            return self.reset_client(now, key, ErrorCode::INTERNAL_ERROR, Outcome::Broken);
        };
        let Some(client) = self.clients.get_mut(call.client.0) else {
            return;
        };
        let conn = &mut client.link.conn;
        conn.send_headers(call.stream, reply.headers, reply.content.is_none());
        if let Some(content) = reply.content {
            conn.send_data(call.stream, content, true);
        }
        self.settle(now, key);
    }

    /// The longest header list that the client takes, in bytes (RFC 9113 §6.5.2).
    pub(super) fn client_limit(&self, client: ClientId) -> u32 {
        self.clients.get(client.0).map_or(u32::MAX, |client| {
            client.link.conn.peer_settings().max_header_list_size
        })
    }

    /// So that people see who speaks.
    fn message(&self, why: &str) -> String {
        format!("grpclb-agent/{}: {why}", self.config.node)
    }
}
