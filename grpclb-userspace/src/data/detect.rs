//! What an accepted connection speaks, told from its first bytes: HTTP/2 by its preface, or bytes that are none of our
//! business.
//!
//! The bytes are taken from the socket and handed on, which costs one system call less than peeking at them.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::socket;
use super::worker::Scratch;
use crate::model;

/// What a client of HTTP/2 with prior knowledge says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client of a port that declares nothing may be silent. Then the server is taken to be the one that speaks
/// first.
const SILENCE: Duration = Duration::from_secs(1);

/// What the connection proved to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detected {
    Http2,
    Opaque,
    /// Nothing was said in time; opaque.
    Silent,
    /// The client ended or reset the connection before it said anything.
    Ended,
}

/// Reads until the connection has shown what it is; `first` then holds what was read.
pub(super) async fn detect(
    scratch: &Scratch,
    stream: &TcpStream,
    declared: model::Protocol,
    first: &mut BytesMut,
) -> Detected {
    let proof = poll_fn(|cx| {
        loop {
            if let Err(_gone) = std::task::ready!(stream.poll_read_ready(cx)) {
                return Poll::Ready(Detected::Ended);
            }
            let mut scratch = scratch.take();
            match socket::read(stream, &mut scratch) {
                Ok(0) if first.is_empty() => return Poll::Ready(Detected::Ended),
                // The relay meets the end of stream again when it reads on.
                Ok(0) => return Poll::Ready(Detected::Opaque),
                Ok(_) => first.extend_from_slice(&scratch),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return Poll::Ready(Detected::Ended),
            }
            if let Some(detected) = classify(first) {
                return Poll::Ready(detected);
            }
        }
    });
    if declared == model::Protocol::Http2 {
        return proof.await;
    }
    // A part of the preface and then silence is left to the backend to judge, too.
    tokio::time::timeout(SILENCE, proof)
        .await
        .unwrap_or(Detected::Silent)
}

/// `None` while the bytes may still become a preface.
fn classify(first: &[u8]) -> Option<Detected> {
    let known = first.len().min(PREFACE.len());
    if first[..known] != PREFACE[..known] {
        return Some(Detected::Opaque);
    }
    (known == PREFACE.len()).then_some(Detected::Http2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_preface_is_http2_whatever_follows() {
        assert_eq!(classify(PREFACE), Some(Detected::Http2));
        assert_eq!(classify(&[PREFACE, b"\0\0\0"].concat()), Some(Detected::Http2));
    }

    #[test]
    fn every_beginning_of_the_preface_waits_for_more() {
        for length in 0..PREFACE.len() {
            assert_eq!(classify(&PREFACE[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn one_wrong_byte_anywhere_is_opaque_at_once() {
        for wrong in 0..PREFACE.len() {
            let mut bytes = PREFACE[..=wrong].to_vec();
            bytes[wrong] ^= 0x20;
            assert_eq!(classify(&bytes), Some(Detected::Opaque), "byte {wrong}");
        }
    }

    #[test]
    fn http1_tls_and_an_upgrade_request_are_opaque() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"POST /x HTTP/1.1\r\nUpgrade: h2c\r\n",
            b"PRI * HTTP/1.1",
        ] {
            assert_eq!(classify(bytes), Some(Detected::Opaque));
        }
    }
}
