//! Relays calls through one splitter between peers in memory, for callgrind to count its instructions: these are the same in
//! each run, on a busy machine as well. `cargo xtask bench instructions` runs it and compares the figures with kept ones.
//!
//! `calls --list` prints each scenario with the number of its calls that count; `calls "100 B, 1 x 100"` relays the calls of
//! one scenario, and `calls` those of all.

mod entry;
mod peer;
#[path = "../support/sender.rs"]
mod sender;

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use grpclb_engine::Time;
use grpclb_engine::balance::{Endpoint, Policy, Service, State};
use grpclb_engine::splitter::{self, Action, ConnId, ServiceKey, Splitter};

use peer::{Body, Peer, Request};

/// One shape of load. The names of those that `cargo xtask bench` has as well are the same there.
struct Scenario {
    name: &'static str,
    connections: usize,
    /// Calls at once on each connection.
    streams: usize,
    request: Request,
    /// Of the request, and of the response.
    body: Body,
    /// Calls that count; a warm-up comes before them.
    calls: usize,
}

const fn unary(len: usize) -> Body {
    Body { messages: 1, len }
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "100 B, 1 x 100",
        connections: 1,
        streams: 100,
        request: Request::H2load,
        body: unary(100),
        calls: 10_000,
    },
    Scenario {
        name: "100 B, 10 x 10",
        connections: 10,
        streams: 10,
        request: Request::H2load,
        body: unary(100),
        calls: 10_000,
    },
    Scenario {
        name: "100 B, 100 x 1",
        connections: 100,
        streams: 1,
        request: Request::H2load,
        body: unary(100),
        calls: 10_000,
    },
    Scenario {
        name: "4 KB, 10 x 10",
        connections: 10,
        streams: 10,
        request: Request::H2load,
        body: unary(4096),
        calls: 5_000,
    },
    Scenario {
        name: "1 MB, 1 x 4",
        connections: 1,
        streams: 4,
        request: Request::H2load,
        body: unary(1 << 20),
        calls: 80,
    },
    Scenario {
        name: "grpc-go, 100 B, 1 x 100",
        connections: 1,
        streams: 100,
        request: Request::GrpcGo,
        body: unary(100),
        calls: 10_000,
    },
    Scenario {
        name: "grpc-go, 100 B, 10 x 1",
        connections: 10,
        streams: 1,
        request: Request::GrpcGo,
        body: unary(100),
        calls: 10_000,
    },
    Scenario {
        name: "100 messages of 100 B, 1 x 10",
        connections: 1,
        streams: 10,
        request: Request::GrpcGo,
        body: Body {
            messages: 100,
            len: 100,
        },
        calls: 500,
    },
];

/// One of the data plane's reads, in bytes, and the slices of one of its writes.
const READ: usize = 64 << 10;
const SLICES: usize = 64;
/// Virtual time between two turns.
const TURN: Duration = Duration::from_micros(50);
const BACKENDS: u8 = 3;
const SERVICE: ServiceKey = ServiceKey(1);

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let wanted = arguments.first().map(String::as_str);
    if wanted == Some("--list") {
        for scenario in SCENARIOS {
            println!("{}\t{}", scenario.name, scenario.calls);
        }
        return;
    }
    let is_wanted = |scenario: &&Scenario| wanted.is_none_or(|name| name == scenario.name);
    assert!(
        SCENARIOS.iter().any(|scenario| is_wanted(&scenario)),
        "no scenario is called {wanted:?}"
    );
    for scenario in SCENARIOS.iter().filter(is_wanted) {
        let mut run = Run::new(scenario);
        run.relay(scenario.calls / 4 + 4 * scenario.connections * scenario.streams);
        count_from_here();
        run.relay(scenario.calls);
        println!("{}: {} calls", scenario.name, scenario.calls);
    }
}

/// Marks the end of the warm-up: callgrind forgets what it has counted before (`--zero-before=calls::count_from_here`).
#[inline(never)]
fn count_from_here() {
    std::hint::black_box(());
}

/// A connection of the splitter with the peer at its other end.
struct Leg {
    id: ConnId,
    peer: Peer,
    /// Bytes that the splitter left of the last read.
    unfinished: Vec<u8>,
}

