//! String literals (RFC 7541 §5.2): a length, a Huffman bit, and that many bytes.

use bytes::BytesMut;

use super::{Error, huffman, integer};

/// A string as it stands in a field block, not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Literal<'a> {
    pub(super) huffman: bool,
    pub(super) payload: &'a [u8],
}

impl<'a> Literal<'a> {
    pub(super) const fn plain(payload: &'a [u8]) -> Self {
        Self {
            huffman: false,
            payload,
        }
    }

    /// Takes a literal off `block`.
    pub(super) fn parse(block: &mut &'a [u8]) -> Result<Self, Error> {
        let huffman = block.first().ok_or(Error::Truncated)? & 0x80 != 0;
        let len = integer::decode(block, 7)? as usize;
        let (payload, rest) = block.split_at_checked(len).ok_or(Error::Truncated)?;
        *block = rest;
        Ok(Self { huffman, payload })
    }

    /// The string itself: decoded into `scratch` where it is Huffman-coded.
    pub(super) fn text<'t>(&self, scratch: &'t mut Vec<u8>) -> Result<&'t [u8], Error>
    where
        'a: 't,
    {
        if !self.huffman {
            return Ok(self.payload);
        }
        scratch.clear();
        huffman::decode(self.payload, scratch)?;
        Ok(scratch)
    }

    /// Appends the literal with the shortest form of its length, whatever form that had: a peer must not be able to
    /// make us send what another peer may refuse.
    pub(super) fn write(&self, out: &mut BytesMut) {
        integer::encode(
            out,
            if self.huffman { 0x80 } else { 0 },
            7,
            self.payload.len() as u32,
        );
        out.extend_from_slice(self.payload);
    }
}
