//! From a frame to what it does: windows, stream states, messages, and the event for the owner.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::preface::Expect as Preface;
use super::send::Control;
use super::settings;
use super::streams::{Expect, Outcome};
use super::{
    Cause, CloseReason, Connection, Event, HeadersKind, Limit, Limits, PingKind, Role, State, StreamEvent,
    StreamKey,
};
use crate::Time;
use crate::frame::{self, ErrorCode, Frame, Reader, SettingId, SettingsPayload, StreamId};
use crate::hpack::{FieldFault, Fields, HeaderList};
use crate::message::{self, Malformed, Message};

/// CONTINUATION frames that are free in one field block; beyond, each must carry [`CONTINUATION_BYTES`] on average.
const FREE_CONTINUATIONS: usize = 128;
const CONTINUATION_BYTES: usize = 256;

/// What reading came to.
pub(super) enum Progress {
    Event(Event),
    /// A frame was dealt with.
    More,
    /// The next frame is not complete.
    Starved,
}

/// A connection error.
#[derive(Debug)]
pub(super) struct Fatal {
    pub(super) code: ErrorCode,
    pub(super) reason: CloseReason,
}

impl Fatal {
    pub(super) const fn protocol(code: ErrorCode, reason: &'static str) -> Self {
        Self {
            code,
            reason: CloseReason::Protocol(reason),
        }
    }

    pub(super) const fn limit(limit: Limit) -> Self {
        Self {
            code: ErrorCode::ENHANCE_YOUR_CALM,
            reason: CloseReason::Limit(limit),
        }
    }
}

impl From<Limit> for Fatal {
    fn from(limit: Limit) -> Self {
        Self::limit(limit)
    }
}

/// What is known of the bytes that have been read but not acted upon.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    reader: Reader,
    /// A field block of which CONTINUATIONs are missing.
    block: Option<Block>,
    /// Since when a frame other than DATA has been incomplete.
    unfinished: Option<Time>,
    /// The stream of the DATA frame that is arriving, and what it took from the window but did not yet bring:
    /// data to come, and padding.
    data: Option<(StreamKey, u32)>,
}

#[derive(Debug)]
struct Block {
    stream: StreamId,
    end_stream: bool,
    bytes: BytesMut,
    continuations: usize,
    since: Time,
}

impl Inbound {
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Time> {
        let block = self
            .block
            .as_ref()
            .map(|block| block.since + limits.header_block_time);
        let frame = self.unfinished.map(|since| since + limits.frame_time);
        [block, frame].into_iter().flatten().min()
    }

    pub(super) fn overdue(&self, limits: &Limits, now: Time) -> Option<Limit> {
        if self
            .block
            .as_ref()
            .is_some_and(|block| block.since + limits.header_block_time <= now)
        {
            Some(Limit::HeaderBlockTime)
        } else if self
            .unfinished
            .is_some_and(|since| since + limits.frame_time <= now)
        {
            Some(Limit::FrameTime)
        } else {
            None
        }
    }

    /// Notes whether a frame has been begun and not finished. DATA may take its time: it is handed on as it comes.
    fn note_unfinished(&mut self, input: &[u8], now: Time) {
        const DATA: u8 = 0;
        if input.is_empty() || input.get(3) == Some(&DATA) {
            self.unfinished = None;
        } else {
            self.unfinished.get_or_insert(now);
        }
    }
}