/// One splitter with its peers.
struct Run<'a> {
    scenario: &'a Scenario,
    now: Time,
    splitter: Splitter,
    clients: Vec<Leg>,
    upstreams: Vec<Leg>,
    /// As the data plane's: one buffer for all reads.
    input: BytesMut,
    opened: usize,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let now = Time::ZERO;
        let mut splitter = Splitter::new(Arc::new(splitter::Config::new("n1")), 7, Arc::default());
        let endpoints = (1..=BACKENDS).map(|number| Endpoint {
            id: format!("pod-{number}").into(),
            address: ([10, 0, 0, number], 50051).into(),
            weight: 1,
            state: State::Ready,
        });
        let service = Service {
            name: "echo".into(),
            policy: Policy::RoundRobin,
            subset: 20,
            per_connection: false,
            endpoints: endpoints.collect(),
        };
        splitter.set_service(now, SERVICE, Arc::new(service));
        let clients = (0..scenario.connections).map(|_| {
            let client = splitter.open_client(now, SERVICE).expect("the Service is set");
            Leg {
                id: ConnId::Client(client),
                peer: Peer::client(scenario.request, scenario.body),
                unfinished: Vec::new(),
            }
        });
        Self {
            scenario,
            now,
            clients: clients.collect(),
            splitter,
            upstreams: Vec::new(),
            input: BytesMut::with_capacity(READ),
            opened: 0,
        }
    }

    /// Relays so many calls from their beginnings to their ends.
    fn relay(&mut self, calls: usize) {
        let (target, mut turns) = (self.opened + calls, 0);
        while self.completed() < target {
            self.open_up_to(target);
            self.turn();
            turns += 1;
            assert!(turns < 100 * (calls + 100), "calls do not come to their end");
        }
    }

    fn completed(&self) -> usize {
        self.clients.iter().map(|leg| leg.peer.completed()).sum()
    }

    /// Each client has as many calls open as the scenario says, until there are `target` in all.
    fn open_up_to(&mut self, target: usize) {
        for leg in &mut self.clients {
            while leg.peer.open_calls() < self.scenario.streams && self.opened < target {
                leg.peer.open(self.opened);
                self.opened += 1;
            }
        }
    }

    /// One turn of the data plane: reads all sockets once, then writes everything.
    fn turn(&mut self) {
        self.now += TURN;
        entry::handle_timeout(&mut self.splitter, self.now);
        for leg in self.clients.iter_mut().chain(&mut self.upstreams) {
            if leg.peer.wants_to_send() {
                leg.read(&mut self.splitter, self.now, &mut self.input);
            }
        }
        loop {
            let mut idle = true;
            while let Some(action) = entry::poll_action(&mut self.splitter) {
                idle = false;
                self.dial(&action);
            }
            while let Some(id) = entry::poll_dirty(&mut self.splitter) {
                idle = false;
                self.write(id);
            }
            if idle {
                return;
            }
        }
    }

    fn dial(&mut self, action: &Action) {
        let Action::Dial { upstream, .. } = *action else {
            panic!("no connection ends here: {action:?}");
        };
        assert!(self.splitter.handle_dialed(self.now, upstream, Ok(())));
        self.upstreams.push(Leg {
            id: ConnId::Upstream(upstream),
            peer: Peer::backend(self.scenario.body),
            unfinished: Vec::new(),
        });
    }

    fn write(&mut self, id: ConnId) {
        let legs = match id {
            ConnId::Client(_) => &mut self.clients,
            ConnId::Upstream(_) => &mut self.upstreams,
        };
        let Some(leg) = legs.iter_mut().find(|leg| leg.id == id) else {
            return;
        };
        while let Some(output) = entry::transmit(&mut self.splitter, self.now, id) {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = entry::slices(output, &mut slices);
            let mut written = 0;
            for slice in &slices[..filled] {
                leg.peer.receive(slice);
                written += slice.len();
            }
            entry::advance(output, written);
        }
    }
}

impl Leg {
    /// One read of the data plane, with the bytes that the one before left.
    fn read(&mut self, splitter: &mut Splitter, now: Time, input: &mut BytesMut) {
        input.clear();
        if !input.try_reclaim(READ) && input.capacity() < READ / 4 {
            input.reserve(READ);
        }
        input.extend_from_slice(&self.unfinished);
        self.peer.read(READ.saturating_sub(input.len()), input);
        entry::handle_input(splitter, now, self.id, input);
        self.unfinished.clear();
        self.unfinished.extend_from_slice(input);
    }
}
