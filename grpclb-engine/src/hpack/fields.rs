//! The interner of one client pod: equal fields become one object with one id, decoded and judged once.
//!
//! A field is looked up by its name's id and its value's literal as received, so that a repeated literal costs neither
//! Huffman work nor memory. (One value may thus be two objects, Huffman-coded and not; that costs an index, not truth.)
//! What no list and no table holds any longer is dropped by a sweep, whose cost is spread over the insertions before it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use super::lists::Lists;
use super::literal::Literal;
use super::{DEFAULT_TABLE_SIZE, Error, Field, HeaderList, Name, static_table};
use crate::rng::mix;

/// What a map's entry costs: key, pointer, control byte, and the map's spare room after it has doubled.
const MAP_ENTRY: usize = 40;

/// Fewest insertions between two sweeps.
const MIN_SWEEP_INTERVAL: usize = 128;

/// Interns the header fields of one pod. Not shared by pods: what one tenant sends must cost another nothing.
#[derive(Debug)]
pub struct Fields {
    seed: u64,
    limit: usize,
    /// By a 64-bit hash. On a collision the newer takes the place: that costs sharing, never truth.
    interned: HashMap<u64, Rc<Field>, IdentityBuilder>,
    names: HashMap<u64, Rc<Name>, IdentityBuilder>,
    /// In order of index: a static entry's field id is its index.
    static_entries: Box<[Rc<Field>]>,
    /// Bytes that `interned` and `names` keep beyond the static table: an upper estimate.
    footprint: usize,
    next_id: u64,
    until_sweep: usize,
    scratch: Vec<u8>,
    lists: Lists,
}

impl Fields {
    /// `limit` bounds the bytes that are kept for sharing; beyond it fields are made but not interned. `seed` keeps a
    /// peer from choosing fields whose hashes collide.
    pub fn new(limit: usize, seed: u64) -> Self {
        let mut fields = Self {
            seed,
            limit,
            interned: HashMap::default(),
            names: HashMap::default(),
            static_entries: Box::default(),
            footprint: 0,
            next_id: 1,
            until_sweep: MIN_SWEEP_INTERVAL,
            scratch: Vec::new(),
            lists: Lists::default(),
        };
        fields.static_entries = fields.make_static_entries();
        fields
    }

    /// A field of our own, or of a test. Its literal is plain, for it is seldom worth a Huffman code.
    pub fn intern(&mut self, name: &[u8], value: &[u8]) -> Rc<Field> {
        let (text, value) = (name, Literal::plain(value));
        let name = self.name_of(text, Literal::plain(text));
        let hash = self.hash(name.id, value);
        self.known_field(hash, &name, value)
            .unwrap_or_else(|| self.new_field(hash, &name, value.payload, value))
    }

    /// An empty list, made of one that was used before if there is one.
    pub fn take_list(&mut self) -> Rc<HeaderList> {
        self.lists.take()
    }

    /// Takes back a list when its last user is done with it.
    pub fn give_back_list(&mut self, list: Rc<HeaderList>) {
        self.lists.give_back(list);
    }

    /// How many fields are kept for sharing, beside the static table.
    pub fn len(&self) -> usize {
        self.interned.len()
    }

    pub fn is_empty(&self) -> bool {
        self.interned.is_empty()
    }

    /// Bytes of memory kept for sharing: an upper estimate.
    pub fn footprint(&self) -> usize {
        self.footprint
    }

    /// The static table's entry; `index` starts at one.
    pub(super) fn static_field(&self, index: u32) -> Option<&Rc<Field>> {
        self.static_entries.get((index as usize).checked_sub(1)?)
    }

    /// Whether a literal that nobody needs is well-formed.
    pub(super) fn check(&mut self, literal: Literal<'_>) -> Result<(), Error> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let checked = literal.text(&mut scratch).map(|_| ());
        self.scratch = scratch;
        checked
    }

    pub(super) fn name(&mut self, name: Literal<'_>) -> Result<Rc<Name>, Error> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let interned = name.text(&mut scratch).map(|text| self.name_of(text, name));
        self.scratch = scratch;
        interned
    }

