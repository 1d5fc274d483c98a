//! HPACK's integers with a prefix (RFC 7541 §5.1), bounded to 32 bits.

use bytes::{BufMut, BytesMut};

use super::Error;

/// Continuation bytes that 32 bits can take. A longer integer is refused even if the excess is zeros.
const MAX_CONTINUATION: u32 = 5;

/// Takes an integer off `input`; its first byte holds it in the low `prefix` bits (1 to 8) below flags of no interest here.
#[expect(clippy::inline_always, reason = "each field of a call has one")]
#[inline(always)]
pub(super) fn decode(input: &mut &[u8], prefix: u32) -> Result<u32, Error> {
    let (&first, rest) = input.split_first().ok_or(Error::Truncated)?;
    *input = rest;
    let full = (1u32 << prefix) - 1;
    let value = u32::from(first) & full;
    if value < full {
        Ok(value)
    } else {
        decode_continuation(input, full)
    }
}

#[cold]
fn decode_continuation(input: &mut &[u8], prefix_value: u32) -> Result<u32, Error> {
    let mut value = u64::from(prefix_value);
    for position in 0..MAX_CONTINUATION {
        let (&byte, rest) = input.split_first().ok_or(Error::Truncated)?;
        *input = rest;
        value += u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return u32::try_from(value).map_err(|_| Error::IntegerOverflow);
        }
    }
    Err(Error::IntegerOverflow)
}

/// Appends `value` with `flags` in the bits above the `prefix`.
#[inline]
pub(super) fn encode(out: &mut BytesMut, flags: u8, prefix: u32, value: u32) {
    let full = (1u32 << prefix) - 1;
    if value < full {
        out.put_u8(flags | value as u8);
        return;
    }
    out.put_u8(flags | full as u8);
    let mut value = value - full;
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(mut bytes: &[u8], prefix: u32) -> Result<u32, Error> {
        let value = decode(&mut bytes, prefix)?;
        assert!(bytes.is_empty(), "bytes left over: {bytes:?}");
        Ok(value)
    }

    #[test]
    fn rfc_7541_c_1_examples_both_ways() {
        let cases: [(&[u8], u32, u32); 3] =
            [(&[0x0a], 5, 10), (&[0x1f, 0x9a, 0x0a], 5, 1337), (&[42], 8, 42)];
        for (bytes, prefix, value) in cases {
            assert_eq!(decoded(bytes, prefix), Ok(value));
            let mut out = BytesMut::new();
            encode(&mut out, 0, prefix, value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn every_prefix_round_trips_around_each_boundary() {
        for prefix in 1..=8 {
            let edges = (0..32).map(|bit| 1u32 << bit).chain([0, u32::MAX]);
            for value in edges.flat_map(|edge| {
                [
                    edge.wrapping_sub(1),
                    edge,
                    edge.wrapping_add(1),
                    edge.wrapping_add(126),
                ]
            }) {
                let mut out = BytesMut::new();
                encode(&mut out, 0, prefix, value);
                assert_eq!(decoded(&out, prefix), Ok(value), "prefix {prefix}");
            }
        }
    }

    #[test]
    fn an_integer_beyond_32_bits_is_refused() {
        // 0x7f + 2^32 - 0x7f - 1 is the largest; one more overflows.
        assert_eq!(decoded(&[0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f], 7), Ok(u32::MAX));
        assert_eq!(
            decoded(&[0x7f, 0x81, 0xff, 0xff, 0xff, 0x0f], 7),
            Err(Error::IntegerOverflow)
        );
        assert_eq!(
            decoded(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], 8),
            Err(Error::IntegerOverflow)
        );
    }

    #[test]
    fn an_integer_padded_with_zeros_beyond_five_bytes_is_refused() {
        assert_eq!(decoded(&[0x1f, 0x80, 0x80, 0x80, 0x80, 0x00], 5), Ok(31));
        assert_eq!(
            decoded(&[0x1f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], 5),
            Err(Error::IntegerOverflow)
        );
    }

    #[test]
    fn an_integer_cut_anywhere_is_truncated() {
        let whole = [0x1f, 0x9a, 0x0a];
        for end in 0..whole.len() {
            assert_eq!(decoded(&whole[..end], 5), Err(Error::Truncated));
        }
    }
}
