//! Calls that go well: spread over backends, in every shape.

use std::time::Duration;

use grpclb_engine::balance::Policy;

use crate::support::{Behaviour, Outcome, World, millis};

#[test]
fn calls_of_one_connection_are_spread_evenly_over_three_backends() {
    let mut world = World::new(3);
    let client = world.client();
    for n in 0..300 {
        let call = world.call(client, b"hello");
        assert!(world.is_ok(call), "call {n}: {:?}", world.outcome(call));
        assert_eq!(world.calls[call].body, b"hello");
    }
    assert_eq!(world.spread(), [100, 100, 100]);
    assert_eq!(world.splitter.stats().calls, 300);
    assert_eq!(world.splitter.stats().completed, 300);
}

#[test]
fn a_first_burst_is_spread_evenly_too() {
    let mut world = World::new(3);
    world.dial_delay = millis(2);
    world.backends[1].slow = millis(15);
    world.backends[2].slow = millis(30);
    let client = world.client();
    let mut calls = Vec::new();
    for _ in 0..33 {
        calls.extend((0..3).map(|_| world.open(client, b"x", true)));
        world.advance(millis(1));
    }
    assert!(calls.iter().all(|&call| world.is_ok(call)));
    assert_eq!(world.spread(), [33, 33, 33]);
}

#[test]
fn a_connection_for_every_call_spreads_as_evenly() {
    let mut world = World::new(3);
    for _ in 0..30 {
        let client = world.client();
        let call = world.call(client, b"x");
        assert!(world.is_ok(call));
        world.drop_client(client);
        world.run();
    }
    assert_eq!(world.spread(), [10, 10, 10]);
    assert_eq!(world.opened, 3, "connections to backends are the pod's");
}

#[test]
fn no_call_waits_on_a_dial_while_a_connected_endpoint_has_room() {
    let mut world = World::new(3);
    let client = world.client();
    let first = world.call(client, b"x");
    assert!(world.is_ok(first));
    world.advance(millis(50)); // the very first calls are over
    // The others do not answer their dials.
    for backend in 0..3 {
        if world.connections(backend) == 0 {
            world.backends[backend].accepts = None;
        }
    }
    for _ in 0..10 {
        let call = world.call(client, b"x");
        assert!(world.is_ok(call), "the call waits for a dial");
    }
    assert!(
        world.backends.iter().all(|backend| backend.dials >= 1),
        "they are dialled in the background"
    );
}

#[test]
fn streaming_both_ways_keeps_order_and_content() {
    let mut world = World::new(2);
    let client = world.client();
    let call = world.open(client, b"", false);
    let mut sent = Vec::new();
    for n in 0..200u32 {
        let message = vec![n as u8; 1000];
        world.send(call, &message, false);
        sent.extend(message);
        world.run();
    }
    assert_eq!(
        world.calls[call].body, sent,
        "the echo comes while the request goes on"
    );
    assert_eq!(world.outcome(call), None);
    world.send(call, b"end", true);
    world.run();
    sent.extend(b"end");
    assert!(world.is_ok(call));
    assert_eq!(world.calls[call].body, sent);
    assert_eq!(
        world.spread().iter().sum::<usize>(),
        1,
        "all messages of a stream are on one backend"
    );
}

#[test]
fn thirty_megabytes_each_way_are_byte_exact_however_they_are_cut() {
    for (cut, delay) in [(usize::MAX, 0), (16_389, 1), (1021, 0)] {
        let mut world = World::new(1);
        (world.cut, world.delay) = (cut, millis(delay));
        let client = world.client();
        let body: Vec<u8> = (0..(30u32 << 20) / 4).flat_map(u32::to_le_bytes).collect();
        let call = world.open(client, &body, true);
        world.advance(Duration::from_mins(1));
        assert!(world.is_ok(call), "cut {cut}: {:?}", world.outcome(call));
        assert!(world.calls[call].body == body, "cut {cut}: the bytes differ");
        assert_eq!(world.splitter.buffered(), 0, "all memory is given back");
    }
}

