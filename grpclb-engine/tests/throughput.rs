//! How long one big message takes through the splitter, in virtual time: as long as through a relay that passes bytes
//! untouched. Between client, middle and backend there are lines of 10 Gbit/s, each with a millisecond of round trip.

mod support;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use grpclb_engine::Time;
use grpclb_engine::balance::{Endpoint, Policy, Service, State};
use grpclb_engine::connection::{Config, Event, HeadersKind, Role, StreamKey};
use grpclb_engine::splitter::{self, Action, ConnId, ServiceKey, Splitter};

use support::Side;

/// One way.
const DELAY: Duration = Duration::from_micros(500);
/// 1.25 bytes a nanosecond.
const NANOS_A_KILOBYTE: u64 = 800;
/// Time goes in steps of this length.
const TICK: Duration = Duration::from_micros(10);
/// What a socket takes before the line has carried it, and what is under way on a line or unread behind it.
const UNSENT: u64 = 128 << 10;
const UNREAD: usize = 4 << 20;

const MESSAGE: usize = 16 << 20;

/// Bytes on their way from one socket to another.
#[derive(Default)]
struct Line {
    pieces: VecDeque<(Time, BytesMut)>,
    len: usize,
    free: Time,
}

impl Line {
    /// The sender's socket takes so many bytes now.
    fn room(&self, now: Time) -> usize {
        let unsent = self.free.since(now).as_nanos() as u64 * 1000 / NANOS_A_KILOBYTE;
        (UNSENT.saturating_sub(unsent) as usize).min(UNREAD.saturating_sub(self.len))
    }

    fn send(&mut self, now: Time, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let takes = Duration::from_nanos(bytes.len() as u64 * NANOS_A_KILOBYTE / 1000);
        self.free = self.free.max(now) + takes;
        self.len += bytes.len();
        self.pieces.push_back((self.free + DELAY, BytesMut::from(bytes)));
    }

