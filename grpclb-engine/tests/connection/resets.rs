//! Our own resets: without a trace, never in one write with HEADERS, paced towards servers, behind what is queued.

use grpclb_engine::connection::{Config, Event, ResetPacing, Sent};
use grpclb_engine::frame::{ErrorCode, Frame, StreamId};

use crate::support::{Pair, REQUEST, RESPONSE, Script, TRAILERS, flags, kinds, millis, raw};

fn resets(script: &Script) -> Vec<u32> {
    let ids = script.answers.iter().filter_map(|frame| match frame {
        Frame::RstStream { stream, .. } => Some(stream.get()),
        _ => None,
    });
    ids.collect()
}

fn barriers(script: &Script) -> usize {
    script
        .answers
        .iter()
        .filter(|frame| matches!(frame, Frame::Settings(settings) if settings.is_empty()))
        .count()
}

#[test]
fn a_stream_that_is_reset_before_its_headers_left_leaves_no_trace() {
    let mut script = Script::server();
    let now = script.now;
    let lost = script.side.open(now, 1, false);
    script.side.data(lost, b"never sent", true);
    let kept = script.side.open(now, 2, true);
    script.side.connection.reset(lost, ErrorCode::CANCEL);
    script.flush();
    let [Frame::Headers { stream, .. }] = &script.answers[..] else {
        panic!("{:?}", script.answers)
    };
    assert_eq!(stream.get(), 1, "no id is lost either");
    assert_eq!(script.side.connection.stream_id(kept), Some(StreamId::new(1)));
    assert_eq!(script.side.connection.streams(), 1);
    assert!(script.side.sent.iter().all(|sent| sent.tag != 1));
}

#[test]
fn headers_and_reset_of_one_stream_never_leave_in_one_write() {
    let mut script = Script::server();
    let now = script.now;
    let call = script.side.open(now, 1, true);
    // Encoded, but the socket takes nothing yet.
    script.side.connection.transmit(
        now,
        &mut script.side.fields,
        &mut script.side.output,
        &mut script.side.sent,
    );
    assert!(!script.side.connection.has_left(call, &script.side.output));
    script.side.connection.reset(call, ErrorCode::CANCEL);
    for _ in 0..10 {
        script.now += millis(5);
        script.side.timeout(script.now);
        let (now, side) = (script.now, &mut script.side);
        side.connection
            .transmit(now, &mut side.fields, &mut side.output, &mut side.sent);
    }
    let headers_alone = script.side.write(usize::MAX);
    assert_eq!(headers_alone[3], kinds::HEADERS);
    assert_eq!(
        headers_alone.len(),
        9 + usize::from(headers_alone[2]),
        "one frame, and it is HEADERS"
    );
    script.now += millis(5);
    script.side.timeout(script.now);
    script.flush();
    assert_eq!(resets(&script), [1]);
}

#[test]
fn a_reset_waits_a_moment_after_its_headers() {
    let mut script = Script::server();
    let now = script.now;
    let call = script.side.open(now, 1, true);
    script.flush();
    assert!(script.side.connection.has_left(call, &script.side.output));
    script.side.connection.reset(call, ErrorCode::CANCEL);
    script.flush();
    assert_eq!(resets(&script), []);
    assert!(!script.side.connection.wants_transmit(), "no busy loop");
    let until = script.side.connection.poll_timeout().expect("a deadline");
    assert_eq!(until, now + millis(1));
    script.now = until;
    script.side.timeout(until);
    assert!(script.side.connection.wants_transmit());
    script.flush();
    assert_eq!(resets(&script), [1]);
    assert_eq!(script.side.connection.streams(), 0);
}

#[test]
fn a_storm_of_cancels_reaches_the_server_five_at_a_time() {
    let mut script = Script::server();
    let now = script.now;
    let calls: Vec<_> = (0..40).map(|tag| script.side.open(now, tag, true)).collect();
    script.flush();
    script.now += millis(10);
    for call in &calls {
        script.side.connection.reset(*call, ErrorCode::CANCEL);
    }
    script.flush();
    for round in 1..=8 {
        assert_eq!(resets(&script).len(), 5 * round);
        assert!(!script.side.connection.wants_transmit(), "no busy loop");
        // The server has read them when it acknowledges the SETTINGS behind them.
        assert_eq!(barriers(&script), round);
        script.now += millis(15);
        script.side.timeout(script.now);
        script.flush();
        assert_eq!(
            resets(&script).len(),
            5 * round,
            "so little time is no confirmation"
        );
        script.send(&raw(kinds::SETTINGS, flags::ACK, 0, &[]));
        script.flush();
        assert_eq!(
            resets(&script).len(),
            5 * round,
            "it has read them, not accepted them"
        );
        if let Some(settled) = script.side.connection.poll_timeout() {
            script.now = settled;
            script.side.timeout(settled);
            script.flush();
        }
    }
    assert_eq!(script.side.connection.streams(), 0);
    assert_eq!(script.side.connection.poll_timeout(), None);
}

