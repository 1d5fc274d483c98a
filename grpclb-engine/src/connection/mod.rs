//! One HTTP/2 connection in either role (RFC 9113), made for relaying. It knows frames, streams and windows; it knows
//! no calls, no other connection and no socket.
//!
//! # Methods of [`Connection`]
//!
//! * **Getters** change nothing: `role`, `is_closed`, `can_open`, `capacity`, `streams`, `peer_settings`, `left`, …
//! * **Input**: [`Connection::poll_event`] takes the peer's bytes and returns one event at a time, [`Connection::handle_eof`]
//!   says that there will be none, [`Connection::handle_timeout`] that time has passed.
//! * **Commands** queue what is to be sent and send nothing: `open`, `send_headers`, `send_data`, `reset`, `release`,
//!   `ping`, `shutdown`, `close`, … A command for a stale [`StreamKey`] does nothing.
//! * **Output**: [`Connection::transmit`] moves what is queued to an [`Output`]; [`Connection::poll_timeout`] says when
//!   `handle_timeout` wants to be called.
//!
//! # Order of calls
//!
//! 1. After bytes have arrived: `poll_event` until it returns `None`; carry out commands in between, on this and on other
//!    connections.
//! 2. When everything that was readable has been handled: for each connection that [`Connection::wants_transmit`],
//!    `transmit` once, write the output's slices, `advance` it. Repeat when the socket is writable again and either the
//!    output is not empty or the connection still wants to transmit. One `Output` belongs to one connection for life;
//!    its buffer may go round among those of one owner ([`Output::take_buffer`]).
//! 3. After commands, `transmit` or `poll_event`: ask `poll_timeout` again; at that time call `handle_timeout`, which
//!    returns an event, or `None`, and go on with 2.
//! 4. When [`Connection::is_closed`] (looked at after `poll_event`, `handle_timeout` and `transmit`): transmit once more,
//!    write what is in the output, close the socket.
//!
//! # Streams
//!
//! A stream is over for its owner when it has seen `end_stream` (or [`Event::Reset`]) from the peer and [`Sent::end`]
//! for its own side, or when it has called [`Connection::reset`] with a code other than `NO_ERROR`. Header blocks are encoded, and ids
//! given, when `transmit` comes to them: a stream that is reset before leaves no trace.

mod commands;
mod control;
mod end;
mod event;
#[expect(
    clippy::arithmetic_side_effects,
    reason = "64 bits hold every sum of windows, which have 31"
)]
mod flow;
mod goaway;
mod limits;
#[expect(clippy::arithmetic_side_effects, reason = "lengths of what is in memory")]
mod memory;
#[expect(clippy::arithmetic_side_effects, reason = "lengths of what is in memory")]
mod output;
mod pacing;
mod pause;
mod ping;
mod preface;
mod recv;
mod resets;
#[expect(clippy::arithmetic_side_effects, reason = "lengths of what is in memory")]
mod send;
mod settings;
#[expect(clippy::arithmetic_side_effects, reason = "lengths of what is in memory")]
mod streams;

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::BytesMut;

use self::control::Control;
use self::flow::{RecvWindow, SendWindow};
use self::goaway::GoAway;
use self::limits::Account;
use self::pacing::Pacer;
use self::pause::Pause;
use self::ping::Pings;
use self::preface::Expect;
use self::recv::Inbound;
use self::settings::Unacknowledged;
use self::streams::Streams;
use crate::Time;
use crate::frame::{DEFAULT_WINDOW, ErrorCode, StreamId};
use crate::hpack::{Decoder, Encoder, Fields};

pub use self::event::{By, Cause, CloseReason, Event, HeadersKind, Sent, SocketError};
pub use self::limits::{Limit, Limits, Rule};
pub use self::output::{KEEP_FROM, Output, REFERENCE_FROM};
pub use self::ping::PingKind;
pub use self::settings::{Config, PeerSettings, ResetPacing};
pub use self::streams::{Outcome, State, StreamEvent, StreamKey};

/// The owner's name for a stream.
pub type Tag = u32;

/// Which end we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// Why a stream cannot be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the peer's SETTINGS have not come yet")]
    NotReady,
    #[error("the peer takes no more streams at once: wait for Event::Capacity, or use another connection")]
    Full,
    #[error("the connection is going away: use another one")]
    GoingAway,
    #[error("the stream ids have run out: use another connection")]
    NoMoreIds,
    #[error("the connection is closed, or we are its server")]
    Closed,
}

