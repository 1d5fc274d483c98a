//! DATA and `WINDOW_UPDATE`: what they do to windows and messages (RFC 9113 §6.1, §6.9).

use bytes::Bytes;

use super::Fatal;
use crate::Time;
use crate::connection::streams::{Expect, Outcome};
use crate::connection::{Cause, Connection, Event, Limit, State, StreamEvent};
use crate::frame::{ErrorCode, StreamId};

impl Connection {
    pub(super) fn recv_data(
        &mut self,
        id: StreamId,
        chunk: Bytes,
        flow_controlled: u32,
        end_stream: bool,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        let len = chunk.len() as u32;
        let first_piece = flow_controlled > 0 || chunk.is_empty();
        if first_piece {
            self.take_from_connection(flow_controlled)?;
        }
        self.received = self.received.saturating_add(u64::from(len));
        let Some(key) = self.streams.find(id) else {
            // DATA with content costs its sender as much as us, and may have been on its way in numbers.
            return if first_piece && !(len > 0 && self.ignores(id, StreamEvent::RecvData)) {
                self.recv_unknown(id, StreamEvent::RecvData, now)
            } else {
                Ok(None)
            };
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        if stream.state == State::ResetByUs {
            return self.recv_after_reset(key, len > 0, end_stream, now);
        }
        match stream.state.on(StreamEvent::RecvData) {
            Outcome::To(_) => {}
            outcome => return self.refuse(Some(key), id, outcome, "DATA after END_STREAM", now),
        }
        if first_piece {
            // A peer that has never acknowledged our SETTINGS may go by them all the same.
            let unacknowledged = || self.unacknowledged.initial_window(&self.config);
            let slack = || unacknowledged().saturating_sub(self.initial_window);
            if stream.recv.receive(flow_controlled).is_err()
                && stream.recv.receive_within(flow_controlled, slack()).is_err()
            {
                return self.stream_error(
                    key,
                    ErrorCode::FLOW_CONTROL_ERROR,
                    Cause::Local("more DATA than the stream's window allows"),
                    now,
                );
            }
            self.inbound.data_left = flow_controlled;
        }
        // What the frame took from the window and did not bring is padding, which nobody will release.
        self.inbound.data_left = self.inbound.data_left.saturating_sub(len);
        if !self.inbound.reader.is_within_data() {
            stream.recv.credit(self.inbound.data_left);
            self.inbound.data_left = 0;
        }
        let (expect, bodiless, reset) = (stream.expect, stream.bodiless, stream.reset.is_some());
        if expect != Expect::Body {
            let cause = Cause::Local("DATA before the message's HEADERS or after its trailers");
            return self.malformed(key, cause, end_stream, now);
        }
        if bodiless && len > 0 {
            let cause = Cause::Local("DATA of a response that has none");
            return self.malformed(key, cause, end_stream, now);
        }
        if let Some(left) = &mut stream.content_left {
            match left.checked_sub(u64::from(len)) {
                Some(rest) if rest == 0 || !end_stream => *left = rest,
                _ => {
                    let cause = Cause::Local("DATA and content-length differ");
                    return self.malformed(key, cause, end_stream, now);
                }
            }
        }
        let tag = stream.tag;
        if end_stream {
            self.recv_end(key);
        } else if len == 0 {
            self.release(key, 0);
            return self.spend(Limit::EmptyFrames, 1, now);
        }
        self.account.earn_data();
        if reset {
            // The owner has let go of it, but for what it still sends.
            if let Some(stream) = self.streams.get_mut(key) {
                stream.recv.credit(len);
            }
            return Ok(None);
        }
        Ok(Some(Event::Data {
            stream: key,
            tag,
            chunk,
            end_stream,
        }))
    }

    /// The connection's window is charged for every DATA frame, and credited at once: a slow stream stalls only itself.
    fn take_from_connection(&mut self, flow_controlled: u32) -> Result<(), Fatal> {
        if self.recv_window.receive(flow_controlled).is_err() {
            return Err(Fatal::protocol(
                ErrorCode::FLOW_CONTROL_ERROR,
                "the peer sends more DATA than the connection's window allows",
            ));
        }
        if self.credit_held {
            self.withheld = self.withheld.saturating_add(flow_controlled);
        } else {
            self.recv_window.credit(flow_controlled);
        }
        Ok(())
    }

    pub(super) fn recv_window_update(
        &mut self,
        id: StreamId,
        increment: u32,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        self.spend(Limit::WindowUpdate, 1, now)?;
        if id.is_connection() {
            if self.send_window.grow(increment).is_err() {
                return Err(Fatal::protocol(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "the connection's window exceeds 2^31-1",
                ));
            }
            return Ok(None);
        }
        let Some(key) = self.streams.find(id) else {
            return self.recv_unknown(id, StreamEvent::RecvWindowUpdate, now);
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        match stream.state.on(StreamEvent::RecvWindowUpdate) {
            Outcome::To(_) => {}
            outcome => return self.refuse(Some(key), id, outcome, "WINDOW_UPDATE", now),
        }
        if stream.send.grow(increment).is_err() {
            let cause = Cause::Local("the stream's window exceeds 2^31-1");
            return self.stream_error(key, ErrorCode::FLOW_CONTROL_ERROR, cause, now);
        }
        self.streams.schedule(key);
        Ok(None)
    }
}
