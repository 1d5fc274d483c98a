//! Two connections and a random walk: calls, data, resets, SETTINGS and cuts in any order, from committed seeds. At the
//! end everything that was sent has arrived, nothing is left, and both ends agree on every byte of every window.

use std::collections::BTreeMap;
use std::time::Duration;

use grpclb_engine::Time;
use grpclb_engine::connection::{Config, Event, HeadersKind, Role, StreamKey};
use grpclb_engine::frame::ErrorCode;
use grpclb_engine::rng::Rng;

use crate::support::Side;

/// One direction of one call, as a test sees it.
#[derive(Default)]
struct Flow {
    queued: usize,
    arrived: usize,
    unreleased: u32,
    end_queued: bool,
    end_arrived: bool,
}

/// One call, by the id of its stream.
struct Call {
    client: StreamKey,
    server: Option<StreamKey>,
    request: Flow,
    response: Flow,
    answered: bool,
    reset: bool,
}

struct World {
    client: Side,
    server: Side,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    now: Time,
    calls: Vec<Call>,
    /// Server streams to calls.
    by_server: BTreeMap<u32, usize>,
    rng: Rng,
    seed: u64,
}

/// The byte of a call's message at this place.
fn pattern(call: usize, at: usize) -> u8 {
    (call * 31 + at) as u8
}

