//! Header sections: requests, responses and trailers (RFC 9113 §6.2, §6.10, §8.1).

use std::rc::Rc;

use bytes::BytesMut;

use super::{BLOCK_LISTS, Block, CONTINUATION_BYTES, FREE_CONTINUATIONS, Fatal};
use crate::Time;
use crate::connection::control::Control;
use crate::connection::streams::{Expect, Outcome};
use crate::connection::{
    Cause, CloseReason, Connection, Event, HeadersKind, Limit, Role, State, StreamEvent, StreamKey,
};
use crate::frame::{ErrorCode, StreamId};
use crate::hpack::{self, Fields, HeaderList};
use crate::message::{self, Message};

const fn broken(error: hpack::Error) -> Fatal {
    Fatal {
        code: ErrorCode::COMPRESSION_ERROR,
        reason: CloseReason::Hpack(error),
    }
}

impl Connection {
    pub(super) fn recv_continuation(
        &mut self,
        fragment: &[u8],
        end_headers: bool,
        now: Time,
        fields: &mut Fields,
    ) -> Result<Option<Event>, Fatal> {
        // The reader lets no CONTINUATION through without a block.
        let Some(mut block) = self.inbound.block.take() else {
            return Ok(None);
        };
        block.continuations = block.continuations.saturating_add(1);
        block.received = block.received.saturating_add(fragment.len());
        block.bytes.extend_from_slice(fragment);
        if block.continuations > FREE_CONTINUATIONS.saturating_add(block.received / CONTINUATION_BYTES) {
            return Err(Fatal::limit(Limit::Continuation));
        }
        let kept = self.config.max_header_list_size as usize;
        if block.received > kept.saturating_mul(BLOCK_LISTS) {
            return Err(Fatal::limit(Limit::HeaderBlockSize));
        }
        if block.received > kept {
            self.recv_too_long(&mut block, end_headers, fields)
                .map_err(broken)?;
        }
        if !end_headers {
            self.inbound.block = Some(block);
            return Ok(None);
        }
        match block.list {
            Some(list) => self.recv_list(block.stream, block.end_stream, list, block.received, now),
            None => self.recv_block(block.stream, block.end_stream, &block.bytes, now, fields),
        }
    }

    /// A field block that is longer than a list may be: it is decoded as it comes, and no more is kept of it than its beginning.
    fn recv_too_long(
        &mut self,
        block: &mut Block,
        last: bool,
        fields: &mut Fields,
    ) -> Result<(), hpack::Error> {
        if !last && block.bytes.len() < block.try_from {
            return Ok(());
        }
        if block.list.is_none() {
            let mut list = fields.take_list();
            let limit = self.config.max_header_list_size;
            self.decoder
                .decode_beginning(&mut block.bytes, fields, limit, Rc::make_mut(&mut list))?;
            block.list = Some(list);
        }
        self.decoder.decode_rest(&mut block.bytes, fields, last)?;
        // What is left is short; the memory of the rest goes back.
        block.bytes = BytesMut::from(&block.bytes[..]);
        // It is the beginning of a field, which is looked at from its first byte each time: not for every small piece.
        block.try_from = block.bytes.len().saturating_mul(2);
        Ok(())
    }

    /// A whole field block. It is decoded whatever becomes of its stream: the peer's table goes on with it.
    pub(super) fn recv_block(
        &mut self,
        id: StreamId,
        end_stream: bool,
        block: &[u8],
        now: Time,
        fields: &mut Fields,
    ) -> Result<Option<Event>, Fatal> {
        let mut headers = fields.take_list();
        let Some(list) = Rc::get_mut(&mut headers) else {
            debug_assert!(false, "a list that was taken is nobody else's");
            return Err(Fatal::protocol(
                ErrorCode::INTERNAL_ERROR,
                "a header list is in use",
            ));
        };
        self.decoder
            .decode(block, fields, self.config.max_header_list_size, list)
            .map_err(broken)?;
        self.recv_list(id, end_stream, headers, block.len(), now)
    }

