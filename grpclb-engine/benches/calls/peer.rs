//! The two ends of a benchmark's calls: gRPC clients and backends that write and read bare frames (RFC 9113 §4.1).
//! Independent of the engine's connections, so that their bytes stay the same when these change. They check that each
//! message arrives whole, and nothing else.

use std::collections::{BTreeMap, VecDeque};

use crate::sender::Sender;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The receive windows of a stream and of the connection, in bytes: as h2load and nghttpd have them in `cargo xtask bench`.
const WINDOW: u32 = 4 << 20;
/// RFC 9113's initial window and least frame size, in bytes.
const DEFAULT_WINDOW: i64 = 65_535;
const FRAME: usize = 16_384;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// A request's header fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// As nghttp2's clients send them: the path is never put into the table.
    H2load,
    /// As grpc-go sends them: everything enters the table, and each call has another grpc-timeout.
    GrpcGo,
}

/// A body that goes one way in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) messages: usize,
    /// Bytes of each message.
    pub(crate) len: usize,
}

/// A client, which opens calls, or a backend, which answers each with response headers, a body and trailers.
pub(crate) struct Peer {
    is_client: bool,
    request: Request,
    body: Body,
    sender: Sender,
    /// Bytes for the splitter.
    outgoing: VecDeque<u8>,
    /// The beginning of a frame from the splitter.
    incoming: Vec<u8>,
    streams: BTreeMap<u32, Stream>,
    /// The splitter's preface was read; true at a client, which gets none.
    greeted: bool,
    opened: u32,
    completed: usize,
    /// Bytes that the splitter lets this peer send on the connection, and on each new stream.
    send_window: i64,
    initial_window: i64,
    /// Bytes received since this peer last gave credit for the connection.
    unacknowledged: usize,
}

struct Stream {
    send_window: i64,
    /// Messages still to be sent, and bytes that are left of the first of them.
    messages: usize,
    left: usize,
    received: usize,
}

impl Stream {
    fn new(send_window: i64) -> Self {
        Self {
            send_window,
            messages: 0,
            left: 0,
            received: 0,
        }
    }
}

impl Peer {
    pub(crate) fn client(request: Request, body: Body) -> Self {
        Self::new(true, request, body)
    }

    pub(crate) fn backend(body: Body) -> Self {
        Self::new(false, Request::H2load, body)
    }

    fn new(is_client: bool, request: Request, body: Body) -> Self {
        let mut peer = Self {
            is_client,
            request,
            body,
            sender: Sender::default(),
            outgoing: VecDeque::new(),
            incoming: Vec::new(),
            streams: BTreeMap::new(),
            greeted: is_client,
            opened: 0,
            completed: 0,
            send_window: DEFAULT_WINDOW,
            initial_window: DEFAULT_WINDOW,
            unacknowledged: 0,
        };
        if is_client {
            peer.outgoing.extend(PREFACE);
        }
        let mut settings = Vec::new();
        for (id, value) in [(INITIAL_WINDOW_SIZE, WINDOW), (MAX_CONCURRENT_STREAMS, 100)] {
            settings.extend(id.to_be_bytes());
            settings.extend(value.to_be_bytes());
        }
        peer.frame(SETTINGS, 0, 0, &settings);
        peer.frame(WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes());
        peer
    }

    /// Calls that have not come to their end.
    pub(crate) fn open_calls(&self) -> usize {
        self.streams.len()
    }

    /// Calls that have come to their end.
    pub(crate) fn completed(&self) -> usize {
        self.completed
    }

    /// Moves up to `most` bytes for the splitter to the end of `into`.
    pub(crate) fn read(&mut self, most: usize, into: &mut bytes::BytesMut) {
        let len = most.min(self.outgoing.len());
        let (front, back) = self.outgoing.as_slices();
        let from_front = len.min(front.len());
        into.extend_from_slice(&front[..from_front]);
        into.extend_from_slice(&back[..len - from_front]);
        self.outgoing.drain(..len);
    }