/// One HTTP/2 connection: see the module's documentation for the order of calls.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Connection {
    role: Role,
    config: Rc<Config>,
    closed: bool,
    /// What the owner was not told yet; mostly empty.
    events: VecDeque<Event>,
    inbound: Inbound,
    expect: Expect,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams,
    /// The largest id that the peer has used (server), or that we have (client).
    last_id: StreamId,
    peer: PeerSettings,
    unacknowledged: Unacknowledged,
    /// `SETTINGS_INITIAL_WINDOW_SIZE` as the peer knows it, and as we said it last.
    initial_window: u32,
    announced_window: u32,
    send_window: SendWindow,
    recv_window: RecvWindow,
    /// Connection credit is kept back: the agent is short of memory.
    credit_held: bool,
    withheld: u32,
    /// DATA bytes ever received.
    received: u64,
    control: VecDeque<Control>,
    pause: Pause,
    pings: Pings,
    /// PINGs of the peer's, acknowledgements aside.
    peer_pings: u64,
    goaway: GoAway,
    account: Account,
    refused: u64,
    pacer: Pacer,
    /// The output was full when `transmit` last ended, so what is queued now has to wait.
    backlogged: bool,
    /// The owner found no capacity since [`Event::Capacity`].
    wants_capacity: bool,
}

// ---- Making one, and getters ----
impl Connection {
    /// A connection of which nothing has been read or written. Its preface and SETTINGS leave with the first transmit.
    pub fn new(role: Role, config: Rc<Config>) -> Self {
        let server = role == Role::Server;
        let mut recv_window = RecvWindow::new(DEFAULT_WINDOW);
        recv_window.enlarge(config.connection_window);
        let mut unacknowledged = Unacknowledged::default();
        unacknowledged.push_first();
        Self {
            role,
            closed: false,
            events: VecDeque::new(),
            inbound: Inbound::default(),
            expect: if server {
                Expect::Magic(0)
            } else {
                Expect::Settings
            },
            // Until the peer acknowledges our SETTINGS, it may use what the RFC gives it.
            decoder: Decoder::new(config.header_table_size.max(crate::hpack::DEFAULT_TABLE_SIZE)),
            encoder: Encoder::new(),
            streams: Streams::new(),
            last_id: if server {
                StreamId::CONNECTION
            } else {
                StreamId::new(config.first_stream.saturating_sub(2))
            },
            peer: PeerSettings::default(),
            unacknowledged,
            initial_window: DEFAULT_WINDOW,
            announced_window: config.initial_window,
            send_window: SendWindow::new(DEFAULT_WINDOW),
            recv_window,
            credit_held: false,
            withheld: 0,
            received: 0,
            control: VecDeque::from([Control::Preface]),
            pause: Pause::default(),
            pings: Pings::default(),
            peer_pings: 0,
            goaway: GoAway::default(),
            account: Account::new(),
            refused: 0,
            pacer: Pacer::new(config.reset_pacing),
            backlogged: false,
            wants_capacity: false,
            config,
        }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// Nothing more will be received, and nothing sent but what the next transmit yields: then close the socket.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The peer's first SETTINGS have come.
    pub fn is_ready(&self) -> bool {
        self.expect == Expect::Nothing && !self.closed
    }

    /// Streams that live, queued ones included.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Streams that wait to be opened: their HEADERS have not been encoded.
    pub fn opening_streams(&self) -> usize {
        self.streams.opening.len()
    }

    /// The keys and tags of all streams.
    pub fn tags(&self) -> impl Iterator<Item = (StreamKey, Tag)> + '_ {
        self.streams.iter().map(|(key, stream)| (key, stream.tag))
    }

    pub fn tag(&self, stream: StreamKey) -> Option<Tag> {
        self.streams.get(stream).map(|stream| stream.tag)
    }

    /// The number that the stream has on the wire; `None` before its HEADERS are encoded.
    pub fn stream_id(&self, stream: StreamKey) -> Option<StreamId> {
        self.streams
            .get(stream)
            .filter(|stream| stream.has_id())
            .map(|stream| stream.id)
    }

    /// What the peer's SETTINGS say.
    pub fn peer_settings(&self) -> &PeerSettings {
        &self.peer
    }

    /// Whether [`Self::open`] would succeed.
    pub fn can_open(&self) -> bool {
        self.check_open().is_ok()
    }

    /// How many more streams may be opened now.
    pub fn capacity(&self) -> usize {
        if self.can_open() {
            (self.peer.max_concurrent_streams as usize).saturating_sub(self.streams.len())
        } else {
            0
        }
    }

    /// The stream ids have run out: another connection is needed.
    pub fn is_exhausted(&self) -> bool {
        self.check_open() == Err(OpenError::NoMoreIds)
    }

    /// The peer sent GOAWAY, or we did: no new streams.
    pub fn is_going_away(&self) -> bool {
        self.goaway.is_going_away()
    }

    /// The connection's send window, in bytes: where it is 0 and streams wait, another connection may help.
    pub fn send_window(&self) -> u32 {
        self.send_window.available()
    }

    /// Streams that wait for the connection's send window.
    pub fn blocked_streams(&self) -> usize {
        self.streams.blocked.len()
    }

