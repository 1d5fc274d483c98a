//! Hostile peers: each limit ends the connection with `ENHANCE_YOUR_CALM` and its name, and no honest peer reaches it.

use std::time::Duration;

use grpclb_engine::connection::{CloseReason, Config, Event, Limit, Limits, Rule};
use grpclb_engine::frame::{ErrorCode, SettingId};

use crate::support::{REQUEST, RESPONSE, Script, TRAILERS, flags, kinds, millis, raw};

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
fn rapid_reset_is_stopped_after_the_burst() {
    let mut script = Script::client();
    let rounds = until_closed(&mut script, |script, round| {
        script.headers(2 * round + 1, REQUEST, true);
        script.reset(2 * round + 1, ErrorCode::CANCEL);
    });
    assert_eq!(rounds, burst(Limit::RapidReset));
    expect_limit(&mut script, Limit::RapidReset);
}

#[test]
fn a_client_that_cancels_half_of_its_calls_is_never_stopped() {
    let mut script = Script::client();
    for round in 0..5000 {
        script.headers(4 * round + 1, REQUEST, true);
        script.reset(4 * round + 1, ErrorCode::CANCEL);
        script.headers(4 * round + 3, REQUEST, true);
        let stream = script.stream();
        script.side.respond(stream, true);
        script.flush();
        script.side.events.clear();
        script.answers.clear();
    }
    script.expect_fine();
}

#[test]
fn a_client_whose_calls_all_run_into_their_deadline_is_never_stopped() {
    let mut script = Script::client();
    for round in 0..5000 {
        script.headers(2 * round + 1, REQUEST, true);
        script.now += millis(50);
        script.reset(2 * round + 1, ErrorCode::CANCEL);
        script.side.events.clear();
    }
    script.expect_fine();
}

#[test]
fn made_you_reset_is_stopped_after_the_burst() {
    let mut script = Script::client();
    let rounds = until_closed(&mut script, |script, round| {
        script.headers(2 * round + 1, REQUEST, true);
        // Each of them makes us reset the stream, and none is a reset of the peer's.
        match round % 3 {
            0 => script.window_update(2 * round + 1, 0),
            1 => script.window_update(2 * round + 1, (1 << 31) - 1),
            _ => script.data(2 * round + 1, b"", true),
        }
    });
    assert_eq!(rounds, burst(Limit::StreamErrors));
    expect_limit(&mut script, Limit::StreamErrors);
}

#[test]
fn malformed_requests_are_stopped_after_the_burst() {
    let mut script = Script::client();
    until_closed(&mut script, |script, round| {
        script.headers(2 * round + 1, TRAILERS, true);
    });
    expect_limit(&mut script, Limit::StreamErrors);
}

#[test]
fn fields_without_a_name_are_stopped_soon() {
    let mut script = Script::client();
    let rounds = until_closed(&mut script, |script, round| {
        let block = [&script.block(REQUEST)[..], &[0x00, 0x00, 0x00]].concat();
        script.send(&raw(
            kinds::HEADERS,
            flags::END_HEADERS | flags::END_STREAM,
            2 * round + 1,
            &block,
        ));
    });
    assert_eq!(rounds, burst(Limit::ZeroLengthNames));
    expect_limit(&mut script, Limit::ZeroLengthNames);
}

