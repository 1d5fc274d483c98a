//! HPACK as a plain sender of one connection writes it: every string in Huffman's code, the table searched from its front.
//! Independent of the engine's encoder, so that the input of a benchmark stays the same when that encoder changes.

use grpclb_engine::hpack::huffman;

/// The block that is being written, and the dynamic table with its newest entry first.
#[derive(Default)]
pub(crate) struct Sender {
    pub(crate) block: Vec<u8>,
    table: Vec<(String, String)>,
}

impl Sender {
    pub(crate) fn put_slice(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
    }

    /// Writes a field that stays the same: an index, once the table has it.
    pub(crate) fn indexed(&mut self, name: &str, value: &str) {
        match self
            .table
            .iter()
            .position(|entry| entry.0 == name && entry.1 == value)
        {
            Some(position) => self.integer(0x80, 7, 62 + position),
            None => self.changing(name, value),
        }
    }

    /// Writes a field that enters the table with any value.
    pub(crate) fn changing(&mut self, name: &str, value: &str) {
        if let Some(position) = self.table.iter().position(|entry| entry.0 == name) {
            self.integer(0x40, 6, 62 + position);
        } else {
            self.block.push(0x40);
            self.string(name);
        }
        self.string(value);
        self.table.insert(0, (name.into(), value.into()));
        while self
            .table
            .iter()
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum::<usize>()
            > 4096
        {
            self.table.pop();
        }
    }

    pub(crate) fn string(&mut self, text: &str) {
        let mut coded = Vec::new();
        huffman::encode(text.as_bytes(), &mut coded);
        self.integer(0x80, 7, coded.len());
        self.block.extend(coded);
    }

    fn integer(&mut self, flags: u8, prefix: u32, value: usize) {
        let full = (1 << prefix) - 1;
        if value < full {
            return self.block.push(flags | value as u8);
        }
        self.block.push(flags | full as u8);
        let mut rest = value - full;
        while rest >= 128 {
            self.block.push(rest as u8 | 0x80);
            rest /= 128;
        }
        self.block.push(rest as u8);
    }
}
