//! What the engine's tests share: a connection with its bytes and its owner's notebook, two of them joined under a
//! virtual clock ([`Pair`]), and a peer that writes whatever frames a test wants ([`Script`]).

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test crate uses its own part"
)]

mod pair;
mod script;
mod world;

use std::io::IoSlice;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use grpclb_engine::Time;
use grpclb_engine::connection::{Config, Connection, Event, Output, Role, Sent, StreamKey, Tag};
use grpclb_engine::hpack::{Fields, HeaderList};

pub use self::pair::Pair;
pub use self::script::{Script, flags, kinds, raw};
pub use self::world::{Behaviour, Outcome, SERVICE, Wild, World, greeting};

/// A connection, its output, the bytes that have arrived for it, and what it told its owner.
pub struct Side {
    pub connection: Connection,
    pub output: Output,
    pub input: BytesMut,
    pub fields: Fields,
    pub events: Vec<Event>,
    pub sent: Vec<Sent>,
}

impl Side {
    pub fn new(role: Role, config: Config) -> Self {
        Self {
            connection: Connection::new(role, Rc::new(config)),
            output: Output::default(),
            input: BytesMut::new(),
            fields: Fields::new(1 << 20, 7),
            events: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Bytes arrive; all events are noted.
    pub fn receive(&mut self, now: Time, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some(event) = self.connection.poll_event(now, &mut self.input, &mut self.fields) {
            self.events.push(event);
        }
    }

    /// One transmit and one write that takes everything.
    pub fn transmit(&mut self, now: Time) -> Vec<u8> {
        self.connection
            .transmit(now, &mut self.fields, &mut self.output, &mut self.sent);
        self.write(usize::MAX)
    }

    /// The socket takes up to `most` bytes.
    pub fn write(&mut self, most: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while written.len() < most && !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = self.output.slices(&mut slices);
            let before = written.len();
            for slice in &slices[..filled] {
                let take = slice.len().min(most - written.len());
                written.extend_from_slice(&slice[..take]);
            }
            self.output.advance(written.len() - before);
        }
        written
    }

    /// Transmits until there is nothing to move.
    pub fn drain(&mut self, now: Time) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let more = self.transmit(now);
            if more.is_empty() {
                return bytes;
            }
            bytes.extend(more);
        }
    }

    pub fn timeout(&mut self, now: Time) {
        while let Some(event) = self.connection.handle_timeout(now) {
            self.events.push(event);
        }
    }

    pub fn headers(&mut self, pairs: &[(&str, &str)]) -> Rc<HeaderList> {
        Rc::new(HeaderList::from_pairs(&mut self.fields, pairs.iter().copied()))
    }

    pub fn open(&mut self, now: Time, tag: Tag, end_stream: bool) -> StreamKey {
        let headers = self.headers(REQUEST);
        self.connection
            .open(now, tag, headers, end_stream)
            .expect("the peer has room")
    }

    pub fn respond(&mut self, stream: StreamKey, end_stream: bool) {
        let headers = self.headers(RESPONSE);
        self.connection.send_headers(stream, headers, end_stream);
    }

    pub fn trailers(&mut self, stream: StreamKey) {
        let headers = self.headers(TRAILERS);
        self.connection.send_headers(stream, headers, true);
    }

    pub fn data(&mut self, stream: StreamKey, bytes: &[u8], end_stream: bool) {
        self.connection
            .send_data(stream, Bytes::copy_from_slice(bytes), end_stream);
    }

    /// What it told so far; the notebook is then empty.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The streams whose requests came, in order.
    pub fn requests(&self) -> Vec<StreamKey> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Headers {
                    stream,
                    kind: grpclb_engine::connection::HeadersKind::Request,
                    ..
                } => Some(*stream),
                _ => None,
            })
            .collect()
    }

    /// All DATA that came for `stream`.
    pub fn received(&self, stream: StreamKey) -> Vec<u8> {
        let mut all = Vec::new();
        for event in &self.events {
            if let Event::Data {
                stream: of, chunk, ..
            } = event
                && *of == stream
            {
                all.extend_from_slice(chunk);
            }
        }
        all
    }

    /// Whether the peer's `END_STREAM` came for `stream`.
    pub fn ended(&self, stream: StreamKey) -> bool {
        self.events.iter().any(|event| match event {
            Event::Headers {
                stream: of,
                end_stream,
                ..
            }
            | Event::Data {
                stream: of,
                end_stream,
                ..
            } => *of == stream && *end_stream,
            _ => false,
        })
    }
}

pub const REQUEST: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "echo.default:50051"),
    (":path", "/echo.Echo/Unary"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
];
pub const RESPONSE: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/grpc")];
pub const TRAILERS: &[(&str, &str)] = &[("grpc-status", "0")];

pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
