//! Hostile peers: limits that end the connection do so with `ENHANCE_YOUR_CALM` and their name. Those that slow the peer are
//! `floods`' subject.

use std::time::Duration;

use grpclb_engine::connection::{CloseReason, Event, Limit, Limits};
use grpclb_engine::frame::ErrorCode;

use crate::support::{REQUEST, Script, flags, kinds, raw};

/// Repeats `act` until the connection ends; how often it went well.
fn until_closed(script: &mut Script, mut act: impl FnMut(&mut Script, u32)) -> u32 {
    for round in 0..200_000 {
        act(script, round);
        if script.side.connection.is_closed() {
            return round;
        }
        script.answers.clear();
        script.side.events.clear();
    }
    panic!("the flood was never stopped");
}

#[track_caller]
fn expect_limit(script: &mut Script, limit: Limit) {
    script.expect_goaway(ErrorCode::ENHANCE_YOUR_CALM);
    assert_eq!(script.goaway_debug(), format!("limit reached: {}", limit.name()));
    let closed = script.side.events.iter().find_map(|event| match event {
        Event::Closed { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(closed, Some(CloseReason::Limit(limit)));
}

fn burst(limit: Limit) -> u32 {
    Limits::default().rule(limit).burst
}

#[test]
fn an_endless_block_of_small_continuations_is_stopped() {
    let mut script = Script::client();
    script.send(&raw(kinds::HEADERS, flags::END_STREAM, 1, &[]));
    let rounds = until_closed(&mut script, |script, _| {
        script.send(&raw(kinds::CONTINUATION, 0, 1, &[]));
    });
    assert_eq!(rounds, 128);
    expect_limit(&mut script, Limit::Continuation);
}

#[test]
fn an_endless_block_of_large_continuations_is_stopped_at_sixteen_times_the_lists_limit() {
    let mut script = Script::client();
    script.send(&raw(kinds::HEADERS, flags::END_STREAM, 1, &[]));
    let rounds = until_closed(&mut script, |script, _| {
        script.send(&raw(kinds::CONTINUATION, 0, 1, &vec![0; 16_384]));
    });
    assert_eq!(rounds, (16 << 20) / 16_384);
    expect_limit(&mut script, Limit::HeaderBlockSize);
}

#[test]
fn a_block_that_dribbles_is_stopped_when_its_time_is_over() {
    let mut script = Script::client();
    script.send(&raw(kinds::HEADERS, flags::END_STREAM, 1, &[]));
    let until = script.now + Limits::default().header_block_time;
    assert_eq!(script.side.connection.poll_timeout(), Some(until));
    script.now = until;
    script.side.timeout(script.now);
    script.flush();
    expect_limit(&mut script, Limit::HeaderBlockTime);
}

#[test]
fn a_frame_that_dribbles_is_stopped_and_data_may_take_its_time() {
    let mut script = Script::client();
    let frame = raw(
        kinds::HEADERS,
        flags::END_HEADERS | flags::END_STREAM,
        1,
        &[0x82; 50],
    );
    script.send(&frame[..20]);
    script.now = script.side.connection.poll_timeout().expect("a deadline");
    script.side.timeout(script.now);
    script.flush();
    expect_limit(&mut script, Limit::FrameTime);

    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.send(&raw(kinds::DATA, 0, 1, &[0; 10_000])[..2000]);
    assert_eq!(script.side.connection.poll_timeout(), None);
    let stream = script.stream();
    assert_eq!(
        script.side.received(stream).len(),
        1991,
        "what has come is handed on"
    );
}

#[test]
fn a_frame_that_is_completed_in_time_leaves_no_deadline() {
    let mut script = Script::client();
    let frame = raw(kinds::PING, 0, 0, &[0; 8]);
    script.send(&frame[..12]);
    assert!(script.side.connection.poll_timeout().is_some());
    script.now += Duration::from_secs(1);
    script.send(&frame[12..]);
    assert_eq!(script.side.connection.poll_timeout(), None);
    script.expect_fine();
}

#[test]
fn a_peer_that_goes_again_and_again_is_stopped() {
    for mut script in [Script::client(), Script::server()] {
        if script.side.connection.role() == grpclb_engine::connection::Role::Client {
            script.side.open(script.now, 0, true); // or the connection would be drained
            script.flush();
        }
        let goaway = [(1u32 << 31) - 1, 0].map(u32::to_be_bytes).concat();
        let rounds = until_closed(&mut script, |script, _| {
            script.send(&raw(kinds::GOAWAY, 0, 0, &goaway));
        });
        assert_eq!(rounds, burst(Limit::GoAway));
        expect_limit(&mut script, Limit::GoAway);
    }
}