#[test]
fn every_byte_may_come_alone() {
    let mut world = World::new(2);
    world.cut = 1;
    let client = world.client();
    for _ in 0..4 {
        let call = world.call(client, b"one byte at a time");
        assert!(world.is_ok(call));
        assert_eq!(world.calls[call].body, b"one byte at a time");
    }
}

#[test]
fn an_early_answer_is_relayed_while_the_request_goes_on() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Early;
    let client = world.client();
    let call = world.open(client, b"part", false);
    world.run();
    assert!(world.is_ok(call));
    assert_eq!(world.calls[call].body, b"early");
    world.send(call, b"the rest", true);
    world.run();
    assert_eq!(world.splitter.stats().reset_by_backend, 0);
    assert!(
        world.splitter.describe(world.now)[0].endpoints[0].streams == 0,
        "the request's end went through"
    );
}

#[test]
fn a_reset_without_error_does_not_overtake_the_answer() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::EarlyReset;
    let client = world.client();
    let call = world.open(client, &vec![7; 200_000], true);
    world.run();
    assert!(world.is_ok(call), "{:?}", world.outcome(call));
    assert_eq!(world.calls[call].body, b"early");
    let next = world.call(client, b"");
    assert!(world.is_ok(next));
}

#[test]
fn idle_connections_close_and_come_back() {
    let mut world = World::new(3);
    let client = world.client();
    for _ in 0..6 {
        world.call(client, b"x");
    }
    assert_eq!((0..3).map(|n| world.connections(n)).sum::<usize>(), 3);
    world.advance(Duration::from_secs(301));
    assert_eq!((0..3).map(|n| world.connections(n)).sum::<usize>(), 0);
    let call = world.call(client, b"x");
    assert!(world.is_ok(call));
}

#[test]
fn when_the_last_client_has_gone_connections_linger_for_seconds_only() {
    let mut world = World::new(2);
    let client = world.client();
    for _ in 0..4 {
        world.call(client, b"x");
    }
    world.drop_client(client);
    world.advance(Duration::from_secs(4));
    assert_eq!(
        world.connections(0) + world.connections(1),
        2,
        "a client that comes back finds them"
    );
    world.advance(Duration::from_secs(2));
    assert_eq!(world.connections(0) + world.connections(1), 0);
    assert!(world.splitter.is_idle());
}

#[test]
fn upstream_connections_may_be_kept_apart_by_client_connection() {
    let mut world = World::new(2);
    world.per_connection = true;
    world.publish();
    let (one, other) = (world.client(), world.client());
    for client in [one, other, one, other] {
        for _ in 0..4 {
            let call = world.call(client, b"x");
            assert!(world.is_ok(call));
        }
    }
    assert_eq!((world.connections(0), world.connections(1)), (2, 2));
    world.drop_client(one);
    world.run();
    assert_eq!(
        (world.connections(0), world.connections(1)),
        (1, 1),
        "they go with their client"
    );
}

#[test]
fn every_policy_serves_every_call() {
    for policy in Policy::ALL {
        let mut world = World::new(4);
        world.policy = policy;
        world.publish();
        let client = world.client();
        for _ in 0..200 {
            let call = world.call(client, b"x");
            assert!(world.is_ok(call));
        }
        assert!(
            world.spread().iter().all(|&calls| calls > 10),
            "{policy}: {:?}",
            world.spread()
        );
    }
}

#[test]
fn a_call_that_is_not_grpc_is_relayed_the_same() {
    let mut world = World::new(1);
    let client = world.client();
    let call = world.open_as(client, "text/plain", b"hello", true);
    world.run();
    assert!(matches!(world.outcome(call), Some(Outcome::Status(http, ..)) if http == "200"));
    assert_eq!(world.calls[call].body, b"hello");
}
