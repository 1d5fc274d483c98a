//! From queues to bytes; and what their leaving gives back: credit.

use bytes::BytesMut;

use super::Splitter;
use super::actions::{ClientId, ConnId, UpstreamId};
use super::call::{Place, Response};
use super::calls::Outcome;
use super::growth::Terms;
use super::memory::SHORT_OUTPUT;
use crate::Time;
use crate::connection::{Output, PingKind, Sent};

/// DATA bytes that a backend sends before the round trip to it is measured for the first time; then at twice as many each
/// time, but [`MEASURE_AGAIN`] later at most. Each measurement is a small frame that often has a write to itself.
pub(super) const MEASURE_FROM: u64 = 256 << 10;
const MEASURE_AGAIN: u64 = 64 << 20;

/// Where more streams than this wait to be opened, an output stays short: a header block costs much more than its bytes do.
const MANY_STREAMS: usize = 256;

impl Splitter {
    /// What is to be written to this connection's socket now: write its slices, `advance` it, and call again. `None`:
    /// nothing is left for now.
    pub fn transmit(&mut self, now: Time, id: ConnId) -> Option<&mut Output> {
        if let ConnId::Upstream(upstream) = id {
            let up = self.upstreams.get(upstream.0)?;
            if up.state == super::link::UpstreamState::Dialing {
                return None;
            }
            if up.should_end_for_resets(now) {
                self.end_for_resets(now, upstream);
            }
        }
        if self.link(id)?.conn.wants_transmit() {
            self.fill(now, id);
        }
        let link = self.link(id)?;
        if link.closing.is_some() && link.output.is_empty() && !link.conn.wants_transmit() {
            self.forget(now, id);
            return None;
        }
        if link.output.is_empty() {
            if link.charged.pending > 0 {
                self.charge_connection(id);
            }
            self.take_buffer_from(id);
            return None;
        }
        Some(&mut self.link_mut(id)?.output)
    }

    /// The socket takes no more for now: what is left of the output waits, and is charged to the pod.
    pub fn handle_blocked(&mut self, id: ConnId) {
        self.charge_connection(id);
    }

