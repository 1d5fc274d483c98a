//! From what is queued to bytes: control frames first, then credit, resets ([`super::resets`]), new streams, and a DATA frame a
//! turn for each stream that may send. Header blocks are encoded here and nowhere earlier, so the peer's HPACK table sees them in
//! the order in which they leave.

use bytes::{Bytes, BytesMut};

use super::streams::{Item, Listed, Stream};
use super::{Connection, KEEP_FROM, Output, PingKind, Role, Sent, State, StreamEvent, StreamKey};
use crate::Time;
use crate::connection::streams::Outcome;
use crate::frame::{self, StreamId};
use crate::hpack::{FieldKind, Fields, HeaderList};

/// The largest DATA frame that we send, whatever the peer allows: one stream's turn.
const MAX_DATA: u32 = 32 << 10;

/// A DATA frame with fewer bytes, which a window has cut, is a cost and no service.
const CRUMB: u32 = 1024;

/// What small chunks are gathered in when they have to wait.
const GATHER: usize = 4096;

impl Stream {
    /// Queues a chunk, for a stream that `waits` or not. Small ones that will have to wait are copied together: each may
    /// hold on to a large read buffer.
    pub(super) fn push_data(&mut self, chunk: Bytes, waits: bool) {
        let waits = waits || self.queue.len() >= 4 || self.send.available() == 0;
        if waits && chunk.len() < KEEP_FROM {
            gather(&mut self.queue, &chunk);
        } else {
            self.queue.push_back(Item::Data(chunk));
        }
    }

    /// The stream has to wait: copies its small chunks together.
    fn compact(&mut self) {
        if !self
            .queue
            .iter()
            .any(|item| matches!(item, Item::Data(chunk) if chunk.len() < KEEP_FROM))
        {
            return;
        }
        for item in std::mem::take(&mut self.queue) {
            match item {
                Item::Data(chunk) if chunk.len() < KEEP_FROM => gather(&mut self.queue, &chunk),
                other => self.queue.push_back(other),
            }
        }
    }
}

fn gather(queue: &mut std::collections::VecDeque<Item>, chunk: &[u8]) {
    match queue.back_mut() {
        Some(Item::Gathered(gathered)) if gathered.len() + chunk.len() <= GATHER => {
            gathered.extend_from_slice(chunk);
        }
        _ => queue.push_back(Item::Gathered(BytesMut::from(chunk))),
    }
}

impl Connection {
    /// Whether [`Self::transmit`] has something to move, given an output with room.
    pub fn wants_transmit(&self) -> bool {
        !self.control.is_empty()
            || !self.closed
                && (!self.streams.ready.is_empty()
                    || (!self.streams.blocked.is_empty() && self.send_window.available() > 0)
                    || !self.streams.credits.is_empty()
                    || self.recv_window.is_due()
                    || self.may_open()
                    || (!self.streams.resets.is_empty() && self.may_reset()))
    }

    /// Moves what may leave now to `output`, up to its bound, and notes in `sent` how many DATA bytes of which stream
    /// left and which streams ended. `output` is this connection's own, always the same. Header lists that were encoded go
    /// back to `fields`.
    pub fn transmit(&mut self, now: Time, fields: &mut Fields, output: &mut Output, sent: &mut Vec<Sent>) {
        self.write_control(now, output);
        if self.closed {
            return;
        }
        self.write_credit(output);
        self.write_resets(now, output, sent);
        // New streams and old ones in turn, so that neither starves the other.
        while output.room() > 0 {
            let opened = self.open_stream();
            if let Some(key) = opened {
                self.turn(key, now, fields, output, sent);
            }
            if output.room() == 0 {
                break;
            }
            let unblocked =
                !self.streams.blocked.is_empty() && self.turn_of_blocked(now, fields, output, sent);
            match self.streams.ready.pop() {
                Some(key) => self.turn(key, now, fields, output, sent),
                None if opened.is_none() && !unblocked => break,
                None => {}
            }
        }
        self.note_backlog();
        self.check_drained();
    }

