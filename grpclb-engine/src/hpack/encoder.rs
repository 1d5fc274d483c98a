//! Field blocks out: HPACK's encoder (RFC 7541 §3, §4, §6), which finds fields by id and copies literals as received.
//!
//! A field is put into the table when it is sent for the second time, or when its name is new there. What differs with
//! every call (`grpc-timeout`, `traceparent`) then is a reference to its name and a value, costs no table work at either
//! end and drives nothing useful out, whatever its sender indexed.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use bytes::BytesMut;

use super::fields::IdentityBuilder;
use super::{DEFAULT_TABLE_SIZE, Field, HeaderList, Indexing, Name, integer, static_table};
use crate::rng::mix;

/// Encodes the field blocks of one connection. Its table holds at most 4096 bytes, whatever the peer allows.
#[derive(Debug)]
pub struct Encoder {
    /// Oldest first. Entries are numbered from one on, in the order of their insertion, and keep their number.
    table: VecDeque<Rc<Field>>,
    /// The number of the newest entry.
    inserted: u64,
    /// Entries' numbers by field, and the newest entry's number by name.
    by_field: HashMap<u64, u64, IdentityBuilder>,
    by_name: HashMap<u64, u64, IdentityBuilder>,
    size: u32,
    capacity: u32,
    /// The smallest capacity since the last block, which must be announced before the present one (RFC 7541 §4.2).
    pending_update: Option<u32>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    pub fn new() -> Self {
        Self {
            table: VecDeque::new(),
            inserted: 0,
            by_field: HashMap::default(),
            by_name: HashMap::default(),
            size: 0,
            capacity: DEFAULT_TABLE_SIZE,
            pending_update: None,
        }
    }

    /// The peer's `SETTINGS_HEADER_TABLE_SIZE`, to be called before its SETTINGS are acknowledged. The next block
    /// announces a change.
    pub fn set_max_table_size(&mut self, peer_setting: u32) {
        let capacity = peer_setting.min(DEFAULT_TABLE_SIZE);
        if capacity == self.capacity {
            return;
        }
        self.pending_update = Some(
            self.pending_update
                .map_or(capacity, |smallest| smallest.min(capacity)),
        );
        self.capacity = capacity;
        self.evict_down_to(capacity);
    }

    /// Appends `list` as one field block.
    pub fn encode(&mut self, list: &HeaderList, out: &mut BytesMut) {
        if let Some(smallest) = self.pending_update.take() {
            if smallest < self.capacity {
                integer::encode(out, 0x20, 5, smallest);
            }
            integer::encode(out, 0x20, 5, self.capacity);
        }
        for entry in list {
            self.encode_field(&entry.field, entry.indexing, out);
        }
    }

    /// Bytes that the table holds, each entry with its 32.
    pub fn table_size(&self) -> u32 {
        self.size
    }

    /// Bytes that the table and its indices take in memory, roughly.
    pub fn memory(&self) -> usize {
        self.size as usize + self.table.len() * 96
    }

    fn encode_field(&mut self, field: &Rc<Field>, indexing: Indexing, out: &mut BytesMut) {
        if indexing == Indexing::Index
            && let Some(index) = self.index_of(field)
        {
            integer::encode(out, 0x80, 7, index);
            return;
        }
        let name = self.index_of_name(&field.name);
        let insert = indexing == Indexing::Index
            && field.size() <= self.capacity
            && (field.mark_sent() || name.is_none());
        let (flags, prefix) = match indexing {
            Indexing::Never => (0x10, 4),
            _ if insert => (0x40, 6),
            _ => (0x00, 4),
        };
        integer::encode(out, flags, prefix, name.unwrap_or(0));
        if name.is_none() {
            out.extend_from_slice(field.name.wire());
        }
        field.literal().write(out);
        if insert {
            self.insert(Rc::clone(field));
        }
    }

    fn index_of(&self, field: &Field) -> Option<u32> {
        if field.id <= u64::from(static_table::LEN) {
            return Some(field.id as u32);
        }
        self.by_field
            .get(&mix(field.id))
            .map(|&number| self.dynamic_index(number))
    }

    fn index_of_name(&self, name: &Name) -> Option<u32> {
        name.static_index().or_else(|| {
            self.by_name
                .get(&mix(name.id))
                .map(|&number| self.dynamic_index(number))
        })
    }

    /// The newest entry has the first index after the static table.
    fn dynamic_index(&self, number: u64) -> u32 {
        static_table::LEN + 1 + (self.inserted - number) as u32
    }

    /// The field fits into the capacity.
    fn insert(&mut self, field: Rc<Field>) {
        self.evict_down_to(self.capacity - field.size());
        self.inserted += 1;
        self.size += field.size();
        self.by_field.insert(mix(field.id), self.inserted);
        if field.name.static_index().is_none() {
            self.by_name.insert(mix(field.name.id), self.inserted);
        }
        self.table.push_back(field);
    }

    fn evict_down_to(&mut self, size: u32) {
        while self.size > size {
            let number = self.inserted + 1 - self.table.len() as u64;
            let Some(evicted) = self.table.pop_front() else {
                return;
            };
            self.size -= evicted.size();
            self.by_field.remove(&mix(evicted.id));
            if evicted.name.static_index().is_none() {
                let name = mix(evicted.name.id);
                // A newer entry of this name may have taken its place.
                if self.by_name.get(&name) == Some(&number) {
                    self.by_name.remove(&name);
                }
            }
        }
    }
}
