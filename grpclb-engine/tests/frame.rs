//! The frame layer from outside: what each rule of RFC 9113 §4 and §6 makes of bytes, and that cuts change nothing.

use bytes::{Bytes, BytesMut};
use grpclb_engine::frame::{
    DEFAULT_WINDOW, Error, ErrorCode, Frame, MAX_WINDOW, MIN_MAX_FRAME_SIZE, Priority, Reader, SettingId,
    StreamId, write_data_header, write_goaway, write_headers, write_ping, write_rst_stream, write_settings,
    write_settings_ack, write_window_update,
};
use grpclb_engine::rng::Rng;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const WITH_PRIORITY: u8 = 0x20;

/// A frame as any peer might send it, right or wrong.
fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn read_one(mut input: BytesMut) -> Result<Frame, Error> {
    let mut reader = Reader::new();
    let frame = reader
        .next(&mut input, MIN_MAX_FRAME_SIZE)
        .map(|frame| frame.expect("a whole frame"));
    if frame.is_ok() {
        assert_eq!(reader.next(&mut input, MIN_MAX_FRAME_SIZE), Ok(None));
        assert!(input.is_empty(), "bytes left over: {input:?}");
    }
    frame
}

fn stream(number: u32) -> StreamId {
    StreamId::new(number)
}

#[test]
fn what_the_writers_write_the_reader_reads() {
    let mut out = BytesMut::new();
    write_settings(
        &mut out,
        &[
            (SettingId::ENABLE_PUSH, 0),
            (SettingId::INITIAL_WINDOW_SIZE, DEFAULT_WINDOW),
        ],
    );
    write_settings_ack(&mut out);
    write_headers(&mut out, stream(1), true, MIN_MAX_FRAME_SIZE, |block| {
        block.extend_from_slice(b"block")
    });
    write_data_header(&mut out, stream(3), 4, true);
    out.extend_from_slice(b"data");
    write_ping(&mut out, true, *b"abcdefgh");
    write_rst_stream(&mut out, stream(5), ErrorCode(0xdead));
    write_window_update(&mut out, StreamId::CONNECTION, MAX_WINDOW);
    write_goaway(&mut out, StreamId::MAX, ErrorCode::NO_ERROR, b"bye");

    let frames = read_all(out);
    let Frame::Settings(settings) = &frames[0] else {
        panic!("{:?}", frames[0])
    };
    assert_eq!(
        settings.iter().collect::<Vec<_>>(),
        [
            (SettingId::ENABLE_PUSH, 0),
            (SettingId::INITIAL_WINDOW_SIZE, 65_535)
        ]
    );
    assert_eq!(
        frames[1..],
        [
            Frame::SettingsAck,
            Frame::Headers {
                stream: stream(1),
                fragment: Bytes::from_static(b"block"),
                end_stream: true,
                end_headers: true,
                priority: None
            },
            Frame::Data {
                stream: stream(3),
                chunk: Bytes::from_static(b"data"),
                flow_controlled: 4,
                end_stream: true
            },
            Frame::Ping {
                ack: true,
                payload: *b"abcdefgh"
            },
            Frame::RstStream {
                stream: stream(5),
                code: ErrorCode(0xdead)
            },
            Frame::WindowUpdate {
                stream: StreamId::CONNECTION,
                increment: MAX_WINDOW
            },
            Frame::GoAway {
                last_stream: StreamId::MAX,
                code: ErrorCode::NO_ERROR,
                debug: Bytes::from_static(b"bye")
            },
        ]
    );
}

fn read_all(mut input: BytesMut) -> Vec<Frame> {
    let mut reader = Reader::new();
    let mut frames = Vec::new();
    while let Some(frame) = reader.next(&mut input, MIN_MAX_FRAME_SIZE).expect("right frames") {
        frames.push(frame);
    }
    assert!(input.is_empty(), "bytes left over: {input:?}");
    frames
}

#[test]
fn a_field_block_longer_than_a_frame_goes_out_in_continuations_and_comes_back_whole() {
    let max = MIN_MAX_FRAME_SIZE as usize;
    for len in [0, 1, max - 1, max, max + 1, 2 * max, 2 * max + 1, 3 * max + 17] {
        let block: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let mut out = BytesMut::from(&raw(PING, 0, 0, &[0; 8])[..]);
        write_headers(&mut out, stream(7), true, MIN_MAX_FRAME_SIZE, |out| {
            out.extend_from_slice(&block)
        });
        let frames = read_all(out);
        assert_eq!(frames.len(), 1 + len.div_ceil(max).max(1), "{len} bytes");
        let mut received = Vec::new();
        for (position, frame) in frames.iter().enumerate().skip(1) {
            let last = position == frames.len() - 1;
            match frame {
                Frame::Headers {
                    fragment,
                    end_stream: true,
                    end_headers,
                    ..
                } if position == 1 => {
                    assert_eq!(*end_headers, last);
                    received.extend_from_slice(fragment);
                }
                Frame::Continuation {
                    fragment,
                    end_headers,
                    ..
                } if position > 1 => {
                    assert_eq!(*end_headers, last);
                    received.extend_from_slice(fragment);
                }
                other => panic!("{other:?} at {position}"),
            }
        }
        assert_eq!(received, block);
    }
}