const WINDOWS: [u32; 6] = [0, 1, 2, 100, 65_535, 1 << 20];

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let mut window = || WINDOWS[rng.below(WINDOWS.len() as u64) as usize];
        let client = Config {
            initial_window: window(),
            ..Config::to_backend()
        };
        let server = Config {
            initial_window: window(),
            max_concurrent_streams: 20,
            ..Config::to_client()
        };
        Self {
            client: Side::new(Role::Client, client),
            server: Side::new(Role::Server, server),
            to_server: Vec::new(),
            to_client: Vec::new(),
            now: Time::ZERO,
            calls: Vec::new(),
            by_server: BTreeMap::new(),
            rng,
            seed,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    fn step(&mut self) {
        match self.below(14) {
            0 | 1 => self.open(),
            2 | 3 => self.send(true),
            4 | 5 => self.send(false),
            6 => self.end(),
            7 => self.release(),
            8 => self.settings(),
            9 if self.below(3) == 0 => self.reset(),
            10 => {
                self.now += Duration::from_micros(self.rng.below(2000));
                self.client.timeout(self.now);
                self.server.timeout(self.now);
                self.note();
            }
            _ => self.move_bytes(),
        }
    }

    fn open(&mut self) {
        if !self.client.connection.can_open() {
            return;
        }
        let tag = self.calls.len() as u32;
        let client = self.client.open(self.now, tag, false);
        let (request, response) = (Flow::default(), Flow::default());
        self.calls.push(Call {
            client,
            server: None,
            request,
            response,
            answered: false,
            reset: false,
        });
    }

    fn pick(&mut self) -> Option<usize> {
        let live: Vec<_> = (0..self.calls.len())
            .filter(|&at| !self.calls[at].reset)
            .collect();
        if live.is_empty() {
            None
        } else {
            Some(live[self.below(live.len())])
        }
    }

    /// Queues data, sometimes none, sometimes much, sometimes in many pieces.
    fn send(&mut self, request: bool) {
        let Some(at) = self.pick() else { return };
        let len = [0, 1, 10, 300, 3000, 20_000][self.below(6)];
        let pieces = 1 + self.below(3);
        for _ in 0..pieces {
            let call = &mut self.calls[at];
            let flow = if request {
                &mut call.request
            } else {
                &mut call.response
            };
            if flow.end_queued {
                return;
            }
            let bytes: Vec<_> = (0..len).map(|n| pattern(at, flow.queued + n)).collect();
            flow.queued += len;
            if request {
                self.client.data(call.client, &bytes, false);
            } else if let Some(server) = call.server {
                if !std::mem::replace(&mut call.answered, true) {
                    self.server.respond(server, false);
                }
                self.server.data(server, &bytes, false);
            } else {
                flow.queued -= len;
                return;
            }
        }
    }

    fn end(&mut self) {
        let Some(at) = self.pick() else { return };
        let with_data = self.below(2) == 0;
        let call = &mut self.calls[at];
        if !call.request.end_queued {
            call.request.end_queued = true;
            self.client.data(call.client, b"", true);
        } else if let Some(server) = call.server
            && !call.response.end_queued
        {
            call.response.end_queued = true;
            if !call.answered {
                call.answered = true;
                self.server.respond(server, true);
            } else if with_data {
                let last = pattern(at, call.response.queued);
                call.response.queued += 1;
                self.server.data(server, &[last], true);
            } else {
                self.server.trailers(server);
            }
        }
    }

    fn release(&mut self) {
        let Some(at) = self.pick() else { return };
        let all = self.below(2) == 0;
        self.release_of(at, all);
    }

    fn release_of(&mut self, at: usize, all: bool) {
        let call = &mut self.calls[at];
        let share = |flow: &mut Flow| {
            let n = if all { flow.unreleased } else { flow.unreleased / 3 };
            flow.unreleased -= n;
            n
        };
        if let Some(server) = call.server {
            self.server.connection.release(server, share(&mut call.request));
        }
        self.client
            .connection
            .release(call.client, share(&mut call.response));
    }

    fn settings(&mut self) {
        let window = WINDOWS[self.below(WINDOWS.len())];
        match self.below(4) {
            0 => self.client.connection.set_initial_window(window),
            1 => self.server.connection.set_initial_window(window),
            2 => {
                if let Some(at) = self.pick()
                    && let Some(server) = self.calls[at].server
                {
                    self.server.connection.grow_stream_window(server, 1 << 17);
                }
            }
            _ => {
                let hold = self.below(2) == 0;
                self.server.connection.hold_connection_credit(hold);
            }
        }
    }

    fn reset(&mut self) {
        let Some(at) = self.pick() else { return };
        let by_client = self.below(2) == 0;
        let call = &mut self.calls[at];
        match call.server {
            Some(server) if !by_client => self.server.connection.reset(server, ErrorCode::INTERNAL_ERROR),
            _ => self.client.connection.reset(call.client, ErrorCode::CANCEL),
        }
        call.reset = true;
    }

    /// Something is transmitted, written in part, and delivered in part.
    fn move_bytes(&mut self) {
        let most = [1, 7, 100, 20_000, usize::MAX][self.below(5)];
        let up = self.below(2) == 0;
        let (from, wire) = if up {
            (&mut self.client, &mut self.to_server)
        } else {
            (&mut self.server, &mut self.to_client)
        };
        from.connection
            .transmit(self.now, &mut from.fields, &mut from.output, &mut from.sent);
        wire.extend(from.write(most));
        let delivered: Vec<u8> = wire.drain(..most.min(wire.len())).collect();
        let to = if up { &mut self.server } else { &mut self.client };
        to.receive(self.now, &delivered);
        self.note();
    }

    /// Reads both sides' events into the calls.
    fn note(&mut self) {
        for event in self.server.take_events() {
            match event {
                Event::Headers {
                    stream,
                    end_stream,
                    kind: HeadersKind::Request,
                    ..
                } => {
                    // Streams reach the server in the order of their ids, and the client knows those.
                    let id = self.server.connection.stream_id(stream);
                    let at = self.calls.iter().position(|call| {
                        call.server.is_none()
                            && id.is_some()
                            && self.client.connection.stream_id(call.client) == id
                    });
                    let Some(at) = at else {
                        // One of the ends has reset it meanwhile and knows it no more.
                        self.by_server.insert(index(stream), usize::MAX);
                        continue;
                    };
                    self.by_server.insert(index(stream), at);
                    self.server.connection.set_tag(stream, at as u32);
                    self.calls[at].server = Some(stream);
                    self.calls[at].request.end_arrived |= end_stream;
                }
                Event::Data {
                    stream,
                    chunk,
                    end_stream,
                    ..
                } => {
                    let at = self.by_server[&index(stream)];
                    if at != usize::MAX {
                        let flow = &mut self.calls[at].request;
                        arrive(flow, at, &chunk, end_stream, self.seed);
                    }
                }
                Event::Reset { stream, .. } => {
                    let at = self.by_server[&index(stream)];
                    if at != usize::MAX {
                        self.calls[at].reset = true;
                    }
                }
                Event::Ready | Event::Headers { .. } => {}
                other => panic!("seed {}: {other:?}", self.seed),
            }
        }
        for event in self.client.take_events() {
            match event {
                Event::Headers { tag, end_stream, .. } => {
                    self.calls[tag as usize].response.end_arrived |= end_stream;
                }
                Event::Data {
                    tag,
                    chunk,
                    end_stream,
                    ..
                } => {
                    let at = tag as usize;
                    arrive(&mut self.calls[at].response, at, &chunk, end_stream, self.seed);
                }
                Event::Reset { tag, .. } => self.calls[tag as usize].reset = true,
                Event::Ready | Event::Capacity => {}
                other => panic!("seed {}: {other:?}", self.seed),
            }
        }
    }

    /// Everything is released, windows are open, and time passes until nothing moves.
    fn finish(&mut self) {
        self.server.connection.hold_connection_credit(false);
        self.client.connection.set_initial_window(65_535);
        self.server.connection.set_initial_window(65_535);
        for _ in 0..10_000 {
            let mut moved = false;
            for at in 0..self.calls.len() {
                self.release_of(at, true);
            }
            self.to_server.extend(self.client.transmit(self.now));
            self.to_client.extend(self.server.transmit(self.now));
            moved |= !self.to_server.is_empty() || !self.to_client.is_empty();
            let (up, down) = (
                std::mem::take(&mut self.to_server),
                std::mem::take(&mut self.to_client),
            );
            self.server.receive(self.now, &up);
            self.client.receive(self.now, &down);
            self.note();
            if !moved {
                let deadlines = [
                    self.client.connection.poll_timeout(),
                    self.server.connection.poll_timeout(),
                ];
                let Some(next) = deadlines.into_iter().flatten().min() else {
                    return;
                };
                self.now = self.now.max(next);
                self.client.timeout(self.now);
                self.server.timeout(self.now);
            }
        }
        panic!("seed {}: the connections never come to rest", self.seed);
    }

    fn check(&self) {
        let seed = self.seed;
        for (at, call) in self.calls.iter().enumerate().filter(|(_, call)| !call.reset) {
            for (flow, name) in [(&call.request, "request"), (&call.response, "response")] {
                assert_eq!(flow.arrived, flow.queued, "seed {seed}, call {at}: {name} bytes");
                assert_eq!(
                    flow.end_arrived, flow.end_queued,
                    "seed {seed}, call {at}: {name}'s end"
                );
            }
            if let Some(server) = call.server {
                let client = self.client.connection.windows(Some(call.client));
                let windows = self.server.connection.windows(Some(server));
                if self.server.connection.tag(server).is_some() {
                    if !call.request.end_queued {
                        assert_eq!(
                            client.send, windows.recv,
                            "seed {seed}, call {at}: request window"
                        );
                    }
                    assert_eq!(windows.held, 0, "seed {seed}, call {at}");
                    if !call.response.end_queued {
                        assert_eq!(
                            windows.send, client.recv,
                            "seed {seed}, call {at}: response window"
                        );
                    }
                    assert_eq!(client.held, 0, "seed {seed}, call {at}");
                }
            }
        }
        let (client, server) = (
            self.client.connection.windows(None),
            self.server.connection.windows(None),
        );
        assert_eq!(
            (client.send, client.recv),
            (server.recv, server.send),
            "seed {seed}: the connection's windows"
        );
        assert_eq!(
            (client.held, server.held),
            (0, 0),
            "seed {seed}: every byte of credit came back"
        );
        let open = self
            .calls
            .iter()
            .filter(|call| !(call.reset || call.request.end_queued && call.response.end_queued));
        assert_eq!(
            self.client.connection.streams(),
            open.count(),
            "seed {seed}: nothing is left of calls that ended"
        );
        assert_eq!(
            self.client.connection.streams(),
            self.server.connection.streams(),
            "seed {seed}: streams"
        );
    }
}

fn arrive(flow: &mut Flow, call: usize, chunk: &[u8], end: bool, seed: u64) {
    for byte in chunk {
        assert_eq!(
            *byte,
            pattern(call, flow.arrived),
            "seed {seed}, call {call}: byte {}",
            flow.arrived
        );
        flow.arrived += 1;
    }
    flow.unreleased += chunk.len() as u32;
    flow.end_arrived |= end;
}

/// A key's own number in this test.
fn index(stream: StreamKey) -> u32 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    stream.hash(&mut hasher);
    hasher.finish() as u32
}

fn walk(seed: u64, steps: usize) {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.finish();
    world.check();
}

#[test]
fn random_walks_lose_no_byte_and_no_credit() {
    for seed in 0..120 {
        walk(seed, 300);
    }
}

#[test]
fn long_walks_lose_no_byte_and_no_credit() {
    for seed in 1000..1004 {
        walk(seed, 2500);
    }
}
