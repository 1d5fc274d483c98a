//! The frame layer from outside: what each rule of RFC 9113 §4 and §6 makes of bytes.

mod cuts;
mod errors;

use bytes::{Bytes, BytesMut};
use grpclb_engine::frame::{
    DEFAULT_WINDOW, Error, ErrorCode, Frame, MAX_WINDOW, MIN_MAX_FRAME_SIZE, Priority, Reader, SettingId,
    StreamId, write_data_header, write_goaway, write_headers, write_ping, write_rst_stream, write_settings,
    write_settings_ack, write_window_update,
};

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
        block.extend_from_slice(b"block");
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
            out.extend_from_slice(&block);
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
    let data: Vec<u8> = (0..2500u32).map(|at| at as u8).collect();
    let frame = raw(DATA, PADDED | END_STREAM, 1, &[&[2], &data[..], &[0; 2]].concat());
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
    let piece = |range: std::ops::Range<usize>, flow_controlled, end_stream| Frame::Data {
        stream: stream(1),
        chunk: Bytes::copy_from_slice(&data[range]),
        flow_controlled,
        end_stream,
    };
    // Not byte by byte: at least 1 KiB, or what is left of the frame.
    assert_eq!(
        pieces,
        [
            piece(0..1024, 2503, false),
            piece(1024..2048, 0, false),
            piece(2048..2500, 0, true)
        ]
    );
    assert!(input.is_empty());
}

#[test]
fn a_frame_cut_by_a_read_goes_on_at_once_when_most_of_it_is_there() {
    let mut input = raw(DATA, 0, 1, &[7; 16_384]);
    let rest = input.split_off(9 + 10_000);
    let mut reader = Reader::new();
    let mut piece = |input: &mut BytesMut| match reader.next(input, MIN_MAX_FRAME_SIZE) {
        Ok(Some(Frame::Data { chunk, .. })) => chunk.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(piece(&mut input), 10_000);
    input.extend_from_slice(&rest);
    assert_eq!(piece(&mut input), 6384);
}

#[test]
fn reserved_bits_and_undefined_flags_are_ignored() {
    let reserved = 0x8000_0000;
    assert_eq!(
        read_one(raw(RST_STREAM, 0xff, 0x3 | reserved, &8u32.to_be_bytes())),
        Ok(Frame::RstStream {
            stream: stream(3),
            code: ErrorCode::CANCEL
        })
    );
    assert_eq!(
        read_one(raw(WINDOW_UPDATE, 0xff, 3, &(0x11 | reserved).to_be_bytes())),
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
fn identifiers_of_streams_know_their_end_and_when_they_run_out() {
    assert!(stream(1).is_client_initiated() && !stream(1).is_server_initiated());
    assert!(stream(2).is_server_initiated() && !stream(2).is_client_initiated());
    assert!(StreamId::CONNECTION.is_connection() && !StreamId::CONNECTION.is_server_initiated());
    assert_eq!(stream(1).next(), Some(stream(3)));
    assert_eq!(StreamId::new(0x7fff_fffd).next(), Some(StreamId::MAX));
    assert_eq!(StreamId::MAX.next(), None);
}