#[test]
fn padding_and_priority_are_taken_off_headers() {
    let payload = b"\x03\x80\x00\x00\x05\x0fblock\0\0\0";
    assert_eq!(
        read_one(raw(HEADERS, PADDED | WITH_PRIORITY | END_HEADERS, 9, payload)),
        Ok(Frame::Headers {
            stream: stream(9),
            fragment: Bytes::from_static(b"block"),
            end_stream: false,
            end_headers: true,
            priority: Some(Priority {
                depends_on: stream(5),
                exclusive: true,
                weight: 15
            }),
        })
    );
}

#[test]
fn padding_is_flow_controlled_but_not_data() {
    let frame = read_one(raw(DATA, PADDED | END_STREAM, 1, b"\x02data\0\0"));
    let chunk = Bytes::from_static(b"data");
    assert_eq!(
        frame,
        Ok(Frame::Data {
            stream: stream(1),
            chunk,
            flow_controlled: 7,
            end_stream: true
        })
    );
    // All of it padding.
    let frame = read_one(raw(DATA, PADDED, 1, b"\x03\0\0\0"));
    assert_eq!(
        frame,
        Ok(Frame::Data {
            stream: stream(1),
            chunk: Bytes::new(),
            flow_controlled: 4,
            end_stream: false
        })
    );
}

#[test]
fn data_is_handed_on_in_pieces_with_credit_on_the_first_and_the_end_on_the_last() {
    let frame = raw(DATA, PADDED | END_STREAM, 1, b"\x02data\0\0");
    let mut reader = Reader::new();
    let mut input = BytesMut::new();
    let mut pieces = Vec::new();
    for byte in frame {
        input.extend_from_slice(&[byte]);
        while let Some(piece) = reader
            .next(&mut input, MIN_MAX_FRAME_SIZE)
            .expect("a right frame")
        {
            pieces.push(piece);
        }
    }
    let piece = |byte: &'static [u8], flow_controlled, end_stream| Frame::Data {
        stream: stream(1),
        chunk: Bytes::from_static(byte),
        flow_controlled,
        end_stream,
    };
    assert_eq!(
        pieces,
        [
            piece(b"d", 7, false),
            piece(b"a", 0, false),
            piece(b"t", 0, false),
            piece(b"a", 0, true)
        ]
    );
    assert!(input.is_empty());
}

#[test]
fn reserved_bits_and_undefined_flags_are_ignored() {
    let reserved = 0x8000_0000;
    assert_eq!(
        read_one(raw(RST_STREAM, 0xff, 3 | reserved, &8u32.to_be_bytes())),
        Ok(Frame::RstStream {
            stream: stream(3),
            code: ErrorCode::CANCEL
        })
    );
    assert_eq!(
        read_one(raw(WINDOW_UPDATE, 0xff, 3, &(17 | reserved).to_be_bytes())),
        Ok(Frame::WindowUpdate {
            stream: stream(3),
            increment: 17
        })
    );
    assert_eq!(
        read_one(raw(GOAWAY, 0xff, 0, b"\x80\x00\x00\x05\x00\x00\x00\x0b")),
        Ok(Frame::GoAway {
            last_stream: stream(5),
            code: ErrorCode::ENHANCE_YOUR_CALM,
            debug: Bytes::new()
        })
    );
    assert_eq!(
        read_one(raw(PING, 0xfe, reserved, &[7; 8])),
        Ok(Frame::Ping {
            ack: false,
            payload: [7; 8]
        })
    );
}

#[test]
fn frames_of_unknown_types_are_skipped_without_being_kept() {
    let mut reader = Reader::new();
    let mut input = raw(0x42, 0xff, 77, &[1; 1000]);
    let rest = input.split_off(9);
    assert_eq!(
        reader.next(&mut input, MIN_MAX_FRAME_SIZE),
        Ok(Some(Frame::Unknown {
            kind: 0x42,
            stream: stream(77),
            len: 1000
        }))
    );
    for chunk in rest.chunks(13) {
        input.extend_from_slice(chunk);
        assert_eq!(reader.next(&mut input, MIN_MAX_FRAME_SIZE), Ok(None));
        assert!(input.is_empty(), "the payload piles up");
    }
    input.extend_from_slice(&raw(SETTINGS, ACK, 0, &[]));
    assert_eq!(
        reader.next(&mut input, MIN_MAX_FRAME_SIZE),
        Ok(Some(Frame::SettingsAck))
    );
}

