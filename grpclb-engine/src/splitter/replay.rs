//! What is kept of a request so that it can be sent again: its body up to a cap, and its trailers.
//!
//! While a call waits for a connection, this is also where its body waits.

use std::rc::Rc;

use bytes::Bytes;

use crate::hpack::HeaderList;

/// The part of a request behind its headers.
#[derive(Debug)]
pub(super) struct Kept {
    /// Most calls have one chunk: it needs no list.
    first: Bytes,
    more: Vec<Bytes>,
    bytes: usize,
    trailers: Option<Rc<HeaderList>>,
    /// All of the request so far is here.
    whole: bool,
}

impl Kept {
    pub(super) const fn new() -> Self {
        Self {
            first: Bytes::new(),
            more: Vec::new(),
            bytes: 0,
            trailers: None,
            whole: true,
        }
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        if self.first.is_empty() {
            self.first = chunk;
        } else {
            self.more.push(chunk);
        }
    }

    pub(super) fn set_trailers(&mut self, trailers: Rc<HeaderList>) {
        self.trailers = Some(trailers);
    }

    /// Gives up the right to send again. Returns the bytes that were kept.
    pub(super) fn give_up(&mut self) -> usize {
        self.whole = false;
        self.first = Bytes::new();
        self.more = Vec::new();
        self.trailers = None;
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first)
            .filter(|first| !first.is_empty())
            .chain(&self.more)
    }

    pub(super) fn trailers(&self) -> Option<&Rc<HeaderList>> {
        self.trailers.as_ref()
    }
}
