//! Bytes that a connection holds by itself, for the owner's account: all but the DATA that is queued, which its owner knows.

use super::control::Control;
use super::streams::{Item, Stream};
use super::{Connection, StreamKey};
use crate::Time;

impl Connection {
    /// Bytes of unfinished field blocks, and of header lists and control frames that are queued; roughly. Nothing at rest.
    /// Costs a few additions, however many streams there are.
    pub fn pending(&self) -> usize {
        self.inbound.memory() + self.control.len() * size_of::<Control>() + self.streams.queued_headers
    }

    /// Bytes of the header lists that are queued for a stream.
    pub fn queued_headers(&self, stream: StreamKey) -> usize {
        self.streams.get(stream).map_or(0, Stream::queued_headers)
    }

    /// Bytes of a field block whose CONTINUATIONs are missing.
    pub fn unfinished_block(&self) -> usize {
        self.inbound.memory()
    }

    /// The time at which that field block began, whatever pauses there were since.
    pub fn block_began(&self) -> Option<Time> {
        self.inbound.block_began()
    }

    /// Bytes of the HPACK tables, roughly.
    pub fn tables(&self) -> usize {
        self.decoder.memory() + self.encoder.memory()
    }
}

impl Stream {
    /// Bytes of the header lists in its queue.
    pub(super) fn queued_headers(&self) -> usize {
        let bytes = |item: &Item| match item {
            Item::Headers(headers) => headers.memory(),
            Item::Data(_) | Item::Gathered(_) => 0,
        };
        if self.queue.is_empty() {
            return 0; // as mostly
        }
        self.queue.iter().map(bytes).sum()
    }
}
