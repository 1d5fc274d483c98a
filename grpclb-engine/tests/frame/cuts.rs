//! Frames that arrive in any pieces mean the same.

use bytes::BytesMut;
use grpclb_engine::frame::{Frame, MIN_MAX_FRAME_SIZE, Reader};
use grpclb_engine::rng::Rng;

use super::*;

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
