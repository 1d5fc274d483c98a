//! Random lives of a pod that is short of everything: memory, connections, allowances of resets, places in queues. Clients
//! that do not read, field blocks without an end, backends that freeze, servers and Services that come and go.
//!
//! Calls may fail here. None runs twice, every one comes to an end, each has one outcome, no timer stays due, and when
//! all peers have gone nothing is held and nothing is charged.
//!
//! Seeds are committed: a failure names its own.

use std::sync::Arc;
use std::time::Duration;

use grpclb_engine::balance::{Policy, State};
use grpclb_engine::connection;
use grpclb_engine::connection::PingKind;
use grpclb_engine::frame::ErrorCode;
use grpclb_engine::rng::Rng;
use grpclb_engine::splitter::{Budget, Config, SocketError};

use crate::support::{Behaviour, Outcome, SERVICE, World, flags, greeting, kinds, millis, raw};

const BEHAVIOURS: [Behaviour; 14] = [
    Behaviour::Echo,
    Behaviour::Echo,
    Behaviour::Echo,
    Behaviour::Hold,
    Behaviour::Silent,
    Behaviour::NoCredit,
    Behaviour::Refuse,
    Behaviour::Reset(ErrorCode::INTERNAL_ERROR),
    Behaviour::Reset(ErrorCode::NO_ERROR),
    Behaviour::HeadersThenReset(ErrorCode::REFUSED_STREAM),
    Behaviour::HeadersThenReset(ErrorCode::NO_ERROR),
    Behaviour::Early,
    Behaviour::EarlyReset,
    Behaviour::EarlyResetAfter(40_000),
];

const TYPES: [&str; 4] = [
    "application/grpc",
    "application/grpc-web",
    "application/grpc-web-text",
    "text/plain",
];

