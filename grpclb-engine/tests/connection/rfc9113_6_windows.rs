//! RFC 9113 sections 6.9 and 6.10: windows, and field blocks in several frames. (h2spec 6.9, 6.9.1, 6.9.2, 6.10)

use grpclb_engine::connection::Config;
use grpclb_engine::frame::{ErrorCode, Frame, SettingId, StreamId};

use crate::support::{REQUEST, Script, flags, kinds, millis, raw};

fn data_frames(script: &Script) -> Vec<usize> {
    let sizes = script.answers.iter().filter_map(|frame| match frame {
        Frame::Data { chunk, .. } => Some(chunk.len()),
        _ => None,
    });
    sizes.collect()
}

// ---- 6.9 WINDOW_UPDATE ----

#[test]
fn s6_9_an_increment_of_0_is_an_error_of_the_connection_or_of_the_stream() {
    let mut script = Script::client();
    script.window_update(0, 0);
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.window_update(1, 0);
    script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s6_9_another_length_ends_the_connection() {
    let mut script = Script::client();
    script.send(&raw(kinds::WINDOW_UPDATE, 0, 0, &[0; 3]));
    script.expect_goaway(ErrorCode::FRAME_SIZE_ERROR);
}

#[test]
fn s6_9_1_a_window_above_its_maximum_is_an_error_of_the_connection_or_of_the_stream() {
    let mut script = Script::client();
    script.window_update(0, (1 << 31) - 1);
    script.expect_goaway(ErrorCode::FLOW_CONTROL_ERROR);
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.window_update(1, (1 << 31) - 1);
    script.expect_reset(1, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn s6_9_1_data_waits_for_the_streams_window() {
    let mut script = Script::client();
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 1)]);
    script.headers(1, REQUEST, true);
    let stream = script.stream();
    script.side.respond(stream, false);
    script.side.data(stream, b"abcdef", false);
    script.side.trailers(stream);
    script.flush();
    assert_eq!(data_frames(&script), [1]);
    script.window_update(1, 2);
    assert_eq!(data_frames(&script), [1, 2]);
    script.window_update(1, 1000);
    assert_eq!(data_frames(&script), [1, 2, 3]);
    assert!(matches!(
        script.answers.last(),
        Some(Frame::Headers { end_stream: true, .. })
    ));
}

#[test]
fn s6_9_1_data_waits_for_the_connections_window_and_headers_do_not() {
    let mut script = Script::client();
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 1 << 20)]);
    script.headers(1, REQUEST, true);
    let first = script.stream();
    script.side.respond(first, false);
    script.side.data(first, &vec![0; 70_000], true);
    script.flush();
    assert_eq!(data_frames(&script).iter().sum::<usize>(), 65_535);
    script.answers.clear();
    script.headers(3, REQUEST, true);
    let second = script.stream();
    script.side.respond(second, false);
    script.side.data(second, b"waits", true);
    script.flush();
    assert!(
        matches!(script.answers[..], [Frame::Headers { .. }]),
        "{:?}",
        script.answers
    );
    assert_eq!(script.side.connection.blocked_streams(), 2);
    script.window_update(0, 100_000);
    assert_eq!(data_frames(&script), [70_000 - 65_535, 5]);
}

#[test]
fn s6_9_1_more_than_a_window_is_an_error_of_the_stream_or_of_the_connection() {
    let mut script = Script::client_of(Config {
        initial_window: 1000,
        ..Config::to_client()
    });
    script.headers(1, REQUEST, false);
    script.data(1, &[0; 1001], false);
    script.expect_reset(1, ErrorCode::FLOW_CONTROL_ERROR);

    let mut script = Script::client_of(Config {
        connection_window: 65_535,
        ..Config::to_client()
    });
    script.side.connection.hold_connection_credit(true);
    script.headers(1, REQUEST, false);
    script.headers(3, REQUEST, false);
    for _ in 0..4 {
        script.data(1, &[0; 10_000], false);
    }
    for _ in 0..2 {
        script.data(3, &[0; 10_000], false);
    }
    script.expect_fine();
    script.data(3, &[0; 10_000], false);
    script.expect_goaway(ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn s6_9_credit_that_was_held_back_is_given_at_once() {
    let mut script = Script::client_of(Config {
        connection_window: 65_535,
        ..Config::to_client()
    });
    script.side.connection.hold_connection_credit(true);
    script.headers(1, REQUEST, false);
    for _ in 0..4 {
        script.data(1, &[0; 10_000], false);
    }
    assert!(script.answers.is_empty());
    script.side.connection.hold_connection_credit(false);
    script.flush();
    assert_eq!(
        script.answers,
        [Frame::WindowUpdate {
            stream: StreamId::CONNECTION,
            increment: 40_000
        }]
    );
}

#[test]
fn s6_9_2_a_lower_initial_window_may_make_windows_negative() {
    let mut script = Script::client();
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 3)]);
    script.headers(1, REQUEST, true);
    let stream = script.stream();
    script.side.respond(stream, false);
    script.side.data(stream, b"abcdef", true);
    script.flush();
    assert_eq!(data_frames(&script), [3]);
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 2)]);
    assert_eq!(script.side.connection.windows(Some(stream)).send, -1);
    script.window_update(1, 2);
    assert_eq!(data_frames(&script), [3, 1]);
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 100)]);
    assert_eq!(data_frames(&script), [3, 1, 2]);
}