    fn take_buffer_from(&mut self, id: ConnId) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(link) = self.link_mut(id) {
            link.output.return_buffer(&mut buffer);
        }
        self.buffer = buffer;
    }

    fn fill(&mut self, now: Time, id: ConnId) {
        let mut resume = false;
        let mut sent = std::mem::take(&mut self.sent);
        let link = match id {
            ConnId::Client(id) => self.clients.get_mut(id.0).map(|client| &mut client.link),
            ConnId::Upstream(id) => self.upstreams.get_mut(id.0).map(|upstream| &mut upstream.link),
        };
        if let Some(link) = link {
            link.output.take_buffer(&mut self.buffer);
            let many = link.conn.opening_streams() > MANY_STREAMS;
            link.output.set_bound(if many {
                SHORT_OUTPUT
            } else {
                self.memory.output_bound()
            });
            link.conn
                .transmit(now, &mut self.fields, &mut link.output, &mut sent);
            if link.paused {
                resume = link.conn.wants_input();
            }
        }
        if resume {
            self.resume_input(id);
        }
        for what in sent.drain(..) {
            match id {
                ConnId::Client(id) => self.sent_to_client(now, id, what),
                ConnId::Upstream(id) => self.sent_to_backend(now, id, what),
            }
        }
        self.sent = sent;
        let closed = self
            .link(id)
            .is_some_and(|link| link.conn.is_closed() && link.closing.is_none());
        match id {
            _ if closed => self.handle_input(now, id, &mut BytesMut::new()),
            ConnId::Client(_) => self.arm(id),
            ConnId::Upstream(upstream) => {
                self.watch_window(now, upstream);
                self.after_upstream(now, upstream);
            }
        }
        // What did not fit waits for the socket; what was queued meanwhile, for the next turn.
    }

    fn sent_to_client(&mut self, now: Time, id: ClientId, what: Sent) {
        let Some(key) = self.calls.tagged(what.tag) else {
            return;
        };
        let Some(call) = self.calls.get_mut(key).filter(|call| call.client == id) else {
            return;
        };
        if what.bytes > 0 {
            // What we answered ourselves was never pending.
            let passed_on = call.pending.min(u64::from(what.bytes));
            call.pending = call.pending.saturating_sub(passed_on);
            let place = call.place;
            if let Some(client) = self.clients.get_mut(id.0) {
                client.data_since_ping = true;
            }
            if let Place::Sent {
                upstream: upstream_id,
                stream,
            } = place
                && let Some(upstream) = self.upstreams.get_mut(upstream_id.0)
            {
                let terms = Terms {
                    config: &self.config,
                    round_trip: upstream.round_trip,
                    tight: self.memory.is_tight(),
                };
                call.download
                    .pass_on(now, what.bytes, stream, &mut upstream.link, &terms);
                if upstream.link.conn.wants_transmit() {
                    self.touch(upstream_id.into());
                }
                self.uncharge(upstream_id.into(), passed_on);
            } else {
                let from = call.pending_from;
                self.uncharge_response(from, passed_on);
            }
        }
        if what.end {
            let Some(call) = self.calls.get(key) else { return };
            // An early end of the response: the request goes on, and its end finishes the call.
            let over = call.response == Response::Ended && call.request_sent && call.request_ended;
            if over {
                self.end_call(now, key, Outcome::Completed);
            } else if let Some(call) = self.calls.get_mut(key) {
                call.answered = true;
            }
        }
    }

    fn sent_to_backend(&mut self, now: Time, id: UpstreamId, what: Sent) {
        let Some(key) = self.calls.tagged(what.tag) else {
            return;
        };
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        if !matches!(call.place, Place::Sent { upstream, .. } if upstream == id) {
            return;
        }
        let (client_id, stream) = (call.client, call.stream);
        call.sent = call.sent.saturating_add(u64::from(what.bytes));
        // In another try, what had left before earns no credit again.
        let fresh = call.sent.saturating_sub(call.released);
        if fresh > 0 {
            call.released = call.sent;
            let terms = Terms {
                config: &self.config,
                round_trip: self.upstreams.get(id.0).and_then(|upstream| upstream.round_trip),
                tight: self.memory.is_tight(),
            };
            if let Some(client) = self.clients.get_mut(client_id.0) {
                call.upload
                    .pass_on(now, fresh as u32, stream, &mut client.link, &terms);
                if client.link.conn.wants_transmit() {
                    self.touch(client_id.into());
                }
            }
            self.uncharge(client_id.into(), fresh);
        }
        if what.end
            && let Some(call) = self.calls.get_mut(key)
        {
            call.request_sent = true;
            if call.answered && call.response == Response::Ended {
                self.end_call(now, key, Outcome::Completed);
            }
        }
    }

    /// Measures the round trip to a backend that sends DATA, and only then: servers count the PINGs of one to whom they send nothing.
    pub(super) fn measure(&mut self, now: Time, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        let received = upstream.link.conn.received();
        if received >= upstream.measure_at {
            upstream.measure_at = received.saturating_add(received.min(MEASURE_AGAIN));
            upstream
                .link
                .conn
                .ping(now, PingKind::Bandwidth, self.config.keepalive);
        }
    }

    /// Notes whether the connection's window holds its streams up.
    fn watch_window(&mut self, now: Time, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id.0) else {
            return;
        };
        let blocked = upstream.link.conn.blocked_streams() > 0 && upstream.link.conn.send_window() == 0;
        if !blocked {
            upstream.blocked_since = None;
            upstream.stalled = false;
        } else if upstream.blocked_since.is_none() {
            upstream.blocked_since = Some(now);
        }
    }
}
