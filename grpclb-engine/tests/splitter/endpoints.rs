//! Endpoints that come, go, fill up, drain and die.

use std::time::Duration;

use grpclb_engine::balance::State;

use crate::support::{Behaviour, World, millis};

#[test]
fn a_removed_endpoint_gets_no_new_calls_and_its_running_ones_go_on() {
    let mut world = World::new(2);
    for backend in &mut world.backends {
        backend.behaviour = Behaviour::Hold;
    }
    let client = world.client();
    let held: Vec<_> = (0..6).map(|_| world.call(client, b"x")).collect();
    assert_eq!(world.spread(), [3, 3]);
    world.publish_only(&[1]);
    for _ in 0..5 {
        world.call(client, b"x");
    }
    assert_eq!(world.spread(), [3, 8]);
    assert_eq!(world.connections(0), 1, "calls still run there");
    for &call in &held {
        world.finish(call);
    }
    world.run();
    assert!(held.iter().all(|&call| world.is_ok(call)));
    assert_eq!(
        world.connections(0),
        0,
        "the connection closes after the last of them"
    );
}

#[test]
fn a_draining_endpoint_gets_calls_only_while_nobody_is_ready() {
    let mut world = World::new(2);
    world.backends[0].endpoint.state = State::Draining;
    world.publish();
    let client = world.client();
    for _ in 0..4 {
        world.call(client, b"x");
    }
    assert_eq!(world.spread(), [0, 4]);
    world.backends[1].endpoint.state = State::Draining;
    world.publish();
    for _ in 0..4 {
        let call = world.call(client, b"x");
        assert!(world.is_ok(call));
    }
    assert_eq!(world.spread(), [2, 6]);
}

#[test]
fn a_new_pod_with_an_old_address_is_another_endpoint() {
    let mut world = World::new(1);
    let client = world.client();
    world.call(client, b"x");
    let next = world.add_backend();
    world.backends[next].endpoint.address = world.backends[0].endpoint.address;
    world.publish_only(&[next]);
    let call = world.call(client, b"x");
    assert!(world.is_ok(call));
    assert_eq!(world.spread(), [1, 1]);
    assert_eq!(world.connections(0), 0);
}

#[test]
fn a_goaway_of_a_backend_is_not_seen_by_the_client() {
    let mut world = World::new(3);
    world.delay = millis(1);
    let client = world.client();
    let mut calls = Vec::new();
    for round in 0..60 {
        for _ in 0..5 {
            calls.push(world.open(client, b"payload", true));
        }
        if round % 10 == 5 {
            world.shut_down(round / 10 % 3);
        }
        world.advance(millis(1));
    }
    world.advance(Duration::from_secs(2));
    assert!(calls.iter().all(|&call| world.is_ok(call)));
    assert!(calls.iter().all(|&call| world.runs(call) == 1));
    assert_eq!(world.clients[client].goaways, 0);
    assert!(world.splitter.stats().goaways >= 6);
}

#[test]
fn a_rolling_replacement_of_all_backends_loses_no_call() {
    let mut world = World::new(4);
    world.delay = millis(1);
    let client = world.client();
    let mut calls = Vec::new();
    let mut members: Vec<usize> = (0..4).collect();
    for step in 0..8 {
        for tick in 0..20 {
            for _ in 0..4 {
                calls.push(world.open(client, &[1; 3000], true));
            }
            if tick == 3 {
                let new = world.add_backend();
                let old = members.remove(0);
                members.push(new);
                world.publish_only(&members);
                world.shut_down(old);
            }
            world.advance(millis(1));
        }
        let old = world.backends.len() - 5;
        world.backends[old].accepts = Some(false);
        assert!(step < 8);
    }
    world.advance(Duration::from_secs(5));
    let failed: Vec<_> = calls
        .iter()
        .filter(|&&call| !world.is_ok(call))
        .map(|&call| world.outcome(call))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(calls.iter().all(|&call| world.runs(call) == 1));
}

#[test]
fn a_full_backend_gets_further_connections_up_to_four_and_then_a_queue() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Hold;
    world.backends[0].config.max_concurrent_streams = 10;
    let client = world.client();
    let calls: Vec<_> = (0..45).map(|_| world.call(client, b"x")).collect();
    assert_eq!(world.connections(0), 4);
    assert_eq!(world.spread(), [40]);
    assert_eq!(world.splitter.describe(world.now)[0].waiting, 5);
    // In order of arrival: those that end let the oldest in.
    for &call in &calls[..2] {
        world.finish(call);
    }
    world.run();
    assert!(world.runs(calls[40]) == 1 && world.runs(calls[41]) == 1 && world.runs(calls[42]) == 0);
    for &call in &calls {
        world.finish(call);
        world.run();
    }
    assert!(calls.iter().all(|&call| world.is_ok(call)));
}

