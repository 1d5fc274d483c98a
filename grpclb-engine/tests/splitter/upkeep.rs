//! What connections need to stay well: PINGs, windows, ids, memory; and what goes on beside calls.

use std::sync::Arc;
use std::time::Duration;

use grpclb_engine::connection::PingKind;
use grpclb_engine::frame::ErrorCode;
use grpclb_engine::splitter::{Budget, Config};

use crate::support::{Behaviour, Outcome, SERVICE, World, millis};

#[test]
fn one_large_transfer_grows_its_windows_by_the_round_trip() {
    // 4 ms there and back on each of two hops. With 64 KiB windows, 32 MiB each way would take 4 s of waiting.
    let mut world = World::new(1);
    world.delay = millis(2);
    for config in [&mut world.backends[0].config, &mut world.client_config] {
        (config.initial_window, config.connection_window) = (4 << 20, 8 << 20);
    }
    let client = world.client();
    let body = vec![9; 32 << 20];
    let start = world.now;
    let call = world.open(client, &body, true);
    while world.outcome(call).is_none() {
        world.advance(millis(10));
        assert!(world.now.since(start) < Duration::from_secs(4), "it crawls");
    }
    assert!(world.is_ok(call));
    assert!(world.calls[call].body == body);
    let took = world.now.since(start);
    assert!(took < millis(600), "{took:?}");
}

#[test]
fn many_slow_streams_keep_small_windows() {
    let mut world = World::new(1);
    let client = world.client();
    let calls: Vec<_> = (0..50).map(|_| world.open(client, b"", false)).collect();
    for _ in 0..100 {
        for &call in &calls {
            world.send(call, &[0; 1000], false);
        }
        world.advance(millis(20));
    }
    for side in world.servers(0) {
        let windows: Vec<_> = side
            .connection
            .tags()
            .map(|(stream, _)| side.connection.windows(Some(stream)).send)
            .collect();
        assert!(windows.iter().all(|&window| window <= 65_535), "{windows:?}");
    }
}

#[test]
fn stream_ids_that_run_out_are_followed_by_a_new_connection() {
    let mut config = Config::new("n1");
    config.backend.first_stream = (1 << 31) - 1 - 2 * 5;
    let mut world = World::with(1, 7, config, &Arc::default());
    let client = world.client();
    for n in 0..20 {
        let call = world.call(client, b"x");
        assert!(world.is_ok(call), "call {n}: {:?}", world.outcome(call));
    }
    assert!(world.opened >= 3, "{} connections for six ids each", world.opened);
}

#[test]
fn keepalive_is_relayed_as_often_as_the_client_asks_and_not_more() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Silent;
    let client = world.client();
    world.call(client, b"x");
    for _ in 0..10 {
        let now = world.now;
        world.clients[client]
            .side
            .connection
            .ping(now, PingKind::Keepalive, Duration::from_secs(20));
        world.advance(Duration::from_secs(30));
    }
    let pings = world.server(0).connection.peer_pings();
    assert!((9..=10).contains(&pings), "{pings} PINGs for 10 of the client");
}

#[test]
fn a_ping_that_follows_data_measures_bandwidth_and_is_not_relayed() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Hold;
    let client = world.client();
    let call = world.open(client, b"x", false);
    for _ in 0..20 {
        world.send(call, b"data", false);
        world.run();
        let now = world.now;
        world.clients[client]
            .side
            .connection
            .ping(now, PingKind::Bandwidth, Duration::from_secs(20));
        world.advance(millis(100));
    }
    assert_eq!(world.server(0).connection.peer_pings(), 0);
}

#[test]
fn a_backend_that_complains_about_pings_gets_half_as_many() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Silent;
    let client = world.client();
    world.call(client, b"x");
    let ping_for = |world: &mut World, minutes: u32| {
        for _ in 0..minutes * 12 {
            let now = world.now;
            world.clients[client]
                .side
                .connection
                .ping(now, PingKind::Keepalive, Duration::from_secs(20));
            world.advance(Duration::from_secs(5));
        }
        world.splitter.stats().pings_relayed
    };
    let before = ping_for(&mut world, 5);
    assert!(before >= 50, "{before}");
    world
        .server(0)
        .connection
        .go_away(ErrorCode::ENHANCE_YOUR_CALM, "too_many_pings");
    world.cancel(0);
    world.advance(millis(10));
    world.call(client, b"x");
    let after = ping_for(&mut world, 5) - before;
    assert!(
        (10..=16).contains(&after),
        "{after} in five minutes, for one in 20 s at most"
    );
}