impl Connection {
    /// Reads one frame, or one piece of DATA.
    pub(super) fn read(
        &mut self,
        now: Time,
        input: &mut BytesMut,
        fields: &mut Fields,
    ) -> Result<Progress, Fatal> {
        if let Preface::Magic(_) = self.expect {
            match self.expect.read_magic(input) {
                Ok(true) => {}
                Ok(false) => return Ok(Progress::Starved),
                Err(_) => {
                    return Err(Fatal::protocol(
                        ErrorCode::PROTOCOL_ERROR,
                        "the peer does not begin as an HTTP/2 client",
                    ));
                }
            }
        }
        let frame = match self.inbound.reader.next(input, self.config.max_frame_size) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                self.inbound.note_unfinished(input, now);
                return Ok(Progress::Starved);
            }
            Err(error) => return self.recv_broken(error, now).map(Progress::from),
        };
        self.inbound.unfinished = None;
        if self.expect == Preface::Settings && !matches!(frame, Frame::Settings(_)) {
            return Err(Fatal::protocol(
                ErrorCode::PROTOCOL_ERROR,
                "the peer's first frame is not SETTINGS",
            ));
        }
        let event = match frame {
            Frame::Data {
                stream,
                chunk,
                flow_controlled,
                end_stream,
            } => self.recv_data(stream, chunk, flow_controlled, end_stream, now)?,
            Frame::Headers {
                stream,
                fragment,
                end_stream,
                end_headers,
                priority: _,
            } => {
                if end_headers {
                    self.recv_block(stream, end_stream, &fragment, now, fields)?
                } else {
                    let bytes = BytesMut::from(fragment);
                    self.inbound.block = Some(Block {
                        stream,
                        end_stream,
                        bytes,
                        continuations: 0,
                        since: now,
                    });
                    None
                }
            }
            Frame::Continuation {
                stream: _,
                fragment,
                end_headers,
            } => self.recv_continuation(&fragment, end_headers, now, fields)?,
            Frame::Priority {
                stream: _,
                priority: _,
            } => self.spend(Limit::Priority, 1, now)?,
            Frame::RstStream { stream, code } => self.recv_reset(stream, code, now)?,
            Frame::Settings(settings) => self.recv_settings(&settings, now)?,
            Frame::SettingsAck => self.recv_settings_ack()?,
            Frame::PushPromise { .. } => {
                return Err(Fatal::protocol(
                    ErrorCode::PROTOCOL_ERROR,
                    "the peer pushes, which we do not allow",
                ));
            }
            Frame::Ping { ack: false, payload } => {
                self.owe(Control::PingAck(payload))?;
                None
            }
            Frame::Ping { ack: true, payload } => self.recv_pong(payload, now),
            Frame::GoAway {
                last_stream,
                code,
                debug,
            } => {
                self.recv_goaway(last_stream, code, debug);
                None
            }
            Frame::WindowUpdate { stream, increment } => self.recv_window_update(stream, increment, now)?,
            Frame::Unknown { .. } => self.spend(Limit::UnknownFrames, 1, now)?,
        };
        Ok(Progress::from(event))
    }

    // ---- DATA and its windows ----

    fn recv_data(
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
            self.settle_padding();
            self.take_from_connection(flow_controlled)?;
        }
        self.received += u64::from(len);
        let Some(key) = self.streams.find(id) else {
            return if first_piece {
                self.recv_unknown(id, StreamEvent::RecvData, now)
            } else {
                Ok(None)
            };
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        match stream.state.on(StreamEvent::RecvData) {
            Outcome::To(_) => {}
            outcome => return self.refuse(Some(key), id, outcome, "DATA after END_STREAM", now),
        }
        if first_piece {
            if stream.recv.receive(flow_controlled).is_err() {
                return self.stream_error(
                    key,
                    ErrorCode::FLOW_CONTROL_ERROR,
                    Cause::Local("more DATA than the stream's window allows"),
                    now,
                );
            }
            self.inbound.data = Some((key, flow_controlled));
        }
        if let Some((_, left)) = &mut self.inbound.data {
            *left -= len.min(*left);
        }
        let (expect, bodiless, reset) = (stream.expect, stream.bodiless, stream.reset.is_some());
        if expect != Expect::Body {
            return self.malformed(
                key,
                "DATA before the message's HEADERS or after its trailers",
                now,
            );
        }
        if bodiless && len > 0 {
            return self.malformed(key, "DATA of a response that has none", now);
        }
        if let Some(left) = &mut stream.content_left {
            match left.checked_sub(u64::from(len)) {
                Some(rest) if rest == 0 || !end_stream => *left = rest,
                _ => return self.malformed(key, "DATA and content-length differ", now),
            }
        }
        let tag = stream.tag;
        if end_stream {
            self.settle_padding();
            self.recv_end(key);
        } else if len == 0 {
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
            self.withheld += flow_controlled;
        } else {
            self.recv_window.credit(flow_controlled);
        }
        Ok(())
    }

    /// The DATA frame before has ended: what it took from its stream's window and did not bring was padding.
    fn settle_padding(&mut self) {
        if let Some((key, padding)) = self.inbound.data.take()
            && padding > 0
        {
            self.release(key, padding);
        }
    }

    fn recv_window_update(
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
            self.streams.unblock();
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

    // ---- Header sections ----

    fn recv_continuation(
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
        block.continuations += 1;
        block.bytes.extend_from_slice(fragment);
        if block.continuations > FREE_CONTINUATIONS + block.bytes.len() / CONTINUATION_BYTES {
            return Err(Fatal::limit(Limit::Continuation));
        }
        // Twice the list's limit: what is only somewhat too long can still be answered.
        if block.bytes.len() > (self.config.max_header_list_size as usize).saturating_mul(2) {
            return Err(Fatal::limit(Limit::HeaderBlockSize));
        }
        if !end_headers {
            self.inbound.block = Some(block);
            return Ok(None);
        }
        self.recv_block(block.stream, block.end_stream, &block.bytes, now, fields)
    }

    /// A whole field block. It is decoded whatever becomes of its stream: the peer's table goes on with it.
    fn recv_block(
        &mut self,
        id: StreamId,
        end_stream: bool,
        block: &[u8],
        now: Time,
        fields: &mut Fields,
    ) -> Result<Option<Event>, Fatal> {
        let mut headers = HeaderList::new();
        self.decoder
            .decode(block, fields, self.config.max_header_list_size, &mut headers)
            .map_err(|error| Fatal {
                code: ErrorCode::COMPRESSION_ERROR,
                reason: CloseReason::Hpack(error),
            })?;
        if headers
            .iter()
            .any(|entry| entry.field.fault() == Some(FieldFault::EmptyName))
        {
            self.spend(Limit::ZeroLengthNames, 1, now)?;
        }
        if block.is_empty() && !end_stream {
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
        headers: HeaderList,
        end_stream: bool,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        if self.goaway.ignores(id) {
            // It came after our last GOAWAY, which tells the peer that it was not processed.
            return Ok(None);
        }
        self.last_id = id;
        if self.streams.active() >= self.config.max_concurrent_streams as usize {
            self.refused += 1;
            self.streams.remember_closed(id, State::ResetByUs);
            self.spend(Limit::RefusedStreams, 1, now)?;
            self.owe(Control::Reset(id, ErrorCode::REFUSED_STREAM))?;
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
        let (headers, kind) = (Rc::new(headers), HeadersKind::Request);
        Ok(Some(Event::Headers {
            stream: key,
            tag: 0,
            headers,
            end_stream,
            kind,
        }))
    }

    /// A malformed request (RFC 9113 §8.1.1): the owner never hears of it.
    fn refuse_request(&mut self, id: StreamId, now: Time) -> Result<Option<Event>, Fatal> {
        self.streams.remember_closed(id, State::ResetByUs);
        self.spend(Limit::StreamErrors, 1, now)?;
        self.owe(Control::Reset(id, ErrorCode::PROTOCOL_ERROR))?;
        Ok(None)
    }

    /// HEADERS of a stream that lives: a response, or trailers.
    fn recv_more_headers(
        &mut self,
        key: StreamKey,
        id: StreamId,
        headers: HeaderList,
        end_stream: bool,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
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
                        Err(malformed) => return self.malformed_fields(key, malformed, now),
                    }
                };
                if summary.is_informational() {
                    if end_stream {
                        return self.malformed(key, "an informational response with END_STREAM", now);
                    }
                    if summary.status == 101 {
                        return self.malformed(key, "status 101, which HTTP/2 does not have", now);
                    }
                    HeadersKind::Informational
                } else {
                    stream.answered = true;
                    stream.expect = Expect::Body;
                    stream.bodiless |= matches!(summary.status, 204 | 304);
                    if !stream.bodiless {
                        stream.content_left = summary.content_length;
                    }
                    HeadersKind::Response
                }
            }
            Expect::Body | Expect::Nothing => {
                if !end_stream {
                    return self.malformed(key, "trailers without END_STREAM", now);
                }
                if !headers.oversized()
                    && let Err(malformed) = message::validate(&headers, Message::Trailers)
                {
                    return self.malformed_fields(key, malformed, now);
                }
                stream.expect = Expect::Nothing;
                HeadersKind::Trailers
            }
        };
        if end_stream && stream.content_left.is_some_and(|left| left > 0) {
            return self.malformed(key, "DATA and content-length differ", now);
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
            headers: Rc::new(headers),
            end_stream,
            kind,
        }))
    }

    /// The peer has ended its side of the stream.
    fn recv_end(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if let Outcome::To(state) = stream.state.on(StreamEvent::RecvEndStream) {
            stream.state = state;
            stream.expect = Expect::Nothing;
            self.close_if_ended(key);
        }
    }

    // ---- RST_STREAM and errors ----

    fn recv_reset(&mut self, id: StreamId, code: ErrorCode, now: Time) -> Result<Option<Event>, Fatal> {
        let Some(key) = self.streams.find(id) else {
            return self.recv_unknown(id, StreamEvent::RecvReset, now);
        };
        let Some(stream) = self.streams.get(key) else {
            return Ok(None);
        };
        let (tag, ours) = (stream.tag, stream.state == State::ResetByUs);
        let rapid = self.role == Role::Server
            && !stream.answered
            && now.since(stream.opened) < self.config.limits.rapid_reset_age;
        self.streams.remove(key, State::ResetByPeer);
        self.offer_capacity();
        if rapid {
            self.spend(Limit::RapidReset, 1, now)?;
        }
        if ours {
            // Both ends reset it; the owner knows.
            return Ok(None);
        }
        Ok(Some(Event::Reset {
            stream: key,
            tag,
            code,
            cause: Cause::Peer,
            left: true,
        }))
    }

    /// A frame for a stream that does not live.
    fn recv_unknown(&mut self, id: StreamId, event: StreamEvent, now: Time) -> Result<Option<Event>, Fatal> {
        let server = self.role == Role::Server;
        if server && self.goaway.ignores(id) && id.is_client_initiated() {
            return Ok(None);
        }
        let state = if server && id.is_client_initiated() {
            if id > self.last_id {
                State::IdlePeer
            } else {
                // Skipped by the peer: closed before it was used (RFC 9113 §5.1.1), and as wrong as an idle one.
                self.streams.closed_state(id).unwrap_or(State::Idle)
            }
        } else if !server && id.is_client_initiated() && id <= self.last_id {
            self.streams.closed_state(id).unwrap_or(State::Forgotten)
        } else {
            State::Idle
        };
        self.refuse(
            None,
            id,
            state.on(event),
            "a frame for a stream that has ended",
            now,
        )
    }

    /// Carries out what the table of states says of a frame that is not simply right.
    fn refuse(
        &mut self,
        key: Option<StreamKey>,
        id: StreamId,
        outcome: Outcome,
        reason: &'static str,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        match outcome {
            Outcome::To(_) | Outcome::Forbidden => Ok(None),
            Outcome::Ignore => self.spend(Limit::ClosedStreams, 1, now),
            Outcome::ConnectionError(code) => Err(Fatal::protocol(code, reason)),
            Outcome::StreamError(code) => match key {
                Some(key) => self.stream_error(key, code, Cause::Local(reason), now),
                None => {
                    self.streams.set_closed_state(id, State::ResetByUs);
                    self.spend(Limit::StreamErrors, 1, now)?;
                    self.owe(Control::Reset(id, code))?;
                    Ok(None)
                }
            },
        }
    }

    fn malformed(&mut self, key: StreamKey, reason: &'static str, now: Time) -> Result<Option<Event>, Fatal> {
        self.stream_error(key, ErrorCode::PROTOCOL_ERROR, Cause::Local(reason), now)
    }

    fn malformed_fields(
        &mut self,
        key: StreamKey,
        malformed: Malformed,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        self.stream_error(key, ErrorCode::PROTOCOL_ERROR, Cause::Malformed(malformed), now)
    }

    /// A stream error (RFC 9113 §5.4.2): RST_STREAM, and the owner hears of it.
    fn stream_error(
        &mut self,
        key: StreamKey,
        code: ErrorCode,
        cause: Cause,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        let tag = self.streams.get(key).map_or(0, |stream| stream.tag);
        self.queue_reset(key, code);
        self.spend(Limit::StreamErrors, 1, now)?;
        Ok(Some(Event::Reset {
            stream: key,
            tag,
            code,
            cause,
            left: true,
        }))
    }

    /// A frame that is wrong by itself.
    fn recv_broken(&mut self, error: frame::Error, now: Time) -> Result<Option<Event>, Fatal> {
        let Some(id) = error.stream() else {
            return Err(Fatal {
                code: error.code(),
                reason: CloseReason::Frame(error),
            });
        };
        match self.streams.find(id) {
            Some(key)
                if self
                    .streams
                    .get(key)
                    .is_some_and(|stream| stream.state != State::ResetByUs) =>
            {
                self.stream_error(key, error.code(), Cause::Local("a broken frame"), now)
            }
            Some(_) => self.spend(Limit::ClosedStreams, 1, now),
            None => match error {
                frame::Error::PriorityLength { .. } => {
                    // Right in every state, so the stream may be idle; it is reset all the same (§6.3).
                    self.spend(Limit::StreamErrors, 1, now)?;
                    self.owe(Control::Reset(id, error.code()))?;
                    Ok(None)
                }
                _ => self.recv_unknown(id, StreamEvent::RecvWindowUpdate, now),
            },
        }
    }

    // ---- The connection's own frames ----

    fn recv_settings(&mut self, settings: &SettingsPayload, now: Time) -> Result<Option<Event>, Fatal> {
        self.spend(Limit::Settings, 1 + settings.len() as u32 / 8, now)?;
        for (id, value) in settings.iter() {
            if id == SettingId::ENABLE_PUSH && value != 0 && self.role == Role::Client {
                return Err(Fatal::protocol(
                    ErrorCode::PROTOCOL_ERROR,
                    "a server set SETTINGS_ENABLE_PUSH",
                ));
            }
            let before = self.peer.initial_window;
            self.peer.apply(id, value);
            match id {
                SettingId::INITIAL_WINDOW_SIZE => {
                    self.shift_send_windows(i64::from(value) - i64::from(before))?
                }
                SettingId::HEADER_TABLE_SIZE => self.encoder.set_max_table_size(value),
                _ => {}
            }
        }
        self.owe(Control::SettingsAck)?;
        if self.expect == Preface::Settings {
            self.expect = Preface::Nothing;
            return Ok(Some(Event::Ready));
        }
        self.offer_capacity();
        Ok(None)
    }

    /// The peer's SETTINGS_INITIAL_WINDOW_SIZE moves the windows of all streams (RFC 9113 §6.9.2).
    fn shift_send_windows(&mut self, delta: i64) -> Result<(), Fatal> {
        if delta == 0 {
            return Ok(());
        }
        let mut open = Vec::new();
        for (key, stream) in self.streams.iter_mut() {
            if stream.send.shift(delta).is_err() {
                return Err(Fatal::protocol(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "SETTINGS_INITIAL_WINDOW_SIZE makes a stream's window exceed 2^31-1",
                ));
            }
            if delta > 0 && stream.has_work() {
                open.push(key);
            }
        }
        open.into_iter().for_each(|key| self.streams.schedule(key));
        Ok(())
    }

    fn recv_settings_ack(&mut self) -> Result<Option<Event>, Fatal> {
        match self.unacknowledged.acknowledge() {
            Some(settings::Sent::First) => {
                self.decoder.set_max_table_size(self.config.header_table_size);
                self.shift_recv_windows(self.config.initial_window);
            }
            Some(settings::Sent::InitialWindow(size)) => self.shift_recv_windows(size),
            Some(settings::Sent::Barrier) => self.pacer.confirm(),
            None => {
                return Err(Fatal::protocol(
                    ErrorCode::PROTOCOL_ERROR,
                    "the peer acknowledges SETTINGS that were never sent",
                ));
            }
        }
        Ok(None)
    }

    /// The peer has taken up our SETTINGS_INITIAL_WINDOW_SIZE.
    fn shift_recv_windows(&mut self, size: u32) {
        let before = std::mem::replace(&mut self.initial_window, size);
        if before != size {
            for (_, stream) in self.streams.iter_mut() {
                stream.recv.shift(before, size);
            }
        }
    }

    fn recv_pong(&mut self, payload: [u8; 8], now: Time) -> Option<Event> {
        let (kind, waiting) = self.pings.acknowledge(payload)?;
        if kind == PingKind::Shutdown {
            self.finish_shutdown();
            return None;
        }
        let (round_trip, received) = (waiting.round_trip(now), self.received - waiting.received);
        Some(Event::Pong {
            kind,
            round_trip,
            received,
        })
    }

    fn spend(&mut self, limit: Limit, cost: u32, now: Time) -> Result<Option<Event>, Fatal> {
        self.account.spend(&self.config.limits, limit, cost, now)?;
        Ok(None)
    }
}

impl From<Option<Event>> for Progress {
    fn from(event: Option<Event>) -> Self {
        event.map_or(Self::More, Self::Event)
    }
}