    /// A header list, from a field block of so many bytes.
    #[expect(
        clippy::inline_always,
        reason = "on the way of every call, by one of its two callers"
    )]
    #[inline(always)]
    fn recv_list(
        &mut self,
        id: StreamId,
        end_stream: bool,
        headers: Rc<HeaderList>,
        bytes: usize,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        if headers.oversized() {
            let cost = cost_of(bytes);
            self.spend(Limit::OversizedLists, cost, now)?;
        }
        if bytes == 0 && !end_stream {
            self.spend(Limit::EmptyFrames, 1, now)?;
        }
        match self.streams.find(id) {
            Some(key) => self.recv_more_headers(key, id, headers, end_stream, now),
            None if self.role == Role::Server && id.is_client_initiated() && id > self.last_id => {
                self.recv_request(id, headers, end_stream, now)
            }
            None => self.recv_unknown(id, StreamEvent::RecvHeaders, now),
        }
    }

    /// A new stream of the peer's.
    fn recv_request(
        &mut self,
        id: StreamId,
        headers: Rc<HeaderList>,
        end_stream: bool,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        if self.goaway.ignores(id) {
            // It came after our last GOAWAY, which tells the peer that it was not processed.
            return Ok(None);
        }
        self.last_id = id;
        if self.streams.active() >= self.config.max_concurrent_streams as usize {
            self.refused = self.refused.saturating_add(1);
            self.streams.remember_closed(id, State::ResetByUs);
            self.spend(Limit::RefusedStreams, 1, now)?;
            self.owe(Control::Reset(id, ErrorCode::REFUSED_STREAM), now);
            return Ok(None);
        }
        let summary = if headers.oversized() {
            message::Summary::default()
        } else {
            let summary = message::validate(&headers, Message::Request);
            match summary {
                Ok(summary) if end_stream && summary.content_length.unwrap_or(0) != 0 => {
                    return self.refuse_request(id, now);
                }
                Ok(summary) => summary,
                Err(_) => return self.refuse_request(id, now),
            }
        };
        let key = self.streams.insert(
            0,
            State::IdlePeer,
            self.peer.initial_window,
            self.initial_window,
            now,
        );
        self.streams.assign_id(key, id);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.state = State::Open;
            stream.expect = Expect::Body;
            stream.content_left = summary.content_length;
        }
        if end_stream {
            self.recv_end(key);
        }
        Ok(Some(Event::Headers {
            stream: key,
            tag: 0,
            headers,
            end_stream,
            kind: HeadersKind::Request,
        }))
    }

    /// A malformed request (RFC 9113 §8.1.1): the owner never hears of it.
    fn refuse_request(&mut self, id: StreamId, now: Time) -> Result<Option<Event>, Fatal> {
        self.streams.remember_closed(id, State::ResetByUs);
        self.spend_stream_error(now)?;
        self.owe(Control::Reset(id, ErrorCode::PROTOCOL_ERROR), now);
        Ok(None)
    }

    /// HEADERS of a stream that lives: a response, or trailers.
    fn recv_more_headers(
        &mut self,
        key: StreamKey,
        id: StreamId,
        headers: Rc<HeaderList>,
        end_stream: bool,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        if stream.state == State::ResetByUs {
            return self.recv_after_reset(key, false, end_stream, now);
        }
        match stream.state.on(StreamEvent::RecvHeaders) {
            Outcome::To(_) => {}
            outcome => return self.refuse(Some(key), id, outcome, "HEADERS after END_STREAM", now),
        }
        let kind = match stream.expect {
            Expect::Head => {
                let summary = if headers.oversized() {
                    message::Summary {
                        status: 200,
                        ..message::Summary::default()
                    }
                } else {
                    match message::validate(&headers, Message::Response) {
                        Ok(summary) => summary,
                        Err(malformed) => {
                            return self.malformed(key, Cause::Malformed(malformed), end_stream, now);
                        }
                    }
                };
                if summary.is_informational() {
                    let wrong = if end_stream {
                        "an informational response with END_STREAM"
                    } else if summary.status == 101 {
                        "status 101, which HTTP/2 does not have"
                    } else {
                        return self.recv_informational(key, headers, now);
                    };
                    return self.malformed(key, Cause::Local(wrong), end_stream, now);
                }
                stream.answered = true;
                self.pacer.answered(now, id);
                stream.expect = Expect::Body;
                stream.bodiless |= matches!(summary.status, 204 | 304);
                if !stream.bodiless {
                    stream.content_left = summary.content_length;
                }
                HeadersKind::Response
            }
            Expect::Body | Expect::Nothing => {
                if !end_stream {
                    let cause = Cause::Local("trailers without END_STREAM");
                    return self.malformed(key, cause, end_stream, now);
                }
                if !headers.oversized()
                    && let Err(malformed) = message::validate(&headers, Message::Trailers)
                {
                    return self.malformed(key, Cause::Malformed(malformed), end_stream, now);
                }
                stream.expect = Expect::Nothing;
                HeadersKind::Trailers
            }
        };
        if end_stream && stream.content_left.is_some_and(|left| left > 0) {
            let cause = Cause::Local("DATA and content-length differ");
            return self.malformed(key, cause, end_stream, now);
        }
        let (tag, reset) = (stream.tag, stream.reset.is_some());
        if end_stream {
            self.recv_end(key);
        }
        if reset {
            return Ok(None);
        }
        Ok(Some(Event::Headers {
            stream: key,
            tag,
            headers,
            end_stream,
            kind,
        }))
    }

    /// An informational response. No window bounds their number, so one stream may have only so many; the connection, which
    /// other calls share, does not pay for it.
    fn recv_informational(
        &mut self,
        key: StreamKey,
        headers: Rc<HeaderList>,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        let cost = cost_of(headers.size());
        stream.informed = stream.informed.saturating_add(cost);
        let rule = self.config.limits.rule(Limit::Informational);
        let age = u32::try_from(now.since(stream.opened).as_secs()).unwrap_or(u32::MAX);
        let most = rule.burst.saturating_add(age.saturating_mul(rule.per_second));
        if stream.informed > most {
            self.note_limit(Limit::Informational);
            let cause = Cause::Local("too many informational responses");
            return self.stream_error(key, ErrorCode::ENHANCE_YOUR_CALM, cause, now);
        }
        Ok(stream.reset.is_none().then(|| Event::Headers {
            stream: key,
            tag: stream.tag,
            headers,
            end_stream: false,
            kind: HeadersKind::Informational,
        }))
    }

    /// The peer has ended its side of the stream.
    pub(super) fn recv_end(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if let Outcome::To(state) = stream.state.on(StreamEvent::RecvEndStream) {
            stream.state = state;
            stream.expect = Expect::Nothing;
            self.close_if_ended(key);
        }
    }
}

/// What so many bytes of fields cost: one, and one more for every 4 KiB.
fn cost_of(bytes: usize) -> u32 {
    u32::try_from(bytes / 4096).unwrap_or(u32::MAX).saturating_add(1)
}
