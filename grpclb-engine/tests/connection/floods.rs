//! Floods slow the peer that sends them to a pace, cost it no connection, and no honest peer is slowed.

use std::time::Duration;

use grpclb_engine::connection::{Config, Event, Limit, Limits, Rule};
use grpclb_engine::frame::{ErrorCode, Frame, SettingId};

use crate::support::{REQUEST, RESPONSE, Script, TRAILERS, flags, kinds, millis, raw};

/// Repeats `act` until the connection reads no more; how often it went well. The last one was read, too.
fn until_paused(script: &mut Script, mut act: impl FnMut(&mut Script, u32)) -> u32 {
    for round in 0..200_000 {
        act(script, round);
        if !script.side.connection.wants_input() {
            return round;
        }
        script.answers.clear();
        script.side.events.clear();
    }
    panic!("the flood was never slowed");
}

/// The peer was slowed by this limit, keeps its connection, and goes on at the limit's pace, whatever it sends.
#[track_caller]
fn expect_slowed(script: &mut Script, limit: Limit) {
    assert!(!script.side.connection.is_closed());
    let slowed = script.side.events.iter().find_map(|event| match event {
        Event::Slowed { limit } => Some(*limit),
        _ => None,
    });
    assert_eq!(slowed, Some(limit));
    // Nothing is read until the pause is over.
    script.answers.clear();
    script.send(&raw(kinds::PING, 0, 0, b"are you?"));
    assert!(script.answers.is_empty(), "{:?}", script.answers);
    script.now = script
        .side
        .connection
        .poll_timeout()
        .expect("the end of the pause");
    script.side.timeout(script.now);
    assert!(script.side.connection.wants_input());
    script.expect_alive();
}

/// Repeats `act` for ten seconds, waiting whenever the connection does not read; how often it went well.
fn in_ten_seconds(script: &mut Script, mut act: impl FnMut(&mut Script, u32)) -> u32 {
    let end = script.now + Duration::from_secs(10);
    let mut rounds = 0;
    while script.now < end {
        if script.side.connection.wants_input() {
            act(script, rounds);
            rounds += 1;
        } else {
            script.now = script
                .side
                .connection
                .poll_timeout()
                .expect("the end of the pause");
            script.side.timeout(script.now);
        }
        script.answers.clear();
        script.side.events.clear();
    }
    assert!(!script.side.connection.is_closed());
    rounds
}

#[track_caller]
fn expect_pace(limit: Limit, rounds: u32) {
    let Rule {
        burst, per_second, ..
    } = Limits::default().rule(limit);
    let most = burst + 10 * per_second;
    assert!(
        rounds > most / 2 && rounds <= most + most / 20,
        "{limit}: {rounds} in ten seconds, not about {most}"
    );
}

