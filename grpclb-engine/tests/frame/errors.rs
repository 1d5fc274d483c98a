//! What is wrong with a frame, its code, and whether it ends a stream or the connection.

use bytes::BytesMut;
use grpclb_engine::frame::{Error, ErrorCode, Frame, MIN_MAX_FRAME_SIZE, Reader, StreamId};

use super::*;

#[test]
fn every_broken_frame_has_its_error_its_code_and_its_scope() {
    use ErrorCode as Code;
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
    // What is sent, the code that the RFC asks for, and the stream where it is a stream error.
    #[rustfmt::skip]
    let cases: Vec<(&str, BytesMut, Code, Option<u32>)> = vec![
        ("§4.2 DATA too long", raw(DATA, 0, 1, &[0; 16_385]), Code::FRAME_SIZE_ERROR, None),
        ("§4.2 an unknown frame too long", raw(99, 0, 1, &[0; 16_385]), Code::FRAME_SIZE_ERROR, None),
        ("§6.1 DATA on stream 0", raw(DATA, 0, 0, b"x"), Code::PROTOCOL_ERROR, None),
        ("§6.1 DATA without its pad length", raw(DATA, PADDED, 1, b""), Code::FRAME_SIZE_ERROR, None),
        ("§6.1 DATA all padding and one more", raw(DATA, PADDED, 1, b"\x02\0"), Code::PROTOCOL_ERROR, None),
        ("§6.2 HEADERS on stream 0", raw(HEADERS, END_HEADERS, 0, b""), Code::PROTOCOL_ERROR, None),
        ("§6.2 HEADERS without its pad length", raw(HEADERS, PADDED, 1, b""), Code::FRAME_SIZE_ERROR, None),
        ("§6.2 HEADERS without its priority", raw(HEADERS, WITH_PRIORITY, 1, &[0; 4]), Code::FRAME_SIZE_ERROR, None),
        ("§6.2 HEADERS without all of both", raw(HEADERS, WITH_PRIORITY | PADDED, 1, &[0; 5]), Code::FRAME_SIZE_ERROR, None),
        ("§6.2 HEADERS with too much padding", raw(HEADERS, PADDED, 1, b"\x02\0"), Code::PROTOCOL_ERROR, None),
        ("§6.3 PRIORITY on stream 0", raw(PRIORITY, 0, 0, &[0; 5]), Code::PROTOCOL_ERROR, None),
        ("§6.3 PRIORITY too short", raw(PRIORITY, 0, 3, &[0; 4]), Code::FRAME_SIZE_ERROR, Some(3)),
        ("§6.3 PRIORITY too long", raw(PRIORITY, 0, 3, &[0; 6]), Code::FRAME_SIZE_ERROR, Some(3)),
        ("§6.4 RST_STREAM on stream 0", raw(RST_STREAM, 0, 0, &[0; 4]), Code::PROTOCOL_ERROR, None),
        ("§6.4 RST_STREAM too short", raw(RST_STREAM, 0, 1, &[0; 3]), Code::FRAME_SIZE_ERROR, None),
        ("§6.4 RST_STREAM too long", raw(RST_STREAM, 0, 1, &[0; 5]), Code::FRAME_SIZE_ERROR, None),
        ("§6.5 SETTINGS on a stream", raw(SETTINGS, 0, 1, b""), Code::PROTOCOL_ERROR, None),
        ("§6.5 SETTINGS ACK with a payload", raw(SETTINGS, ACK, 0, &[0; 6]), Code::FRAME_SIZE_ERROR, None),
        ("§6.5 SETTINGS of seven bytes", raw(SETTINGS, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR, None),
        ("§6.5.2 ENABLE_PUSH 2", raw(SETTINGS, 0, 0, &setting(2, 2)), Code::PROTOCOL_ERROR, None),
        ("§6.5.2 INITIAL_WINDOW_SIZE", raw(SETTINGS, 0, 0, &setting(4, 0x8000_0000)), Code::FLOW_CONTROL_ERROR, None),
        ("§6.5.2 MAX_FRAME_SIZE too small", raw(SETTINGS, 0, 0, &setting(5, 16_383)), Code::PROTOCOL_ERROR, None),
        ("§6.5.2 MAX_FRAME_SIZE too large", raw(SETTINGS, 0, 0, &setting(5, 1 << 24)), Code::PROTOCOL_ERROR, None),
        ("RFC 8441 ENABLE_CONNECT_PROTOCOL 2", raw(SETTINGS, 0, 0, &setting(8, 2)), Code::PROTOCOL_ERROR, None),
        ("§6.6 PUSH_PROMISE on stream 0", raw(PUSH_PROMISE, 4, 0, &[0, 0, 0, 2]), Code::PROTOCOL_ERROR, None),
        ("§6.6 PUSH_PROMISE too short", raw(PUSH_PROMISE, 4, 1, &[0; 3]), Code::FRAME_SIZE_ERROR, None),
        ("§6.6 PUSH_PROMISE of stream 0", raw(PUSH_PROMISE, 4, 1, &[0; 4]), Code::PROTOCOL_ERROR, None),
        ("§5.1.1 PUSH_PROMISE of an odd stream", raw(PUSH_PROMISE, 4, 1, &[0, 0, 0, 3]), Code::PROTOCOL_ERROR, None),
        ("§6.6 PUSH_PROMISE with too much padding", raw(PUSH_PROMISE, 4 | PADDED, 1, &[1, 0, 0, 0, 2]), Code::PROTOCOL_ERROR, None),
        ("§6.7 PING on a stream", raw(PING, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR, None),
        ("§6.7 PING too short", raw(PING, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR, None),
        ("§6.7 PING too long", raw(PING, 0, 0, &[0; 9]), Code::FRAME_SIZE_ERROR, None),
        ("§6.8 GOAWAY on a stream", raw(GOAWAY, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR, None),
        ("§6.8 GOAWAY too short", raw(GOAWAY, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR, None),
        ("§6.9 WINDOW_UPDATE too short", raw(WINDOW_UPDATE, 0, 1, &[0; 3]), Code::FRAME_SIZE_ERROR, None),
        ("§6.9 WINDOW_UPDATE too long", raw(WINDOW_UPDATE, 0, 1, &[0; 5]), Code::FRAME_SIZE_ERROR, None),
        ("§6.9 nothing for a stream", raw(WINDOW_UPDATE, 0, 5, &[0; 4]), Code::PROTOCOL_ERROR, Some(5)),
        ("§6.9 nothing for the connection", raw(WINDOW_UPDATE, 0, 0, &[0; 4]), Code::PROTOCOL_ERROR, None),
        ("§6.10 CONTINUATION of nothing", raw(CONTINUATION, 4, 1, b""), Code::PROTOCOL_ERROR, None),
        ("§6.10 CONTINUATION on stream 0", raw(CONTINUATION, 4, 0, b""), Code::PROTOCOL_ERROR, None),
    ];
    for (rule, bytes, code, of_stream) in cases {
        let error = read_one(bytes).expect_err(rule);
        assert_eq!(error.code(), code, "{rule}: {error}");
        assert_eq!(error.stream().map(StreamId::get), of_stream, "{rule}: {error}");
    }
}

#[test]
fn after_a_stream_error_reading_goes_on_with_the_next_frame() {
    for broken in [raw(WINDOW_UPDATE, 0, 5, &[0; 4]), raw(PRIORITY, 0, 5, &[0; 11])] {
        let mut reader = Reader::new();
        let mut input = broken;
        input.extend_from_slice(&raw(PING, 0, 0, b"01234567"));
        let error = reader
            .next(&mut input, MIN_MAX_FRAME_SIZE)
            .expect_err("a stream error");
        assert_eq!(error.stream(), Some(stream(5)));
        let next = reader.next(&mut input, MIN_MAX_FRAME_SIZE);
        assert_eq!(
            next,
            Ok(Some(Frame::Ping {
                ack: false,
                payload: *b"01234567"
            }))
        );
    }
}

#[test]
fn nothing_may_stand_between_headers_and_their_continuation() {
    let intruders = [
        raw(DATA, 0, 1, b"x"),
        raw(HEADERS, END_HEADERS, 1, b"x"),
        raw(PING, 0, 0, &[0; 8]),
        raw(SETTINGS, 0, 0, b""),
        raw(RST_STREAM, 0, 1, &[0; 4]),
        raw(CONTINUATION, END_HEADERS, 3, b"x"),
        raw(CONTINUATION, END_HEADERS, 0, b"x"),
        raw(0x42, 0, 1, b"x"),
    ];
    for intruder in intruders {
        for continued in [false, true] {
            let mut input = raw(HEADERS, 0, 1, b"first");
            if continued {
                input.extend_from_slice(&raw(CONTINUATION, 0, 1, b"second"));
            }
            input.extend_from_slice(&intruder);
            let mut reader = Reader::new();
            for _ in 0..=usize::from(continued) {
                assert!(matches!(reader.next(&mut input, MIN_MAX_FRAME_SIZE), Ok(Some(_))));
            }
            let error = reader
                .next(&mut input, MIN_MAX_FRAME_SIZE)
                .expect_err("an interrupted block");
            assert_eq!(error, Error::BlockInterrupted { stream: stream(1) });
            assert_eq!((error.code(), error.stream()), (ErrorCode::PROTOCOL_ERROR, None));
        }
    }
}

#[test]
fn a_wrong_length_is_told_before_the_payload_is_waited_for() {
    for (kind, len) in [
        (PING, 9),
        (SETTINGS, 7),
        (RST_STREAM, 16_000),
        (GOAWAY, 7),
        (HEADERS, 16_385),
    ] {
        let mut input = raw(
            kind,
            0,
            u32::from(matches!(kind, RST_STREAM | HEADERS)),
            &vec![0; len],
        );
        input.truncate(9);
        let error = Reader::new()
            .next(&mut input, MIN_MAX_FRAME_SIZE)
            .expect_err("a wrong length");
        assert_eq!(error.code(), ErrorCode::FRAME_SIZE_ERROR, "type {kind}");
    }
}
