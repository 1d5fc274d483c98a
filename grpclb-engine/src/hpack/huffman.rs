//! HPACK's Huffman code (RFC 7541 §5.2, appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and longer codes follow
//! shorter ones. So the lengths alone define it, and every table here is computed from them.

use super::Error;

/// The end-of-string symbol: it never stands in a string, its first bits are the padding.
const EOS: usize = 256;

/// Bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const SHORTEST: u32 = 5;
const LONGEST: usize = 30;

/// Bits that one look into [`SHORT`] resolves: every character that is common in header fields.
const SHORT_BITS: u32 = 10;

const CANONICAL: Canonical = Canonical::new();
static CODES: [u32; 257] = CANONICAL.codes;
static LONG: [Length; LONGEST + 1] = CANONICAL.lengths;
static SYMBOLS: [u16; 257] = CANONICAL.symbols;

/// By the next ten bits: the code's length in the high byte, its symbol in the low one. Zero: a longer code.
static SHORT: [u16; 1 << SHORT_BITS] = short_codes();

/// Appends `coded`'s text to `out`. On an error, part of it may have been appended.
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    // The next bits of the string are the highest ones of `bits`; those below the first `count` may be anything that
    // a refill ors in again unchanged.
    let (mut bits, mut count) = (0u64, 0u32);
    let mut rest = coded;
    out.reserve(coded.len() + coded.len() / 2);
    loop {
        if let Some(chunk) = rest.first_chunk::<8>() {
            bits |= u64::from_be_bytes(*chunk) >> count;
            let bytes = (63 - count) / 8;
            rest = &rest[bytes as usize..];
            count += 8 * bytes;
        } else {
            while count <= 56
                && let Some((&byte, after)) = rest.split_first()
            {
                bits |= u64::from(byte) << (56 - count);
                count += 8;
                rest = after;
            }
            if count < SHORTEST {
                break;
            }
        }
        // At least 56 bits are here while the string goes on, so that several short codes need no refill.
        loop {
            let entry = SHORT[(bits >> (64 - SHORT_BITS)) as usize];
            let (symbol, length) = match entry {
                0 => long_code((bits >> 32) as u32)?,
                _ => (entry as u8, u32::from(entry >> 8)),
            };
            if length > count {
                return padding(bits, count, rest);
            }
            out.push(symbol);
            bits <<= length;
            count -= length;
            if count < LONGEST as u32 {
                break;
            }
        }
    }
    padding(bits, count, rest)
}

/// The string may end with up to seven bits of ones (RFC 7541 §5.2).
fn padding(bits: u64, count: u32, rest: &[u8]) -> Result<(), Error> {
    let ones = !(u64::MAX >> count);
    if rest.is_empty() && count < 8 && bits & ones == ones {
        Ok(())
    } else {
        Err(Error::Huffman)
    }
}

/// Symbol and length of the code of more than ten bits at the top of `bits`.
#[cold]
fn long_code(bits: u32) -> Result<(u8, u32), Error> {
    for (length, of_length) in LONG.iter().enumerate().skip(SHORT_BITS as usize + 1) {
        let code = bits >> (32 - length);
        if code < of_length.end {
            let symbol = SYMBOLS[of_length.symbols + (code - of_length.first) as usize];
            return u8::try_from(symbol)
                .map(|symbol| (symbol, length as u32))
                .map_err(|_| Error::Huffman);
        }
    }
    Err(Error::Huffman)
}

/// Appends `text` coded. The relay path never does this: it passes on what it got.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u64, 0u32);
    for &byte in text {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        bits = bits << length | u64::from(CODES[usize::from(byte)]);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        out.push((bits << (8 - count)) as u8 | 0xff >> count);
    }
}

/// Bytes that [`encode`] would append.
pub fn encoded_len(text: &[u8]) -> usize {
    text.iter()
        .map(|&byte| usize::from(LENGTHS[usize::from(byte)]))
        .sum::<usize>()
        .div_ceil(8)
}

/// The codes of one length.
#[derive(Clone, Copy)]
struct Length {
    first: u32,
    /// One more than the last.
    end: u32,
    /// Where their symbols begin in [`SYMBOLS`].
    symbols: usize,
}

struct Canonical {
    codes: [u32; 257],
    lengths: [Length; LONGEST + 1],
    /// In order of their codes.
    symbols: [u16; 257],
}