fn burst(limit: Limit) -> u32 {
    Limits::default().rule(limit).burst
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
fn rapid_reset_is_slowed_to_its_pace_after_the_burst() {
    let attack = |script: &mut Script, round: u32| {
        let headers = script.block(REQUEST);
        let whole = flags::END_HEADERS | flags::END_STREAM;
        let reset = raw(
            kinds::RST_STREAM,
            0,
            2 * round + 1,
            &ErrorCode::CANCEL.0.to_be_bytes(),
        );
        script.send(&[raw(kinds::HEADERS, whole, 2 * round + 1, &headers), reset].concat());
    };
    let mut script = Script::client();
    script.now += Duration::from_hours(1); // quiet time is no credit
    let rounds = until_paused(&mut script, attack);
    assert_eq!(rounds, burst(Limit::RapidReset));
    expect_slowed(&mut script, Limit::RapidReset);
    let mut script = Script::client();
    let rounds = in_ten_seconds(&mut script, attack);
    expect_pace(Limit::RapidReset, rounds);
}

#[test]
fn made_you_reset_is_slowed_to_its_pace_after_the_burst() {
    let attack = |script: &mut Script, round: u32| {
        let id = 2 * round + 1;
        let headers = script.block(REQUEST);
        let whole = flags::END_HEADERS | flags::END_STREAM;
        // Each of them makes us reset the stream, and none is a reset of the peer's.
        let cause = match round % 3 {
            0 => raw(kinds::WINDOW_UPDATE, 0, id, &[0; 4]),
            1 => raw(kinds::WINDOW_UPDATE, 0, id, &((1u32 << 31) - 1).to_be_bytes()),
            _ => raw(kinds::DATA, flags::END_STREAM, id, b""),
        };
        script.send(&[raw(kinds::HEADERS, whole, id, &headers), cause].concat());
    };
    let mut script = Script::client();
    let rounds = until_paused(&mut script, attack);
    assert_eq!(rounds, burst(Limit::StreamErrors));
    expect_slowed(&mut script, Limit::StreamErrors);
    let mut script = Script::client();
    let rounds = in_ten_seconds(&mut script, attack);
    expect_pace(Limit::StreamErrors, rounds);
}

#[test]
fn malformed_requests_are_slowed_and_never_end_the_connection() {
    let nameless = [0x00, 0x00, 0x00];
    for list in [TRAILERS, REQUEST] {
        let attack = |script: &mut Script, round: u32| {
            let block = [&script.block(list)[..], &nameless].concat();
            let whole = flags::END_HEADERS | flags::END_STREAM;
            script.send(&raw(kinds::HEADERS, whole, 2 * round + 1, &block));
        };
        let mut script = Script::client();
        let rounds = in_ten_seconds(&mut script, attack);
        expect_pace(Limit::StreamErrors, rounds);
    }
}

#[test]
fn streams_beyond_the_limit_are_refused_and_then_slowed() {
    let mut script = Script::client_of(Config {
        max_concurrent_streams: 1,
        ..Config::to_client()
    });
    script.headers(1, REQUEST, true);
    let rounds = until_paused(&mut script, |script, round| {
        script.headers(2 * round + 3, REQUEST, true);
    });
    assert_eq!(rounds, burst(Limit::RefusedStreams));
    expect_slowed(&mut script, Limit::RefusedStreams);
}

/// Floods of frames that cost nothing to send, each slowed by its own limit.
#[test]
fn cheap_frames_are_slowed_to_their_pace_after_their_bursts() {
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
        let quiet = || {
            let mut script = Script::client();
            script.headers(1, REQUEST, false);
            script.headers(3, REQUEST, true);
            script.reset(3, ErrorCode::CANCEL);
            script.side.events.clear();
            script
        };
        let mut script = quiet();
        let rounds = until_paused(&mut script, |script, _| script.send(&frame));
        let allowed = burst(limit);
        assert!((allowed - 1..=allowed).contains(&rounds), "{limit}: {rounds}");
        expect_slowed(&mut script, limit);
        let mut script = quiet();
        let rounds = in_ten_seconds(&mut script, |script, _| script.send(&frame));
        expect_pace(limit, rounds);
    }
}

#[test]
fn header_lists_that_are_too_long_are_slowed_by_the_bytes_of_their_blocks() {
    // A field of 4000 bytes goes to the table, and is then named 7,000 times: 28 MB from 11 KB, three units each.
    let value = [&b"\x40\x01b\x7f\xa1\x1e"[..], &[b'v'; 4000]].concat();
    let bomb = |script: &mut Script, round: u32| {
        let block = [&b"\x83\x86\x84\x01\x01a"[..], &value, &[0xbe; 7000]].concat();
        let whole = flags::END_HEADERS | flags::END_STREAM;
        script.send(&raw(kinds::HEADERS, whole, 2 * round + 1, &block));
        let stream = script.stream();
        script.side.connection.reset(stream, ErrorCode::CANCEL);
        script.flush();
    };
    let mut script = Script::client();
    let rounds = until_paused(&mut script, bomb);
    assert_eq!(rounds, burst(Limit::OversizedLists) / 3);
    expect_slowed(&mut script, Limit::OversizedLists);
    let mut script = Script::client();
    let rounds = in_ten_seconds(&mut script, bomb);
    expect_pace(Limit::OversizedLists, 3 * rounds);
}

#[test]
fn informational_responses_of_one_stream_are_bounded_and_cost_that_stream_alone() {
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
    let hint = "x".repeat(10_000);
    let hints: &[(&str, &str)] = &[(":status", "103"), ("link", &hint)];
    for (id, list, most) in [(10_001, continues, 1000), (10_003, hints, 333)] {
        script.side.open(script.now, 0, true);
        script.flush();
        for _ in 0..most {
            script.headers(id, list, false);
        }
        let told = |event: &&Event| matches!(event, Event::Headers { .. });
        assert_eq!(script.side.events.iter().filter(told).count(), most);
        script.side.events.clear();
        script.headers(id, list, false);
        assert!(
            matches!(
                script.side.events[..],
                [
                    Event::Reset {
                        code: ErrorCode::ENHANCE_YOUR_CALM,
                        ..
                    },
                    Event::Slowed {
                        limit: Limit::Informational
                    },
                ]
            ),
            "{:?}",
            script.side.events
        );
        script.side.events.clear();
        script.expect_alive();
        assert!(script.side.connection.wants_input(), "other streams do not wait");
    }
}

