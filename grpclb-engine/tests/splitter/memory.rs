//! What a pod may hold in memory: all that it holds is charged to it, a want of memory slows, then refuses, then ends its own calls
//! and nobody else's, and everything comes back.

use std::sync::Arc;
use std::time::Duration;

use grpclb_engine::frame::ErrorCode;
use grpclb_engine::splitter::{Budget, Config};

use crate::attacks::REQUEST;
use crate::support::{Behaviour, Outcome, World, flags, greeting, kinds, millis, raw};

const MIB: usize = 1 << 20;

/// A pod whose share is a quarter above what the bars allow has failed.
fn assert_within_share(world: &World, share: usize) {
    let peak = world.splitter.held_peak();
    assert!(peak <= share + share / 4, "{peak} bytes of {share}");
}

/// Another pod of the same agent: its calls are small, and each must be answered, also by a second try.
struct Neighbour {
    world: World,
    client: usize,
}

impl Neighbour {
    fn new(budget: &Arc<Budget>) -> Self {
        let mut world = World::with(2, 11, Config::new("n1"), budget);
        let client = world.client();
        Self { world, client }
    }

    fn calls_go_well(&mut self) {
        for body in [&[7; 100][..], &vec![8; 20_000]] {
            let call = self.world.call(self.client, body);
            assert!(self.world.is_ok(call), "{:?}", self.world.outcome(call));
        }
        self.world.backends[0].behaviour = Behaviour::Refuse;
        let replayed = self.world.splitter.stats().replayed;
        for _ in 0..4 {
            let call = self.world.call(self.client, b"is sent again");
            assert!(self.world.is_ok(call), "{:?}", self.world.outcome(call));
        }
        assert!(
            self.world.splitter.stats().replayed > replayed,
            "replay has memory"
        );
        self.world.backends[0].behaviour = Behaviour::Echo;
        assert_eq!(self.world.splitter.stats().refused, 0);
    }
}

/// A world whose one client has stopped reading, and has as many calls under way, with 60,000 bytes each way.
fn deaf(calls: usize, share: usize, budget: &Arc<Budget>) -> (World, usize, Vec<usize>) {
    let mut config = Config::new("n1");
    config.client.connection_window = 16 << 20;
    config.pod_budget = share;
    let mut world = World::with(1, 7, config, budget);
    // It cancels without waiting for what it does not read.
    world.client_config.reset_pacing.unconfirmed = 1000;
    let client = world.client();
    let warm = world.call(client, b"x");
    assert!(world.is_ok(warm));
    world.clients[client].deaf = true;
    let calls = (0..calls)
        .map(|_| world.open(client, &vec![1; 60_000], true))
        .collect();
    world.advance(millis(20));
    (world, client, calls)
}

#[test]
fn credit_that_was_held_back_comes_back_when_the_calls_that_held_it_are_cancelled() {
    let (mut world, client, calls) = deaf(99, 13 * MIB / 2, &Arc::default());
    // A call that stays, or the connection would end with the last of the others.
    let other = world.client();
    world.open(other, b"", false);
    world.run();
    assert!(world.splitter.stats().credit_held > 0);
    assert_eq!(world.splitter.stats().out_of_memory, 0, "slowing was enough");
    let window = world.server(0).connection.send_window();
    assert!(window < 256 << 10, "{window} bytes of window are left");
    for call in calls.into_iter().rev() {
        world.cancel(call);
    }
    world.run();
    let held = world.splitter.buffered();
    assert!(held < 4 << 10, "{held} bytes are more than the call that stays");
    let window = world.server(0).connection.send_window();
    assert!(window > 256 << 10, "{window} bytes of window");
    world.clients[client].deaf = false;
    world.backends[0].behaviour = Behaviour::Early;
    let next = world.call(client, b"");
    assert!(world.is_ok(next), "{:?}", world.outcome(next));
}

#[test]
fn credit_that_was_held_back_comes_back_when_another_pod_gives_memory_back() {
    let budget = Arc::new(Budget::new(13 * MIB));
    let (mut greedy, its_client, _calls) = deaf(80, usize::MAX, &budget);
    let (mut world, ..) = deaf(70, usize::MAX, &budget);
    assert!(world.splitter.stats().credit_held > 0);
    greedy.drop_client(its_client);
    greedy.run();
    world.advance(Duration::from_secs(1));
    // More than what is left of the window to the backend without the credit that was held back.
    let other = world.client();
    for _ in 0..40 {
        let call = world.call(other, &vec![1; 60_000]);
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
    }
}

