//! SETTINGS in both directions (RFC 9113 §6.5): ours take effect when the peer acknowledges them, the peer's at once.

use std::collections::VecDeque;
use std::time::Duration;

use super::Limits;
use crate::Time;
use crate::frame::{DEFAULT_WINDOW, MIN_MAX_FRAME_SIZE, SettingId};
use crate::hpack::DEFAULT_TABLE_SIZE;

/// How one connection is set up. [`Config::to_client`] and [`Config::to_backend`] are the agent's.
#[derive(Clone, Debug)]
pub struct Config {
    /// `SETTINGS_INITIAL_WINDOW_SIZE`: bytes of a stream's receive window, at most 2^31-1.
    pub initial_window: u32,
    /// Bytes of the connection's receive window, at least 65,535 (RFC 9113 §6.9.2 gives no way to shrink it).
    pub connection_window: u32,
    /// `SETTINGS_MAX_FRAME_SIZE`: 16,384 to 2^24-1.
    pub max_frame_size: u32,
    /// `SETTINGS_HEADER_TABLE_SIZE`: bytes of dynamic table for what the peer sends.
    pub header_table_size: u32,
    /// `SETTINGS_MAX_HEADER_LIST_SIZE`: a longer list arrives as `oversized`; a field block of
    /// sixteen times as many bytes ends the connection.
    pub max_header_list_size: u32,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`. Server role only: further streams are refused.
    pub max_concurrent_streams: u32,
    pub limits: Limits,
    pub reset_pacing: ResetPacing,
    /// Client role only: the id of the first stream, an odd number. Another one than 1 only lets tests see ids run out.
    pub first_stream: u32,
}

/// How our own `RST_STREAMs` to a server are spread. Client role only; a server may send them as they come.
///
/// Measured: 40 HEADERS + `RST_STREAM` pairs in one write end a tonic server's connection (its h2 counts streams that were
/// reset before it accepted them, 20 at most); nghttp2's servers allow 1000 and 33 a second. An acknowledgement alone does
/// not say that streams were accepted: h2 reads all that has come, acknowledging as it goes, for each single one that it
/// accepts (seen: a server that lost its CPU in between ended the connection with tens in a row). Hence few at a time, and a
/// pause behind each acknowledgement. A stream has been accepted for certain when it, or one that was opened later, is
/// answered: servers accept in order.
#[derive(Clone, Copy, Debug)]
pub struct ResetPacing {
    /// Least time between a stream's HEADERS and its `RST_STREAM`.
    pub after_headers: Duration,
    /// Unaccepted streams that are reset before the server has shown that it read on: a SETTINGS of ours is acknowledged.
    pub unconfirmed: u32,
    /// The same for a server whose acknowledgement takes [`Self::far`] or longer even at best.
    pub unconfirmed_far: u32,
    /// Round trip from which a server counts as far.
    pub far: Duration,
    /// Pause after each acknowledgement: time for the server to accept what it has read.
    pub settle: Duration,
    /// Time from the server's known reading of a stream's HEADERS until the stream counts as accepted.
    pub accepted_after: Duration,
    /// Longest wait for an acknowledgement. After it as many resets leave again, and a PING (one for each connection) asks
    /// whether the server acknowledges SETTINGS at all; where it does not, only [`Self::settle`] spreads them.
    pub patience: Duration,
    /// Resets in a row, and how long it takes until one more is allowed.
    pub burst: u32,
    pub refill: Duration,
}

impl Default for ResetPacing {
    fn default() -> Self {
        Self {
            after_headers: Duration::from_millis(1),
            unconfirmed: 5,
            unconfirmed_far: 10,
            far: Duration::from_millis(20),
            settle: Duration::from_millis(5),
            accepted_after: Duration::from_millis(250),
            patience: Duration::from_secs(1),
            burst: 800,
            refill: Duration::from_millis(33),
        }
    }
}

impl Config {
    /// What we tell clients (we are the server).
    pub fn to_client() -> Self {
        Self {
            initial_window: DEFAULT_WINDOW,
            connection_window: 1 << 20,
            max_frame_size: MIN_MAX_FRAME_SIZE,
            header_table_size: DEFAULT_TABLE_SIZE,
            max_header_list_size: 1 << 20,
            // 100 would queue for ever what works without us: long watches.
            max_concurrent_streams: 10_000,
            limits: Limits::default(),
            reset_pacing: ResetPacing::default(),
            first_stream: 1,
        }
    }

    /// What we tell backends (we are the client): the same, and `ENABLE_PUSH` 0.
    pub fn to_backend() -> Self {
        Self::to_client()
    }
}

/// What the peer's SETTINGS say; the RFC's initial values before the first of them (RFC 9113 §6.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Bytes of its HPACK decoder's table.
    pub header_table_size: u32,
    /// `u32::MAX`: no limit was given.
    pub max_concurrent_streams: u32,
    pub initial_window: u32,
    pub max_frame_size: u32,
    /// `u32::MAX`: no limit was given. Advice: a longer list may be answered with 431.
    pub max_header_list_size: u32,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            header_table_size: DEFAULT_TABLE_SIZE,
            max_concurrent_streams: u32::MAX,
            initial_window: DEFAULT_WINDOW,
            max_frame_size: MIN_MAX_FRAME_SIZE,
            max_header_list_size: u32::MAX,
        }
    }
}

impl PeerSettings {
    /// Takes up one setting; unknown ones are ignored (RFC 9113 §6.5.2). Its range was checked by the frame reader.
    pub(super) fn apply(&mut self, id: SettingId, value: u32) {
        match id {
            SettingId::HEADER_TABLE_SIZE => self.header_table_size = value,
            SettingId::MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = value,
            SettingId::INITIAL_WINDOW_SIZE => self.initial_window = value,
            SettingId::MAX_FRAME_SIZE => self.max_frame_size = value,
            SettingId::MAX_HEADER_LIST_SIZE => self.max_header_list_size = value,
            _ => {}
        }
    }
}

/// Our SETTINGS frames that the peer has not acknowledged, in order (RFC 9113 §6.5.3: acknowledgements have no names).
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    frames: VecDeque<(Sent, Option<Time>)>,
    /// The oldest has been counted as late.
    late: bool,
}

/// What a SETTINGS frame of ours was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The first: all of [`Config`].
    First,
    /// Another `SETTINGS_INITIAL_WINDOW_SIZE`.
    InitialWindow(u32),
    /// Empty, to learn that the peer has read what came before it (RFC 9113 §5.1 suggests it).
    Barrier,
}

impl Unacknowledged {
    /// Will be sent first of all; when, [`Self::first_left`] says.
    pub(super) fn push_first(&mut self) {
        self.frames.push_back((Sent::First, None));
    }

    pub(super) fn first_left(&mut self, now: Time) {
        if let Some((Sent::First, at)) = self.frames.front_mut() {
            *at = Some(now);
        }
    }

    pub(super) fn push(&mut self, sent: Sent, now: Time) {
        self.frames.push_back((sent, Some(now)));
    }

    /// Since when an acknowledgement has been missing, unless that was counted.
    pub(super) fn since(&self) -> Option<Time> {
        self.frames.front().filter(|_| !self.late)?.1
    }

    /// The acknowledgement that is missing for longest is late.
    pub(super) const fn set_late(&mut self) {
        self.late = true;
    }

    /// The largest initial window among those that the peer has not acknowledged; zero without any.
    pub(super) fn initial_window(&self, config: &Config) -> u32 {
        let windows = self.frames.iter().map(|(sent, _)| match sent {
            Sent::First => config.initial_window,
            Sent::InitialWindow(size) => *size,
            Sent::Barrier => 0,
        });
        windows.max().unwrap_or(0)
    }

    /// What an acknowledgement is for; `None`: for nothing.
    pub(super) fn acknowledge(&mut self) -> Option<Sent> {
        self.late = false;
        self.frames.pop_front().map(|(sent, _)| sent)
    }
}

/// The first SETTINGS frame for `config`. A server says how many streams it takes, a client that it takes no push.
pub(super) fn first(config: &Config, server: bool) -> Vec<(SettingId, u32)> {
    let mut settings = vec![
        (SettingId::HEADER_TABLE_SIZE, config.header_table_size),
        (SettingId::INITIAL_WINDOW_SIZE, config.initial_window),
        (SettingId::MAX_FRAME_SIZE, config.max_frame_size),
        (SettingId::MAX_HEADER_LIST_SIZE, config.max_header_list_size),
    ];
    settings.push(if server {
        (SettingId::MAX_CONCURRENT_STREAMS, config.max_concurrent_streams)
    } else {
        (SettingId::ENABLE_PUSH, 0)
    });
    settings
}