#[test]
fn a_call_that_reports_its_progress_for_a_day_is_not_stopped() {
    let processing: &[(&str, &str)] = &[(":status", "102")];
    let mut script = Script::server();
    script.side.open(script.now, 0, true);
    script.flush();
    for _ in 0..24 * 3600 {
        script.now += Duration::from_secs(1);
        script.headers(1, processing, false);
        script.side.events.clear();
    }
    script.headers(1, RESPONSE, true);
    assert_eq!(script.side.connection.streams(), 0);
    script.expect_fine();
}

#[test]
fn settings_that_are_never_acknowledged_are_counted_once_and_end_nothing() {
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
        assert!(
            matches!(
                script.side.events[..],
                [Event::Slowed {
                    limit: Limit::SettingsTime
                }]
            ),
            "{:?}",
            script.side.events
        );
        assert_eq!(script.side.connection.poll_timeout(), None, "once");
        assert!(!script.side.connection.is_closed() && script.side.connection.wants_input());
    }
}

#[test]
fn a_peer_that_acknowledges_settings_late_or_never_may_use_the_windows_that_they_gave() {
    let mut script = Script::raw(
        grpclb_engine::connection::Role::Server,
        Config {
            initial_window: 100_000,
            ..Config::to_client()
        },
    );
    script.send(grpclb_engine::frame::PREFACE);
    script.settings(&[]);
    script.headers(1, REQUEST, false);
    for _ in 0..6 {
        script.data(1, &[0; 16_384], false);
    }
    script.now += Duration::from_secs(75);
    script.side.timeout(script.now);
    script.headers(3, REQUEST, false);
    script.data(3, &[0; 16_384], false);
    script
        .answers
        .retain(|frame| matches!(frame, Frame::RstStream { .. } | Frame::GoAway { .. }));
    script.expect_fine();
    // Late is not never.
    script.send(&raw(kinds::SETTINGS, flags::ACK, 0, &[]));
    for _ in 0..5 {
        script.data(3, &[0; 16_384], false);
    }
    script.expect_fine();
    script.data(3, &[0; 16_384], false);
    script.expect_reset(3, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn settings_that_move_the_windows_of_many_streams_cost_their_opener_more() {
    let flood = |script: &mut Script, round: u32| {
        script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 65_000 + round)]);
    };
    let rounds = |streams: u32| {
        let mut script = Script::client();
        for n in 0..streams {
            script.headers(2 * n + 1, REQUEST, true);
        }
        script.side.events.clear();
        let rounds = until_paused(&mut script, flood);
        expect_slowed(&mut script, Limit::Settings);
        rounds
    };
    assert_eq!(rounds(1), burst(Limit::Settings) - 1);
    assert!(rounds(5000) < 12);
    // Streams that we opened are not the server's doing.
    let mut script = Script::server();
    (0..5000).for_each(|tag| {
        script.side.open(script.now, tag, true);
    });
    script.flush();
    assert_eq!(until_paused(&mut script, flood), burst(Limit::Settings) - 1);
    expect_slowed(&mut script, Limit::Settings);
}

#[test]
fn settings_with_very_many_values_cost_more() {
    let mut script = Script::client();
    let many = vec![(SettingId(0x77), 1); 2000];
    let rounds = until_paused(&mut script, |script, _| script.settings(&many));
    assert!(rounds < 2, "{rounds}");
    expect_slowed(&mut script, Limit::Settings);
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
    config.limits.set(Limit::Priority, Rule::new(3, 1));
    let mut script = Script::client_of(config);
    let rounds = until_paused(&mut script, |script, _| {
        script.send(&raw(kinds::PRIORITY, 0, 3, &[0; 5]));
    });
    assert_eq!(rounds, 3);
    expect_slowed(&mut script, Limit::Priority);
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

#[test]
fn a_client_that_takes_its_response_byte_by_byte_is_slowed() {
    let dribbles: [fn(&mut Script, u32); 2] = [
        |script, _| script.window_update(1, 1),
        |script, round| script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, round + 1)]),
    ];
    for (dribble, limit) in dribbles.into_iter().zip([Limit::WindowUpdate, Limit::Settings]) {
        let mut script = Script::client();
        script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 0)]);
        script.headers(1, REQUEST, true);
        let stream = script.stream();
        script.side.respond(stream, false);
        script.side.data(stream, &vec![5; 200_000], true);
        script.flush();
        script.answers.clear();
        let rounds = until_paused(&mut script, |script, round| {
            dribble(script, round);
            let byte = matches!(&script.answers[..], [.., Frame::Data { chunk, .. }] if chunk.len() == 1);
            assert!(
                byte || !script.side.connection.wants_input(),
                "{:?}",
                script.answers
            );
        });
        assert!(rounds <= burst(limit), "{limit}: {rounds}");
        expect_slowed(&mut script, limit);
    }
}
