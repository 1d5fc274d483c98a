//! From a frame to what it does: windows, stream states, messages, and the event for the owner.

mod control;
mod data;
mod errors;
mod headers;

use std::rc::Rc;

use bytes::BytesMut;

use super::control::Control;
use super::preface::Expect as Preface;
use super::{CloseReason, Connection, Event, Limit, Limits};
use crate::Time;
use crate::frame::{ErrorCode, Frame, Reader, StreamId};
use crate::hpack::{Fields, HeaderList};

/// CONTINUATION frames that are free in one field block; beyond, each must carry [`CONTINUATION_BYTES`] on average.
const FREE_CONTINUATIONS: usize = 128;
const CONTINUATION_BYTES: usize = 256;

/// Bytes of one field block, in lists of the greatest length that we allow. A longer one ends the connection.
const BLOCK_LISTS: usize = 16;

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

/// What is known of the bytes that have been read but not acted upon.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    reader: Reader,
    /// A field block of which CONTINUATIONs are missing.
    block: Option<Block>,
    /// Since when a frame other than DATA has been incomplete.
    unfinished: Option<Time>,
    /// What the DATA frame that is arriving took from its stream's window and did not bring yet: data, and padding.
    data_left: u32,
}

#[derive(Debug)]
struct Block {
    stream: StreamId,
    end_stream: bool,
    /// What is not decoded yet.
    bytes: BytesMut,
    /// The block's length so far.
    received: usize,
    /// It is too long, and decoded as it comes: its beginning.
    list: Option<Rc<HeaderList>>,
    /// Length of `bytes` from which on decoding is tried again.
    try_from: usize,
    continuations: usize,
    /// Since when the peer has had time for it; pauses of ours move this.
    since: Time,
    began: Time,
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

    /// Bytes of the field block whose CONTINUATIONs are missing.
    pub(super) fn memory(&self) -> usize {
        let list = |block: &Block| block.list.as_ref().map_or(0, |list| list.memory());
        self.block
            .as_ref()
            .map_or(0, |block| block.bytes.capacity().saturating_add(list(block)))
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

    /// The time at which the unfinished field block began.
    pub(super) fn block_began(&self) -> Option<Time> {
        self.block.as_ref().map(|block| block.began)
    }

    /// We read nothing for this long: what was begun has as much more time.
    pub(super) fn postpone(&mut self, paused: std::time::Duration) {
        if let Some(block) = &mut self.block {
            block.since += paused;
        }
        if let Some(since) = &mut self.unfinished {
            *since += paused;
        }
    }

    /// Notes whether a frame has been begun and not finished. DATA may take its time: it is handed on as it comes.
    fn note_unfinished(&mut self, input: &[u8], now: Time) {
        const DATA: u8 = 0;
        if input.is_empty() || self.reader.is_within_data() || input.get(3) == Some(&DATA) {
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
                    // Copied: it may wait, and would keep the whole buffer that it was read into.
                    let bytes = BytesMut::from(&fragment[..]);
                    self.inbound.block = Some(Block {
                        stream,
                        end_stream,
                        received: bytes.len(),
                        bytes,
                        list: None,
                        try_from: 0,
                        continuations: 0,
                        since: now,
                        began: now,
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
            Frame::SettingsAck => self.recv_settings_ack(now)?,
            Frame::PushPromise { .. } => {
                return Err(Fatal::protocol(
                    ErrorCode::PROTOCOL_ERROR,
                    "the peer pushes, which we do not allow",
                ));
            }
            Frame::Ping { ack: false, payload } => {
                self.peer_pings = self.peer_pings.saturating_add(1);
                self.owe(Control::PingAck(payload), now);
                None
            }
            Frame::Ping { ack: true, payload } => self.recv_pong(payload, now),
            Frame::GoAway {
                last_stream,
                code,
                debug,
            } => {
                self.spend(Limit::GoAway, 1, now)?;
                self.recv_goaway(last_stream, code, debug);
                None
            }
            Frame::WindowUpdate { stream, increment } => self.recv_window_update(stream, increment, now)?,
            Frame::Unknown { .. } => self.spend(Limit::UnknownFrames, 1, now)?,
        };
        Ok(Progress::from(event))
    }

    pub(super) fn spend(&mut self, limit: Limit, cost: u32, now: Time) -> Result<Option<Event>, Fatal> {
        match self.account.spend(&self.config.limits, limit, cost, now) {
            None => {}
            Some(_) if limit.ends() => return Err(Fatal::limit(limit)),
            Some(excess) => self.pause_for(limit, excess, now),
        }
        Ok(None)
    }
}

impl From<Option<Event>> for Progress {
    fn from(event: Option<Event>) -> Self {
        event.map_or(Self::More, Self::Event)
    }
}