#[test]
fn body_that_servers_do_not_read_is_bounded_over_many_connections() {
    let budget = Arc::new(Budget::new(16 * MIB));
    let mut neighbour = Neighbour::new(&budget);
    let mut world = World::with(3, 7, Config::new("n1"), &budget);
    for backend in &mut world.backends {
        backend.behaviour = Behaviour::NoCredit;
        backend.config.initial_window = 0;
    }
    for _ in 0..600 {
        if let Ok(client) = world.try_client() {
            world.open(client, &vec![1; 65_000], true);
            world.run();
        }
        assert_within_share(&world, 8 * MIB);
    }
    assert!(world.splitter.stats().refused_for_memory > 0);
    neighbour.calls_go_well();
    for client in 0..world.clients.len() {
        world.drop_client(client);
    }
    world.run();
    assert_eq!(world.splitter.buffered(), 0);
}

#[test]
fn connections_that_hold_less_than_a_blameless_part_each_are_bounded_together() {
    let budget = Arc::new(Budget::new(16 * MIB));
    let mut neighbour = Neighbour::new(&budget);
    let mut config = Config::new("n1");
    config.pod_budget = MIB;
    let mut world = World::with(1, 7, config, &budget);
    world.backends[0].config.initial_window = 0;
    for _ in 0..60 {
        if let Ok(client) = world.try_client() {
            (0..3).for_each(|_| {
                world.open(client, &vec![1; 60_000], true);
            });
            world.run();
        }
    }
    assert_within_share(&world, MIB);
    assert!(budget.used() < 3 * MIB, "{} bytes of the agent's", budget.used());
    neighbour.calls_go_well();
}

#[test]
fn large_header_lists_of_open_calls_are_charged_and_refused() {
    let budget = Arc::new(Budget::new(32 * MIB));
    let mut neighbour = Neighbour::new(&budget);
    let mut world = World::with(2, 7, Config::new("n1"), &budget);
    world
        .backends
        .iter_mut()
        .for_each(|backend| backend.behaviour = Behaviour::Silent);
    let client = world.client();
    let mut refused = 0;
    for number in 0..100 {
        let value = format!("{number:0>9000}");
        let names: Vec<String> = (0..100).map(|field| format!("x-{number}-{field}")).collect();
        let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
        let call = world.open_with(client, &fields, b"", false);
        world.run();
        refused += usize::from(world.outcome(call) == Some(&Outcome::Reset(ErrorCode::REFUSED_STREAM)));
        assert_within_share(&world, 16 * MIB);
    }
    assert!(refused > 50, "{refused} refused");
    neighbour.calls_go_well();
}

#[test]
fn request_list_is_dropped_when_the_call_cannot_be_sent_again() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Hold;
    let client = world.client();
    let value = "v".repeat(100_000);
    world.open_with(client, &[("x", &value)], b"", false);
    world.run();
    let (now, peak) = (world.splitter.buffered(), world.splitter.held_peak());
    assert!(
        now < 10_000 && peak > 100_000,
        "{now} bytes are held, {peak} were"
    );
}

#[test]
fn responses_that_clients_do_not_read_are_bounded() {
    let budget = Arc::new(Budget::new(16 * MIB));
    let mut neighbour = Neighbour::new(&budget);
    let mut world = World::with(3, 7, Config::new("n1"), &budget);
    for _ in 0..200 {
        let Ok(client) = world.try_client() else { continue };
        world.clients[client].deaf = true;
        world.clients[client].socket = 4096;
        for _ in 0..4 {
            world.open(client, &vec![1; 64_000], true);
        }
        world.run();
        assert_within_share(&world, 8 * MIB);
    }
    neighbour.calls_go_well();
    let stalled = world.splitter.stats().out_of_memory + world.splitter.stats().refused_for_memory;
    assert!(
        stalled > 0,
        "{:?} {:?}",
        world.splitter.stats(),
        world.splitter.held()
    );
}

#[test]
fn pod_that_was_short_of_memory_is_served_again_when_its_calls_end() {
    let budget = Arc::new(Budget::new(4 * MIB));
    let mut world = World::with(1, 7, Config::new("n1"), &budget);
    world.backends[0].behaviour = Behaviour::Hold;
    world.client_config.initial_window = 0;
    let client = world.client();
    for _ in 0..100 {
        world.open(client, &vec![1; 60_000], false);
        world.run();
    }
    world.client_config.initial_window = 65_535;
    assert!(
        world.splitter.stats().refused_for_memory > 0,
        "{:?} {:?}",
        world.splitter.stats(),
        world.splitter.held()
    );
    world.drop_client(client);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.splitter.buffered(), 0);
    world.backends[0].behaviour = Behaviour::Echo;
    let client = world.client();
    for _ in 0..20 {
        let call = world.call(client, &vec![1; 60_000]);
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
    }
}

