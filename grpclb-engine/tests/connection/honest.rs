//! Honest load at twice what the busiest stacks do: no limit slows it, and nothing ends.

use std::collections::VecDeque;
use std::time::Duration;

use grpclb_engine::connection::{Config, Event, StreamKey};
use grpclb_engine::frame::{ErrorCode, Frame};

use crate::support::{REQUEST, RESPONSE, Script, TRAILERS, flags, kinds, millis, raw};

/// Nothing was slowed or ended so far. What was noted is forgotten.
#[track_caller]
fn expect_unhindered(script: &mut Script) {
    assert!(script.side.connection.wants_input() && !script.side.connection.is_closed());
    let hindered = |event: &&Event| matches!(event, Event::Slowed { .. } | Event::Closed { .. });
    assert!(script.side.events.iter().find(hindered).is_none());
    script.side.events.clear();
    script.answers.clear();
}

/// A client with one call that is answered and goes on.
fn client_with_a_long_call() -> (Script, StreamKey) {
    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    let stream = script.stream();
    script.side.respond(stream, false);
    script.flush();
    (script, stream)
}

#[test]
fn twenty_five_thousand_pings_a_second_are_answered() {
    let mut script = Script::client();
    let ping = raw(kinds::PING, 0, 0, &[1; 8]);
    // A socket's worth in each millisecond, all of one second.
    for _ in 0..1000 {
        script.now += millis(1);
        script.send(&ping.repeat(26));
        assert_eq!(script.answers.len(), 26);
        expect_unhindered(&mut script);
    }
}

#[test]
fn two_thousand_cancelled_calls_a_second_are_not_slowed() {
    let (mut script, long) = client_with_a_long_call();
    let mut open = VecDeque::new();
    for round in 0..20_000 {
        script.now += Duration::from_micros(500);
        script.headers(2 * round + 3, REQUEST, true);
        open.push_back(2 * round + 3);
        // Each lives for 20 ms.
        if open.len() > 40
            && let Some(id) = open.pop_front()
        {
            script.reset(id, ErrorCode::CANCEL);
        }
        expect_unhindered(&mut script);
    }
    script.side.data(long, b"still here", false);
    script.flush();
    assert!(matches!(script.answers[..], [Frame::Data { .. }]));
}

#[test]
fn cancels_right_behind_their_requests_are_not_slowed_at_two_thousand_a_second() {
    let (mut script, _) = client_with_a_long_call();
    for round in 0..20_000 {
        script.now += Duration::from_micros(500);
        script.headers(2 * round + 3, REQUEST, true);
        script.reset(2 * round + 3, ErrorCode::CANCEL);
        expect_unhindered(&mut script);
    }
}

#[test]
fn two_hundred_deadlines_of_5_ms_a_second_beside_a_long_call_are_not_slowed_for_five_minutes() {
    let (mut script, _) = client_with_a_long_call();
    for round in 0..60_000 {
        script.headers(2 * round + 3, REQUEST, true);
        script.now += millis(5);
        script.reset(2 * round + 3, ErrorCode::CANCEL);
        expect_unhindered(&mut script);
    }
}

#[test]
fn twenty_thousand_streams_at_once_are_taken_or_refused() {
    let mut script = Script::client();
    for n in 0..20_000 {
        script.headers(2 * n + 1, REQUEST, true);
    }
    let refused = |frame: &&Frame| {
        let code = ErrorCode::REFUSED_STREAM;
        matches!(frame, Frame::RstStream { code: with, .. } if *with == code)
    };
    assert_eq!(script.side.requests().len(), 10_000);
    assert_eq!(script.answers.iter().filter(refused).count(), 10_000);
    expect_unhindered(&mut script);
}

#[test]
fn a_server_whose_answers_cross_two_thousand_cancels_of_ours_a_second_is_not_slowed() {
    let mut config = Config::to_backend();
    // The pace of our resets is another subject.
    config.reset_pacing.unconfirmed = u32::MAX;
    config.reset_pacing.burst = u32::MAX;
    let mut script = Script::server_of(config);
    for round in 0..20_000 {
        let (now, id) = (script.now, 2 * round + 1);
        let call = script.side.open(now, 0, true);
        script.flush();
        script.side.connection.reset(call, ErrorCode::CANCEL);
        script.now += millis(1);
        script.side.timeout(script.now);
        script.flush();
        script.headers(id, RESPONSE, false);
        script.data(id, b"crossed", false);
        script.headers(id, TRAILERS, true);
        script.window_update(id, 100);
        expect_unhindered(&mut script);
    }
}

#[test]
fn a_server_that_refuses_or_fails_every_call_is_not_slowed() {
    let mut script = Script::server();
    for round in 0..20_000 {
        let id = 2 * round + 1;
        script.side.open(script.now, 0, true);
        script.flush();
        match round % 3 {
            0 => script.reset(id, ErrorCode::REFUSED_STREAM),
            1 => script.headers(id, &[(":status", "no number")], true),
            _ => {
                let whole = flags::END_HEADERS | flags::END_STREAM;
                script.send(&raw(kinds::HEADERS, whole, id, &[0x88, 0x00, 0x00, 0x00]));
            }
        }
        expect_unhindered(&mut script);
    }
}