    pub(crate) fn wants_to_send(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Opens a call; `number` is its own among all calls of the run.
    pub(crate) fn open(&mut self, number: usize) {
        let id = 2 * self.opened + 1;
        self.opened += 1;
        match self.request {
            Request::H2load => {
                self.sender.put_slice(&[0x83, 0x86, 0x04]);
                self.sender.string("/helloworld.Greeter/SayHello");
                self.sender.indexed(":authority", "127.0.0.1:50051");
                self.sender.indexed("content-type", "application/grpc");
                self.sender.indexed("user-agent", "h2load nghttp2/1.52.0");
                self.sender.indexed("te", "trailers");
            }
            Request::GrpcGo => {
                self.sender.put_slice(&[0x83, 0x86]);
                self.sender.indexed(":path", "/helloworld.Greeter/SayHello");
                self.sender.indexed(":authority", "greeter.default.svc:50051");
                self.sender.indexed("content-type", "application/grpc");
                self.sender.indexed("user-agent", "grpc-go/1.77.0");
                self.sender.indexed("te", "trailers");
                let timeout = format!("{}u", 9_999_999 - number * 37);
                self.sender.changing("grpc-timeout", &timeout);
            }
        }
        self.headers(id, 0);
        self.begin(id);
    }

    /// Begins to send the body of a new call.
    fn begin(&mut self, id: u32) {
        let stream = self
            .streams
            .entry(id)
            .or_insert_with(|| Stream::new(self.initial_window));
        stream.messages = self.body.messages;
        stream.left = self.body.len;
        self.send_data(id);
    }

    /// Sends what the windows allow of this stream's body.
    fn send_data(&mut self, id: u32) {
        while let Some(stream) = self.streams.get_mut(&id)
            && stream.messages > 0
        {
            let window = usize::try_from(self.send_window.min(stream.send_window)).unwrap_or(0);
            let len = stream.left.min(FRAME).min(window);
            if len == 0 {
                return;
            }
            let charge = i64::try_from(len).expect("at most a frame");
            self.send_window -= charge;
            stream.send_window -= charge;
            stream.left -= len;
            if stream.left == 0 {
                stream.messages -= 1;
                stream.left = self.body.len;
            }
            let ends = stream.messages == 0;
            let flags = if ends && self.is_client { END_STREAM } else { 0 };
            self.frame_header(DATA, flags, id, len);
            self.outgoing.extend(std::iter::repeat_n(7, len));
            if ends && !self.is_client {
                self.sender.indexed("grpc-status", "0");
                self.sender.indexed("grpc-message", "");
                self.headers(id, END_STREAM);
                self.streams.remove(&id);
                self.completed += 1;
            }
        }
    }

    /// Takes bytes from the splitter.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        let mut incoming = std::mem::take(&mut self.incoming);
        incoming.extend_from_slice(bytes);
        let mut rest = &incoming[..];
        if !self.greeted {
            let Some(frames) = rest.strip_prefix(PREFACE) else {
                self.incoming = incoming;
                return;
            };
            self.greeted = true;
            rest = frames;
        }
        while let Some((header, after)) = rest.split_first_chunk::<9>() {
            let [a, b, c, kind, flags, id @ ..] = *header;
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some((payload, next)) = after.split_at_checked(len) else {
                break;
            };
            self.handle(kind, flags, u32::from_be_bytes(id), payload);
            rest = next;
        }
        let consumed = incoming.len() - rest.len();
        incoming.drain(..consumed);
        self.incoming = incoming;
    }

    fn handle(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        match kind {
            DATA => {
                let stream = self.streams.get_mut(&id).expect("DATA of a call that runs");
                stream.received += payload.len();
                self.give_credit(payload.len());
            }
            HEADERS => {
                assert!(flags & END_HEADERS != 0, "field blocks here are small");
                if !self.is_client {
                    self.streams.insert(id, Stream::new(self.initial_window));
                }
            }
            SETTINGS if flags & ACK == 0 => {
                self.settings(payload);
                self.frame(SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
            WINDOW_UPDATE => {
                let increment = u32::from_be_bytes(payload.try_into().expect("four bytes"));
                self.window_update(id, i64::from(increment));
            }
            SETTINGS | PING => {}
            _ => panic!("no call here causes a frame of type {kind}: {payload:?}"),
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            self.end(id);
        }
    }

    /// The splitter's message on this stream has come to its end.
    fn end(&mut self, id: u32) {
        let received = self.streams.get(&id).map(|stream| stream.received);
        assert_eq!(received, Some(self.body.messages * self.body.len), "a whole body");
        if self.is_client {
            self.streams.remove(&id);
            self.completed += 1;
        } else {
            self.sender.put_slice(&[0x88]);
            self.sender.indexed("content-type", "application/grpc");
            self.headers(id, 0);
            self.begin(id);
        }
    }

    /// Gives credit for the connection by halves of its window. No stream here needs any: bodies are smaller than windows.
    fn give_credit(&mut self, received: usize) {
        self.unacknowledged += received;
        if self.unacknowledged >= WINDOW as usize / 2 {
            let increment = std::mem::take(&mut self.unacknowledged) as u32;
            self.frame(WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            if id == INITIAL_WINDOW_SIZE {
                let size = i64::from(u32::from_be_bytes([
                    setting[2], setting[3], setting[4], setting[5],
                ]));
                let change = size - self.initial_window;
                self.initial_window = size;
                self.streams
                    .values_mut()
                    .for_each(|stream| stream.send_window += change);
            }
        }
        self.send_all();
    }

    fn window_update(&mut self, id: u32, increment: i64) {
        if id == 0 {
            self.send_window += increment;
            self.send_all();
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.send_window += increment;
            self.send_data(id);
        }
    }

    fn send_all(&mut self) {
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            self.send_data(id);
        }
    }

    /// Sends the block that the sender has written.
    fn headers(&mut self, id: u32, flags: u8) {
        let block = std::mem::take(&mut self.sender.block);
        self.frame(HEADERS, END_HEADERS | flags, id, &block);
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        self.frame_header(kind, flags, id, payload.len());
        self.outgoing.extend(payload);
    }

    fn frame_header(&mut self, kind: u8, flags: u8, id: u32, len: usize) {
        self.outgoing.extend(&(len as u32).to_be_bytes()[1..]);
        self.outgoing.extend([kind, flags]);
        self.outgoing.extend(id.to_be_bytes());
    }
}
