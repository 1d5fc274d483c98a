//! A peer that writes what a test tells it to, right or wrong, and reads what the connection answers.

use bytes::BytesMut;
use grpclb_engine::Time;
use grpclb_engine::connection::{Config, Event, Role, StreamKey};
use grpclb_engine::frame::{ErrorCode, Frame, PREFACE, Reader, SettingId, StreamId, write_settings};
use grpclb_engine::hpack::{Encoder, Fields, HeaderList};

use super::Side;

/// Frame types (RFC 9113 §6).
pub mod kinds {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags (RFC 9113 §6).
pub mod flags {
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
}

/// Any frame at all.
pub fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The connection under test, and the peer that a test plays.
pub struct Script {
    pub side: Side,
    pub now: Time,
    /// Frames that the connection sent and no expectation has looked at.
    pub answers: Vec<Frame>,
    reader: Reader,
    unread: BytesMut,
    encoder: Encoder,
    fields: Fields,
}

impl Script {
    /// Nothing was said yet.
    pub fn raw(role: Role, config: Config) -> Self {
        Self {
            side: Side::new(role, config),
            now: Time::ZERO,
            answers: Vec::new(),
            reader: Reader::new(),
            unread: BytesMut::new(),
            encoder: Encoder::new(),
            fields: Fields::new(1 << 20, 9),
        }
    }

    /// The test is a client of a server under test; prefaces and SETTINGS have been exchanged.
    pub fn client() -> Self {
        Self::client_of(Config::to_client())
    }

    pub fn client_of(config: Config) -> Self {
        let mut script = Self::raw(Role::Server, config);
        script.send(PREFACE);
        script.greet();
        script
    }

    /// The test is a server of a client under test; prefaces and SETTINGS have been exchanged.
    pub fn server() -> Self {
        Self::server_of(Config::to_backend())
    }

    pub fn server_of(config: Config) -> Self {
        let mut script = Self::raw(Role::Client, config);
        script.greet();
        script
    }

    fn greet(&mut self) {
        self.settings(&[]);
        self.send(&raw(kinds::SETTINGS, flags::ACK, 0, &[]));
        self.answers.clear();
        let events = self.side.take_events();
        assert!(matches!(events[..], [Event::Ready]), "{events:?}");
    }

    /// The peer's bytes arrive, and everything that the connection has to say leaves.
    pub fn send(&mut self, bytes: &[u8]) {
        self.side.receive(self.now, bytes);
        self.flush();
    }

    /// Everything that the connection has to say leaves.
    pub fn flush(&mut self) {
        let bytes = self.side.drain(self.now);
        let mut bytes = &bytes[..];
        if self.side.connection.role() == Role::Client && bytes.starts_with(PREFACE) {
            bytes = &bytes[PREFACE.len()..];
        }
        self.unread.extend_from_slice(bytes);
        while let Some(frame) = self
            .reader
            .next(&mut self.unread, 1 << 20)
            .expect("our frames are right")
        {
            self.answers.push(frame);
        }
    }

    pub fn settings(&mut self, settings: &[(SettingId, u32)]) {
        let mut frame = BytesMut::new();
        write_settings(&mut frame, settings);
        self.send(&frame);
    }

    /// A field block, as the test's HPACK encoder makes it.
    pub fn block(&mut self, pairs: &[(&str, &str)]) -> Vec<u8> {
        let list = HeaderList::from_pairs(&mut self.fields, pairs.iter().copied());
        let mut block = BytesMut::new();
        self.encoder.encode(&list, &mut block);
        block.to_vec()
    }

    /// HEADERS in one frame.
    pub fn headers(&mut self, stream: u32, pairs: &[(&str, &str)], end_stream: bool) {
        let block = self.block(pairs);
        let end = if end_stream { flags::END_STREAM } else { 0 };
        self.send(&raw(kinds::HEADERS, flags::END_HEADERS | end, stream, &block));
    }

    pub fn data(&mut self, stream: u32, payload: &[u8], end_stream: bool) {
        self.send(&raw(kinds::DATA, u8::from(end_stream), stream, payload));
    }

    pub fn reset(&mut self, stream: u32, code: ErrorCode) {
        self.send(&raw(kinds::RST_STREAM, 0, stream, &code.0.to_be_bytes()));
    }

    pub fn window_update(&mut self, stream: u32, increment: u32) {
        self.send(&raw(kinds::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes()));
    }

    /// The stream of the last request that came.
    pub fn stream(&self) -> StreamKey {
        *self.side.requests().last().expect("a request")
    }

    /// The connection has ended with GOAWAY of this code. What is said to the owner agrees.
    #[track_caller]
    pub fn expect_goaway(&mut self, code: ErrorCode) {
        let said: Vec<_> = self
            .answers
            .iter()
            .filter_map(|frame| match frame {
                Frame::GoAway { code, .. } => Some(*code),
                _ => None,
            })
            .collect();
        assert_eq!(
            said,
            [code],
            "answers {:?}, events {:?}",
            self.answers,
            self.side.events
        );
        assert!(self.side.connection.is_closed());
        let closed = self
            .side
            .events
            .iter()
            .filter(|event| matches!(event, Event::Closed { .. }))
            .count();
        assert_eq!(closed, 1);
    }

    /// The debug data of the GOAWAY that ended the connection.
    pub fn goaway_debug(&self) -> String {
        let debug = self.answers.iter().find_map(|frame| match frame {
            Frame::GoAway { debug, .. } => Some(String::from_utf8_lossy(debug).into_owned()),
            _ => None,
        });
        debug.expect("a GOAWAY")
    }

    /// The stream was reset with this code, and the connection lives.
    #[track_caller]
    pub fn expect_reset(&mut self, stream: u32, code: ErrorCode) {
        let id = StreamId::new(stream);
        let resets: Vec<_> = self
            .answers
            .iter()
            .filter_map(|frame| match frame {
                Frame::RstStream { stream, code } if *stream == id => Some(*code),
                _ => None,
            })
            .collect();
        assert_eq!(
            resets,
            [code],
            "answers {:?}, events {:?}",
            self.answers,
            self.side.events
        );
        self.expect_alive();
    }

    /// No error was answered, and the connection still answers a PING.
    #[track_caller]
    pub fn expect_fine(&mut self) {
        let errors = |frame: &&Frame| matches!(frame, Frame::RstStream { .. } | Frame::GoAway { .. });
        assert_eq!(self.answers.iter().find(errors), None);
        self.expect_alive();
    }

    #[track_caller]
    pub fn expect_alive(&mut self) {
        self.send(&raw(kinds::PING, 0, 0, b"are you?"));
        let pong = Frame::Ping {
            ack: true,
            payload: *b"are you?",
        };
        assert_eq!(
            self.answers.last(),
            Some(&pong),
            "the connection does not answer PING"
        );
        assert!(!self.side.connection.is_closed());
    }
}