#[test]
fn s6_9_1_an_empty_frame_that_ends_the_stream_waits_for_no_window_of_the_peers() {
    // The stream's window below zero; the connection's used up; both.
    for (initial, body) in [(2, 3), (100_000, 65_535), (65_000, 65_535)] {
        let mut script = Script::client();
        script.headers(1, REQUEST, true);
        script.headers(3, REQUEST, true);
        let [stream, other] = script.side.requests()[..] else {
            panic!("two requests")
        };
        for stream in [stream, other] {
            script.side.respond(stream, false);
        }
        script.side.data(stream, &vec![7; body], false);
        script.flush();
        script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, initial)]);
        script.answers.clear();
        script.side.data(stream, b"", true);
        script.side.trailers(other);
        script.flush();
        let [
            Frame::Data {
                ref chunk,
                end_stream: true,
                ..
            },
            Frame::Headers { end_stream: true, .. },
        ] = script.answers[..]
        else {
            panic!("{initial} {body}: {:?}", script.answers)
        };
        assert!(chunk.is_empty());
        assert_eq!(script.side.connection.streams(), 0);
    }
}

#[test]
fn s6_9_1_an_empty_frame_of_the_peers_is_right_on_a_window_below_zero() {
    for end in [true, false] {
        let mut script = Script::client();
        script.headers(1, REQUEST, false);
        let stream = script.stream();
        script.data(1, &[7; 10_000], false);
        script.side.connection.set_initial_window(5000);
        script.flush();
        script.send(&raw(kinds::SETTINGS, flags::ACK, 0, &[]));
        assert!(script.side.connection.windows(Some(stream)).recv < 0 || end);
        let below = script.side.connection.windows(Some(stream)).recv;
        script.answers.clear();
        script.data(1, b"", end);
        assert_eq!(script.side.ended(stream), end, "a window of {below}");
        script.headers(1, &[("x-trailer", "behind it")], true);
        if end {
            script.expect_reset(1, ErrorCode::STREAM_CLOSED);
        } else {
            script.expect_fine();
        }
    }
}

#[test]
fn s6_9_2_an_initial_window_that_overflows_a_stream_ends_the_connection() {
    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    script.window_update(1, 1 << 30);
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, (1 << 31) - 1)]);
    script.expect_goaway(ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn s6_9_2_the_connections_window_is_no_matter_of_settings() {
    let mut script = Script::client();
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 0)]);
    assert_eq!(script.side.connection.send_window(), 65_535);
}

// ---- 6.10 CONTINUATION ----

#[test]
fn s6_10_a_block_in_many_frames_is_one_block() {
    let mut script = Script::client();
    let block = script.block(REQUEST);
    let (first, rest) = block.split_at(1);
    script.send(&raw(kinds::HEADERS, flags::END_STREAM, 1, first));
    let last = rest.len() - 1;
    for (at, byte) in rest.iter().enumerate() {
        let end = if at == last { flags::END_HEADERS } else { 0 };
        script.send(&raw(kinds::CONTINUATION, end, 1, &[*byte]));
    }
    let stream = script.stream();
    assert!(script.side.ended(stream));
    script.expect_fine();
}

#[test]
fn s6_10_continuation_without_a_block_ends_the_connection() {
    for stream in [0, 1] {
        let mut script = Script::client();
        script.headers(1, REQUEST, false);
        script.send(&raw(kinds::CONTINUATION, flags::END_HEADERS, stream, &[]));
        script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn our_own_long_blocks_are_cut_to_the_peers_frame_size() {
    let mut script = Script::server();
    let long = "v".repeat(40_000);
    let mut pairs = REQUEST.to_vec();
    pairs.push(("x-long", &long));
    let headers = script.side.headers(&pairs);
    script.side.connection.open(script.now, 1, headers, true).unwrap();
    script.now += millis(1);
    script.flush();
    let [
        Frame::Headers {
            end_headers: false,
            fragment,
            ..
        },
        Frame::Continuation { .. },
        ..,
    ] = &script.answers[..]
    else {
        panic!("{:?}", script.answers)
    };
    assert_eq!(fragment.len(), 16_384);
    assert!(matches!(
        script.answers.last(),
        Some(Frame::Continuation {
            end_headers: true,
            ..
        })
    ));
}

#[test]
fn s6_9_a_byte_for_the_connection_is_work_for_one_of_the_streams_that_wait_in_their_order() {
    let mut script = Script::client();
    for n in 0..5 {
        script.headers(2 * n + 1, REQUEST, true);
        let stream = script.stream();
        script.side.respond(stream, false);
        script.side.data(stream, &vec![n as u8; 60_000], true);
    }
    script.flush();
    // The first has used the window up.
    assert_eq!(script.side.connection.blocked_streams(), 4);
    let mut served = Vec::new();
    for _ in 0..10 {
        script.answers.clear();
        script
            .side
            .receive(script.now, &raw(kinds::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
        assert_eq!(
            script.side.connection.blocked_streams(),
            4,
            "none is looked at before its turn"
        );
        assert!(script.side.connection.wants_transmit());
        script.flush();
        assert!(!script.side.connection.wants_transmit());
        let [Frame::Data { stream, chunk, .. }] = &script.answers[..] else {
            panic!("{:?}", script.answers)
        };
        assert_eq!(chunk.len(), 1);
        served.push(stream.get());
    }
    assert_eq!(served[..4], served[4..8], "in turn");
    served[..4].sort_unstable();
    assert_eq!(served[..4], [3, 5, 7, 9]);
    // All of it leaves when there is room.
    script.window_update(0, 1 << 20);
    assert_eq!(script.side.connection.blocked_streams(), 0);
    assert_eq!(script.side.connection.streams(), 0);
}