struct Life {
    world: World,
    rng: Rng,
    budget: Arc<Budget>,
    /// The members of the Service.
    members: Vec<usize>,
    /// Calls whose request goes on.
    open: Vec<usize>,
    external: usize,
    /// The longest body: small where a window takes a byte at a time.
    longest: usize,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let mut dice = |sides: u64| rng.below(sides) as usize;
        let mut config = Config::new("n1");
        config.pod_budget = [usize::MAX, 40 << 10, 100 << 10, 400 << 10, 2 << 20][dice(5)];
        config.pool = 1 + dice(4);
        config.pool_total = config.pool + dice(4);
        config.queue = [10_000, 3, 30][dice(3)];
        config.replay = [64 << 10, 100][dice(2)];
        config.tries = 1 + dice(3) as u8;
        let burst = [2, 10, 1000][dice(3)];
        config.backend.reset_pacing.burst = burst;
        config.linger = millis([0, 5000][dice(2)]);
        let budget = Arc::new(Budget::new([256 << 20, 64 << 10, 300 << 10, 2 << 20][dice(4)]));
        let mut world = World::with(4, seed, config, &budget);
        world.policy = Policy::ALL[dice(4)];
        world.per_connection = dice(3) == 0;
        world.subset = [1, 2, 20][dice(3)];
        world.delay = millis(dice(3) as u64);
        world.dial_delay = millis(dice(4) as u64);
        world.cut = [usize::MAX, 1000, 37][dice(3)];
        let window = [1, 100, 65_535, 65_535][dice(4)];
        for backend in &mut world.backends {
            backend.config = connection::Config {
                max_concurrent_streams: [1, 3, 100][dice(3)],
                initial_window: window,
                max_header_list_size: [1 << 20, 400][usize::from(dice(6) == 0)],
                ..connection::Config::to_client()
            };
        }
        if dice(3) == 0 {
            world.client_config.max_header_list_size = [0, 60, 100, 200][dice(4)];
        }
        let pacing = &mut world.client_config.reset_pacing;
        (pacing.unconfirmed, pacing.burst) = (1_000_000, 1_000_000);
        pacing.after_headers = Duration::ZERO;
        world.publish();
        Self {
            world,
            rng,
            budget,
            members: (0..4).collect(),
            open: Vec::new(),
            external: 0,
            longest: if window < 1000 { 300 } else { 70_000 },
        }
    }

    fn dice(&mut self, sides: usize) -> usize {
        self.rng.below(sides as u64) as usize
    }

    fn backend(&mut self) -> usize {
        self.dice(self.world.backends.len())
    }

    /// A client that can open a stream, if the one that was drawn can.
    fn client(&mut self) -> Option<usize> {
        if self.world.clients.is_empty() {
            return None;
        }
        let client = self.dice(self.world.clients.len().min(4)) + self.world.clients.len().saturating_sub(4);
        let known = &self.world.clients[client];
        (!known.over && known.side.connection.can_open()).then_some(client)
    }

    fn call(&mut self) -> Option<usize> {
        (!self.world.calls.is_empty()).then(|| self.dice(self.world.calls.len()))
    }

    fn begin(&mut self) -> Option<usize> {
        let client = self.client()?;
        let size = [0, 5, 300, 5000, 70_000][self.dice(5)].min(self.longest);
        let end = self.dice(3) > 0;
        let content_type = TYPES[self.dice(8).saturating_sub(4)];
        let long = "long".repeat([0, 0, 0, 200][self.dice(4)]);
        let fields = [("content-type", content_type), ("long", &long)];
        let call = self.world.open_with(client, &fields, &vec![b'x'; size], end);
        if !end {
            self.open.push(call);
        }
        Some(call)
    }

    fn cancel(&mut self, call: usize) {
        let code = [ErrorCode::CANCEL, ErrorCode::CANCEL, ErrorCode::NO_ERROR][self.dice(3)];
        let (client, stream) = (self.world.calls[call].client, self.world.calls[call].stream);
        let ended = self.world.outcome(call).is_some();
        self.world.clients[client].side.connection.reset(stream, code);
        self.open.retain(|&open| open != call);
        if !ended {
            self.world.calls[call].outcome = Some(Outcome::Reset(code));
        }
    }

    /// The end of a request: DATA, or trailers.
    fn end_request(&mut self, call: usize) {
        if self.dice(3) == 0 {
            let (client, stream) = (self.world.calls[call].client, self.world.calls[call].stream);
            let side = &mut self.world.clients[client].side;
            let trailers = side.headers(&[("trailer", "of the request")]);
            side.connection.send_headers(stream, trailers, true);
        } else {
            self.world.send(call, b"the rest", true);
        }
    }

    /// A client that begins a field block and does not finish it.
    fn begin_block(&mut self) {
        if self.world.splitter.refuses_connections() {
            return;
        }
        self.publish(); // a Service that was removed is back
        let wild = self.world.wild_client();
        let mut bytes = greeting();
        bytes.extend(raw(kinds::HEADERS, flags::END_STREAM, 1, b"\x83\x86\x84"));
        let size = [10, 1000, 10_000][self.dice(3)];
        for _ in 0..2 {
            // Literal fields without indexing, half of one missing.
            let mut block = vec![0x00, 1, b'a', 0x7f];
            let more = size - 127_usize.min(size);
            let mut left = more;
            while left >= 128 {
                block.push((left % 128) as u8 | 128);
                left /= 128;
            }
            block.push(left as u8);
            block.resize(block.len() + size.max(127), b'x');
            bytes.extend(raw(kinds::CONTINUATION, 0, 1, &block));
        }
        self.world.say(wild, &bytes);
    }

    #[expect(clippy::too_many_lines, reason = "a list of what may happen")]
    fn act(&mut self) {
        match self.dice(34) {
            0..=6 => {
                self.begin();
            }
            7 => {
                for _ in 0..[5, 20, 60][self.dice(3)] {
                    self.begin();
                }
            }
            8..=9 => {
                if let Some(call) = self.open.pop() {
                    self.end_request(call);
                }
            }
            10 => {
                if let Some(&call) = self.open.last() {
                    self.world.send(call, &vec![7; 3000.min(self.longest)], false);
                }
            }
            11..=12 => {
                if let Some(call) = self.call() {
                    self.cancel(call);
                }
            }
            13 => {
                for call in self.world.calls.len().saturating_sub(50)..self.world.calls.len() {
                    if self.dice(4) > 0 {
                        self.cancel(call);
                    }
                }
            }
            14 => {
                let backend = self.backend();
                self.world.shut_down(backend);
            }
            15 => self.world.break_one(),
            16..=17 => {
                let backend = self.backend();
                self.world.backends[backend].behaviour = BEHAVIOURS[self.dice(BEHAVIOURS.len())];
            }
            18 => {
                let backend = self.backend();
                self.world.backends[backend].accepts =
                    [Some(true), Some(true), Some(false), None][self.dice(4)];
                self.world.backends[backend].slow = millis([0, 0, 70, 1500, 25_000][self.dice(5)]);
            }
            19 => {
                let backend = self.backend();
                self.world.backends[backend].frozen = self.dice(2) == 0;
            }
            20 => {
                let backend = self.backend();
                self.world.backends[backend].farewell = self.dice(4) == 0;
                let limits = [1, 3, 100][self.dice(3)];
                self.world.backends[backend].config.max_concurrent_streams = limits;
            }
            21 => {
                let new = self.world.add_backend();
                self.members.push(new);
                while self.dice(2) == 0 && self.members.len() > 1 {
                    let gone = self.dice(self.members.len());
                    self.members.remove(gone);
                }
                self.publish();
            }
            22 => {
                // An endpoint is back, or its state is another one.
                let backend = self.backend();
                if !self.members.contains(&backend) {
                    self.members.push(backend);
                }
                let state = [State::Ready, State::Draining][self.dice(2)];
                self.world.backends[backend].endpoint.state = state;
                self.publish();
            }
            23 => {
                self.world.policy = Policy::ALL[self.dice(4)];
                self.world.subset = [1, 2, 20][self.dice(3)];
                self.publish();
            }
            24 => {
                let now = self.world.now;
                match self.dice(6) {
                    0 => self.world.splitter.remove_service(now, SERVICE),
                    1 => self.world.publish_only(&[]),
                    2 => self.world.splitter.drain_service(now, SERVICE),
                    _ => self.publish(),
                }
            }
            25 => {
                if let Some(client) = self.client() {
                    self.world.drop_client(client);
                }
            }
            26 => {
                if self.dice(8) == 0 {
                    self.publish();
                }
                let _ = self.world.try_client();
            }
            27 => {
                if let Some(client) = self.client() {
                    let client = &mut self.world.clients[client];
                    client.deaf = !client.deaf;
                    client.socket = [10, 1000, usize::MAX][self.rng.below(3) as usize];
                }
            }
            28 => {
                if let Some(client) = self.client() {
                    let now = self.world.now;
                    let connection = &mut self.world.clients[client].side.connection;
                    connection.ping(now, PingKind::Keepalive, Duration::from_hours(1));
                }
            }
            29 => match self.dice(3) {
                0 => self.begin_block(),
                1 => {
                    self.world.splitter.charge_external(30_000);
                    self.external += 30_000;
                }
                _ => {
                    self.world
                        .splitter
                        .discharge_external(std::mem::take(&mut self.external));
                }
            },
            30 => self
                .budget
                .set_limit([64 << 10, 300 << 10, 2 << 20, 256 << 20][self.rng.below(4) as usize]),
            31 => {
                let time = [1, 20, 100, 1100, 3000, 40_000][self.dice(6)];
                self.world.advance(millis(time));
            }
            _ => {
                for _ in 0..self.dice(6) {
                    self.world.step();
                }
            }
        }
    }

    fn publish(&mut self) {
        let members = self.members.clone();
        self.world.publish_only(&members);
    }

    /// All faults are over: what waits is served, what was held for ever is lost.
    fn heal(&mut self) {
        for backend in &mut self.world.backends {
            backend.behaviour = Behaviour::Echo;
            (backend.accepts, backend.frozen, backend.farewell) = (Some(true), false, false);
            backend.slow = Duration::ZERO;
        }
        for client in &mut self.world.clients {
            client.deaf = false;
        }
        self.publish();
        self.world
            .splitter
            .discharge_external(std::mem::take(&mut self.external));
        self.budget.set_limit(256 << 20);
        for call in std::mem::take(&mut self.open) {
            self.world.send(call, b"end", true);
        }
        for backend in 0..self.world.backends.len() {
            self.world.kill_with(backend, SocketError::Reset);
        }
        self.world.advance(Duration::from_mins(1));
    }

    fn check_calls(&mut self, seed: u64) {
        for call in 0..self.world.calls.len() {
            let runs = self.world.runs(call);
            assert!(runs <= 1, "seed {seed}: call {call} ran {runs} times");
            let outcome = self.world.outcome(call);
            assert!(outcome.is_some(), "seed {seed}: call {call} never ended");
        }
        let views = self.world.splitter.describe(self.world.now);
        assert!(
            views.iter().all(|view| view.waiting == 0),
            "seed {seed}: calls wait"
        );
    }

    /// All clients go, and some time later nothing is left.
    fn end(mut self, seed: u64) {
        for client in 0..self.world.clients.len() {
            if !self.world.clients[client].over {
                self.world.drop_client(client);
            }
        }
        for wild in 0..self.world.wilds.len() {
            if self.world.wilds[wild].role() == connection::Role::Client {
                self.world.leave(wild);
            }
        }
        self.world.advance(Duration::from_mins(1));
        let splitter = &self.world.splitter;
        assert!(splitter.is_idle(), "seed {seed}");
        assert_eq!(
            (splitter.buffered(), splitter.held(), self.budget.used()),
            (0, 0, 0),
            "seed {seed}: bytes are left"
        );
        let left: usize = (0..self.world.backends.len())
            .map(|backend| self.world.connections(backend))
            .sum();
        assert_eq!(left, 0, "seed {seed}: connections are left");
        let stats = splitter.stats();
        let outcomes = [
            stats.completed,
            stats.cancelled,
            stats.refused,
            stats.unavailable,
            stats.oversized,
            stats.broken,
            stats.reset_by_backend,
            stats.out_of_memory,
        ];
        assert_eq!(
            outcomes.iter().sum::<u64>(),
            stats.calls,
            "seed {seed}: each call has one outcome"
        );
    }
}

/// `LIVES=n` runs n of them instead, from `FIRST` on.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let given = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let first = given("FIRST").unwrap_or(0);
    first..first + given("LIVES").unwrap_or(count)
}

#[test]
fn whatever_a_pod_is_short_of_its_calls_end_and_nothing_stays_charged() {
    for seed in seeds(40) {
        let mut life = Life::new(seed);
        let _ = life.world.try_client();
        let _ = life.world.try_client();
        for _ in 0..150 {
            life.act();
        }
        life.heal();
        life.check_calls(seed);
        life.end(seed);
    }
}
