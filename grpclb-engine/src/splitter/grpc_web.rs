//! The body of a gRPC-Web response that has no message: its trailers, as a frame of their own
//! (github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md).

/// Marks a frame of trailers, not compressed.
const TRAILERS: u8 = 0x80;

/// The frame with the trailers of a call that failed. `message` is percent-encoded.
pub(super) fn trailers_frame(status: &str, message: &str) -> Vec<u8> {
    let trailers = if message.is_empty() {
        format!("grpc-status: {status}\r\n")
    } else {
        format!("grpc-status: {status}\r\ngrpc-message: {message}\r\n")
    };
    let length = u32::try_from(trailers.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(trailers.len().saturating_add(5));
    frame.push(TRAILERS);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(trailers.as_bytes());
    frame
}

/// Base64 with padding (RFC 4648 §4), as `application/grpc-web-text` wants it.
pub(super) fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for group in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|n| group.get(n).copied().unwrap_or(0));
        let sextets = [a >> 2, (a & 3) << 4 | b >> 4, (b & 15) << 2 | c >> 6, c & 63];
        for (n, sextet) in sextets.into_iter().enumerate() {
            text.push(if n <= group.len() {
                ALPHABET[usize::from(sextet)]
            } else {
                b'='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_trailers_has_its_flag_and_length() {
        let frame = trailers_frame("14", "a: b");
        assert_eq!(
            frame,
            b"\x80\x00\x00\x00\x25grpc-status: 14\r\ngrpc-message: a: b\r\n"
        );
        assert_eq!(trailers_frame("8", ""), b"\x80\x00\x00\x00\x10grpc-status: 8\r\n");
    }

    /// The vectors of RFC 4648 §10, and the ends of the alphabet.
    #[test]
    fn base64_follows_rfc_4648() {
        for (bytes, text) in [
            (&b""[..], &b""[..]),
            (b"f", b"Zg=="),
            (b"fo", b"Zm8="),
            (b"foo", b"Zm9v"),
            (b"foob", b"Zm9vYg=="),
            (b"fooba", b"Zm9vYmE="),
            (b"foobar", b"Zm9vYmFy"),
            (b"\xff\xff\xbe\x00", b"//++AA=="),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}