#[test]
fn resets_of_answered_streams_wait_for_no_confirmation_but_for_the_bucket() {
    let pacing = ResetPacing {
        burst: 30,
        refill: millis(33),
        ..ResetPacing::default()
    };
    let mut script = Script::server_of(Config {
        reset_pacing: pacing,
        ..Config::to_backend()
    });
    let now = script.now;
    let calls: Vec<_> = (0..40).map(|tag| script.side.open(now, tag, false)).collect();
    script.flush();
    for n in 0..40 {
        script.headers(2 * n + 1, RESPONSE, false);
    }
    script.now += millis(10);
    for call in &calls {
        script.side.connection.reset(*call, ErrorCode::CANCEL);
    }
    script.flush();
    assert_eq!(resets(&script).len(), 30);
    for left in (0..10).rev() {
        assert!(!script.side.connection.wants_transmit(), "no busy loop");
        script.now = script.side.connection.poll_timeout().expect("the next token");
        script.side.timeout(script.now);
        script.flush();
        assert_eq!(resets(&script).len(), 40 - left);
    }
    assert_eq!(script.side.connection.poll_timeout(), None);
}

#[test]
fn a_server_resets_at_once() {
    let mut script = Script::client();
    for n in 0..40 {
        script.headers(2 * n + 1, REQUEST, true);
    }
    for stream in script.side.requests() {
        script.side.connection.reset(stream, ErrorCode::INTERNAL_ERROR);
    }
    script.flush();
    assert_eq!(resets(&script).len(), 40);
}

#[test]
fn no_error_does_not_overtake_what_is_queued() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    let stream = script.stream();
    script.side.connection.set_tag(stream, 8);
    script.side.respond(stream, false);
    script.side.data(stream, &vec![1; 70_000], false);
    script.side.trailers(stream);
    script.side.connection.reset(stream, ErrorCode::NO_ERROR);
    script.flush();
    assert_eq!(resets(&script), []);
    script.data(1, b"what nobody wants any more", false);
    script.window_update(1, 10_000);
    script.window_update(0, 10_000);
    let [
        ..,
        Frame::Headers { end_stream: true, .. },
        Frame::RstStream {
            code: ErrorCode::NO_ERROR,
            ..
        },
    ] = &script.answers[..]
    else {
        panic!("{:?}", script.answers)
    };
    let data: u32 = script
        .side
        .sent
        .iter()
        .filter(|sent| sent.tag == 8)
        .map(|sent| sent.bytes)
        .sum();
    assert_eq!(data, 70_000);
    assert!(matches!(
        script.side.sent.last(),
        Some(Sent {
            tag: 8,
            end: true,
            ..
        })
    ));
    assert_eq!(script.side.connection.streams(), 0);
    assert!(
        !script
            .side
            .events
            .iter()
            .any(|event| matches!(event, Event::Data { .. }))
    );
}

#[test]
fn other_codes_drop_what_is_queued() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    let stream = script.stream();
    script.side.respond(stream, false);
    script.side.data(stream, b"dropped", true);
    script.side.connection.reset(stream, ErrorCode::CANCEL);
    script.flush();
    assert!(
        matches!(
            script.answers[..],
            [Frame::RstStream {
                code: ErrorCode::CANCEL,
                ..
            }]
        ),
        "{:?}",
        script.answers
    );
}

#[test]
fn commands_for_a_stale_key_do_nothing() {
    let mut pair = Pair::connected();
    let call = pair.client.open(pair.now, 1, true);
    pair.settle();
    let stream = pair.server.requests()[0];
    pair.server.respond(stream, true);
    pair.settle();
    let again = pair.client.open(pair.now, 2, false);
    pair.client.connection.reset(call, ErrorCode::CANCEL);
    pair.client.data(call, b"stale", true);
    pair.client.connection.release(call, 100);
    pair.settle();
    assert_eq!(pair.client.connection.tag(again), Some(2));
    assert_eq!(pair.client.connection.tag(call), None);
    assert!(!pair.server.ended(pair.server.requests()[1]));
}

#[test]
fn a_reset_that_waits_is_dropped_when_the_stream_ends_meanwhile() {
    let mut script = Script::server();
    let now = script.now;
    let over = script.side.open(now, 1, true);
    let half = script.side.open(now, 2, false);
    script.flush();
    for stream in [over, half] {
        script.side.connection.reset(stream, ErrorCode::CANCEL);
    }
    script.flush();
    script.headers(1, RESPONSE, false);
    script.data(1, b"an answer that nobody waits for", false);
    script.headers(1, TRAILERS, true);
    assert_eq!(script.side.connection.streams(), 1, "it has ended both ways");
    // Of the other one our side is still open, so the server has to be told.
    script.headers(3, RESPONSE, true);
    script.now += millis(10);
    script.side.timeout(script.now);
    script.flush();
    assert_eq!(resets(&script), [3]);
    assert_eq!(script.side.connection.streams(), 0);
    assert_eq!(script.side.connection.windows(None).held, 0);
    script.expect_alive();
}

#[test]
fn data_that_crosses_our_reset_is_not_held_against_the_server() {
    let mut script = Script::server();
    let now = script.now;
    let calls: Vec<_> = (0..20).map(|tag| script.side.open(now, tag, true)).collect();
    script.flush();
    for n in 0..20 {
        script.headers(2 * n + 1, RESPONSE, false);
    }
    for call in calls {
        script.side.connection.reset(call, ErrorCode::CANCEL);
    }
    // Small messages, before the resets leave and after.
    for frame in 0..40_000 {
        if frame == 20_000 {
            script.now += millis(10);
            script.side.timeout(script.now);
            script.flush();
            assert_eq!(resets(&script).len(), 20);
        }
        script.data(2 * (frame % 20) + 1, b"tick", false);
    }
    script.expect_alive();
}
