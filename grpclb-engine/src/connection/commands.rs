//! What an owner asks of a connection. Everything is queued; [`Connection::transmit`] sends it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::control::Control;
use super::preface::Expect;
use super::streams::{Item, Stream};
use super::{By, CloseReason, Connection, Event, OpenError, PingKind, Role, State, StreamKey, Tag};
use crate::Time;
use crate::frame::{ErrorCode, MAX_WINDOW, StreamId};
use crate::hpack::{FieldKind, HeaderList};

impl Connection {
    /// Client role: a new stream that begins with `headers`, named `tag` in all its events.
    pub fn open(
        &mut self,
        now: Time,
        tag: Tag,
        headers: Rc<HeaderList>,
        end_stream: bool,
    ) -> Result<StreamKey, OpenError> {
        if let Err(error) = self.check_open() {
            self.wants_capacity |= error == OpenError::Full;
            return Err(error);
        }
        let key = self.streams.insert(
            tag,
            State::Idle,
            self.peer.initial_window,
            self.initial_window,
            now,
        );
        let head = headers
            .find(FieldKind::Method)
            .is_some_and(|method| method.value() == b"HEAD");
        self.streams.queued_headers = self.streams.queued_headers.saturating_add(headers.memory());
        if let Some(stream) = self.streams.get_mut(key) {
            stream.bodiless = head;
            stream.queue.push_back(Item::Headers(headers));
            stream.end_queued = end_stream;
        }
        self.streams.schedule(key);
        Ok(key)
    }

