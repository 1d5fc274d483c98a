//! Field blocks in: HPACK's decoder with its dynamic table (RFC 7541 §3, §4, §6).

use std::collections::VecDeque;
use std::rc::Rc;

use super::literal::Literal;
use super::partial::Partial;
use super::{Error, Field, Fields, HeaderList, Indexing, Name, integer, static_table};

/// Decodes the field blocks of one connection, in the order in which they came.
///
/// After an error the table no longer follows the peer's: the connection must end.
#[derive(Debug)]
pub struct Decoder {
    /// Newest first: index 62 is at the front.
    table: VecDeque<Rc<Field>>,
    /// Bytes of all entries, each with its 32.
    size: u32,
    /// What the peer's encoder has chosen; at most `max`.
    capacity: u32,
    /// Our `SETTINGS_HEADER_TABLE_SIZE`, once acknowledged.
    max: u32,
    /// The peer acknowledged this bound below the capacity: the next block must begin by shrinking the table.
    must_shrink_to: Option<u32>,
    pub(super) partial: Partial,
}

impl Decoder {
    /// `max_table_size` is what our first SETTINGS will allow. Until it is acknowledged the peer goes by 4096
    /// ([`super::DEFAULT_TABLE_SIZE`]); whoever announces another size begins with that and calls
    /// [`Decoder::set_max_table_size`] when the ACK is here.
    pub fn new(max_table_size: u32) -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            capacity: max_table_size,
            max: max_table_size,
            must_shrink_to: None,
            partial: Partial::default(),
        }
    }

    /// The peer has acknowledged our `SETTINGS_HEADER_TABLE_SIZE`. Where it is below the table's capacity, the peer's
    /// next field block must begin by shrinking the table (RFC 9113 §4.3.1).
    pub fn set_max_table_size(&mut self, size: u32) {
        self.max = size;
        if size < self.capacity {
            self.must_shrink_to = Some(self.must_shrink_to.map_or(size, |earlier| earlier.min(size)));
        }
    }

    /// Replaces what `out` held by the fields of `block`, a whole field block.
    ///
    /// A list of more than `limit` bytes (as [`HeaderList::size`] counts them) or [`super::MAX_FIELDS`] is not an error: the rest of
    /// it updates the table but is left out, and `out` says that it is oversized. What is left out costs no more than its own bytes.
    pub fn decode(
        &mut self,
        block: &[u8],
        fields: &mut Fields,
        limit: u32,
        out: &mut HeaderList,
    ) -> Result<(), Error> {
        out.clear();
        // One allocation for a list of the usual length. The same for all: lists go round among requests, responses and trailers.
        out.reserve(12);
        let mut block = block;
        self.size_updates(&mut block)?;
        while !block.is_empty() {
            let (field, indexing) = self.representation(&mut block, fields)?;
            if !out.push_within(limit, field, indexing) {
                break;
            }
        }
        while !block.is_empty() {
            self.follow(&mut block, fields)?;
        }
        Ok(())
    }

    /// Takes one field off `block` (RFC 7541 §6).
    #[expect(clippy::inline_always, reason = "the loop of every call's fields")]
    #[inline(always)]
    pub(super) fn representation(
        &mut self,
        block: &mut &[u8],
        fields: &mut Fields,
    ) -> Result<(Rc<Field>, Indexing), Error> {
        let first = *block.first().ok_or(Error::Truncated)?;
        if first & 0x80 != 0 {
            let index = integer::decode(block, 7)?;
            Ok((self.entry(index, fields)?, Indexing::Index))
        } else if first & 0x40 != 0 {
            let field = self.literal(block, 6, fields)?;
            self.insert(Rc::clone(&field));
            Ok((field, Indexing::Index))
        } else if first & 0x20 != 0 {
            Err(Error::LateTableSizeUpdate)
        } else {
            let indexing = if first & 0x10 != 0 {
                Indexing::Never
            } else {
                Indexing::Without
            };
            Ok((self.literal(block, 4, fields)?, indexing))
        }
    }

    /// Takes one field off `block` of which only the table needs to know: nothing else is made of it.
    pub(super) fn follow(&mut self, block: &mut &[u8], fields: &mut Fields) -> Result<(), Error> {
        let first = *block.first().ok_or(Error::Truncated)?;
        if first & 0x80 != 0 {
            let index = integer::decode(block, 7)?;
            self.lookup(index, fields).ok_or(Error::UnknownIndex { index })?;
        } else if first & 0x40 != 0 {
            let field = self.literal(block, 6, fields)?;
            self.insert(field);
        } else if first & 0x20 != 0 {
            return Err(Error::LateTableSizeUpdate);
        } else {
            match integer::decode(block, 4)? {
                0 => fields.check(Literal::parse(block)?)?,
                index => {
                    self.lookup(index, fields).ok_or(Error::UnknownIndex { index })?;
                }
            }
            fields.check(Literal::parse(block)?)?;
        }
        Ok(())
    }

    pub(super) fn knows(&self, index: u32, fields: &Fields) -> bool {
        self.lookup(index, fields).is_some()
    }

    /// Bytes that the table may hold.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Bytes that the table holds, each entry with its 32.
    pub fn table_size(&self) -> u32 {
        self.size
    }

    /// Bytes that the table takes in memory, roughly: most of what an entry costs is not its text.
    pub fn memory(&self) -> usize {
        self.size as usize + self.table.len() * 96
    }

    /// RFC 7541 §4.2 and §6.3: only before the first field.
    #[inline]
    pub(super) fn size_updates(&mut self, block: &mut &[u8]) -> Result<(), Error> {
        while block.first().is_some_and(|first| first & 0xe0 == 0x20) {
            let size = integer::decode(block, 5)?;
            if size > self.max {
                return Err(Error::TableTooLarge { size, max: self.max });
            }
            if self.must_shrink_to.is_some_and(|bound| size <= bound) {
                self.must_shrink_to = None;
            }
            self.capacity = size;
            self.evict_down_to(size);
        }
        self.must_shrink_to
            .map_or(Ok(()), |max| Err(Error::MissingTableSizeUpdate { max }))
    }

    /// RFC 7541 §6.2: a field with a name from a table or of its own.
    fn literal(&self, block: &mut &[u8], prefix: u32, fields: &mut Fields) -> Result<Rc<Field>, Error> {
        let name = match integer::decode(block, prefix)? {
            0 => fields.name(Literal::parse(block)?)?,
            index => self.name(index, fields)?,
        };
        fields.field(&name, Literal::parse(block)?)
    }

    fn name(&self, index: u32, fields: &Fields) -> Result<Rc<Name>, Error> {
        self.lookup(index, fields)
            .map(|field| Rc::clone(&field.name))
            .ok_or(Error::UnknownIndex { index })
    }

    fn entry(&self, index: u32, fields: &Fields) -> Result<Rc<Field>, Error> {
        self.lookup(index, fields)
            .cloned()
            .ok_or(Error::UnknownIndex { index })
    }

    /// RFC 7541 §2.3.3: one address space for both tables.
    fn lookup<'a>(&'a self, index: u32, fields: &'a Fields) -> Option<&'a Rc<Field>> {
        match index.checked_sub(static_table::LEN + 1) {
            Some(dynamic) => self.table.get(dynamic as usize),
            None => fields.static_field(index),
        }
    }

    /// RFC 7541 §4.4: an entry that is larger than the table empties it, and is no error.
    fn insert(&mut self, field: Rc<Field>) {
        let Some(room) = self.capacity.checked_sub(field.size()) else {
            self.evict_down_to(0);
            return;
        };
        self.evict_down_to(room);
        self.size += field.size();
        self.table.push_front(field);
    }

    pub(super) fn evict_down_to(&mut self, size: u32) {
        while self.size > size {
            let Some(evicted) = self.table.pop_back() else {
                return;
            };
            self.size -= evicted.size();
        }
    }
}
