//! Frames out. Each function appends whole frames to `out`; what goes into them is the caller's business.

use bytes::{BufMut, BytesMut};

use super::{ErrorCode, FRAME_HEADER_LEN, SettingId, StreamId, flag, kind};

/// The nine bytes before `len` bytes of data, which the caller sends after them. `len` is at most the peer's
/// `SETTINGS_MAX_FRAME_SIZE`.
pub fn write_data_header(out: &mut BytesMut, stream: StreamId, len: u32, end_stream: bool) {
    write_frame_header(
        out,
        len,
        kind::DATA,
        if end_stream { flag::END_STREAM } else { 0 },
        stream,
    );
}

/// HEADERS, and CONTINUATIONs where the block that `encode` appends is longer than `max_frame_size`.
pub fn write_headers(
    out: &mut BytesMut,
    stream: StreamId,
    end_stream: bool,
    max_frame_size: u32,
    encode: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    out.put_bytes(0, FRAME_HEADER_LEN);
    encode(out);
    let block = start + FRAME_HEADER_LEN;
    let len = out.len() - block;
    let end_stream = if end_stream { flag::END_STREAM } else { 0 };
    if len <= max_frame_size as usize {
        let header = frame_header(len as u32, kind::HEADERS, end_stream | flag::END_HEADERS, stream);
        out[start..block].copy_from_slice(&header);
        return;
    }
    // Rare: a block of more than 16 KiB. All but its first piece moves, to make room for the frame headers.
    let header = frame_header(max_frame_size, kind::HEADERS, end_stream, stream);
    out[start..block].copy_from_slice(&header);
    let rest = out.split_off(block + max_frame_size as usize);
    let mut pieces = rest.chunks(max_frame_size as usize).peekable();
    while let Some(piece) = pieces.next() {
        let end_headers = if pieces.peek().is_none() {
            flag::END_HEADERS
        } else {
            0
        };
        write_frame_header(out, piece.len() as u32, kind::CONTINUATION, end_headers, stream);
        out.extend_from_slice(piece);
    }
}

pub fn write_rst_stream(out: &mut BytesMut, stream: StreamId, code: ErrorCode) {
    write_frame_header(out, 4, kind::RST_STREAM, 0, stream);
    out.put_u32(code.0);
}

pub fn write_settings(out: &mut BytesMut, settings: &[(SettingId, u32)]) {
    write_frame_header(
        out,
        6 * settings.len() as u32,
        kind::SETTINGS,
        0,
        StreamId::CONNECTION,
    );
    for &(SettingId(id), value) in settings {
        out.put_u16(id);
        out.put_u32(value);
    }
}

pub fn write_settings_ack(out: &mut BytesMut) {
    write_frame_header(out, 0, kind::SETTINGS, flag::ACK, StreamId::CONNECTION);
}

pub fn write_ping(out: &mut BytesMut, ack: bool, payload: [u8; 8]) {
    write_frame_header(
        out,
        8,
        kind::PING,
        if ack { flag::ACK } else { 0 },
        StreamId::CONNECTION,
    );
    out.extend_from_slice(&payload);
}

/// `debug` is for people, and at most 16 KiB less eight bytes.
pub fn write_goaway(out: &mut BytesMut, last_stream: StreamId, code: ErrorCode, debug: &[u8]) {
    write_frame_header(out, 8 + debug.len() as u32, kind::GOAWAY, 0, StreamId::CONNECTION);
    out.put_u32(last_stream.get());
    out.put_u32(code.0);
    out.extend_from_slice(debug);
}

/// `increment` is 1 to 2^31-1.
pub fn write_window_update(out: &mut BytesMut, stream: StreamId, increment: u32) {
    write_frame_header(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.put_u32(increment);
}

fn write_frame_header(out: &mut BytesMut, len: u32, kind: u8, flags: u8, stream: StreamId) {
    out.extend_from_slice(&frame_header(len, kind, flags, stream));
}

fn frame_header(len: u32, kind: u8, flags: u8, stream: StreamId) -> [u8; FRAME_HEADER_LEN] {
    debug_assert!(len <= super::MAX_MAX_FRAME_SIZE, "a frame's length has 24 bits");
    let [_, l0, l1, l2] = len.to_be_bytes();
    let [s0, s1, s2, s3] = stream.get().to_be_bytes();
    [l0, l1, l2, kind, flags, s0, s1, s2, s3]
}