#[test]
fn a_used_up_connection_window_opens_another_connection_after_50_ms() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::NoCredit;
    world.backends[0].config.connection_window = 65_535;
    world.backends[0].config.initial_window = 1 << 20;
    let client = world.client();
    let warm = world.call(client, b"");
    assert!(world.is_ok(warm));
    // The backend keeps its connection's credit back.
    world.server(0).connection.hold_connection_credit(true);
    let large = world.open(client, &vec![0; 100_000], true);
    world.advance(millis(40));
    assert_eq!((world.outcome(large), world.connections(0)), (None, 1));
    world.advance(millis(20));
    assert_eq!(world.connections(0), 2);
    let call = world.call(client, b"small");
    assert!(world.is_ok(call), "{:?}", world.outcome(call));
    assert_eq!(world.splitter.stats().stalls, 1);
}

#[test]
fn a_backend_that_takes_no_connection_is_left_alone_for_a_growing_time() {
    let mut world = World::new(2);
    world.backends[0].accepts = Some(false);
    let client = world.client();
    for _ in 0..20 {
        let call = world.call(client, b"x");
        assert!(world.is_ok(call));
    }
    assert_eq!(world.backends[0].dials, 1);
    for _ in 0..100 {
        world.advance(millis(100));
        let call = world.call(client, b"x");
        assert!(world.is_ok(call));
    }
    // 1 + 1.6 + 2.56 + 4.1 s, a fifth more or less each.
    assert!(
        (4..=6).contains(&world.backends[0].dials),
        "{} dials in 10 s",
        world.backends[0].dials
    );
    world.backends[0].accepts = Some(true);
    world.advance(Duration::from_secs(15));
    for _ in 0..20 {
        world.call(client, b"x");
    }
    assert!(world.spread()[0] >= 8, "{:?}", world.spread());
}

#[test]
fn without_any_endpoint_clients_are_told_to_go_and_calls_get_unavailable() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Hold;
    let client = world.client();
    let running = world.call(client, b"x");
    world.delay = millis(5);
    let late = world.open(client, b"x", true);
    world.publish_only(&[]);
    world.advance(millis(30));
    assert_eq!(world.clients[client].goaways, 2);
    assert_eq!(
        world.message(late),
        "grpclb-agent/n1: echo.default:grpc has no endpoint"
    );
    assert_eq!(world.outcome(running), None, "it runs on");
    world.finish(running);
    world.advance(millis(30));
    assert!(world.is_ok(running));
    assert!(
        world.clients[client].over,
        "the connection closes when it is drained"
    );
}

#[test]
fn drain_says_goaway_twice_and_serves_what_comes_between() {
    let mut world = World::new(2);
    world.delay = millis(5);
    let client = world.client();
    world.advance(millis(50));
    let held = world.open(client, b"x", false);
    world.advance(millis(50));
    world.splitter.drain(world.now);
    let between = world.open(client, b"x", true);
    world.advance(millis(50));
    assert!(world.is_ok(between));
    assert_eq!(world.clients[client].goaways, 2);
    world.send(held, b"", true);
    world.advance(millis(50));
    assert!(world.is_ok(held));
    assert!(world.clients[client].over);
    assert!(world.splitter.is_idle());
}

#[test]
fn the_subset_bounds_connections_and_is_topped_up() {
    let mut world = World::new(30);
    world.subset = 5;
    world.publish();
    let client = world.client();
    for _ in 0..50 {
        world.call(client, b"x");
    }
    let used: Vec<usize> = (0..30).filter(|&n| world.connections(n) > 0).collect();
    assert_eq!(used.len(), 5);
    let rest: Vec<usize> = (0..30).filter(|&n| n != used[0]).collect();
    world.publish_only(&rest);
    for _ in 0..50 {
        let call = world.call(client, b"x");
        assert!(world.is_ok(call));
    }
    let now_used: Vec<usize> = (0..30).filter(|&n| world.connections(n) > 0).collect();
    assert_eq!(now_used.len(), 5);
    assert!(
        used[1..].iter().all(|n| now_used.contains(n)),
        "{used:?} {now_used:?}"
    );
}

#[test]
fn a_backend_that_says_goaway_at_once_is_not_dialled_for_ever() {
    let mut world = World::new(1);
    world.backends[0].farewell = true;
    let client = world.client();
    let call = world.call(client, b"x");
    assert!(
        world.message(call).contains("no endpoint of"),
        "{}",
        world.message(call)
    );
    assert!(world.backends[0].dials <= 2, "{} dials", world.backends[0].dials);
}

#[test]
fn the_only_backend_may_break_and_come_back_at_once() {
    let mut world = World::new(1);
    let client = world.client();
    for _ in 0..5 {
        let call = world.call(client, b"x");
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
        world.kill(0);
        world.run();
    }
}

#[test]
fn the_only_backend_may_limit_the_age_of_its_connections() {
    let mut world = World::new(1);
    world.delay = millis(1);
    let client = world.client();
    let mut calls = Vec::new();
    for n in 0..200 {
        calls.push(world.open(client, b"x", true));
        if n % 10 == 0 {
            world.shut_down(0);
        }
        world.advance(millis(100));
    }
    assert!(calls.iter().all(|&call| world.is_ok(call)));
    assert!(world.opened >= 19, "{} connections", world.opened);
}
