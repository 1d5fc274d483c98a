//! A list of header fields as one message section carries it: in order, each with its way of indexing.

use std::rc::Rc;

use super::{Field, FieldKind, Fields, MAX_FIELDS};

/// How a field was, and is to be, represented (RFC 7541 §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Indexing {
    /// From a table, or a literal to be put into one.
    #[default]
    Index,
    /// A literal that the sender kept out of the table. An intermediary may treat it otherwise; we do not.
    Without,
    /// A literal that must reach no table on the whole way (RFC 7541 §6.2.3, §7.1.3).
    Never,
}

#[derive(Clone, Debug)]
pub struct HeaderField {
    pub field: Rc<Field>,
    pub indexing: Indexing,
}

/// Header fields in order. [`HeaderList::clear`] keeps the memory for the next use.
#[derive(Clone, Debug, Default)]
pub struct HeaderList {
    fields: Vec<HeaderField>,
    size: usize,
    /// Memory of the fields that only those have who hold the list.
    unshared: usize,
    oversized: bool,
}

impl HeaderList {
    pub fn new() -> Self {
        Self::default()
    }

    /// A list of our own making. The fields are indexed by encoders that send them.
    pub fn from_pairs<'a>(
        fields: &mut Fields,
        pairs: impl IntoIterator<
            Item = (
                &'a (impl AsRef<[u8]> + ?Sized + 'a),
                &'a (impl AsRef<[u8]> + ?Sized + 'a),
            ),
        >,
    ) -> Self {
        let mut list = Self::new();
        for (name, value) in pairs {
            list.push(fields.intern(name.as_ref(), value.as_ref()), Indexing::Index);
        }
        list
    }

    #[inline]
    pub fn push(&mut self, field: Rc<Field>, indexing: Indexing) {
        self.size += field.size() as usize;
        self.unshared += field.unshared_memory();
        self.fields.push(HeaderField { field, indexing });
    }

    /// Empties the list and forgets that it was oversized.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.size = 0;
        self.unshared = 0;
        self.oversized = false;
    }

    /// Drops the fields that `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(&Field) -> bool) {
        self.fields.retain(|entry| keep(&entry.field));
        let fields = || self.fields.iter().map(|entry| &entry.field);
        self.size = fields().map(|field| field.size() as usize).sum();
        self.unshared = fields().map(|field| field.unshared_memory()).sum();
    }

    pub fn iter(&self) -> std::slice::Iter<'_, HeaderField> {
        self.fields.iter()
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Bytes as `SETTINGS_MAX_HEADER_LIST_SIZE` counts them (RFC 9113 §6.5.2): names and values decoded, 32 more a field.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes of memory that holding this list costs: an upper estimate, and the same as long as the list is not changed. Not less
    /// than [`Self::size`], which it becomes when it is encoded for a peer without a table. What the pod's interner and the
    /// static table hold once, whoever names it, is left out.
    pub fn memory(&self) -> usize {
        let own = size_of::<Self>() + self.fields.capacity() * size_of::<HeaderField>();
        (own + self.unshared).max(self.size)
    }

    /// The sender's list was longer than the decoder's limit, in bytes or in fields; this one lacks fields.
    pub fn oversized(&self) -> bool {
        self.oversized
    }

    pub(super) const fn set_oversized(&mut self) {
        self.oversized = true;
    }

    /// Fields that it has memory for.
    pub(super) fn capacity(&self) -> usize {
        self.fields.capacity()
    }

    pub(super) fn reserve(&mut self, fields: usize) {
        self.fields.reserve(fields);
    }

    /// Once a field would take the list over `limit` bytes or [`MAX_FIELDS`], that one and all after it are left out.
    #[inline]
    /// Whether it fitted.
    pub(super) fn push_within(&mut self, limit: u32, field: Rc<Field>, indexing: Indexing) -> bool {
        let size = self.size.saturating_add(field.size() as usize);
        let fits = size <= limit as usize && self.fields.len() < MAX_FIELDS;
        if fits {
            self.push(field, indexing);
        } else {
            self.oversized = true;
        }
        fits
    }

    /// The value of the first field of this name (lower case, pseudo-fields with their colon).
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let name = name.as_ref();
        self.iter()
            .find(|entry| entry.field.name() == name)
            .map(|entry| entry.field.value())
    }

    /// The first field of this kind: the fast way for names that have a kind of their own.
    pub fn find(&self, kind: FieldKind) -> Option<&Rc<Field>> {
        self.iter()
            .map(|entry| &entry.field)
            .find(|field| field.kind() == kind)
    }
}

impl<'a> IntoIterator for &'a HeaderList {
    type Item = &'a HeaderField;
    type IntoIter = std::slice::Iter<'a, HeaderField>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
