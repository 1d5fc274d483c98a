//! Field blocks that are too long to be kept until their end has come: decoded piece by piece, as they arrive. Their lists are
//! oversized; what matters is that the table goes on with them, so that the connection does.

use bytes::{Buf, BytesMut};

use super::{Decoder, Error, Fields, HeaderList, integer};

/// A literal that has not come whole by so many bytes is passed over as it arrives. It enters no table: its text, decoded, has a
/// quarter of its length at least, and tables hold less.
const GIANT: usize = 64 << 10;

/// Where the decoder stands between two pieces of a block.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// Bytes of a literal that are still to be passed over.
    skip: usize,
    /// What follows them is the value of a field whose name they end.
    value_follows: bool,
}

impl Decoder {
    /// Replaces what `out` held by the fields at the beginning of a block, within `limit`, and takes all that is complete off
    /// `block`. Whatever follows, `out` is oversized. [`Self::decode_rest`] goes on.
    pub fn decode_beginning(
        &mut self,
        block: &mut BytesMut,
        fields: &mut Fields,
        limit: u32,
        out: &mut HeaderList,
    ) -> Result<(), Error> {
        out.clear();
        let mut rest = &block[..];
        self.size_updates(&mut rest)?;
        while !rest.is_empty() && !out.oversized() {
            let mut after = rest;
            match self.representation(&mut after, fields) {
                Ok((field, indexing)) => _ = out.push_within(limit, field, indexing),
                Err(Error::Truncated) => break,
                Err(error) => return Err(error),
            }
            rest = after;
        }
        out.set_oversized();
        let used = block.len().saturating_sub(rest.len());
        block.advance(used);
        self.decode_rest(block, fields, false)
    }

    /// Goes on with a block that [`Self::decode_beginning`] began; `last`: `block` ends it. Takes off what is complete.
    pub fn decode_rest(
        &mut self,
        block: &mut BytesMut,
        fields: &mut Fields,
        last: bool,
    ) -> Result<(), Error> {
        let mut rest = &block[..];
        let result = self.follow_pieces(&mut rest, fields, last);
        let used = block.len().saturating_sub(rest.len());
        block.advance(used);
        match result {
            Err(Error::Truncated) if !last => Ok(()),
            Ok(()) if last && self.partial.is_within() => Err(Error::Truncated),
            result => result,
        }
    }

    /// `Truncated`: the rest is the beginning of something.
    fn follow_pieces(&mut self, rest: &mut &[u8], fields: &mut Fields, last: bool) -> Result<(), Error> {
        self.partial.pass(rest);
        if self.partial.skip == 0 && self.partial.value_follows {
            let mut after = *rest;
            self.partial.pass_literal(&mut after)?;
            self.partial.value_follows = false;
            *rest = after;
        }
        while !rest.is_empty() {
            let mut after = *rest;
            match self.follow(&mut after, fields) {
                Err(Error::Truncated) if !last && rest.len() > self.giant() => {
                    self.pass_over_field(rest, fields)?;
                }
                result => {
                    result?;
                    *rest = after;
                }
            }
        }
        Ok(())
    }

    /// Passes over what is here of a literal field that is too long for every table.
    fn pass_over_field(&mut self, rest: &mut &[u8], fields: &Fields) -> Result<(), Error> {
        let indexed = rest.first().is_some_and(|first| first & 0x40 != 0);
        let index = integer::decode(rest, if indexed { 6 } else { 4 })?;
        if index == 0 {
            self.partial.pass_literal(rest)?;
        } else if !self.knows(index, fields) {
            return Err(Error::UnknownIndex { index });
        }
        let mut after = *rest;
        if self.partial.skip == 0 && self.partial.pass_literal(&mut after).is_ok() {
            *rest = after;
        } else {
            self.partial.value_follows = true;
        }
        if indexed {
            // RFC 7541 §4.4: an entry that is larger than the table empties it.
            self.evict_down_to(0);
        }
        Ok(())
    }

    /// Bytes from which on a literal cannot fit into the table: the longest Huffman code has thirty bits.
    fn giant(&self) -> usize {
        GIANT.max((self.capacity() as usize).saturating_mul(4))
    }
}

impl Partial {
    /// The block may not end here.
    const fn is_within(&self) -> bool {
        self.skip > 0 || self.value_follows
    }

    fn pass(&mut self, rest: &mut &[u8]) {
        let here = self.skip.min(rest.len());
        self.skip = self.skip.saturating_sub(here);
        *rest = &rest[here..];
    }

    /// Passes over as much of a literal as is here.
    fn pass_literal(&mut self, rest: &mut &[u8]) -> Result<(), Error> {
        self.skip = integer::decode(rest, 7)? as usize;
        self.pass(rest);
        Ok(())
    }
}