#[test]
fn every_broken_frame_has_its_error_its_code_and_its_scope() {
    use ErrorCode as Code;
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
    // What is sent, the code that the RFC asks for, and the stream where it is a stream error.
    let cases: Vec<(&str, BytesMut, Code, Option<u32>)> = vec![
        (
            "§4.2 DATA too long",
            raw(DATA, 0, 1, &[0; 16_385]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§4.2 an unknown frame too long",
            raw(99, 0, 1, &[0; 16_385]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.1 DATA on stream 0",
            raw(DATA, 0, 0, b"x"),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.1 DATA without its pad length",
            raw(DATA, PADDED, 1, b""),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.1 DATA all padding and one more",
            raw(DATA, PADDED, 1, b"\x02\0"),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.2 HEADERS on stream 0",
            raw(HEADERS, END_HEADERS, 0, b""),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.2 HEADERS without its pad length",
            raw(HEADERS, PADDED, 1, b""),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.2 HEADERS without its priority",
            raw(HEADERS, WITH_PRIORITY, 1, &[0; 4]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.2 HEADERS without all of both",
            raw(HEADERS, WITH_PRIORITY | PADDED, 1, &[0; 5]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.2 HEADERS with too much padding",
            raw(HEADERS, PADDED, 1, b"\x02\0"),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.3 PRIORITY on stream 0",
            raw(PRIORITY, 0, 0, &[0; 5]),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.3 PRIORITY too short",
            raw(PRIORITY, 0, 3, &[0; 4]),
            Code::FRAME_SIZE_ERROR,
            Some(3),
        ),
        (
            "§6.3 PRIORITY too long",
            raw(PRIORITY, 0, 3, &[0; 6]),
            Code::FRAME_SIZE_ERROR,
            Some(3),
        ),
        (
            "§6.4 RST_STREAM on stream 0",
            raw(RST_STREAM, 0, 0, &[0; 4]),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.4 RST_STREAM too short",
            raw(RST_STREAM, 0, 1, &[0; 3]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.4 RST_STREAM too long",
            raw(RST_STREAM, 0, 1, &[0; 5]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.5 SETTINGS on a stream",
            raw(SETTINGS, 0, 1, b""),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.5 SETTINGS ACK with a payload",
            raw(SETTINGS, ACK, 0, &[0; 6]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.5 SETTINGS of seven bytes",
            raw(SETTINGS, 0, 0, &[0; 7]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.5.2 ENABLE_PUSH 2",
            raw(SETTINGS, 0, 0, &setting(2, 2)),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.5.2 INITIAL_WINDOW_SIZE",
            raw(SETTINGS, 0, 0, &setting(4, 1 << 31)),
            Code::FLOW_CONTROL_ERROR,
            None,
        ),
        (
            "§6.5.2 MAX_FRAME_SIZE too small",
            raw(SETTINGS, 0, 0, &setting(5, 16_383)),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.5.2 MAX_FRAME_SIZE too large",
            raw(SETTINGS, 0, 0, &setting(5, 1 << 24)),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "RFC 8441 ENABLE_CONNECT_PROTOCOL 2",
            raw(SETTINGS, 0, 0, &setting(8, 2)),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.6 PUSH_PROMISE on stream 0",
            raw(PUSH_PROMISE, 4, 0, &[0, 0, 0, 2]),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.6 PUSH_PROMISE too short",
            raw(PUSH_PROMISE, 4, 1, &[0; 3]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.6 PUSH_PROMISE of stream 0",
            raw(PUSH_PROMISE, 4, 1, &[0; 4]),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§5.1.1 PUSH_PROMISE of an odd stream",
            raw(PUSH_PROMISE, 4, 1, &[0, 0, 0, 3]),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.6 PUSH_PROMISE with too much padding",
            raw(PUSH_PROMISE, 4 | PADDED, 1, &[1, 0, 0, 0, 2]),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.7 PING on a stream",
            raw(PING, 0, 1, &[0; 8]),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.7 PING too short",
            raw(PING, 0, 0, &[0; 7]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.7 PING too long",
            raw(PING, 0, 0, &[0; 9]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.8 GOAWAY on a stream",
            raw(GOAWAY, 0, 1, &[0; 8]),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.8 GOAWAY too short",
            raw(GOAWAY, 0, 0, &[0; 7]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.9 WINDOW_UPDATE too short",
            raw(WINDOW_UPDATE, 0, 1, &[0; 3]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.9 WINDOW_UPDATE too long",
            raw(WINDOW_UPDATE, 0, 1, &[0; 5]),
            Code::FRAME_SIZE_ERROR,
            None,
        ),
        (
            "§6.9 nothing for a stream",
            raw(WINDOW_UPDATE, 0, 5, &[0; 4]),
            Code::PROTOCOL_ERROR,
            Some(5),
        ),
        (
            "§6.9 nothing for the connection",
            raw(WINDOW_UPDATE, 0, 0, &[0; 4]),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.10 CONTINUATION of nothing",
            raw(CONTINUATION, 4, 1, b""),
            Code::PROTOCOL_ERROR,
            None,
        ),
        (
            "§6.10 CONTINUATION on stream 0",
            raw(CONTINUATION, 4, 0, b""),
            Code::PROTOCOL_ERROR,
            None,
        ),
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

#[test]
fn identifiers_of_streams_know_their_end_and_when_they_run_out() {
    assert!(stream(1).is_client_initiated() && !stream(1).is_server_initiated());
    assert!(stream(2).is_server_initiated() && !stream(2).is_client_initiated());
    assert!(StreamId::CONNECTION.is_connection() && !StreamId::CONNECTION.is_server_initiated());
    assert_eq!(stream(1).next(), Some(stream(3)));
    assert_eq!(StreamId::new(0x7fff_fffd).next(), Some(StreamId::MAX));
    assert_eq!(StreamId::MAX.next(), None);
}

/// Any frames that are right, one after the other.
fn random_frames(rng: &mut Rng) -> BytesMut {
    let mut bytes = BytesMut::new();
    for _ in 0..=rng.below(8) {
        let id = 1 + rng.below(9) as u32;
        let longest = if rng.below(8) == 0 { 3000 } else { 40 };
        let len = rng.below(longest) as usize;
        let mut payload: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
        let padded = rng.below(2) as u8 * PADDED;
        if padded != 0 {
            let padding = rng.below(20) as usize;
            payload.insert(0, padding as u8);
            payload.resize(payload.len() + padding, 0);
        }
        let frame = match rng.below(9) {
            0..3 => raw(DATA, padded | rng.below(2) as u8, id, &payload),
            3 => {
                let mut block = raw(HEADERS, padded, id, &payload);
                for _ in 0..rng.below(3) {
                    block.extend_from_slice(&raw(CONTINUATION, 0, id, &payload));
                }
                block.extend_from_slice(&raw(CONTINUATION, END_HEADERS, id, b""));
                block
            }
            4 => raw(HEADERS, padded | END_HEADERS, id, &payload),
            5 => raw(SETTINGS, 0, 0, &[[0, 3, 0, 0, 0, 9]; 3].concat()),
            6 => raw(GOAWAY, 0, 0, &[&[0; 8][..], &payload].concat()),
            7 => raw(0x20 + rng.below(100) as u8, rng.next_u64() as u8, id, &payload),
            _ => raw(PING, 0, 0, &[9; 8]),
        };
        bytes.extend_from_slice(&frame);
    }
    bytes
}

/// Frames with the pieces of each DATA frame put together again.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut joined: Vec<Frame> = Vec::new();
    // Whether a piece goes on with the frame before it: then it takes nothing from the windows, and holds data.
    for frame in frames {
        if let Frame::Data {
            chunk,
            flow_controlled: 0,
            end_stream,
            ..
        } = &frame
            && !chunk.is_empty()
            && let Some(Frame::Data {
                chunk: before,
                end_stream: end_before,
                ..
            }) = joined.last_mut()
        {
            assert!(!*end_before, "a piece after the end");
            *before = [&before[..], &chunk[..]].concat().into();
            *end_before = *end_stream;
        } else {
            joined.push(frame);
        }
    }
    joined
}

/// Reads `bytes`, which arrive in two pieces, or one by one.
fn read_in_pieces(bytes: &[u8], cuts: impl Iterator<Item = usize>) -> Vec<Frame> {
    let mut reader = Reader::new();
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    let mut from = 0;
    for cut in cuts.chain([bytes.len()]) {
        input.extend_from_slice(&bytes[from..cut]);
        from = cut;
        while let Some(frame) = reader.next(&mut input, MIN_MAX_FRAME_SIZE).expect("right frames") {
            frames.push(frame);
        }
    }
    assert!(input.is_empty());
    joined(frames)
}

#[test]
fn cuts_anywhere_change_nothing() {
    for seed in 0..60 {
        let bytes = random_frames(&mut Rng::seeded(seed));
        let whole = joined(read_all(bytes.clone()));
        assert_eq!(
            read_in_pieces(&bytes, 0..bytes.len()),
            whole,
            "seed {seed}, byte by byte"
        );
        let step = 1 + bytes.len() / 500;
        for cut in (0..bytes.len()).step_by(step) {
            assert_eq!(
                read_in_pieces(&bytes, std::iter::once(cut)),
                whole,
                "seed {seed}, cut at {cut}"
            );
        }
    }
}
