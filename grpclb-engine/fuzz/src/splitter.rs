//! Any story of sockets, bytes, dials, time and Services: the splitter never panics, holds no more than it may, and has
//! nothing left when everybody has gone.
//!
//! The input is a list of steps, three bytes each, some followed by raw bytes. Frames are mostly well-formed, or no
//! story would get past the preface. Time moves by microseconds or by hours, whatever the input says.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use grpclb_engine::Time;
use grpclb_engine::balance::{Endpoint, Policy, Service, State};
use grpclb_engine::splitter::{
    Action, Budget, ClientId, Config, ConnId, DialError, Ended, How, ServiceKey, SocketError, Splitter,
    UpstreamId,
};

const SERVICE: ServiceKey = ServiceKey(1);

/// What one pod may hold here: little, so that pressure comes.
const POD_BUDGET: usize = 1 << 20;

/// Weights of endpoints: the API allows any.
const WEIGHTS: [u32; 4] = [1, 2, u32::MAX, 0];

/// Values of settings: the ends of their ranges, and something in between.
const SETTINGS: [u32; 8] = [0, 1, 100, 8192, 65_535, 1 << 24, (1 << 31) - 1, u32::MAX];

pub fn run(data: &[u8]) {
    let mut story = Story::new();
    let mut steps = data;
    while let [kind, which, argument, rest @ ..] = steps {
        steps = rest;
        steps = &steps[story.step(*kind, *which, *argument, steps)..];
        story.pump(*argument);
    }
    story.end();
}

/// A socket as the owner of sockets sees it: what the splitter has not read.
struct Socket<Id> {
    id: Id,
    input: BytesMut,
}

struct Story {
    now: Time,
    splitter: Splitter,
    clients: Vec<Socket<ClientId>>,
    upstreams: Vec<Socket<UpstreamId>>,
    dials: Vec<UpstreamId>,
}

impl Story {
    fn new() -> Self {
        let mut config = Config::new("fuzz");
        config.pod_budget = POD_BUDGET;
        let mut story = Self {
            now: Time::ZERO,
            splitter: Splitter::new(Arc::new(config), 1, Arc::new(Budget::new(64 << 20))),
            clients: Vec::new(),
            upstreams: Vec::new(),
            dials: Vec::new(),
        };
        story.set_service(3, 0);
        story
    }

    fn set_service(&mut self, count: u8, flags: u8) {
        let endpoints = (0..count % 5).map(|n| Endpoint {
            id: format!("pod-{n}").into(),
            address: ([10, 0, 0, n], 80).into(),
            weight: WEIGHTS[usize::from(flags & 3)],
            state: if flags >> n & 1 == 1 {
                State::Draining
            } else {
                State::Ready
            },
        });
        let service = Service {
            name: "fuzz".into(),
            policy: Policy::ALL[usize::from(flags % 4)],
            subset: 3,
            per_connection: flags & 64 != 0,
            endpoints: endpoints.collect(),
        };
        self.splitter.set_service(self.now, SERVICE, Arc::new(service));
    }

