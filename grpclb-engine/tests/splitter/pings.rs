//! PINGs: those that are sent for clients, backends that complain about them, and clients that send many.

use std::time::Duration;

use grpclb_engine::connection::PingKind;
use grpclb_engine::frame::Frame;

use crate::support::{Behaviour, World, flags, greeting, kinds, millis, raw};

/// GOAWAY with `too_many_pings` that names all streams as processed.
fn complaint() -> Vec<u8> {
    let payload = [&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb][..], b"too_many_pings"];
    raw(kinds::GOAWAY, 0, 0, &payload.concat())
}

/// The client PINGs without having got DATA, once.
fn ping(world: &mut World, client: usize) {
    let now = world.now;
    let patience = Duration::from_secs(20);
    let conn = &mut world.clients[client].side.connection;
    assert!(conn.ping(now, PingKind::Keepalive, patience));
    world.run();
}

/// A new connection to the wild backend, with one call on it that goes on.
fn wild_connection(world: &mut World, client: usize) -> usize {
    world.open(client, b"x", true);
    world.run();
    let wild = world.wild_backend();
    world.say(wild, &greeting());
    world.run();
    wild
}

/// Answers the PINGs that came to this wild peer; how many.
fn answer_pings(world: &mut World, wild: usize) -> usize {
    let pings: Vec<[u8; 8]> = world.wilds[wild]
        .heard
        .drain(..)
        .filter_map(|frame| match frame {
            Frame::Ping { ack: false, payload } => Some(payload),
            _ => None,
        })
        .collect();
    for payload in &pings {
        world.say(wild, &raw(kinds::PING, flags::ACK, 0, payload));
    }
    pings.len()
}

#[test]
fn complaints_about_pings_without_any_ping_change_nothing() {
    let mut world = World::new(1);
    world.backends[0].wild = true;
    let client = world.client();
    let wilds: Vec<usize> = (0..3)
        .map(|n| {
            let wild = wild_connection(&mut world, client);
            for _ in 0..if n < 2 { 30 } else { 1 } {
                world.say(wild, &complaint());
            }
            world.run();
            wild
        })
        .collect();
    assert_eq!(wilds.len(), 3);
    assert_eq!(world.splitter.stats().goaways, 61);
    // A client that asks every 10 s is asked for every 10 s.
    let wild = wild_connection(&mut world, client);
    for _ in 0..6 {
        ping(&mut world, client);
        assert_eq!(answer_pings(&mut world, wild), 1);
        world.advance(Duration::from_secs(10));
    }
}

#[test]
fn repeated_complaints_about_one_ping_count_once() {
    let mut world = World::new(1);
    world.backends[0].wild = true;
    let client = world.client();
    let wild = wild_connection(&mut world, client);
    ping(&mut world, client);
    assert_eq!(answer_pings(&mut world, wild), 1);
    for _ in 0..30 {
        world.say(wild, &complaint());
    }
    world.run();
    let wild = wild_connection(&mut world, client);
    let relayed: usize = (0..60)
        .map(|_| {
            world.advance(Duration::from_secs(10));
            ping(&mut world, client);
            answer_pings(&mut world, wild)
        })
        .sum();
    assert_eq!(relayed, 30, "one in 20 s: doubled once");
}

#[test]
fn complaints_are_heard_by_all_connections_of_the_service_and_slow_pings_to_two_hours_at_most() {
    let mut world = World::new(2);
    world.backends[0].wild = true;
    world.backends[1].behaviour = Behaviour::Silent;
    let client = world.client();
    // One call at the good backend; each complaint comes by a new connection of the other one.
    world.publish_only(&[1]);
    world.call(client, b"x");
    world.publish();
    for _ in 0..70 {
        let before = world.wilds.len();
        while world.wilds.len() == before {
            world.open(client, b"x", true);
            world.run();
        }
        let wild = world.wild_backend();
        world.say(wild, &greeting());
        for _ in 0..4 {
            world.open(client, b"x", true);
        }
        world.advance(Duration::from_secs(10));
        ping(&mut world, client);
        assert_eq!(answer_pings(&mut world, wild), 1, "the first on its connection");
        world.say(wild, &complaint());
        world.run();
    }
    let pings = |world: &mut World| world.server(1).connection.peer_pings();
    let before = pings(&mut world);
    for _ in 0..24 {
        world.advance(Duration::from_hours(1));
        ping(&mut world, client);
    }
    let after = pings(&mut world) - before;
    assert_eq!(
        after, 12,
        "one in two hours at the backend that has not complained"
    );
}

#[test]
fn a_complaint_counts_only_when_the_ping_was_written() {
    let mut world = World::new(1);
    world.backends[0].wild = true;
    let client = world.client();
    let wild = wild_connection(&mut world, client);
    world.wilds[wild].deaf = true;
    ping(&mut world, client);
    world.say(wild, &complaint());
    world.run();
    let wild = wild_connection(&mut world, client);
    for _ in 0..6 {
        world.advance(Duration::from_secs(10));
        ping(&mut world, client);
        assert_eq!(answer_pings(&mut world, wild), 1, "not slowed");
    }
    world.advance(millis(1));
}

/// A POST with a content type, in literals and indices of the static table; call 12345.
const REQUEST: &[u8] = b"\x83\x86\x84\x01\x01a\x0f\x10\x10application/grpc\x00\x04call\x0512345";

#[test]
fn twenty_five_thousand_pings_a_second_beside_ten_thousand_streams_are_answered_and_asked_for_once_a_second()
{
    let mut world = World::new(4);
    for backend in &mut world.backends {
        backend.behaviour = Behaviour::Silent;
    }
    let client = world.wild_client();
    world.say(client, &greeting());
    for n in 0..10_000 {
        let request = raw(kinds::HEADERS, flags::END_HEADERS, 2 * n + 1, REQUEST);
        world.say(client, &request);
        if n % 100 == 0 {
            world.run();
        }
    }
    world.run();
    world.wilds[client].heard.clear();
    let (seconds, a_millisecond) = (3, 25);
    for _ in 0..seconds * 1000 {
        for n in 0..a_millisecond {
            world.say(client, &raw(kinds::PING, 0, 0, &[n; 8]));
        }
        world.advance(millis(1));
    }
    let answers = world.wilds[client].heard.len();
    assert_eq!(answers, seconds * 1000 * usize::from(a_millisecond));
    assert!(!world.wilds[client].over);
    let connections: usize = (0..4).map(|backend| world.connections(backend)).sum();
    let relayed = world.splitter.stats().pings_relayed;
    let most = (connections * (seconds + 1)) as u64;
    assert!(
        (connections as u64..=most).contains(&relayed),
        "{relayed} PINGs on {connections} connections in {seconds} s"
    );
}

#[test]
fn a_ping_asks_the_backends_that_carry_the_clients_calls_and_no_others() {
    let mut world = World::new(3);
    for backend in &mut world.backends {
        backend.behaviour = Behaviour::Silent;
    }
    let (asks, silent) = (world.client(), world.client());
    for backend in 0..3 {
        world.publish_only(&[backend]);
        let client = if backend == 2 { silent } else { asks };
        world.call(client, b"x");
    }
    world.publish();
    let pings = |world: &mut World| [0, 1, 2].map(|n| world.server(n).connection.peer_pings());
    ping(&mut world, asks);
    assert_eq!(pings(&mut world), [1, 1, 0]);
    // The call at the second backend is over.
    world.cancel(1);
    world.advance(Duration::from_secs(10));
    ping(&mut world, asks);
    assert_eq!(pings(&mut world), [2, 1, 0]);
}