    pub(super) fn field(&mut self, name: &Rc<Name>, value: Literal<'_>) -> Result<Rc<Field>, Error> {
        let hash = self.hash(name.id, value);
        if let Some(field) = self.known_field(hash, name, value) {
            return Ok(field);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let interned = value
            .text(&mut scratch)
            .map(|text| self.new_field(hash, name, text, value));
        self.scratch = scratch;
        interned
    }

    fn known_field(&self, hash: u64, name: &Rc<Name>, value: Literal<'_>) -> Option<Rc<Field>> {
        let field = self.interned.get(&hash)?;
        (field.name.id == name.id && field.literal() == value).then(|| Rc::clone(field))
    }

    fn new_field(&mut self, hash: u64, name: &Rc<Name>, text: &[u8], value: Literal<'_>) -> Rc<Field> {
        if let Some(field) = self.static_value(name, text) {
            return field;
        }
        let id = self.take_id();
        let field = Rc::new(Field::new(id, Rc::clone(name), text, value));
        self.make_room();
        // What no table can hold is seldom seen again.
        if field.size() <= DEFAULT_TABLE_SIZE && self.admit(field.footprint()) {
            field.set_interned(true);
            if let Some(collided) = self.interned.insert(hash, Rc::clone(&field)) {
                collided.set_interned(false);
                self.dismiss(collided.footprint());
            }
        }
        field
    }

    fn name_of(&mut self, text: &[u8], literal: Literal<'_>) -> Rc<Name> {
        let hash = self.hash(0, Literal::plain(text));
        if let Some(name) = self.names.get(&hash).filter(|name| name.text() == text) {
            return Rc::clone(name);
        }
        let id = self.take_id();
        let name = Rc::new(Name::new(id, text, literal, 0));
        self.make_room();
        if self.admit(name.footprint()) {
            name.set_interned(true);
            if let Some(collided) = self.names.insert(hash, Rc::clone(&name)) {
                collided.set_interned(false);
                self.dismiss(collided.footprint());
            }
        }
        name
    }

    /// A literal of what the static table has: that entry, so that it goes out as an index.
    fn static_value(&self, name: &Name, text: &[u8]) -> Option<Rc<Field>> {
        let first = name.static_index()?;
        let same_name = self.static_entries[first as usize - 1..]
            .iter()
            .take_while(|field| field.name.id == name.id);
        same_name.into_iter().find(|field| field.value() == text).cloned()
    }

    /// Whether there is room for so many bytes more, which are then counted.
    fn admit(&mut self, footprint: usize) -> bool {
        let footprint = footprint + MAP_ENTRY;
        let fits = self.footprint + footprint <= self.limit;
        if fits {
            self.footprint += footprint;
        }
        fits
    }

    /// Takes back what an entry counted whose hash collided. (That of a static name never counted.)
    fn dismiss(&mut self, collided: usize) {
        self.footprint = self.footprint.saturating_sub(collided + MAP_ENTRY);
    }

    /// Now and then drops what nobody but the interner holds. As many insertions lie between two sweeps as the first
    /// of them left entries, so that the cost of an insertion does not grow with their number.
    fn make_room(&mut self) {
        self.until_sweep -= 1;
        if self.until_sweep > 0 {
            return;
        }
        self.interned.retain(|_, field| Rc::strong_count(field) > 1);
        self.names.retain(|_, name| Rc::strong_count(name) > 1);
        let (fields, names) = (self.interned.len(), self.names.len());
        self.interned.shrink_to(2 * fields + MIN_SWEEP_INTERVAL);
        self.names.shrink_to(2 * names + MIN_SWEEP_INTERVAL);
        let dynamic = self.names.values().filter(|name| name.static_index().is_none());
        self.footprint = self
            .interned
            .values()
            .map(|field| field.footprint() + MAP_ENTRY)
            .sum::<usize>()
            + dynamic.map(|name| name.footprint() + MAP_ENTRY).sum::<usize>();
        self.until_sweep = MIN_SWEEP_INTERVAL.max(fields + names);
    }

    fn make_static_entries(&mut self) -> Box<[Rc<Field>]> {
        let mut fields: Vec<Rc<Field>> = Vec::with_capacity(static_table::ENTRIES.len());
        // The first ids are the indices; names take theirs after them.
        self.next_id = 1 + u64::from(static_table::LEN);
        for (index, (name, value)) in (1..).zip(static_table::ENTRIES) {
            let text = name.as_bytes();
            let name = match fields.last() {
                Some(last) if last.name() == text => Rc::clone(&last.name),
                _ => {
                    let name = Rc::new(Name::new(self.take_id(), text, Literal::plain(text), index));
                    self.names
                        .insert(self.hash(0, Literal::plain(text)), Rc::clone(&name));
                    name
                }
            };
            let value = value.as_bytes();
            fields.push(Rc::new(Field::new(
                index.into(),
                name,
                value,
                Literal::plain(value),
            )));
        }
        fields.into()
    }

    /// Ids are never used twice: at a billion a second they last for five hundred years.
    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn hash(&self, name: u64, value: Literal<'_>) -> u64 {
        let (chunks, tail) = value.payload.as_chunks::<8>();
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        // The length keeps a tail from meaning its own zeros; the Huffman bit is above every length.
        let shape = value.payload.len() as u64 | u64::from(value.huffman) << 63;
        let start = mix(self.seed ^ name) ^ shape;
        let hash = chunks
            .iter()
            .fold(start, |hash, chunk| mix(hash ^ u64::from_le_bytes(*chunk)));
        mix(hash ^ u64::from_le_bytes(last))
    }
}

/// For keys that are evenly spread already.
#[derive(Default)]
pub(super) struct Identity(u64);

pub(super) type IdentityBuilder = BuildHasherDefault<Identity>;

impl Hasher for Identity {
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