    /// Whether a byte of the stream's HEADERS was handed to the socket: then the peer may have seen it. `output` is this
    /// connection's own.
    pub fn has_left(&self, stream: StreamKey, output: &Output) -> bool {
        self.streams.get(stream).is_some_and(|stream| {
            stream.has_id() && (self.role == Role::Server || output.written() > stream.headers_span.0)
        })
    }

    /// The stream's receive window: its size in bytes.
    pub fn stream_window(&self, stream: StreamKey) -> Option<u32> {
        self.streams.get(stream).map(|stream| stream.recv.target())
    }

    /// The connection's receive window: its size in bytes.
    pub fn connection_window(&self) -> u32 {
        self.recv_window.target()
    }

    /// DATA bytes ever received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// PINGs that the peer ever sent; they are answered without its owner.
    pub fn peer_pings(&self) -> u64 {
        self.peer_pings
    }

    /// Streams that were refused because the peer opened more than it may.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// What the peer may send us and has not, on the connection and on one stream; for tests of the accounting.
    pub fn windows(&self, stream: Option<StreamKey>) -> Windows {
        let stream = stream.and_then(|key| self.streams.get(key));
        let recv = stream.map_or(self.recv_window, |stream| stream.recv);
        Windows {
            send: stream.map_or(self.send_window, |stream| stream.send).size(),
            recv: recv.available(),
            held: recv.held(),
            target: recv.target(),
        }
    }
}

/// A flow-control account, for tests and diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// What we may send; below zero after SETTINGS took it back.
    pub send: i64,
    /// What the peer may send before it hears from us.
    pub recv: i64,
    /// Received and not released.
    pub held: i64,
    /// The receive window's size.
    pub target: u32,
}

// ---- Input ----
impl Connection {
    /// Reads the peer's bytes up to the next event. `None`: everything in `input` was used but for an unfinished frame, or
    /// [`Self::wants_input`] is false and the rest of `input` is left for later.
    /// An error of the peer's is an event as well ([`Event::Reset`], [`Event::Closed`]).
    pub fn poll_event(&mut self, now: Time, input: &mut BytesMut, fields: &mut Fields) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.closed {
                input.clear();
                return None;
            }
            if self.pause.is_on() && self.stays_paused(now) {
                if self.events.is_empty() && !self.check_drained() {
                    return None;
                }
                continue;
            }
            match self.read(now, input, fields) {
                Ok(recv::Progress::Event(event)) => return Some(event),
                Ok(recv::Progress::Starved) if self.events.is_empty() && !self.check_drained() => {
                    return None;
                }
                Ok(recv::Progress::More | recv::Progress::Starved) => {}
                Err(fatal) => self.fail(fatal.code, fatal.reason, By::Peer),
            }
        }
    }

    /// Returns true if nothing may be read yet.
    #[cold]
    fn stays_paused(&mut self, now: Time) -> bool {
        self.wake_pause(now);
        let paused = self.pause.is_on();
        if paused {
            self.pause.note(now);
        }
        paused
    }

    /// The earliest time at which [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.closed {
            return None;
        }
        let resets = if self.streams.resets.is_empty() {
            None
        } else {
            self.pacer.deadline()
        };
        let inbound = if self.pause.is_on() {
            self.pause.deadline()
        } else {
            self.inbound.deadline(&self.config.limits)
        };
        let pings = if self.pause.hides_answers() {
            None
        } else {
            self.pings.deadline()
        };
        [inbound, self.settings_deadline(), pings, resets]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time has passed. Call until it returns `None`.
    pub fn handle_timeout(&mut self, now: Time) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if self.closed {
            return None;
        }
        self.wake_pause(now);
        if !self.pause.is_on()
            && let Some(limit) = self.inbound.overdue(&self.config.limits, now)
        {
            self.fail(ErrorCode::ENHANCE_YOUR_CALM, CloseReason::Limit(limit), By::Peer);
        }
        if self.settings_deadline().is_some_and(|deadline| deadline <= now) {
            self.unacknowledged.set_late();
            self.note_limit(Limit::SettingsTime);
        }
        let expired = if self.pause.hides_answers() {
            None
        } else {
            self.pings.expire(now)
        };
        match expired {
            Some(PingKind::Keepalive) => self.fail(ErrorCode::NO_ERROR, CloseReason::PingTimeout, By::Local),
            Some(PingKind::Shutdown) => self.finish_shutdown(),
            Some(PingKind::Bandwidth | PingKind::Barrier) | None => {}
        }
        self.wake_pacer(now);
        self.events.pop_front()
    }
}

impl Connection {
    /// When the peer must have acknowledged our oldest SETTINGS (RFC 9113 §6.5.3).
    fn settings_deadline(&self) -> Option<Time> {
        self.unacknowledged
            .since()
            .map(|since| since + self.config.limits.settings_time)
    }
}