    /// Does one step; how many of the bytes behind it were part of it.
    fn step(&mut self, kind: u8, which: u8, argument: u8, raw: &[u8]) -> usize {
        let stream = u32::from(argument % 8) * 2 + 1;
        match kind % 16 {
            0 => {
                if self.clients.len() < 8
                    && let Ok(id) = self.splitter.open_client(self.now, SERVICE)
                {
                    self.clients.push(Socket {
                        id,
                        input: BytesMut::new(),
                    });
                    let preface = [
                        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                        &frame(4, 0, 0, &[])[..],
                        &frame(4, 1, 0, &[]),
                    ]
                    .concat();
                    self.hear_client(self.clients.len() as u8 - 1, &preface);
                }
            }
            1 | 2 => {
                // A request, all of it in table-free literals: POST http / and a content type.
                let block = b"\x83\x86\x84\x01\x01a\x0f\x10\x10application/grpc";
                self.hear_client(which, &frame(1, 4 | (kind & 1), stream, block));
            }
            3 => self.hear_client(
                which,
                &frame(0, which >> 7, stream, &vec![0; usize::from(argument) * 64]),
            ),
            4 => self.hear_client(which, &frame(3, 0, stream, &[0, 0, 0, argument >> 4])),
            5 => {
                let kind = [4, 6, 7, 8, 9][usize::from(argument % 5)];
                let payload = match kind {
                    4 => setting(argument >> 4, which >> 4),
                    _ => Bytes::from_static(&[0, 0, 0, 9, 1, 2, 3, 4]),
                };
                let flags = if kind == 4 { 0 } else { which >> 7 };
                self.hear_client(
                    which,
                    &frame(kind, flags, stream * u32::from(argument >> 7), &payload),
                );
            }
            6 => {
                let taken = raw.len().min(argument.into());
                self.hear_client(which, &raw[..taken]);
                return taken;
            }
            7 if !self.dials.is_empty() => {
                let id = self.dials.remove(usize::from(which) % self.dials.len());
                if argument.is_multiple_of(4) {
                    let _ = self.splitter.handle_dialed(
                        self.now,
                        id,
                        Err(DialError::Socket(SocketError::Refused)),
                    );
                } else if self.splitter.handle_dialed(self.now, id, Ok(())) {
                    self.upstreams.push(Socket {
                        id,
                        input: BytesMut::new(),
                    });
                    let last = self.upstreams.len() as u8 - 1;
                    let settings: &[u8] = if argument & 64 == 0 {
                        &[]
                    } else {
                        &[0, 3, 0, 0, 0, 2]
                    };
                    self.hear_backend(last, &frame(4, 0, 0, settings));
                    self.hear_backend(last, &frame(4, 1, 0, &[]));
                }
            }
            8 => {
                // 200, 103 or trailers.
                let block: &[u8] =
                    [&b"\x88"[..], b"\x08\x03103", b"\x00\x0bgrpc-status\x010"][usize::from(which >> 4) % 3];
                self.hear_backend(which, &frame(1, 4 | (argument >> 7), stream, block));
            }
            9 => self.hear_backend(
                which,
                &frame(0, which >> 7, stream, &vec![0; usize::from(argument) * 64]),
            ),
            10 => self.hear_backend(which, &frame(3, 0, stream, &[0, 0, 0, argument >> 4])),
            11 => {
                let last = (u32::from(argument) % 16).to_be_bytes();
                let kind = [7, 8, 4, 6][usize::from(which >> 4) % 4];
                let payload = match kind {
                    7 if argument & 64 != 0 => [&last[..], &[0, 0, 0, 11], b"too_many_pings"].concat().into(),
                    4 => setting(argument & 7, argument >> 3),
                    8 => Bytes::copy_from_slice(&last),
                    _ => [&last[..], &[0; 4]].concat().into(),
                };
                let flags = if kind == 6 { argument >> 7 } else { 0 };
                self.hear_backend(which, &frame(kind, flags, 0, &payload));
            }
            12 => {
                let taken = raw.len().min(argument.into());
                self.hear_backend(which, &raw[..taken]);
                return taken;
            }
            13 => {
                // From a microsecond to hours: each step of the exponent twice as long.
                let micros = (u64::from(which) + 256) << (argument % 34) >> 8;
                self.pass(Duration::from_micros(micros), argument >= 204);
            }
            14 => self.set_service(which, argument),
            _ => {
                let ended = if argument & 1 == 0 {
                    Ended::Eof
                } else {
                    Ended::Error(SocketError::Reset)
                };
                if argument & 2 == 0 {
                    if !self.upstreams.is_empty() {
                        let gone = self.upstreams.remove(usize::from(which) % self.upstreams.len());
                        self.splitter
                            .handle_closed(self.now, ConnId::Upstream(gone.id), ended);
                    }
                } else if argument & 4 == 0 {
                    if !self.clients.is_empty() {
                        let gone = self.clients.remove(usize::from(which) % self.clients.len());
                        self.splitter
                            .handle_closed(self.now, ConnId::Client(gone.id), ended);
                    }
                } else if argument & 8 == 0 {
                    self.splitter.drain_service(self.now, SERVICE);
                }
            }
        }
        0
    }

    /// Time passes, with a look at each deadline on the way; or at once, as for a process that was stopped.
    fn pass(&mut self, duration: Duration, at_once: bool) {
        let end = self.now + duration;
        // Deadlines that come one after the other would make an hour long.
        for _ in 0..if at_once { 0 } else { 64 } {
            let Some(next) = self.splitter.poll_timeout().filter(|&next| next < end) else {
                break;
            };
            self.now = self.now.max(next);
            self.splitter.handle_timeout(self.now);
            self.pump(1);
        }
        self.now = end;
        self.splitter.handle_timeout(self.now);
    }