#[test]
fn field_blocks_that_are_never_finished_are_bounded_and_end() {
    let budget = Arc::new(Budget::new(16 * MIB));
    let mut neighbour = Neighbour::new(&budget);
    let mut world = World::with(1, 7, Config::new("n1"), &budget);
    let wilds: Vec<usize> = (0..100).map(|_| world.wild_client()).collect();
    let fragment = vec![0x82; 16_384];
    for &wild in &wilds {
        world.say(wild, &greeting());
        world.say(wild, &raw(kinds::HEADERS, 0, 1, &fragment));
    }
    for _ in 0..60 {
        for &wild in &wilds {
            world.say(wild, &raw(kinds::CONTINUATION, 0, 1, &fragment));
        }
        world.run();
        assert_within_share(&world, 8 * MIB);
    }
    assert!(
        world.wilds.iter().any(|wild| wild.unread() > 0),
        "some are not read"
    );
    neighbour.calls_go_well();
    world.advance(Duration::from_secs(45));
    assert_eq!(world.splitter.buffered(), 0, "all of them have ended");
    let client = world.client();
    let call = world.call(client, b"x");
    assert!(world.is_ok(call), "{:?}", world.outcome(call));
}

#[test]
fn block_that_was_held_is_read_on_when_there_is_memory_again() {
    let mut config = Config::new("n1");
    config.pod_budget = MIB;
    let mut world = World::with(1, 7, config, &Arc::default());
    let wild = world.wild_client();
    world.say(wild, &greeting());
    world.splitter.charge_external(MIB);
    let mut block = vec![0x82, 0x86, 0x84];
    block.resize(300_000, 0x90);
    let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
    for (n, piece) in pieces.iter().enumerate() {
        let (kind, last) = (
            if n == 0 {
                kinds::HEADERS
            } else {
                kinds::CONTINUATION
            },
            n + 1 == pieces.len(),
        );
        world.say(wild, &raw(kind, u8::from(last) * flags::END_HEADERS, 1, piece));
    }
    world.run();
    assert!(world.wilds[wild].unread() > 0, "the input is held");
    world.splitter.discharge_external(MIB);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.wilds[wild].unread(), 0);
    assert_eq!(world.splitter.stats().calls, 1, "the request came");
}

#[test]
fn header_lists_that_client_does_not_read_are_bounded() {
    const CONTINUE: &[u8] = b"\x08\x03100";
    for status in [CONTINUE, b"\x88"] {
        let budget = Arc::new(Budget::new(16 * MIB));
        let mut neighbour = Neighbour::new(&budget);
        let mut world = World::with(1, 7, Config::new("n1"), &budget);
        world.backends[0].wild = true;
        let client = world.client();
        for _ in 0..100 {
            world.open(client, b"x", true);
        }
        world.run();
        let wild = world.wild_backend();
        world.say(wild, &greeting());
        world.run();
        world.clients[client].deaf = true;
        world.clients[client].socket = 4096;
        // 4,000 bytes that the table has, named again for each further 4,000.
        let value = [status, b"\x40\x01b\x7f\xa1\x1e", &[b'v'; 4000]].concat();
        let again = [status, &[0xbe; 200]].concat();
        for round in 0..10 {
            for id in 0..100 {
                let block = if (round, id) == (0, 0) { &value } else { &again };
                world.say(wild, &raw(kinds::HEADERS, flags::END_HEADERS, 2 * id + 1, block));
            }
            world.run();
            assert_within_share(&world, 8 * MIB);
        }
        neighbour.calls_go_well();
    }
}

#[test]
fn request_trailers_are_bounded() {
    for behaviour in [Behaviour::Silent, Behaviour::NoCredit] {
        let budget = Arc::new(Budget::new(16 * MIB));
        let mut neighbour = Neighbour::new(&budget);
        let mut world = World::with(1, 7, Config::new("n1"), &budget);
        world.backends[0].behaviour = behaviour;
        let wild = world.wild_client();
        world.say(wild, &greeting());
        for id in 0..300 {
            world.say(
                wild,
                &raw(kinds::HEADERS, flags::END_HEADERS, 2 * id + 1, REQUEST),
            );
        }
        world.run();
        // 4,000 bytes that the table has, named again for each further 4,000.
        let value = [&b"\x40\x01b\x7f\xa1\x1e"[..], &[b'v'; 4000]].concat();
        for id in 0..300 {
            let block = if id == 0 { &value[..] } else { &[0xbe; 200] };
            let whole = flags::END_HEADERS | flags::END_STREAM;
            world.say(wild, &raw(kinds::HEADERS, whole, 2 * id + 1, block));
            if id % 10 == 0 {
                world.run();
            }
        }
        world.run();
        assert_within_share(&world, 8 * MIB);
        neighbour.calls_go_well();
    }
}
