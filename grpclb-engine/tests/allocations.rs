//! What a splitter that has warmed up asks of the allocator: how often for a small call, and how much for calls that last.

mod support;

use std::io::IoSlice;
use std::sync::Arc;

use allocation_counter::measure;
use bytes::BytesMut;
use grpclb_engine::Time;
use grpclb_engine::balance::{Endpoint, Policy, Service, State};
use grpclb_engine::connection::{Config, Event, HeadersKind, Role};
use grpclb_engine::splitter::{self, Action, ConnId, ServiceKey, Splitter};

use support::Side;

/// One client, the splitter and one backend, of which only the splitter is measured.
struct Bench {
    now: Time,
    splitter: Splitter,
    client: (ConnId, Side),
    backend: (ConnId, Side),
    /// As the data plane's: one buffer for all reads.
    input: BytesMut,
    output: Vec<u8>,
    allocations: u64,
    /// The backend answers nothing.
    silent: bool,
}

impl Bench {
    fn new() -> Self {
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
        let client = splitter
            .open_client(now, ServiceKey(1))
            .expect("the Service is set");
        let mut front = Side::new(Role::Client, Config::to_client());
        let mut hello = BytesMut::from(&front.drain(now)[..]);
        splitter.handle_input(now, client.into(), &mut hello);
        while let Some(settings) = splitter.transmit(now, client.into()) {
            let mut slices = [IoSlice::new(&[])];
            settings.slices(&mut slices);
            front.receive(now, &slices[0]);
            let len = slices[0].len();
            settings.advance(len);
        }
        let stream = front.open(now, 0, true);
        let mut first = BytesMut::from(&front.drain(now)[..]);
        splitter.handle_input(now, client.into(), &mut first);
        let Some(Action::Dial { upstream, .. }) = splitter.poll_action() else {
            panic!("the first call causes a dial");
        };
        assert!(splitter.handle_dialed(now, upstream, Ok(())));
        let mut bench = Self {
            now,
            splitter,
            client: (client.into(), front),
            backend: (upstream.into(), Side::new(Role::Server, Config::to_client())),
            input: BytesMut::with_capacity(64 << 10),
            output: Vec::with_capacity(64 << 10),
            allocations: 0,
            silent: false,
        };
        for _ in 0..8 {
            bench.exchange();
        }
        assert!(bench.client.1.ended(stream), "the first call");
        bench
    }

    /// Everything that either end has to say goes to the other, once.
    fn exchange(&mut self) {
        let Self {
            now,
            splitter,
            client,
            backend,
            input,
            output,
            allocations,
            ..
        } = self;
        for from in [&mut *client, backend] {
            input.clear();
            input.reserve(64 << 10);
            input.extend_from_slice(&from.1.drain(*now));
            from.1.sent.clear();
            *allocations += measure(|| splitter.handle_input(*now, from.0, input)).count_total;
        }
        for to in [client, backend] {
            output.clear();
            *allocations += measure(|| {
                while splitter.poll_dirty().is_some() {}
                while let Some(queue) = splitter.transmit(*now, to.0) {
                    let mut slices = [IoSlice::new(&[]); 32];
                    let filled = queue.slices(&mut slices);
                    let len = slices[..filled].iter().map(|slice| slice.len()).sum();
                    slices[..filled]
                        .iter()
                        .for_each(|slice| output.extend_from_slice(slice));
                    queue.advance(len);
                }
            })
            .count_total;
            to.1.receive(*now, output);
        }
        self.serve();
    }

    fn serve(&mut self) {
        let (_, side) = &mut self.backend;
        for event in side.take_events() {
            match event {
                Event::Headers {
                    stream,
                    kind: HeadersKind::Request,
                    ..
                } if !self.silent => {
                    side.respond(stream, false);
                    side.data(stream, &[8; 100], false);
                    side.trailers(stream);
                }
                Event::Data { stream, chunk, .. } => side.connection.release(stream, chunk.len() as u32),
                _ => {}
            }
        }
    }

    /// A call with 100 bytes each way.
    fn call(&mut self) {
        let stream = self.client.1.open(self.now, 0, false);
        self.client.1.data(stream, &[7; 100], true);
        for _ in 0..4 {
            self.exchange();
        }
        assert!(self.client.1.ended(stream));
        self.client.1.events.clear();
    }
}

#[test]
fn a_small_call_asks_for_memory_a_few_times_only() {
    let mut bench = Bench::new();
    (0..1000).for_each(|_| bench.call());
    bench.allocations = 0;
    (0..1000).for_each(|_| bench.call());
    let a_call = bench.allocations as f64 / 1000.0;
    eprintln!("{a_call} allocations a call");
    assert!(a_call <= 8.0, "{a_call} allocations a call");
}

/// Small bodies are kept for another try until the response begins. Were they kept where they were read, each could hold
/// on to a whole read buffer.
#[test]
fn a_call_that_waits_for_its_answer_holds_no_read_buffer() {
    const CALLS: i64 = 100;
    let mut bench = Bench::new();
    (0..CALLS).for_each(|_| bench.call());
    bench.silent = true;
    let held = measure(|| {
        for _ in 0..CALLS {
            let stream = bench.client.1.open(bench.now, 0, false);
            bench.client.1.data(stream, &[7; 100], true);
            // Each is read into a buffer of its own, as where much else is read in between.
            bench.input = BytesMut::with_capacity(64 << 10);
            (0..4).for_each(|_| bench.exchange());
        }
    });
    let a_call = held.bytes_current / CALLS;
    assert!(a_call < 8 << 10, "{a_call} bytes a call");
}