#[test]
fn small_calls_go_on_and_are_sent_again_when_others_have_used_up_the_budget() {
    let mut world = World::with(2, 7, Config::new("n1"), &Arc::new(Budget::new(0)));
    let client = world.client();
    for _ in 0..10 {
        let call = world.open(client, b"first", false);
        world.run();
        world.send(call, b"second", true);
        world.run();
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
    }
    world.backends[0].behaviour = Behaviour::Refuse;
    for _ in 0..4 {
        let call = world.call(client, b"a small body");
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
    }
    assert!(world.splitter.stats().replayed > 0);
}

#[test]
fn opaque_connections_are_spread_by_the_same_picker() {
    let mut world = World::new(3);
    let mut picked = [0; 3];
    for _ in 0..30 {
        let endpoint = world.splitter.pick_opaque(world.now, SERVICE).unwrap();
        let n = world
            .backends
            .iter()
            .position(|backend| backend.endpoint.is_same(&endpoint))
            .unwrap();
        picked[n] += 1;
        if n == 2 {
            world.splitter.opaque_closed(world.now, SERVICE, &endpoint);
        }
    }
    assert_eq!(picked, [10, 10, 10]);
    let view = world.splitter.describe(world.now);
    assert_eq!(
        view[0]
            .endpoints
            .iter()
            .map(|endpoint| endpoint.opaque)
            .sum::<u32>(),
        20
    );
    let dead = world.backends[0].endpoint.clone();
    world.splitter.opaque_failed(world.now, SERVICE, &dead);
    for _ in 0..10 {
        let endpoint = world.splitter.pick_opaque(world.now, SERVICE).unwrap();
        assert!(!endpoint.is_same(&dead));
    }
}

#[test]
fn a_removed_service_sends_its_clients_away_and_leaves_nothing() {
    let mut world = World::new(2);
    world.delay = millis(1);
    let client = world.client();
    let call = world.open(client, b"x", true);
    world.advance(millis(50));
    assert!(world.is_ok(call));
    world.splitter.remove_service(world.now, SERVICE);
    world.advance(millis(50));
    assert!(world.clients[client].over);
    assert_eq!(world.connections(0) + world.connections(1), 0);
    assert!(world.splitter.describe(world.now).is_empty());
    assert!(world.splitter.open_client(world.now, SERVICE).is_err());
}

#[test]
fn what_clients_of_a_removed_service_call_before_they_have_heard_of_it_is_served() {
    let mut world = World::new(2);
    world.delay = millis(1);
    let client = world.client();
    let first = world.open(client, b"x", true);
    world.advance(millis(50));
    assert!(world.is_ok(first));
    let under_way = world.open(client, b"x", true);
    world.splitter.remove_service(world.now, SERVICE);
    let unaware = world.open(client, b"x", true);
    world.advance(millis(50));
    assert!(world.is_ok(under_way), "{:?}", world.outcome(under_way));
    assert!(world.is_ok(unaware), "{:?}", world.outcome(unaware));
    assert!(world.clients[client].over);
    assert_eq!(world.connections(0) + world.connections(1), 0);
    assert!(world.splitter.describe(world.now).is_empty());
}

#[test]
fn one_service_can_be_drained_alone() {
    let mut world = World::new(2);
    let client = world.client();
    world.splitter.drain_service(world.now, SERVICE);
    world.run();
    assert!(world.clients[client].over);
    let next = world.client();
    let call = world.call(next, b"x");
    assert!(world.is_ok(call), "new connections are served");
}

#[test]
fn each_backend_sees_what_the_client_sent_and_nothing_of_ours() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Silent;
    let client = world.client();
    let call = world.call(client, b"x");
    assert_eq!(world.outcome(call), None);
    assert_eq!(
        world.backends[0].heard,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "echo.default:50051"),
            (":path", "/echo.Echo/Call"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("call", "0"),
        ]
        .map(|(name, value)| format!("{name}: {value}"))
    );
    world.kill(0);
    world.run();
    assert!(matches!(world.outcome(call), Some(Outcome::Status(_, grpc, _)) if grpc == "14"));
}
