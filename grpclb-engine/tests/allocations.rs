//! What a splitter asks of the allocator: nothing for a small call once it has warmed up, little for calls that last, and
//! what bursts took comes back.

mod support;

use std::io::IoSlice;
use std::sync::Arc;

use allocation_counter::measure;
use bytes::BytesMut;
use grpclb_engine::Time;
use grpclb_engine::balance::{Endpoint, Policy, Service, State};
use grpclb_engine::connection::{Config, Event, HeadersKind, Role, StreamKey};
use grpclb_engine::frame::ErrorCode;
use grpclb_engine::splitter::{self, Action, ConnId, ServiceKey, Splitter};

use support::{REQUEST, RESPONSE, Script, Side, TRAILERS, flags, kinds, millis, raw};

/// Room for a read, as in the data plane.
const READ: usize = 64 << 10;

/// The backend's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Response headers, the whole body and trailers, as soon as the request's headers are there.
    Unary,
    /// Trailers alone.
    TrailersOnly,
    /// Each message comes back; trailers follow the last one.
    Echo,
    Nothing,
}

/// Clients, the splitter and one backend, of which only the splitter is measured.
struct Bench {
    now: Time,
    splitter: Splitter,
    clients: Vec<(ConnId, Side)>,
    backend: (ConnId, Side),
    /// As the data plane's: one buffer for all reads.
    input: BytesMut,
    output: Vec<u8>,
    /// By the splitter.
    allocations: u64,
    answer: Answer,
    /// Bytes each way of a call.
    body: usize,
    /// Calls so far, and whether each has a deadline of its own among its headers.
    opened: usize,
    deadlines: bool,
}

impl Bench {
    fn new(clients: usize) -> Self {
        let now = Time::ZERO;
        let mut splitter = Splitter::new(Arc::new(splitter::Config::new("n1")), 7, Arc::default());
        let service = Service {
            name: "echo".into(),
            policy: Policy::RoundRobin,
            subset: 20,
            per_connection: false,
            endpoints: Arc::new([Endpoint {
                id: "pod-0".into(),
                address: ([10, 0, 0, 1], 50051).into(),
                weight: 1,
                state: State::Ready,
            }]),
        };
        splitter.set_service(now, ServiceKey(1), Arc::new(service));
        let mut connect = || {
            let id = splitter.open_client(now, ServiceKey(1));
            let side = Side::new(Role::Client, Config::to_client());
            (ConnId::Client(id.expect("the Service is set")), side)
        };
        let mut clients: Vec<_> = (0..clients).map(|_| connect()).collect();
        for (id, side) in &mut clients {
            splitter.handle_input(now, *id, &mut BytesMut::from(&side.drain(now)[..]));
            while let Some(settings) = splitter.transmit(now, *id) {
                let mut slices = [IoSlice::new(&[])];
                settings.slices(&mut slices);
                side.receive(now, &slices[0]);
                let len = slices[0].len();
                settings.advance(len);
            }
        }
        let (id, side) = &mut clients[0];
        let first = side.open(now, 0, true);
        splitter.handle_input(now, *id, &mut BytesMut::from(&side.drain(now)[..]));
        let Some(Action::Dial { upstream, .. }) = splitter.poll_action() else {
            panic!("the first call causes a dial");
        };
        assert!(splitter.handle_dialed(now, upstream, Ok(())));
        let mut bench = Self {
            now,
            splitter,
            clients,
            backend: (upstream.into(), Side::new(Role::Server, Config::to_client())),
            input: BytesMut::with_capacity(READ),
            output: Vec::with_capacity(READ),
            allocations: 0,
            answer: Answer::Unary,
            body: 100,
            opened: 0,
            deadlines: false,
        };
        for _ in 0..8 {
            bench.exchange();
        }
        assert!(bench.clients[0].1.ended(first), "the first call");
        bench.clients[0].1.events.clear();
        bench
    }

    /// Everything that one side has to say goes to the other, and back, once.
    fn exchange(&mut self) {
        for client in 0..self.clients.len() {
            self.read(Some(client));
        }
        self.write(None);
        self.serve();
        self.read(None);
        for client in 0..self.clients.len() {
            self.write(Some(client));
        }
    }

    /// What this client, or the backend, has to say comes to the splitter.
    fn read(&mut self, client: Option<usize>) {
        let (id, side) = client.map_or(&mut self.backend, |client| &mut self.clients[client]);
        let (splitter, input, now) = (&mut self.splitter, &mut self.input, self.now);
        let said = side.drain(now);
        side.sent.clear();
        input.clear();
        if !input.try_reclaim(READ) && input.capacity() < READ / 4 {
            input.reserve(READ);
        }
        input.extend_from_slice(&said);
        let cost = measure(|| splitter.handle_input(now, *id, input));
        assert!(input.is_empty(), "no frame is cut here");
        self.allocations += cost.count_total;
    }

