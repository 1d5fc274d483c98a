//! RFC 9113 sections 6.1 to 6.8: frame types but for windows and continuations. (h2spec 6.1 to 6.8)

use grpclb_engine::connection::{Cause, Config, Event};
use grpclb_engine::frame::{ErrorCode, Frame, SettingId, StreamId};

use crate::support::{REQUEST, RESPONSE, Script, TRAILERS, flags, kinds, raw};

fn setting(id: SettingId, value: u32) -> Vec<u8> {
    [&id.0.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

fn data_frames(script: &Script) -> Vec<usize> {
    let sizes = script.answers.iter().filter_map(|frame| match frame {
        Frame::Data { chunk, .. } => Some(chunk.len()),
        _ => None,
    });
    sizes.collect()
}

// ---- 6.1 DATA ----

#[test]
fn s6_1_data_on_stream_0_ends_the_connection() {
    let mut script = Script::client();
    script.data(0, b"data", true);
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s6_1_padding_is_dropped_and_credited() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    let stream = script.stream();
    let payload = [&[100][..], b"data", &[0; 100]].concat();
    for _ in 0..2000 {
        script.send(&raw(kinds::DATA, flags::PADDED, 1, &payload));
        script.side.connection.release(stream, 4);
    }
    assert_eq!(script.side.received(stream).len(), 4 * 2000);
    script.data(1, b"", true);
    let windows = script.side.connection.windows(None);
    assert_eq!(windows.held, 0);
    script.expect_fine();
}

#[test]
fn s6_1_padding_longer_than_the_frame_ends_the_connection() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.send(&raw(kinds::DATA, flags::PADDED, 1, &[5, 1, 2, 3, 4]));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

// ---- 6.2 HEADERS ----

#[test]
fn s6_2_headers_on_stream_0_end_the_connection() {
    let mut script = Script::client();
    script.headers(0, REQUEST, true);
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s6_2_padding_of_headers_is_dropped_and_bounded() {
    let mut script = Script::client();
    let block = script.block(REQUEST);
    let all = flags::END_HEADERS | flags::END_STREAM | flags::PADDED;
    script.send(&raw(
        kinds::HEADERS,
        all,
        1,
        &[&[9][..], &block, &[0; 9]].concat(),
    ));
    assert_eq!(script.side.requests().len(), 1);
    script.send(&raw(kinds::HEADERS, all, 3, &[200, 0x82]));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

// ---- 6.3 PRIORITY ----

#[test]
fn s6_3_priority_on_stream_0_ends_the_connection() {
    let mut script = Script::client();
    script.send(&raw(kinds::PRIORITY, 0, 0, &[0; 5]));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s6_3_priority_of_another_length_is_a_stream_error() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.send(&raw(kinds::PRIORITY, 0, 1, &[0; 4]));
    script.expect_reset(1, ErrorCode::FRAME_SIZE_ERROR);
}

// ---- 6.4 RST_STREAM ----

#[test]
fn s6_4_reset_of_stream_0_or_of_an_idle_stream_ends_the_connection() {
    for stream in [0, 1] {
        let mut script = Script::client();
        script.reset(stream, ErrorCode::CANCEL);
        script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn s6_4_reset_of_another_length_ends_the_connection() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.send(&raw(kinds::RST_STREAM, 0, 1, &[0; 3]));
    script.expect_goaway(ErrorCode::FRAME_SIZE_ERROR);
}

#[test]
fn s6_4_reset_keeps_its_code_unknown_ones_included() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.reset(1, ErrorCode(0xdead));
    assert!(matches!(
        script.side.events.last(),
        Some(Event::Reset {
            code: ErrorCode(0xdead),
            cause: Cause::Peer,
            ..
        })
    ));
    assert_eq!(script.side.connection.streams(), 0);
    script.expect_fine();
}

// ---- 6.5 SETTINGS ----

#[test]
fn s6_5_wrong_settings_frames_end_the_connection() {
    for (frame, code) in [
        (
            raw(kinds::SETTINGS, flags::ACK, 0, &[0; 6]),
            ErrorCode::FRAME_SIZE_ERROR,
        ),
        (raw(kinds::SETTINGS, 0, 1, &[0; 6]), ErrorCode::PROTOCOL_ERROR),
        (raw(kinds::SETTINGS, 0, 0, &[0; 5]), ErrorCode::FRAME_SIZE_ERROR),
        (
            raw(kinds::SETTINGS, flags::ACK, 0, &[]),
            ErrorCode::PROTOCOL_ERROR,
        ),
    ] {
        let mut script = Script::client();
        script.send(&frame);
        script.expect_goaway(code);
    }
}

#[test]
fn s6_5_2_values_out_of_range_end_the_connection_with_their_own_codes() {
    for (id, value, code) in [
        (SettingId::ENABLE_PUSH, 2, ErrorCode::PROTOCOL_ERROR),
        (
            SettingId::INITIAL_WINDOW_SIZE,
            1 << 31,
            ErrorCode::FLOW_CONTROL_ERROR,
        ),
        (SettingId::MAX_FRAME_SIZE, 16_383, ErrorCode::PROTOCOL_ERROR),
        (SettingId::MAX_FRAME_SIZE, 1 << 24, ErrorCode::PROTOCOL_ERROR),
    ] {
        let mut script = Script::client();
        script.settings(&[(id, value)]);
        script.expect_goaway(code);
    }
    let mut script = Script::server();
    script.settings(&[(SettingId::ENABLE_PUSH, 1)]);
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s6_5_2_unknown_settings_are_ignored_and_acknowledged() {
    let mut script = Script::client();
    script.settings(&[(SettingId(0xff), 1), (SettingId(0x4a4a), u32::MAX)]);
    assert_eq!(script.answers, [Frame::SettingsAck]);
    script.expect_fine();
}

#[test]
fn s6_5_3_values_take_effect_in_order_and_each_frame_is_acknowledged_once() {
    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    let stream = script.stream();
    script.settings(&[
        (SettingId::INITIAL_WINDOW_SIZE, 100),
        (SettingId::INITIAL_WINDOW_SIZE, 1),
    ]);
    script.side.respond(stream, false);
    script.side.data(stream, b"data", true);
    script.flush();
    assert_eq!(data_frames(&script), [1]);
    assert_eq!(
        script
            .answers
            .iter()
            .filter(|frame| **frame == Frame::SettingsAck)
            .count(),
        1
    );
}

#[test]
fn s6_5_3_our_own_settings_hold_when_they_are_acknowledged() {
    let config = Config {
        initial_window: 10,
        ..Config::to_client()
    };
    let mut script = Script::raw(grpclb_engine::connection::Role::Server, config);
    script.send(grpclb_engine::frame::PREFACE);
    script.settings(&[]);
    script.headers(1, REQUEST, false);
    let stream = script.stream();
    script.data(1, &[0; 60], false);
    script.expect_fine();
    script.send(&raw(kinds::SETTINGS, flags::ACK, 0, &[]));
    let windows = script.side.connection.windows(Some(stream));
    assert_eq!((windows.recv, windows.target, windows.held), (-50, 10, 60));
    // Nothing may come until what came is released.
    script.side.connection.release(stream, 60);
    script.flush();
    assert_eq!(script.side.connection.windows(Some(stream)).recv, 10);
    script.data(1, &[0; 11], false);
    script.expect_reset(1, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn s6_5_2_header_table_size_and_max_frame_size_of_the_peer_are_used() {
    let mut script = Script::client();
    script.settings(&[
        (SettingId::HEADER_TABLE_SIZE, 0),
        (SettingId::MAX_FRAME_SIZE, 20_000),
    ]);
    script.headers(1, REQUEST, true);
    let stream = script.stream();
    script.side.respond(stream, false);
    script.side.data(stream, &vec![1; 30_000], true);
    script.flush();
    assert_eq!(data_frames(&script), [20_000, 10_000]);
    let Some(Frame::Headers { fragment, .. }) = script
        .answers
        .iter()
        .find(|frame| matches!(frame, Frame::Headers { .. }))
    else {
        panic!("a response");
    };
    assert_eq!(
        fragment[0], 0x20,
        "the block begins by shrinking the table to nothing"
    );
}

// ---- 6.6 PUSH_PROMISE ----

#[test]
fn s6_6_push_promise_ends_the_connection_whoever_sends_it() {
    let mut script = Script::server();
    let now = script.now;
    script.side.open(now, 1, true);
    script.flush();
    let payload = [&2u32.to_be_bytes()[..], &[0x82]].concat();
    script.send(&raw(kinds::PUSH_PROMISE, flags::END_HEADERS, 1, &payload));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);

    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.send(&raw(kinds::PUSH_PROMISE, flags::END_HEADERS, 1, &payload));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

// ---- 6.7 PING ----

#[test]
fn s6_7_ping_is_answered_with_its_payload_before_what_else_is_queued() {
    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    let stream = script.stream();
    script.side.respond(stream, true);
    script.send(&raw(kinds::PING, 0, 0, b"payload!"));
    assert_eq!(
        script.answers[0],
        Frame::Ping {
            ack: true,
            payload: *b"payload!"
        }
    );
}

#[test]
fn s6_7_an_acknowledgement_that_nobody_asked_for_is_ignored() {
    let mut script = Script::client();
    script.send(&raw(kinds::PING, flags::ACK, 0, b"invalid!"));
    assert!(script.answers.is_empty());
    script.expect_fine();
}

#[test]
fn s6_7_wrong_pings_end_the_connection() {
    for (frame, code) in [
        (raw(kinds::PING, 0, 1, &[0; 8]), ErrorCode::PROTOCOL_ERROR),
        (raw(kinds::PING, 0, 0, &[0; 6]), ErrorCode::FRAME_SIZE_ERROR),
    ] {
        let mut script = Script::client();
        script.send(&frame);
        script.expect_goaway(code);
    }
}

// ---- 6.8 GOAWAY ----

#[test]
fn s6_8_goaway_on_a_stream_ends_the_connection() {
    let mut script = Script::client();
    script.send(&raw(kinds::GOAWAY, 0, 1, &[0; 8]));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s6_8_streams_above_goaways_last_one_are_told_and_the_others_go_on() {
    let mut script = Script::server();
    let now = script.now;
    let first = script.side.open(now, 1, true);
    let second = script.side.open(now, 2, true);
    script.flush();
    let queued = script.side.open(now, 3, true);
    let goaway = [&1u32.to_be_bytes()[..], &0u32.to_be_bytes(), b"max_age"].concat();
    script.send(&raw(kinds::GOAWAY, 0, 0, &goaway));
    let events = script.side.take_events();
    let [
        Event::GoAway {
            last_stream,
            code: ErrorCode::NO_ERROR,
            debug,
        },
        resets @ ..,
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((last_stream.get(), &debug[..]), (1, &b"max_age"[..]));
    let resets: Vec<_> = resets
        .iter()
        .map(|event| match event {
            Event::Reset {
                stream,
                tag,
                cause: Cause::GoAway,
                left,
                ..
            } => (*stream, *tag, *left),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(resets, [(second, 2, true), (queued, 3, false)]);
    assert!(!script.side.connection.can_open());
    script.headers(1, RESPONSE, false);
    script.headers(1, TRAILERS, true);
    assert!(script.side.ended(first));
    assert!(script.side.connection.is_closed(), "the last stream has ended");
    assert!(matches!(
        script.side.events.last(),
        Some(Event::Closed {
            code: ErrorCode::NO_ERROR,
            ..
        })
    ));
}

#[test]
fn s6_8_a_server_shuts_down_in_two_steps_and_loses_no_stream_in_between() {
    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    let now = script.now;
    script.side.connection.shutdown(now);
    script.flush();
    let Frame::GoAway {
        last_stream: StreamId::MAX,
        code: ErrorCode::NO_ERROR,
        ..
    } = script.answers[0]
    else {
        panic!("{:?}", script.answers)
    };
    let Frame::Ping { ack: false, payload } = script.answers[1] else {
        panic!("{:?}", script.answers)
    };
    // On its way when the first GOAWAY came.
    script.headers(3, REQUEST, true);
    assert_eq!(script.side.requests().len(), 2);
    script.answers.clear();
    script.send(&raw(kinds::PING, flags::ACK, 0, &payload));
    // Begun before it came and sent behind the acknowledgement, as the h2 crate does.
    script.headers(5, REQUEST, true);
    assert_eq!(script.side.requests().len(), 3);
    let [Frame::Ping { ack: false, payload }] = script.answers[..] else {
        panic!("{:?}", script.answers)
    };
    script.answers.clear();
    script.send(&raw(kinds::PING, flags::ACK, 0, &payload));
    assert!(matches!(script.answers[0], Frame::GoAway { last_stream, .. } if last_stream.get() == 5));
    script.headers(7, REQUEST, true);
    assert_eq!(script.side.requests().len(), 3, "too late: ignored");
    script.data(7, b"ignored as well", true);
    for stream in script.side.requests() {
        script.side.respond(stream, true);
    }
    script.flush();
    assert!(script.side.connection.is_closed());
    assert_eq!(
        script
            .answers
            .iter()
            .filter(|frame| matches!(frame, Frame::GoAway { .. }))
            .count(),
        1
    );
}

#[test]
fn s6_8_a_client_that_answers_no_ping_is_still_told_the_last_stream() {
    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    script.side.connection.shutdown(script.now);
    script.flush();
    script.answers.clear();
    script.now = script.side.connection.poll_timeout().expect("a deadline");
    script.side.timeout(script.now);
    script.flush();
    assert!(matches!(script.answers[0], Frame::GoAway { last_stream, .. } if last_stream.get() == 1));
}

#[test]
fn settings_are_written_as_the_rfc_lays_them_out() {
    let mut script = Script::client();
    script.send(&raw(
        kinds::SETTINGS,
        0,
        0,
        &setting(SettingId::MAX_CONCURRENT_STREAMS, 7),
    ));
    assert_eq!(script.side.connection.peer_settings().max_concurrent_streams, 7);
    script.expect_fine();
}