    fn hear_client(&mut self, which: u8, bytes: &[u8]) {
        if self.clients.is_empty() {
            return;
        }
        let index = usize::from(which & 15) % self.clients.len();
        let socket = &mut self.clients[index];
        socket.input.extend_from_slice(bytes);
        self.splitter
            .handle_input(self.now, ConnId::Client(socket.id), &mut socket.input);
    }

    fn hear_backend(&mut self, which: u8, bytes: &[u8]) {
        if self.upstreams.is_empty() {
            return;
        }
        let index = usize::from(which & 15) % self.upstreams.len();
        let socket = &mut self.upstreams[index];
        socket.input.extend_from_slice(bytes);
        self.splitter
            .handle_input(self.now, ConnId::Upstream(socket.id), &mut socket.input);
    }

    /// The owner of the sockets does its part; some of them are full.
    fn pump(&mut self, argument: u8) {
        loop {
            let mut idle = true;
            while let Some(action) = self.splitter.poll_action() {
                idle = false;
                self.act(&action);
            }
            while let Some(id) = self.splitter.poll_dirty() {
                idle = false;
                self.write(id, argument.is_multiple_of(7));
            }
            if idle {
                break;
            }
        }
        let connections = self.clients.len() + self.upstreams.len();
        let held = self.splitter.buffered();
        // The budget, and for each connection what was in its window when it was used up (which doubles at most
        // to twice the largest stream's).
        assert!(
            held <= POD_BUDGET + connections.max(8) * (9 << 20),
            "{held} bytes are held"
        );
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Dial { upstream, .. } => self.dials.push(upstream),
            Action::CloseClient { client, how } => {
                if how == How::Graceful {
                    self.write(ConnId::Client(client), false);
                }
                self.clients.retain(|socket| socket.id != client);
            }
            Action::CloseUpstream { upstream, how } => {
                if how == How::Graceful {
                    self.write(ConnId::Upstream(upstream), false);
                }
                self.dials.retain(|&dial| dial != upstream);
                self.upstreams.retain(|socket| socket.id != upstream);
            }
            Action::ResumeInput {
                id: ConnId::Client(id),
            } => {
                if let Some(socket) = self.clients.iter_mut().find(|socket| socket.id == id) {
                    self.splitter
                        .handle_input(self.now, ConnId::Client(id), &mut socket.input);
                }
            }
            Action::ResumeInput {
                id: ConnId::Upstream(id),
            } => {
                if let Some(socket) = self.upstreams.iter_mut().find(|socket| socket.id == id) {
                    self.splitter
                        .handle_input(self.now, ConnId::Upstream(id), &mut socket.input);
                }
            }
        }
    }

    fn write(&mut self, id: ConnId, full: bool) {
        while let Some(output) = self.splitter.transmit(self.now, id) {
            let len = output.len();
            output.advance(if full { len / 2 } else { len });
            if full {
                return;
            }
        }
    }

    fn end(mut self) {
        for socket in std::mem::take(&mut self.clients) {
            self.splitter.handle_closed(
                self.now,
                ConnId::Client(socket.id),
                Ended::Error(SocketError::Reset),
            );
        }
        self.splitter.remove_service(self.now, SERVICE);
        for _ in 0..20 {
            self.pump(1);
            self.now += Duration::from_mins(1);
            self.splitter.handle_timeout(self.now);
        }
        assert!(self.splitter.is_idle(), "calls or clients are left");
        assert_eq!(self.splitter.buffered(), 0, "bytes are left");
        assert!(
            self.splitter
                .describe(self.now)
                .iter()
                .all(|view| view.waiting == 0)
        );
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Bytes {
    let len = (payload.len() as u32).to_be_bytes();
    let id = stream.to_be_bytes();
    [&len[1..], &[kind, flags], &id, payload].concat().into()
}

/// One setting of a SETTINGS frame, known or not, and in its range or not.
fn setting(id: u8, value: u8) -> Bytes {
    let value = SETTINGS[usize::from(value % 8)].to_be_bytes();
    [&[0, id % 8][..], &value].concat().into()
}