    /// What the splitter has to say comes to this client, or to the backend.
    fn write(&mut self, client: Option<usize>) {
        let (id, side) = client.map_or(&mut self.backend, |client| &mut self.clients[client]);
        let (splitter, output, now) = (&mut self.splitter, &mut self.output, self.now);
        output.clear();
        let cost = measure(|| {
            while splitter.poll_dirty().is_some() {}
            while let Some(queue) = splitter.transmit(now, *id) {
                let mut slices = [IoSlice::new(&[]); 32];
                let filled = queue.slices(&mut slices);
                let len = slices[..filled].iter().map(|slice| slice.len()).sum();
                slices[..filled]
                    .iter()
                    .for_each(|slice| output.extend_from_slice(slice));
                queue.advance(len);
            }
        });
        self.allocations += cost.count_total;
        side.receive(now, output);
    }

    fn serve(&mut self) {
        let (_, side) = &mut self.backend;
        for event in side.take_events() {
            match (event, self.answer) {
                (
                    Event::Headers {
                        stream,
                        kind: HeadersKind::Request,
                        ..
                    },
                    answer,
                ) => match answer {
                    Answer::Unary => {
                        side.respond(stream, false);
                        side.data(stream, &vec![8; self.body], false);
                        side.trailers(stream);
                    }
                    Answer::TrailersOnly => {
                        let headers = side.headers(&[RESPONSE, TRAILERS].concat());
                        side.connection.send_headers(stream, headers, true);
                    }
                    Answer::Echo => side.respond(stream, false),
                    Answer::Nothing => {}
                },
                (
                    Event::Data {
                        stream,
                        chunk,
                        end_stream,
                        ..
                    },
                    answer,
                ) => {
                    side.connection.release(stream, chunk.len() as u32);
                    if answer == Answer::Echo {
                        side.data(stream, &chunk, false);
                        if end_stream {
                            side.trailers(stream);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// A call whose request is all there.
    fn open(&mut self, client: usize) -> StreamKey {
        let stream = self.begin(client);
        self.clients[client].1.data(stream, &vec![7; self.body], true);
        stream
    }

    /// A call of which only the request's headers are there.
    fn begin(&mut self, client: usize) -> StreamKey {
        self.opened += 1;
        let (_, side) = &mut self.clients[client];
        let deadline = format!("{}u", 1_000_000 + self.opened);
        let mut headers = REQUEST.to_vec();
        if self.deadlines {
            headers.push(("grpc-timeout", &deadline));
        }
        let headers = side.headers(&headers);
        let stream = side.connection.open(self.now, 0, headers, false);
        stream.expect("the splitter takes a hundred calls at once")
    }

    /// So many calls of each client at once.
    fn calls(&mut self, each: usize) {
        let opened: Vec<(usize, StreamKey)> = (0..self.clients.len())
            .flat_map(|client| (0..each).map(move |_| client))
            .map(|client| (client, self.open(client)))
            .collect();
        self.exchange_to_end();
        for (client, stream) in opened {
            assert!(self.clients[client].1.ended(stream));
        }
        self.clients.iter_mut().for_each(|(_, side)| side.events.clear());
    }

    /// So many calls of the first client at once, each with `messages` that come back one after the other.
    fn streams(&mut self, calls: usize, messages: usize) {
        let opened: Vec<StreamKey> = (0..calls).map(|_| self.begin(0)).collect();
        for message in 1..=messages {
            for stream in &opened {
                let body = vec![7; self.body];
                self.clients[0].1.data(*stream, &body, message == messages);
            }
            self.exchange();
        }
        self.exchange_to_end();
        let (_, side) = &mut self.clients[0];
        for stream in opened {
            assert!(side.ended(stream));
            assert_eq!(side.received(stream).len(), messages * self.body);
        }
        side.events.clear();
    }

    /// Exchanges bytes until all calls have ended.
    fn exchange_to_end(&mut self) {
        let mut exchanges = 0;
        while self.clients.iter().any(|(_, side)| side.connection.streams() > 0) {
            exchanges += 1;
            assert!(exchanges < 100, "calls do not come to their end");
            self.exchange();
        }
    }
}

/// How often ten thousand calls ask for memory. Before that, each connection has had more streams than it remembers.
fn allocations(clients: usize, each: usize) -> u64 {
    let mut bench = Bench::new(clients);
    (0..300_usize.div_ceil(each)).for_each(|_| bench.calls(each));
    bench.allocations = 0;
    (0..10_000 / (clients * each)).for_each(|_| bench.calls(each));
    bench.allocations
}

#[test]
fn small_calls_ask_for_no_memory() {
    for (clients, each) in [(1, 1), (1, 100), (10, 10), (100, 1)] {
        let allocations = allocations(clients, each);
        assert_eq!(allocations, 0, "{clients} clients with {each} calls each");
    }
}

#[test]
fn streamed_messages_allocate_nothing() {
    let mut bench = Bench::new(1);
    bench.answer = Answer::Echo;
    (0..30).for_each(|_| bench.streams(10, 20));
    bench.allocations = 0;
    (0..100).for_each(|_| bench.streams(10, 20));
    assert_eq!(bench.allocations, 0);
}

#[test]
fn trailers_only_responses_allocate_nothing() {
    let mut bench = Bench::new(1);
    bench.answer = Answer::TrailersOnly;
    (0..30).for_each(|_| bench.calls(10));
    bench.allocations = 0;
    (0..1000).for_each(|_| bench.calls(10));
    assert_eq!(bench.allocations, 0);
}

/// Payloads that are referenced ask for more: the list of an output's pieces, and the body that is kept for another try.
#[test]
fn calls_of_four_kilobytes_ask_for_memory_less_than_twice() {
    let mut bench = Bench::new(10);
    bench.body = 4096;
    (0..30).for_each(|_| bench.calls(10));
    bench.allocations = 0;
    (0..10).for_each(|_| bench.calls(10));
    assert!(
        bench.allocations < 2000,
        "{} in a thousand calls",
        bench.allocations
    );
}

/// A value that was never seen before is kept with its field, so that it goes out as it came in.
#[test]
fn a_header_that_differs_with_every_call_asks_for_memory_twice() {
    let mut bench = Bench::new(1);
    bench.deadlines = true;
    (0..1000).for_each(|_| bench.calls(1));
    bench.allocations = 0;
    (0..1000).for_each(|_| bench.calls(1));
    assert_eq!(bench.allocations, 2000);
}

/// Small bodies are kept for another try until the response begins. Were they kept where they were read, each could hold
/// on to a whole read buffer.
#[test]
fn a_call_that_waits_for_its_answer_holds_no_read_buffer() {
    const CALLS: i64 = 100;
    let mut bench = Bench::new(1);
    (0..CALLS).for_each(|_| bench.calls(1));
    bench.answer = Answer::Nothing;
    let held = measure(|| {
        for _ in 0..CALLS {
            bench.open(0);
            // Each is read into a buffer of its own, as where much else is read in between.
            bench.input = BytesMut::with_capacity(READ);
            (0..4).for_each(|_| bench.exchange());
        }
    });
    let a_call = held.bytes_current / CALLS;
    assert!(a_call < 8 << 10, "{a_call} bytes a call");
}

/// What is kept for later calls has its limits: header lists, bodies' buffers and an output's.
#[test]
fn a_burst_of_thousands_of_calls_leaves_little_behind() {
    let held_after = |burst: usize| {
        let mut bench = Bench::new(10);
        (0..300).for_each(|_| bench.calls(1));
        bench.body = 5000;
        bench.calls(burst);
        -measure(|| drop(bench.splitter)).bytes_current
    };
    let (before, after) = (held_after(0), held_after(800));
    assert!(after < before + (160 << 10), "{before} bytes, then {after}");
}

#[test]
fn continuations_of_one_byte_do_not_copy_what_came_before_them() {
    let mut script = Script::client();
    // Beyond the longest list, so that it is decoded as it comes, up to within the value of a field with a long name.
    let whole = vec![0x82; 16_384];
    script.send(&raw(kinds::HEADERS, 0, 1, &whole));
    for _ in 0..64 {
        script.send(&raw(kinds::CONTINUATION, 0, 1, &whole));
    }
    let mut name = vec![0x00, 0x7f, 0xe1, 0xd3, 0x03]; // 60,000 bytes
    name.resize(15_000, b'n');
    script.send(&raw(kinds::CONTINUATION, 0, 1, &name));
    for _ in 0..3 {
        script.send(&raw(kinds::CONTINUATION, 0, 1, &[b'n'; 15_000]));
    }
    script.send(&raw(
        kinds::CONTINUATION,
        0,
        1,
        &[b'n', b'n', b'n', b'n', b'n', 0x7f, 0x80, 0x7f],
    ));
    let one = raw(kinds::CONTINUATION, 0, 1, b"v");
    let used = measure(|| {
        for _ in 0..3000 {
            script.side.receive(script.now, &one);
        }
    });
    assert!(!script.side.connection.is_closed(), "{:?}", script.side.events);
    assert!(used.bytes_total < 1 << 20, "{used:?}");
}

#[test]
fn resets_that_client_makes_needless_take_no_memory_while_it_does_not_read() {
    let mut script = Script::client();
    let block = script.block(&REQUEST[..4]);
    let first = raw(kinds::HEADERS, flags::END_HEADERS | flags::END_STREAM, 1, &block);
    script.send(&first);
    let block = script.block(&REQUEST[..4]);
    let used = measure(|| {
        for round in 0..20_000 {
            let id = 2 * round + 3;
            script.now += millis(1);
            script.side.timeout(script.now);
            script
                .side
                .receive(script.now, &raw(kinds::HEADERS, flags::END_HEADERS, id, &block));
            let stream = script.stream();
            script.side.connection.reset(stream, ErrorCode::REFUSED_STREAM);
            let cancel = ErrorCode::CANCEL.0.to_be_bytes();
            script
                .side
                .receive(script.now, &raw(kinds::RST_STREAM, 0, id, &cancel));
            script.side.events.clear();
        }
    });
    assert_eq!(script.side.connection.streams(), 1);
    assert!(used.bytes_current < 20_000, "{used:?}");
}
