//! RFC 9113 section 5: stream states, ids, limits on concurrency, errors. (h2spec 5.1, 5.1.1, 5.1.2, 5.3, 5.4, 5.5)

use grpclb_engine::connection::{Cause, Config, Event, OpenError};
use grpclb_engine::frame::{ErrorCode, Frame, SettingId};

use crate::support::{REQUEST, RESPONSE, Script, TRAILERS, flags, kinds, millis, raw};

/// An end of each frame type that concerns a stream.
fn data(stream: u32) -> Vec<u8> {
    raw(kinds::DATA, flags::END_STREAM, stream, b"data")
}
fn reset(stream: u32) -> Vec<u8> {
    raw(kinds::RST_STREAM, 0, stream, &ErrorCode::CANCEL.0.to_be_bytes())
}
fn window_update(stream: u32) -> Vec<u8> {
    raw(kinds::WINDOW_UPDATE, 0, stream, &100u32.to_be_bytes())
}
fn priority(stream: u32) -> Vec<u8> {
    raw(kinds::PRIORITY, 0, stream, &[0, 0, 0, 0, 255])
}

#[test]
fn s5_1_idle_frames_other_than_headers_and_priority_end_the_connection() {
    for frame in [
        data(1),
        reset(1),
        window_update(1),
        raw(kinds::CONTINUATION, flags::END_HEADERS, 1, &[]),
    ] {
        let mut script = Script::client();
        script.send(&frame);
        script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
    }
    let mut script = Script::client();
    script.send(&priority(1));
    script.expect_fine();
}

#[test]
fn s5_1_idle_streams_of_ours_take_no_frame() {
    for frame in [data(1), reset(1), window_update(1), data(2), window_update(2)] {
        let mut script = Script::server();
        script.send(&frame);
        script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
    }
    let mut script = Script::server();
    script.headers(1, RESPONSE, true);
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s5_1_half_closed_remote_takes_window_update_priority_and_reset_only() {
    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    script.data(1, b"late", false);
    script.expect_reset(1, ErrorCode::STREAM_CLOSED);
    assert!(matches!(
        script.side.events.last(),
        Some(Event::Reset {
            cause: Cause::Local(_),
            code: ErrorCode::STREAM_CLOSED,
            ..
        })
    ));

    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    script.headers(1, TRAILERS, true);
    script.expect_reset(1, ErrorCode::STREAM_CLOSED);

    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    script.send(&raw(kinds::CONTINUATION, flags::END_HEADERS, 1, &[]));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);

    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    script.send(&window_update(1));
    script.send(&priority(1));
    script.expect_fine();
    script.send(&reset(1));
    script.expect_fine();
    assert!(matches!(
        script.side.events.last(),
        Some(Event::Reset {
            cause: Cause::Peer,
            ..
        })
    ));
}

#[test]
fn s5_1_half_closed_local_goes_on_receiving() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    let stream = script.stream();
    script.side.respond(stream, true);
    script.flush();
    script.data(1, b"the request goes on", true);
    assert_eq!(script.side.received(stream), b"the request goes on");
    assert_eq!(script.side.connection.streams(), 0);
    script.expect_fine();
}

#[test]
fn s5_1_closed_by_both_ends_data_and_headers_end_the_connection() {
    let ended = || {
        let mut script = Script::client();
        script.headers(1, REQUEST, true);
        let stream = script.stream();
        script.side.respond(stream, true);
        script.flush();
        script
    };
    let mut script = ended();
    script.data(1, b"late", false);
    script.expect_goaway(ErrorCode::STREAM_CLOSED);
    let mut script = ended();
    script.headers(1, TRAILERS, true);
    script.expect_goaway(ErrorCode::STREAM_CLOSED);
    let mut script = ended();
    for frame in [window_update(1), priority(1), reset(1)] {
        script.send(&frame);
    }
    script.expect_fine();
}

#[test]
fn s5_1_closed_by_the_peers_reset_data_and_headers_are_answered_once() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.send(&reset(1));
    script.data(1, b"late", false);
    script.data(1, b"later", false);
    script.expect_reset(1, ErrorCode::STREAM_CLOSED);

    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.send(&reset(1));
    script.headers(1, TRAILERS, true);
    script.expect_reset(1, ErrorCode::STREAM_CLOSED);
}

#[test]
fn s5_1_after_our_reset_whatever_was_on_its_way_is_ignored() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    let stream = script.stream();
    script.side.connection.reset(stream, ErrorCode::CANCEL);
    script.flush();
    script.side.take_events();
    script.data(1, b"on its way", false);
    script.send(&window_update(1));
    script.headers(1, TRAILERS, true);
    script.send(&reset(1));
    script.expect_reset(1, ErrorCode::CANCEL);
    assert!(script.side.events.is_empty());
}

#[test]
fn s5_1_data_of_closed_streams_is_credited_to_the_connection() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    let stream = script.stream();
    script.side.connection.reset(stream, ErrorCode::CANCEL);
    script.flush();
    // Far more than the window, which only credit makes possible.
    for _ in 0..200 {
        script.data(1, &[0; 16_000], false);
    }
    script.expect_alive();
    let windows = script.side.connection.windows(None);
    assert_eq!(windows.held, 0);
}