    /// The turn of the next stream that waits for the connection's window, if that is open. One at a time: a peer that gives a byte
    /// moves no more streams than one.
    #[cold]
    fn turn_of_blocked(
        &mut self,
        now: Time,
        fields: &mut Fields,
        output: &mut Output,
        sent: &mut Vec<Sent>,
    ) -> bool {
        if self.send_window.available() == 0 {
            return false;
        }
        let Some(key) = self.streams.blocked.pop() else {
            return false;
        };
        self.turn(key, now, fields, output, sent);
        true
    }

    /// `WINDOW_UPDATEs`, for the connection and for streams.
    fn write_credit(&mut self, output: &mut Output) {
        if self.recv_window.is_due()
            && let Some(increment) = self.recv_window.take()
        {
            output.write(|out| frame::write_window_update(out, StreamId::CONNECTION, increment));
        }
        while output.room() > 0 {
            let Some(key) = self.streams.credits.pop() else {
                break;
            };
            let Some(stream) = self.streams.get_mut(key) else {
                continue;
            };
            stream.credit_listed = false;
            if !stream.has_id() {
                // Its window is announced when it has an id: see `encode_headers`.
                continue;
            }
            if stream.state.can_receive()
                && stream.reset.is_none()
                && let Some(increment) = stream.recv.take()
            {
                let id = stream.id;
                output.write(|out| frame::write_window_update(out, id, increment));
            }
        }
    }

    /// What is queued for this stream will not leave with the next transmit.
    pub(super) fn will_wait(&self, key: StreamKey) -> bool {
        // Streams that are to be opened are opened in turn.
        let ahead = || self.streams.active() + self.streams.opening.len();
        self.backlogged
            || self.streams.get(key).is_some_and(|stream| {
                !stream.has_id() && (!self.may_open() || ahead() > self.peer.max_concurrent_streams as usize)
            })
    }

    fn may_open(&self) -> bool {
        !self.streams.opening.is_empty()
            && !self.goaway.is_going_away()
            && self.streams.active() < self.peer.max_concurrent_streams as usize
    }

    /// Gives an id to the stream that waits longest for one, if the peer allows it; its HEADERS leave at once.
    fn open_stream(&mut self) -> Option<StreamKey> {
        while self.may_open() {
            let key = self.streams.opening.pop()?;
            if self.streams.get(key).is_none() {
                continue;
            }
            // `check_open` counts the ids, so there is one.
            let id = if self.last_id.is_connection() {
                StreamId::new(1)
            } else {
                self.last_id.next()?
            };
            self.last_id = id;
            self.streams.assign_id(key, id);
            return Some(key);
        }
        None
    }