    /// Names a stream of the peer.
    pub fn set_tag(&mut self, stream: StreamKey, tag: Tag) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.tag = tag;
        }
    }

    /// Queues a header section: 1xx, the response, or trailers. After `end_stream` nothing more is taken.
    pub fn send_headers(&mut self, stream: StreamKey, headers: Rc<HeaderList>, end_stream: bool) {
        let Some(target) = self.sendable(stream) else {
            return;
        };
        let bytes = headers.memory();
        target.queue.push_back(Item::Headers(headers));
        target.end_queued = end_stream;
        self.streams.queued_headers = self.streams.queued_headers.saturating_add(bytes);
        self.streams.schedule(stream);
    }

    /// Queues data. An empty chunk with `end_stream` ends the stream.
    pub fn send_data(&mut self, stream: StreamKey, chunk: Bytes, end_stream: bool) {
        let waits = self.will_wait(stream);
        let Some(target) = self.sendable(stream) else {
            return;
        };
        if !chunk.is_empty() {
            target.push_data(chunk, waits);
        }
        target.end_queued = end_stream;
        self.streams.schedule(stream);
    }

    /// Ends the stream at once; what is queued for it is dropped, and nothing more is told of it. Server role: with
    /// `NO_ERROR` (RFC 9113 §8.1) what is queued leaves first, and [`super::Sent::end`] comes.
    ///
    /// A stream whose HEADERS were not encoded yet leaves no trace. Client role: `RST_STREAM` leaves in another write than
    /// the stream's HEADERS, and paced ([`super::ResetPacing`]).
    pub fn reset(&mut self, stream: StreamKey, code: ErrorCode) {
        let Some(target) = self.streams.get_mut(stream) else {
            return;
        };
        if target.reset.is_some() {
            return;
        }
        if !target.has_id() {
            self.streams.remove(stream, State::Idle);
            self.offer_capacity();
        } else if code == ErrorCode::NO_ERROR && self.role == Role::Server && target.has_work() {
            target.reset = Some(code);
        } else {
            self.account.earn_reset();
            self.queue_reset(stream, code);
        }
    }

    /// `n` bytes of the stream's DATA were passed on: the peer may send as many more.
    pub fn release(&mut self, stream: StreamKey, n: u32) {
        let Some(target) = self.streams.get_mut(stream) else {
            return;
        };
        target.recv.credit(n);
        if target.recv.is_due() && target.state.can_receive() && target.reset.is_none() {
            self.streams.list_credit(stream);
        }
    }

    /// Makes the stream's receive window `size` bytes large, if it is smaller.
    pub fn grow_stream_window(&mut self, stream: StreamKey, size: u32) {
        let Some(target) = self.streams.get_mut(stream) else {
            return;
        };
        if size > target.recv.target() && target.state.can_receive() && target.reset.is_none() {
            target.recv.enlarge(size);
            self.streams.list_credit(stream);
        }
    }

    /// Makes the connection's receive window `size` bytes large, if it is smaller.
    pub fn grow_connection_window(&mut self, size: u32) {
        self.recv_window.enlarge(size);
    }

    /// The receive window that new streams start with, and existing ones are moved by the difference. It holds when the
    /// peer has acknowledged it (RFC 9113 §6.9.2).
    pub fn set_initial_window(&mut self, size: u32) {
        let size = size.min(MAX_WINDOW);
        if size != self.announced_window && !self.closed {
            self.announced_window = size;
            self.control.push_back(Control::InitialWindow(size));
        }
    }

    /// Keeps the connection's credit back from now on (budget pressure), or gives back all that was kept.
    pub fn hold_connection_credit(&mut self, hold: bool) {
        self.credit_held = hold;
        if !hold {
            self.recv_window.credit(std::mem::take(&mut self.withheld));
        }
    }

    /// Queues a PING; false while one of this kind is under way. Its answer is [`Event::Pong`]. A keepalive PING that is
    /// not answered within `patience` ends the connection.
    pub fn ping(&mut self, now: Time, kind: PingKind, patience: Duration) -> bool {
        if self.closed {
            return false;
        }
        let Some(payload) = self.pings.start(kind, Some(now + patience)) else {
            return false;
        };
        self.control.push_back(Control::Ping(payload));
        true
    }

    /// Ends the connection when its streams have ended. A server says GOAWAY twice (RFC 9113 §6.8): that it will go,
    /// then, two round trips later, which streams it took. A client opens no more streams.
    pub fn shutdown(&mut self, now: Time) {
        self.begin_shutdown(now);
    }

    /// Says GOAWAY at once: streams that the peer opens from here on are ignored. Those that live go on.
    pub fn go_away(&mut self, code: ErrorCode, debug: &'static str) {
        self.final_goaway(code, debug);
    }

    /// Ends the connection at once, with GOAWAY. [`Event::Closed`] follows.
    pub fn close(&mut self, code: ErrorCode, debug: &'static str) {
        let reason = if debug.is_empty() {
            CloseReason::Local
        } else {
            CloseReason::Protocol(debug)
        };
        self.fail(code, reason, By::Local);
    }

    pub(super) fn check_open(&self) -> Result<(), OpenError> {
        if self.closed || self.role == Role::Server {
            Err(OpenError::Closed)
        } else if self.goaway.is_going_away() {
            Err(OpenError::GoingAway)
        } else if self.expect != Expect::Nothing {
            Err(OpenError::NotReady)
        } else if self.streams.opening.len() >= ids_left(self.last_id) {
            Err(OpenError::NoMoreIds)
        } else if self.streams.len() >= self.peer.max_concurrent_streams as usize {
            Err(OpenError::Full)
        } else {
            Ok(())
        }
    }

    fn sendable(&mut self, stream: StreamKey) -> Option<&mut Stream> {
        let target = self.streams.get_mut(stream)?;
        let open = target.state.can_send() || !target.has_id();
        (open && !target.end_queued && target.reset.is_none()).then_some(target)
    }

    /// A stream has ended: tells an owner who found none that there is capacity.
    pub(super) fn offer_capacity(&mut self) {
        if self.wants_capacity && self.can_open() {
            self.wants_capacity = false;
            self.events.push_back(Event::Capacity);
        }
    }
}

/// How many streams a client can still open after `last`.
fn ids_left(last: StreamId) -> usize {
    StreamId::MAX.get().saturating_sub(last.get()).div_ceil(2) as usize
}