#[test]
fn s5_1_1_a_clients_even_stream_ends_the_connection() {
    let mut script = Script::client();
    script.headers(2, REQUEST, true);
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s5_1_1_a_stream_below_the_last_one_ends_the_connection() {
    let mut script = Script::client();
    script.headers(5, REQUEST, true);
    script.headers(3, REQUEST, true);
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s5_1_1_a_servers_stream_that_was_not_promised_ends_the_connection() {
    let mut script = Script::server();
    script.headers(2, RESPONSE, true);
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s5_1_2_streams_beyond_our_limit_are_refused_and_the_others_go_on() {
    let mut script = Script::client_of(Config {
        max_concurrent_streams: 2,
        ..Config::to_client()
    });
    for stream in [1, 3, 5] {
        script.headers(stream, REQUEST, true);
    }
    script.expect_reset(5, ErrorCode::REFUSED_STREAM);
    assert_eq!(script.side.requests().len(), 2);
    assert_eq!(script.side.connection.refused(), 1);
    let first = script.side.requests()[0];
    script.side.respond(first, true);
    script.flush();
    script.headers(7, REQUEST, true);
    assert_eq!(script.side.requests().len(), 3);
}

#[test]
fn s5_1_2_the_peers_limit_is_honoured_and_room_is_told() {
    let mut script = Script::server();
    script.settings(&[(SettingId::MAX_CONCURRENT_STREAMS, 1)]);
    let now = script.now;
    script.side.open(now, 1, true);
    assert!(!script.side.connection.can_open());
    assert_eq!(script.side.connection.capacity(), 0);
    let headers = script.side.headers(REQUEST);
    assert_eq!(
        script.side.connection.open(now, 2, headers, true),
        Err(OpenError::Full)
    );
    script.flush();
    script.headers(1, RESPONSE, true);
    assert!(
        matches!(script.side.events.last(), Some(Event::Capacity)),
        "{:?}",
        script.side.events
    );
    assert!(script.side.connection.can_open());
}

#[test]
fn s5_1_2_a_limit_that_is_lowered_holds_back_streams_that_were_queued() {
    let mut script = Script::server();
    let now = script.now;
    for tag in 0..3 {
        script.side.open(now, tag, true);
    }
    let mut settings = bytes::BytesMut::new();
    grpclb_engine::frame::write_settings(&mut settings, &[(SettingId::MAX_CONCURRENT_STREAMS, 1)]);
    script.side.receive(now, &settings);
    script.flush();
    let opened = |script: &Script| {
        script
            .answers
            .iter()
            .filter(|f| matches!(f, Frame::Headers { .. }))
            .count()
    };
    assert_eq!(opened(&script), 1);
    script.headers(1, RESPONSE, true);
    assert_eq!(opened(&script), 2);
    script.headers(3, RESPONSE, true);
    assert_eq!(opened(&script), 3);
    script.expect_fine();
}

#[test]
fn s5_3_priority_is_ignored_a_stream_that_depends_on_itself_included() {
    let mut script = Script::client();
    let block = script.block(REQUEST);
    let payload = [&[0, 0, 0, 1, 255][..], &block].concat();
    let all = flags::END_HEADERS | flags::END_STREAM | flags::PRIORITY;
    script.send(&raw(kinds::HEADERS, all, 1, &payload));
    script.send(&raw(kinds::PRIORITY, 0, 3, &[0, 0, 0, 3, 255]));
    assert_eq!(script.side.requests().len(), 1);
    script.expect_fine();
}

#[test]
fn s5_4_1_after_a_connection_error_nothing_is_read_and_nothing_else_is_sent() {
    let mut script = Script::client();
    script.headers(1, REQUEST, true);
    let stream = script.stream();
    script.side.respond(stream, true);
    script.side.receive(script.now, &raw(kinds::PING, 0, 0, &[0; 6]));
    script.flush();
    script.expect_goaway(ErrorCode::FRAME_SIZE_ERROR);
    assert_eq!(script.answers.len(), 1);
    let events = script.side.events.len();
    script.headers(3, REQUEST, true);
    assert_eq!(script.side.events.len(), events);
    assert!(matches!(script.answers[0], Frame::GoAway { last_stream, .. } if last_stream.get() == 1));
}

#[test]
fn s5_4_2_a_stream_error_leaves_other_streams_alone() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.headers(3, REQUEST, false);
    script.window_update(1, 0);
    script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
    let stream = script.stream();
    script.data(3, b"goes on", true);
    assert_eq!(script.side.received(stream), b"goes on");
    script.now += millis(1);
    script.expect_alive();
}

#[test]
fn s5_1_of_streams_that_were_forgotten_everything_is_ignored_and_skipped_ids_stay_wrong() {
    let mut script = Script::client();
    // Every other id is skipped.
    for n in 0..400 {
        script.headers(4 * n + 1, REQUEST, true);
        let stream = script.stream();
        script.side.respond(stream, true);
        script.flush();
        script.side.take_events();
        script.answers.clear();
    }
    for frame in [data(1), reset(1), window_update(1), data(3)] {
        script.send(&frame);
    }
    script.headers(1, TRAILERS, true);
    script.expect_fine();
    assert!(script.side.events.is_empty());
    assert_eq!(script.side.connection.windows(None).held, 0);
    // Recent enough to be certain that it was never used.
    script.send(&data(4 * 398 + 3));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s6_8_after_a_goaway_at_once_new_streams_are_ignored_and_old_ones_go_on() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    let stream = script.stream();
    script
        .side
        .connection
        .go_away(ErrorCode::NO_ERROR, "the pod has gone");
    script.flush();
    assert_eq!(script.goaway_debug(), "the pod has gone");
    script.headers(3, REQUEST, false);
    script.data(3, b"ignored", true);
    assert_eq!(script.side.requests().len(), 1);
    script.data(1, b"goes on", true);
    assert_eq!(script.side.received(stream), b"goes on");
    assert!(!script.side.connection.is_closed());
    script.side.respond(stream, true);
    script.flush();
    assert!(script.side.connection.is_closed());
}