    /// What has arrived, up to `most` bytes.
    fn read(&mut self, now: Time, most: usize, into: &mut BytesMut) {
        let mut left = most;
        while let Some((at, piece)) = self.pieces.front_mut()
            && *at <= now
            && left > 0
        {
            let taken = piece.split_to(piece.len().min(left));
            (left, self.len) = (left - taken.len(), self.len - taken.len());
            into.extend_from_slice(&taken);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

/// Both directions of a hop: what its client's end sends, and what comes back.
#[derive(Default)]
struct Hop {
    up: Line,
    down: Line,
}

/// What stands between client and backend.
enum Middle {
    /// Passes bytes untouched; reads on when the other side has taken all.
    Relay {
        up: BytesMut,
        down: BytesMut,
    },
    Splitter(Box<Split>),
}

struct Split {
    splitter: Splitter,
    client: ConnId,
    upstream: Option<ConnId>,
    inputs: [BytesMut; 2],
}

impl Middle {
    fn relay() -> Self {
        Self::Relay {
            up: BytesMut::new(),
            down: BytesMut::new(),
        }
    }

    fn splitter() -> Self {
        let mut splitter = Splitter::new(Arc::new(splitter::Config::new("n1")), 7, Arc::default());
        let endpoint = Endpoint {
            id: "pod-0".into(),
            address: ([10, 0, 0, 1], 50051).into(),
            weight: 1,
            state: State::Ready,
        };
        let service = Service {
            name: "echo".into(),
            policy: Policy::RoundRobin,
            subset: 20,
            per_connection: false,
            endpoints: Arc::new([endpoint]),
        };
        splitter.set_service(Time::ZERO, ServiceKey(1), Arc::new(service));
        let client = splitter
            .open_client(Time::ZERO, ServiceKey(1))
            .expect("the Service is set");
        Self::Splitter(Box::new(Split {
            splitter,
            client: ConnId::Client(client),
            upstream: None,
            inputs: Default::default(),
        }))
    }

    fn turn(&mut self, now: Time, front: &mut Hop, back: &mut Hop) {
        match self {
            Self::Relay { up, down } => {
                for (from, to, waiting) in [
                    (&mut front.up, &mut back.up, up),
                    (&mut back.down, &mut front.down, down),
                ] {
                    if waiting.is_empty() {
                        from.read(now, 64 << 10, waiting);
                    }
                    let room = to.room(now).min(waiting.len());
                    to.send(now, &waiting.split_to(room));
                }
            }
            Self::Splitter(split) => split.turn(now, front, back),
        }
    }
}

impl Split {
    fn turn(&mut self, now: Time, front: &mut Hop, back: &mut Hop) {
        if self.splitter.poll_timeout().is_some_and(|due| due <= now) {
            self.splitter.handle_timeout(now);
        }
        let [from_client, from_backend] = &mut self.inputs;
        front.up.read(now, 64 << 10, from_client);
        self.splitter.handle_input(now, self.client, from_client);
        if let Some(upstream) = self.upstream {
            back.down.read(now, 64 << 10, from_backend);
            self.splitter.handle_input(now, upstream, from_backend);
        }
        while let Some(action) = self.splitter.poll_action() {
            let Action::Dial { upstream, .. } = action else {
                panic!("nothing ends here: {action:?}");
            };
            assert!(self.splitter.handle_dialed(now, upstream, Ok(())));
            self.upstream = Some(ConnId::Upstream(upstream));
        }
        // Sockets that were full are tried again in each turn.
        while self.splitter.poll_dirty().is_some() {}
        let upstream = self.upstream.map(|upstream| (upstream, &mut back.up));
        for (id, line) in [Some((self.client, &mut front.down)), upstream]
            .into_iter()
            .flatten()
        {
            while line.room(now) > 0
                && let Some(output) = self.splitter.transmit(now, id)
            {
                let mut slices = [IoSlice::new(&[]); 32];
                let filled = output.slices(&mut slices);
                let mut taken = 0;
                for slice in &slices[..filled] {
                    let room = line.room(now).min(slice.len());
                    line.send(now, &slice[..room]);
                    taken += room;
                }
                output.advance(taken);
            }
        }
    }
}

/// A client, a backend, and what is between them.
struct Path {
    now: Time,
    middle: Middle,
    front: Hop,
    back: Hop,
    client: Side,
    server: Side,
    /// What the backend answers, in bytes.
    answer: usize,
    /// A stream that its reader has stopped reading.
    stuck: Option<StreamKey>,
    /// Streams whose responses have come to their end, and bytes of all responses.
    ended: Vec<StreamKey>,
    got: usize,
    asked: usize,
}

impl Path {
    fn new(middle: Middle) -> Self {
        // As the peers have it that measure bandwidth: their windows are no hindrance here.
        let config = Config {
            initial_window: 16 << 20,
            connection_window: 64 << 20,
            ..Config::to_client()
        };
        Self {
            now: Time::ZERO,
            middle,
            front: Hop::default(),
            back: Hop::default(),
            client: Side::new(Role::Client, config.clone()),
            server: Side::new(Role::Server, config),
            answer: 0,
            stuck: None,
            ended: Vec::new(),
            got: 0,
            asked: 0,
        }
    }

    /// A call with so many bytes each way; how long it takes.
    fn call(&mut self, request: usize, answer: usize) -> Duration {
        let (start, got, asked) = (self.now, self.got, self.asked);
        let stream = self.open(request, answer);
        while !self.ended.contains(&stream) {
            self.turn();
            assert!(self.now.since(start) < Duration::from_secs(1), "it crawls");
        }
        assert_eq!((self.asked - asked, self.got - got), (request, answer));
        self.now.since(start)
    }

    fn open(&mut self, request: usize, answer: usize) -> StreamKey {
        self.answer = answer;
        while !self.client.connection.can_open() {
            self.turn();
        }
        let stream = self.client.open(self.now, 0, false);
        self.client.data(stream, &vec![7; request], true);
        stream
    }

    fn turn(&mut self) {
        self.now += TICK;
        let now = self.now;
        let mut bytes = BytesMut::new();
        self.back.up.read(now, 64 << 10, &mut bytes);
        self.server.receive(now, &bytes);
        bytes.clear();
        self.front.down.read(now, 64 << 10, &mut bytes);
        self.client.receive(now, &bytes);
        self.serve();
        self.note();
        for (side, line) in [
            (&mut self.client, &mut self.front.up),
            (&mut self.server, &mut self.back.down),
        ] {
            side.connection
                .transmit(now, &mut side.fields, &mut side.output, &mut side.sent);
            line.send(now, &side.write(line.room(now)));
        }
        self.middle.turn(now, &mut self.front, &mut self.back);
    }

    /// The backend reads at once, and answers when the request has come to its end.
    fn serve(&mut self) {
        for event in self.server.take_events() {
            let (stream, end) = match event {
                Event::Headers {
                    stream, end_stream, ..
                } => (stream, end_stream),
                Event::Data {
                    stream,
                    chunk,
                    end_stream,
                    ..
                } => {
                    self.asked += chunk.len();
                    self.server.connection.release(stream, chunk.len() as u32);
                    (stream, end_stream)
                }
                _ => continue,
            };
            if end {
                self.server.respond(stream, false);
                self.server.data(stream, &vec![8; self.answer], true);
            }
        }
    }

    fn note(&mut self) {
        for event in self.client.take_events() {
            let (stream, end) = match event {
                Event::Headers {
                    stream,
                    end_stream,
                    kind: HeadersKind::Response,
                    ..
                } => (stream, end_stream),
                Event::Data {
                    stream,
                    chunk,
                    end_stream,
                    ..
                } => {
                    if self.stuck != Some(stream) {
                        self.got += chunk.len();
                        self.client.connection.release(stream, chunk.len() as u32);
                    }
                    (stream, end_stream)
                }
                _ => continue,
            };
            if end {
                self.ended.push(stream);
            }
        }
    }
}

/// The same calls through a relay and through the splitter, one after the other; the times of each.
fn compare(calls: &[(usize, usize)]) -> Vec<(Duration, Duration)> {
    let mut relayed = Path::new(Middle::relay());
    let mut split = Path::new(Middle::splitter());
    let both =
        |&(request, answer): &(usize, usize)| (relayed.call(request, answer), split.call(request, answer));
    calls.iter().map(both).collect()
}

#[test]
fn a_small_call_takes_two_round_trips_of_a_hop_through_either() {
    let times = compare(&[(100, 100), (100, 100)]);
    let (relayed, split) = times[1];
    assert!(relayed >= 4 * DELAY && split >= 4 * DELAY, "{times:?}");
    assert!(split <= relayed + 3 * TICK, "{times:?}");
}

/// The first big message of a connection finds windows of 64 KiB and pays some round trips until they are large enough.
/// (Lines here are warm: a fresh TCP connection has its own slow start, which a relay pays as well.)
#[test]
fn a_big_message_takes_about_as_long_as_through_a_relay_and_a_further_one_as_long() {
    for call in [(MESSAGE, 0), (0, MESSAGE), (MESSAGE, MESSAGE)] {
        let times = compare(&[(100, 100), call, call]);
        let [_, (relayed, first), (_, second)] = times[..] else {
            panic!("three calls");
        };
        let times = format!("{call:?}: relayed {relayed:?}, split {first:?}, then {second:?}");
        assert!(first <= relayed * 5 / 4, "{times}");
        assert!(second <= relayed * 11 / 10, "{times}");
    }
}

#[test]
fn a_reader_that_stops_stalls_its_own_stream_only() {
    let mut path = Path::new(Middle::splitter());
    let before = (path.call(100, MESSAGE), path.call(100, MESSAGE)).1;
    let stuck = path.open(100, 2 * MESSAGE);
    path.stuck = Some(stuck);
    for _ in 0..2000 {
        path.turn();
    }
    assert!(!path.ended.contains(&stuck));
    let beside = path.call(100, MESSAGE);
    assert!(
        beside <= before * 11 / 10,
        "{beside:?}, and {before:?} without it"
    );
    let upload = path.call(MESSAGE, 100);
    assert!(
        upload <= before * 11 / 10,
        "{upload:?}, and {before:?} without it"
    );
}
