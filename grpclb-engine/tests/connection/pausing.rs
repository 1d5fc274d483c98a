//! A connection that does not read: while answers of ours wait, while its owner holds the input back, and until a limit's pause
//! is over. Nothing is lost, no deadline runs, and the connection goes on where it stopped.

use std::time::Duration;

use bytes::BytesMut;
use grpclb_engine::connection::{CloseReason, Event, Limit, Limits, PingKind};
use grpclb_engine::frame::Frame;

use crate::support::{REQUEST, Script, flags, kinds, millis, raw};

fn slowed(script: &Script) -> Vec<Limit> {
    let limits = script.side.events.iter().filter_map(|event| match event {
        Event::Slowed { limit } => Some(*limit),
        _ => None,
    });
    limits.collect()
}

fn pongs(script: &Script) -> usize {
    let pongs = script.answers.iter();
    pongs
        .filter(|frame| matches!(frame, Frame::Ping { ack: true, .. }))
        .count()
}

/// What the connection left unread is handed in again.
fn hand_in_unread(script: &mut Script) {
    script.side.receive(script.now, &[]);
}

#[test]
fn a_full_control_queue_stops_reading_until_half_of_it_has_left_and_loses_nothing() {
    let mut script = Script::client();
    let queue = Limits::default().control_queue;
    let ping = raw(kinds::PING, 0, 0, &[1; 8]);
    // In one read, and the socket takes nothing meanwhile.
    script.side.receive(script.now, &ping.repeat(2500));
    assert_eq!(script.side.input.len(), (2500 - queue) * ping.len(), "unread");
    assert!(!script.side.connection.wants_input());
    assert_eq!(slowed(&script), [Limit::ControlQueue]);
    // A caller that does not ask is safe.
    script.side.receive(script.now, &ping);
    assert_eq!(script.side.input.len(), (2501 - queue) * ping.len());
    while pongs(&script) < 2501 {
        script.flush();
        assert!(script.side.connection.wants_input(), "the queue has left");
        hand_in_unread(&mut script);
    }
    assert!(script.side.input.is_empty());
    script.expect_fine();
}

#[test]
fn a_peer_that_never_reads_is_never_read_and_keeps_its_connection() {
    let mut script = Script::client();
    let ping = raw(kinds::PING, 0, 0, &[1; 8]);
    for _ in 0..100 {
        script.side.receive(script.now, &ping.repeat(100));
        script.now += Duration::from_secs(10);
        script.side.timeout(script.now);
    }
    assert!(!script.side.connection.is_closed());
    assert_eq!(script.side.input.len(), (10_000 - 1000) * ping.len());
    assert_eq!(slowed(&script).len(), 1);
}

#[test]
fn an_owner_that_holds_the_input_gets_no_event_until_it_lets_go() {
    let mut script = Script::client();
    let now = script.now;
    script.side.connection.hold_input(now, true);
    script.headers(1, REQUEST, true);
    assert!(script.side.events.is_empty() && !script.side.connection.wants_input());
    script.side.connection.hold_input(now, false);
    assert!(script.side.connection.wants_input());
    hand_in_unread(&mut script);
    assert_eq!(script.side.requests().len(), 1);
}

#[test]
fn an_end_of_stream_is_noticed_while_nothing_is_read() {
    let mut script = Script::client();
    script.side.connection.hold_input(script.now, true);
    script.headers(1, REQUEST, true);
    script.side.connection.handle_eof();
    hand_in_unread(&mut script);
    let [Event::Closed { reason, .. }] = &script.side.events[..] else {
        panic!("{:?}", script.side.events)
    };
    assert_eq!(*reason, CloseReason::Eof);
    assert!(script.side.input.is_empty(), "nobody will read it");
}

#[test]
fn no_deadline_of_the_peers_runs_while_its_bytes_are_not_read() {
    let mut script = Script::client();
    // A field block that is half here, and a PING of ours whose answer may be among the unread bytes.
    script.send(&raw(kinds::HEADERS, flags::END_STREAM, 1, &[]));
    let asked = script
        .side
        .connection
        .ping(script.now, PingKind::Keepalive, Duration::from_secs(20));
    assert!(asked);
    script.flush();
    script.now += Duration::from_secs(5);
    script.side.connection.hold_input(script.now, true);
    script.now += Duration::from_hours(1);
    script.side.timeout(script.now);
    assert_eq!(script.side.connection.poll_timeout(), None, "nothing to wait for");
    script.side.connection.hold_input(script.now, false);
    hand_in_unread(&mut script);
    assert!(!script.side.connection.is_closed());
    let left = Limits::default()
        .header_block_time
        .saturating_sub(Duration::from_secs(5));
    assert_eq!(script.side.connection.poll_timeout(), Some(script.now + left));
    script.now += left;
    script.side.timeout(script.now);
    assert!(script.side.connection.is_closed(), "from here on it runs again");
}

#[test]
fn a_server_that_reads_nothing_is_still_found_dead_by_keepalive() {
    let mut script = Script::server();
    script.side.open(script.now, 0, true);
    script.flush();
    script
        .side
        .connection
        .ping(script.now, PingKind::Keepalive, Duration::from_secs(20));
    let mut input = BytesMut::from(&raw(kinds::PING, 0, 0, &[1; 8]).repeat(2000)[..]);
    while script
        .side
        .connection
        .poll_event(script.now, &mut input, &mut script.side.fields)
        .is_some()
    {}
    assert!(!script.side.connection.wants_input());
    script.now += Duration::from_secs(20) + millis(1);
    script.side.timeout(script.now);
    assert!(script.side.connection.is_closed());
}
