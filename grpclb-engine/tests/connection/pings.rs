//! Our own PINGs: what a `Pong` measures, and what silence means.

use std::time::Duration;

use grpclb_engine::connection::{By, CloseReason, Event, PingKind};
use grpclb_engine::frame::Frame;

use crate::support::{RESPONSE, Script, flags, kinds, millis, raw};

const PATIENCE: Duration = Duration::from_secs(20);

/// The payload of the PING that left last.
fn payload(script: &Script) -> [u8; 8] {
    let ping = script.answers.iter().rev().find_map(|frame| match frame {
        Frame::Ping { ack: false, payload } => Some(*payload),
        _ => None,
    });
    ping.expect("a PING left")
}

#[test]
fn a_pong_tells_the_round_trip_and_the_data_that_came_meanwhile() {
    let mut script = Script::server();
    script.side.open(script.now, 1, true);
    assert!(
        script
            .side
            .connection
            .ping(script.now, PingKind::Bandwidth, PATIENCE)
    );
    assert!(
        !script
            .side
            .connection
            .ping(script.now, PingKind::Bandwidth, PATIENCE),
        "one of a kind is under way"
    );
    // The clock starts when it leaves, not when it is asked for.
    script.now += millis(50);
    script.flush();
    script.headers(1, RESPONSE, false);
    script.data(1, &[0; 9000], false);
    script.now += millis(3);
    let payload = payload(&script);
    script.send(&raw(kinds::PING, flags::ACK, 0, &payload));
    let Some(Event::Pong {
        kind: PingKind::Bandwidth,
        round_trip,
        received: 9000,
    }) = script.side.events.last()
    else {
        panic!("{:?}", script.side.events)
    };
    assert_eq!(*round_trip, millis(3));
    script.send(&raw(kinds::PING, flags::ACK, 0, &payload));
    let pongs = script
        .side
        .events
        .iter()
        .filter(|event| matches!(event, Event::Pong { .. }));
    assert_eq!(pongs.count(), 1, "a second acknowledgement answers nothing");
    assert_eq!(script.side.connection.poll_timeout(), None);
}

#[test]
fn pings_of_different_kinds_are_told_apart() {
    let mut script = Script::server();
    script
        .side
        .connection
        .ping(script.now, PingKind::Bandwidth, PATIENCE);
    script.flush();
    let bandwidth = payload(&script);
    script
        .side
        .connection
        .ping(script.now, PingKind::Keepalive, PATIENCE);
    script.flush();
    let keepalive = payload(&script);
    for (payload, expected) in [(keepalive, PingKind::Keepalive), (bandwidth, PingKind::Bandwidth)] {
        script.send(&raw(kinds::PING, flags::ACK, 0, &payload));
        assert!(matches!(script.side.events.last(), Some(Event::Pong { kind, .. }) if *kind == expected));
    }
}

#[test]
fn a_peer_that_answers_no_keepalive_is_dead() {
    let mut script = Script::server();
    script
        .side
        .connection
        .ping(script.now, PingKind::Keepalive, PATIENCE);
    script.flush();
    assert_eq!(script.side.connection.poll_timeout(), Some(script.now + PATIENCE));
    script.now += millis(19_999);
    script.side.timeout(script.now);
    assert!(!script.side.connection.is_closed());
    script.now += millis(1);
    script.side.timeout(script.now);
    assert!(matches!(
        script.side.events.last(),
        Some(Event::Closed {
            reason: CloseReason::PingTimeout,
            by: By::Local,
            ..
        })
    ));
    assert!(script.side.connection.is_closed());
}

#[test]
fn a_bandwidth_ping_without_answer_costs_nothing() {
    let mut script = Script::server();
    script
        .side
        .connection
        .ping(script.now, PingKind::Bandwidth, PATIENCE);
    script.flush();
    script.now += PATIENCE;
    script.side.timeout(script.now);
    script.expect_alive();
    assert!(
        script
            .side
            .connection
            .ping(script.now, PingKind::Bandwidth, PATIENCE),
        "another may be sent"
    );
}
