//! What is kept of a request so that it can be sent again: its body up to a cap, and its trailers.
//!
//! While a call waits for a connection, this is also where its body waits.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use crate::connection::KEEP_FROM;
use crate::hpack::HeaderList;

/// Small chunks are gathered up to this size.
const GATHER: usize = 4096;

/// The part of a request behind its headers. It may stay for as long as the call, so it must not hold on to the large
/// buffers that small chunks were read into.
#[derive(Debug)]
pub(super) struct Kept {
    /// What came first; most calls have one small chunk, and need no list.
    chunks: Vec<Bytes>,
    /// Small chunks behind it, copied together.
    gathered: BytesMut,
    bytes: usize,
    trailers: Option<Rc<HeaderList>>,
    /// All of the request so far is here.
    whole: bool,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            gathered: BytesMut::new(),
            bytes: 0,
            trailers: None,
            whole: true,
        }
    }

    pub(super) fn push(&mut self, chunk: &Bytes) {
        self.bytes += chunk.len();
        let small = chunk.len() < KEEP_FROM;
        if !self.gathered.is_empty() && (!small || self.gathered.len() + chunk.len() > GATHER) {
            self.chunks.push(self.gathered.split().freeze());
        }
        if small {
            self.gathered.extend_from_slice(chunk);
        } else {
            self.chunks.push(chunk.clone());
        }
    }

    pub(super) fn set_trailers(&mut self, trailers: Rc<HeaderList>) {
        self.trailers = Some(trailers);
    }

    /// Gives up the right to send again. Returns the bytes that were kept.
    pub(super) fn give_up(&mut self) -> usize {
        self.whole = false;
        self.chunks = Vec::new();
        self.gathered = BytesMut::new();
        self.trailers = None;
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The body in its order, for one try.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Bytes> {
        let last = (!self.gathered.is_empty()).then(|| Bytes::copy_from_slice(&self.gathered));
        self.chunks.iter().cloned().chain(last)
    }

    pub(super) fn trailers(&self) -> Option<&Rc<HeaderList>> {
        self.trailers.as_ref()
    }
}
