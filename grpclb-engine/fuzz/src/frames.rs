//! The frame reader: never panics, keeps to its bounds, and reads the same frames however they arrive.

use bytes::BytesMut;
use grpclb_engine::frame::{Error, Frame, MIN_MAX_FRAME_SIZE, Reader};

/// The first byte chooses where the rest is cut.
pub fn run(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let step = usize::from(step).max(1);
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, step), whole, "cut every {step} bytes");
}

/// More than any frame lacks, so that none stays unfinished: how much of such a one is handed on depends on the cuts.
static END: [u8; 9 + MIN_MAX_FRAME_SIZE as usize] = [0; 9 + MIN_MAX_FRAME_SIZE as usize];

/// All frames in `bytes`, which arrive `step` at a time, until a connection error.
fn read(bytes: &[u8], step: usize) -> (Vec<Frame>, Option<Error>) {
    let mut reader = Reader::new();
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    for arrived in bytes.chunks(step).chain([&END[..]]) {
        input.extend_from_slice(arrived);
        loop {
            let before = input.len();
            match reader.next(&mut input, MIN_MAX_FRAME_SIZE) {
                Ok(None) => break,
                Ok(Some(frame)) => push(&mut frames, frame),
                Err(error) if error.stream().is_some() => {
                    assert!(
                        input.len() < before,
                        "a stream error that consumes nothing: {error}"
                    );
                }
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(
            input.len() < 9 + MIN_MAX_FRAME_SIZE as usize,
            "a whole frame waits"
        );
    }
    (frames, None)
}

/// Joins the pieces of a DATA frame, which depend on how it arrived.
fn push(frames: &mut Vec<Frame>, frame: Frame) {
    if let Frame::Data {
        stream,
        chunk,
        flow_controlled: 0,
        end_stream,
    } = &frame
        && !chunk.is_empty()
    {
        match frames.last_mut() {
            Some(Frame::Data {
                stream: before,
                chunk: data,
                end_stream: ended,
                ..
            }) if before == stream && !*ended => {
                *data = [&data[..], &chunk[..]].concat().into();
                *ended = *end_stream;
                return;
            }
            other => panic!("a piece of no frame after {other:?}"),
        }
    }
    frames.push(frame);
}