#[test]
fn streams_beyond_the_limit_are_refused_and_then_stopped() {
    let mut script = Script::client_of(Config {
        max_concurrent_streams: 1,
        ..Config::to_client()
    });
    script.headers(1, REQUEST, true);
    let rounds = until_closed(&mut script, |script, round| {
        script.headers(2 * round + 3, REQUEST, true);
    });
    assert_eq!(rounds, burst(Limit::RefusedStreams));
    expect_limit(&mut script, Limit::RefusedStreams);
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
fn an_endless_block_of_large_continuations_is_stopped_at_twice_the_lists_limit() {
    let mut script = Script::client();
    script.send(&raw(kinds::HEADERS, flags::END_STREAM, 1, &[]));
    let rounds = until_closed(&mut script, |script, _| {
        script.send(&raw(kinds::CONTINUATION, 0, 1, &vec![0; 16_384]));
    });
    assert_eq!(rounds, (2 << 20) / 16_384);
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

/// Floods of frames that cost nothing to send, each stopped by its own limit.
#[test]
fn cheap_frames_are_stopped_after_their_bursts() {
    let floods: [(Limit, Vec<u8>); 6] = [
        (Limit::Settings, raw(kinds::SETTINGS, 0, 0, &[])),
        (Limit::Priority, raw(kinds::PRIORITY, 0, 3, &[0; 5])),
        (
            Limit::WindowUpdate,
            raw(kinds::WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()),
        ),
        (Limit::UnknownFrames, raw(0x16, 0, 0, &[])),
        (Limit::EmptyFrames, raw(kinds::DATA, 0, 1, &[])),
        (Limit::ClosedStreams, raw(kinds::RST_STREAM, 0, 3, &[0; 4])),
    ];
    for (limit, frame) in floods {
        let mut script = Script::client();
        script.headers(1, REQUEST, false);
        script.headers(3, REQUEST, true);
        script.reset(3, ErrorCode::CANCEL);
        script.side.events.clear();
        let rounds = until_closed(&mut script, |script, _| script.send(&frame));
        let allowed = burst(limit);
        assert!((allowed - 1..=allowed).contains(&rounds), "{limit}: {rounds}");
        expect_limit(&mut script, limit);
    }
}

#[test]
fn the_first_burst_is_no_longer_than_the_others_however_long_the_connection_was_quiet() {
    let mut script = Script::client();
    script.now += Duration::from_hours(1);
    let rounds = until_closed(&mut script, |script, round| {
        script.headers(2 * round + 1, REQUEST, true);
        script.reset(2 * round + 1, ErrorCode::CANCEL);
    });
    assert_eq!(rounds, burst(Limit::RapidReset));
}

#[test]
fn informational_responses_are_stopped_and_one_for_each_call_is_not() {
    let continues: &[(&str, &str)] = &[(":status", "100")];
    let mut script = Script::server();
    for round in 0..5000 {
        script.side.open(script.now, round, true);
        script.flush();
        script.headers(2 * round + 1, continues, false);
        script.headers(2 * round + 1, RESPONSE, true);
        script.side.events.clear();
        script.answers.clear();
    }
    script.side.open(script.now, 0, true);
    script.flush();
    let rounds = until_closed(&mut script, |script, _| script.headers(10_001, continues, false));
    assert!(
        (1..=2 * burst(Limit::Informational)).contains(&rounds),
        "{rounds}"
    );
    expect_limit(&mut script, Limit::Informational);
}

#[test]
fn large_informational_responses_are_stopped_sooner() {
    let hint = "x".repeat(10_000);
    let hints: &[(&str, &str)] = &[(":status", "103"), ("link", &hint)];
    let mut script = Script::server();
    script.side.open(script.now, 0, true);
    script.flush();
    let rounds = until_closed(&mut script, |script, _| script.headers(1, hints, false));
    assert_eq!(rounds, burst(Limit::Informational) / 3);
    expect_limit(&mut script, Limit::Informational);
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

#[test]
fn settings_that_are_not_acknowledged_in_time_end_the_connection() {
    for role in [
        grpclb_engine::connection::Role::Server,
        grpclb_engine::connection::Role::Client,
    ] {
        let mut script = Script::raw(role, Config::to_client());
        script.now += Duration::from_secs(5);
        script.flush();
        let until = script.now + Limits::default().settings_time;
        assert_eq!(script.side.connection.poll_timeout(), Some(until));
        script.now = until;
        script.side.timeout(until);
        script.flush();
        script.expect_goaway(ErrorCode::SETTINGS_TIMEOUT);
        assert_eq!(script.goaway_debug(), "limit reached: settings_time");
    }
}

#[test]
fn settings_that_move_the_windows_of_many_streams_cost_more() {
    let rounds = |streams: u32| {
        let mut script = Script::client();
        for n in 0..streams {
            script.headers(2 * n + 1, REQUEST, true);
        }
        let rounds = until_closed(&mut script, |script, round| {
            script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 65_000 + round)]);
        });
        expect_limit(&mut script, Limit::Settings);
        rounds
    };
    assert_eq!(rounds(1), burst(Limit::Settings) - 1);
    assert!(rounds(5000) < 12);
}

#[test]
fn settings_with_very_many_values_cost_more() {
    let mut script = Script::client();
    let many = vec![(SettingId(0x77), 1); 2000];
    let rounds = until_closed(&mut script, |script, _| script.settings(&many));
    assert!(rounds < 2, "{rounds}");
    expect_limit(&mut script, Limit::Settings);
}

#[test]
fn pings_are_not_punished_by_rate_as_long_as_their_answers_are_read() {
    let mut script = Script::client();
    for _ in 0..50_000 {
        script.send(&raw(kinds::PING, 0, 0, &[1; 8]));
        script.answers.clear();
    }
    script.expect_fine();
}

#[test]
fn a_limit_may_be_set() {
    let mut config = Config::to_client();
    config.limits.set(
        Limit::Priority,
        Rule {
            burst: 3,
            per_stream: 0,
            per_data: 0,
        },
    );
    let mut script = Script::client_of(config);
    let rounds = until_closed(&mut script, |script, _| {
        script.send(&raw(kinds::PRIORITY, 0, 3, &[0; 5]));
    });
    assert_eq!(rounds, 3);
    expect_limit(&mut script, Limit::Priority);
}

#[test]
fn a_backend_may_refuse_every_stream_without_being_stopped() {
    let mut script = Script::server();
    for round in 0..5000 {
        let now = script.now;
        script.side.open(now, round, true);
        script.flush();
        script.reset(2 * round + 1, ErrorCode::REFUSED_STREAM);
        script.side.events.clear();
        script.answers.clear();
    }
    script.side.open(script.now, 0, true);
    script.flush();
    script.headers(10_001, RESPONSE, true);
    assert!(!script.side.connection.is_closed());
}
