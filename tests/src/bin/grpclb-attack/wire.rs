//! Bytes of HTTP/2 (RFC 9113) and HPACK (RFC 7541), right and wrong, written without any check.

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The greatest payload before SETTINGS say more.
pub(crate) const MAX_FRAME: usize = 16_384;
pub(crate) const FRAME_HEADER: usize = 9;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const UNKNOWN: u8 = 0x42;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

/// An indexed field (RFC 7541 §6.1): entry 21, `age` with an empty value, the smallest of the static table, 35 bytes.
pub(crate) const STATIC_AGE: u8 = 0x95;
/// An indexed field: entry 62, the newest of the dynamic table.
pub(crate) const NEWEST: u8 = 0xbe;

pub(crate) fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A whole field block as HEADERS and as many CONTINUATIONs as it takes.
pub(crate) fn headers(out: &mut Vec<u8>, stream: u32, block: &[u8], flags: u8) {
    let mut pieces = block.chunks(MAX_FRAME).peekable();
    let (mut kind, mut flags) = (HEADERS, flags);
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        frame(out, kind, flags | last, stream, piece);
        (kind, flags) = (CONTINUATION, 0);
    }
}

/// DATA frames of one gRPC message.
pub(crate) fn message(out: &mut Vec<u8>, stream: u32, message: &[u8], flags: u8) {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
    bytes.extend_from_slice(message);
    let mut pieces = bytes.chunks(MAX_FRAME).peekable();
    while let Some(piece) = pieces.next() {
        frame(
            out,
            DATA,
            if pieces.peek().is_none() { flags } else { 0 },
            stream,
            piece,
        );
    }
}

pub(crate) fn settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(out, SETTINGS, 0, 0, &payload);
}

pub(crate) fn rst_stream(out: &mut Vec<u8>, stream: u32, code: u32) {
    frame(out, RST_STREAM, 0, stream, &code.to_be_bytes());
}

pub(crate) fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    frame(out, WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
}

pub(crate) fn goaway(out: &mut Vec<u8>, last: u32, code: u32, debug: &str) {
    let payload = [&last.to_be_bytes()[..], &code.to_be_bytes(), debug.as_bytes()].concat();
    frame(out, GOAWAY, 0, 0, &payload);
}

/// A literal field without indexing (RFC 7541 §6.2.2).
pub(crate) fn literal(block: &mut Vec<u8>, name: &str, value: &[u8]) {
    block.push(0);
    text(block, name.as_bytes());
    text(block, value);
}

/// A literal field with incremental indexing (RFC 7541 §6.2.1): it becomes [`NEWEST`].
pub(crate) fn indexed_literal(block: &mut Vec<u8>, name: &str, value: &[u8]) {
    block.push(0x40);
    text(block, name.as_bytes());
    text(block, value);
}

/// A string without Huffman coding (RFC 7541 §5.2).
fn text(block: &mut Vec<u8>, bytes: &[u8]) {
    // An integer with a prefix of 7 bits (RFC 7541 §5.1).
    if let Some(mut rest) = bytes.len().checked_sub(127) {
        block.push(127);
        while rest >= 128 {
            block.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        block.push(rest as u8);
    } else {
        block.push(bytes.len() as u8);
    }
    block.extend_from_slice(bytes);
}

/// The fields of a gRPC request to a method of `grpclb.probe.Probe`.
pub(crate) fn request(method: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    literal(
        &mut block,
        ":path",
        format!("/grpclb.probe.Probe/{method}").as_bytes(),
    );
    literal(&mut block, ":authority", b"echo");
    literal(&mut block, "content-type", b"application/grpc");
    literal(&mut block, "te", b"trailers");
    block
}

/// A frame's header, read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Header {
    pub(crate) fn read(bytes: [u8; FRAME_HEADER]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        Self {
            len: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & MAX_WINDOW,
        }
    }

    pub(crate) fn is(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The number in the first four bytes.
pub(crate) fn number(payload: &[u8]) -> u32 {
    payload
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