impl Canonical {
    const fn new() -> Self {
        let mut codes = [0; 257];
        let mut lengths = [Length {
            first: 0,
            end: 0,
            symbols: 0,
        }; LONGEST + 1];
        let mut symbols = [0; 257];
        let (mut code, mut position) = (0, 0);
        let mut length = 1;
        while length <= LONGEST {
            code <<= 1;
            lengths[length] = Length {
                first: code,
                end: code,
                symbols: position,
            };
            let mut symbol = 0;
            while symbol <= EOS {
                if LENGTHS[symbol] as usize == length {
                    codes[symbol] = code;
                    symbols[position] = symbol as u16;
                    code += 1;
                    position += 1;
                }
                symbol += 1;
            }
            lengths[length].end = code;
            length += 1;
        }
        Self {
            codes,
            lengths,
            symbols,
        }
    }
}

const fn short_codes() -> [u16; 1 << SHORT_BITS] {
    let mut table = [0; 1 << SHORT_BITS];
    let mut symbol = 0;
    while symbol < EOS {
        let length = LENGTHS[symbol] as u32;
        if length <= SHORT_BITS {
            let free = SHORT_BITS - length;
            let start = CANONICAL.codes[symbol] << free;
            let mut filler = 0;
            while filler < 1 << free {
                table[(start + filler) as usize] = (length as u16) << 8 | symbol as u16;
                filler += 1;
            }
        }
        symbol += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        decode(coded, &mut text).map(|()| text)
    }

    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut coded = Vec::new();
        encode(text, &mut coded);
        assert_eq!(coded.len(), encoded_len(text));
        coded
    }

    #[test]
    fn codes_computed_from_lengths_are_those_of_appendix_b() {
        let spots = [
            (0, 0x1ff8),
            (10, 0x3fff_fffc),
            (usize::from(b' '), 0x14),
            (usize::from(b'0'), 0x0),
            (usize::from(b'a'), 0x3),
            (usize::from(b'\\'), 0x7_fff0),
            (usize::from(b'~'), 0x1ffd),
            (128, 0xf_ffe6),
            (255, 0x3ff_ffee),
            (EOS, 0x3fff_ffff),
        ];
        for (symbol, code) in spots {
            assert_eq!(CODES[symbol], code, "symbol {symbol}");
        }
    }

    #[test]
    fn the_code_is_complete_so_no_bits_are_without_meaning() {
        let space: u64 = LENGTHS
            .iter()
            .map(|&length| 1 << (LONGEST - usize::from(length)))
            .sum();
        assert_eq!(space, 1 << LONGEST);
    }

    #[test]
    fn every_byte_after_every_number_of_bits_round_trips() {
        for byte in 0..=255u8 {
            for before in 0..9 {
                let mut text = vec![b'0'; before];
                text.extend([byte, byte, b'Z', byte]);
                assert_eq!(decoded(&encoded(&text)).as_deref(), Ok(&text[..]));
            }
        }
    }

    #[test]
    fn rfc_7541_example_strings_decode() {
        assert_eq!(
            decoded(&[
                0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff
            ])
            .as_deref(),
            Ok(&b"www.example.com"[..])
        );
        assert_eq!(decoded(&[]).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn padding_of_eight_bits_or_more_is_refused() {
        for text in [&b""[..], b"0", b"00000000", b"a longer text, of many characters"] {
            let mut coded = encoded(text);
            coded.push(0xff);
            assert_eq!(decoded(&coded), Err(Error::Huffman), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn padding_that_is_not_all_ones_is_refused() {
        // '0' is five zeros; three bits of padding follow.
        assert_eq!(decoded(&[0b0000_0111]).as_deref(), Ok(&b"0"[..]));
        for padding in 0..0b111 {
            assert_eq!(decoded(&[padding]), Err(Error::Huffman), "padding {padding:03b}");
        }
    }

    #[test]
    fn the_end_of_string_symbol_is_refused_wherever_it_stands() {
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(Error::Huffman));
        // '0', then thirty ones, then padding.
        assert_eq!(decoded(&[0x07, 0xff, 0xff, 0xff, 0xff]), Err(Error::Huffman));
        // Thirty ones, then ten zeros: "00".
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc, 0x00]), Err(Error::Huffman));
    }

    #[test]
    fn a_code_that_the_end_cuts_is_refused() {
        // Newline has thirty bits.
        let coded = encoded(b"\n");
        for end in 1..coded.len() {
            assert_eq!(decoded(&coded[..end]), Err(Error::Huffman));
        }
    }
}