    /// One stream's turn: its header sections, and one DATA frame. The output has room; a header section may go beyond its bound
    /// by its own length, and no other frame follows then.
    fn turn(
        &mut self,
        key: StreamKey,
        now: Time,
        fields: &mut Fields,
        output: &mut Output,
        sent: &mut Vec<Sent>,
    ) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.listed = Listed::No;
        let tag = stream.tag;
        let mut bytes = 0;
        while let Some(stream) = self.streams.get_mut(key) {
            match stream.queue.front() {
                Some(Item::Headers(_)) if output.room() > 0 => self.encode_headers(key, now, fields, output),
                Some(_) if bytes > 0 || output.room() == 0 => {
                    if stream.send.available() == 0 {
                        stream.compact();
                    }
                    self.streams.schedule(key);
                    break;
                }
                Some(_) => {
                    bytes = self.write_data(key, output);
                    if bytes == 0 {
                        break;
                    }
                }
                None if stream.end_queued && stream.state.can_send() => {
                    let id = stream.id;
                    output.write(|out| frame::write_data_header(out, id, 0, true));
                    self.sent_end(key);
                }
                None => break,
            }
        }
        let end = self
            .streams
            .get(key)
            .is_none_or(|stream| !stream.state.can_send() && stream.state != State::ResetByUs);
        if bytes > 0 || end {
            sent.push(Sent { tag, bytes, end });
        }
        self.finish_reset(key);
        if end {
            self.close_if_ended(key);
        }
    }

    fn encode_headers(&mut self, key: StreamKey, now: Time, fields: &mut Fields, output: &mut Output) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let Some(Item::Headers(headers)) = stream.queue.pop_front() else {
            return;
        };
        let end_stream = stream.end_queued && stream.queue.is_empty();
        let (id, first) = (stream.id, stream.state == State::Idle);
        let start = output.position();
        let Self { encoder, peer, .. } = self;
        output.write(|out| {
            frame::write_headers(out, id, end_stream, peer.max_frame_size, |block| {
                encoder.encode(&headers, block);
            });
        });
        if first {
            stream.opened = now;
            stream.headers_span = (start, output.position());
            if let Outcome::To(state) = stream.state.on(StreamEvent::SendHeaders) {
                stream.state = state;
            }
            if let Some(increment) = stream.recv.take() {
                output.write(|out| frame::write_window_update(out, id, increment));
            }
        } else if self.role == Role::Server && !is_informational(&headers) {
            stream.answered = true;
        }
        self.streams.queued_headers -= headers.memory();
        fields.give_back_list(headers);
        if end_stream {
            self.sent_end(key);
        }
    }

    /// Writes one DATA frame from the front of the stream's queue, as long as windows and frame size allow; its length.
    /// Zero: a window is used up, and the stream waits for it.
    fn write_data(&mut self, key: StreamKey, output: &mut Output) -> u32 {
        let Some(stream) = self.streams.get_mut(key) else {
            return 0;
        };
        let most = self
            .peer
            .max_frame_size
            .min(MAX_DATA)
            .min(stream.send.available());
        if most == 0 {
            // `recv` schedules the stream again when its window grows.
            stream.compact();
            return 0;
        }
        let most = most.min(self.send_window.available());
        if most == 0 {
            stream.compact();
            self.streams.block(key);
            return 0;
        }
        let (mut len, mut whole) = (0, 0);
        for item in &stream.queue {
            let next = match item {
                Item::Headers(_) => break,
                Item::Data(chunk) => chunk.len(),
                Item::Gathered(chunk) => chunk.len(),
            };
            if len + next > most as usize {
                len = most as usize;
                break;
            }
            len += next;
            whole += 1;
        }
        let end_stream = stream.end_queued && whole == stream.queue.len();
        let id = stream.id;
        output.write(|out| frame::write_data_header(out, id, len as u32, end_stream));
        let mut left = len;
        for _ in 0..whole {
            match stream.queue.pop_front() {
                Some(Item::Data(chunk)) => {
                    left -= chunk.len();
                    output.push(chunk);
                }
                Some(Item::Gathered(chunk)) => {
                    left -= chunk.len();
                    output.push(chunk.freeze());
                }
                _ => {}
            }
        }
        if left > 0 {
            match stream.queue.front_mut() {
                Some(Item::Data(chunk)) => output.push(chunk.split_to(left)),
                Some(Item::Gathered(chunk)) => output.push(chunk.split_to(left).freeze()),
                _ => {}
            }
        }
        let len = len as u32;
        stream.send.consume(len);
        self.send_window.consume(len);
        // What the peer's windows cut to crumbs serves nobody (CVE-2019-9511).
        if left == 0 || len >= CRUMB {
            self.account.earn_data();
        }
        if end_stream {
            self.sent_end(key);
        }
        len
    }

    /// `END_STREAM` has left.
    fn sent_end(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if let Outcome::To(state) = stream.state.on(StreamEvent::SendEndStream) {
            stream.state = state;
        }
    }

    /// Forgets the stream when both ends have ended it.
    pub(super) fn close_if_ended(&mut self, key: StreamKey) {
        if self
            .streams
            .get(key)
            .is_some_and(|stream| stream.state == State::Ended)
        {
            self.streams.remove(key, State::Ended);
            self.account.earn_stream();
            self.offer_capacity();
        }
    }

    /// Streams that are left over because the output is full will wait: their small chunks are copied, once.
    fn note_backlog(&mut self) {
        let backlogged = !self.streams.ready.is_empty();
        if backlogged && !self.backlogged {
            let waiting: Vec<_> = self.streams.ready.iter().collect();
            for key in waiting {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.compact();
                }
            }
        }
        self.backlogged = backlogged;
    }

    /// The PING that waits longest is of this kind: used by tests of keepalive.
    pub fn is_pinging(&self, kind: PingKind) -> bool {
        self.pings.is_waiting(kind)
    }
}

fn is_informational(headers: &HeaderList) -> bool {
    headers
        .find(FieldKind::Status)
        .is_some_and(|status| status.value().first() == Some(&b'1'))
}
