//! A request kept so that it can be sent again: its header list, its body up to a cap, and its trailers.
//!
//! While a call waits for a connection, this is also where its body waits.

use std::rc::Rc;

use bytes::Bytes;

use crate::connection::KEEP_FROM;
use crate::hpack::HeaderList;

/// Small chunks are gathered up to this size.
const GATHER: usize = 4096;

/// A request, whole until [`Kept::discard`]. It may stay for as long as the call, so it must not hold on to the large
/// buffers that small chunks were read into.
#[derive(Debug)]
pub(super) struct Kept {
    request: Option<Rc<HeaderList>>,
    /// What came first; most calls have one small chunk, and need no list.
    chunks: Vec<Bytes>,
    /// Small chunks behind it, copied together.
    gathered: Vec<u8>,
    bytes: usize,
    /// Bytes of the header lists.
    lists: usize,
    trailers: Option<Rc<HeaderList>>,
}

impl Kept {
    pub(super) fn new(request: Rc<HeaderList>) -> Self {
        Self {
            lists: request.memory(),
            request: Some(request),
            chunks: Vec::new(),
            gathered: Vec::new(),
            bytes: 0,
            trailers: None,
        }
    }

    /// Small chunks are copied, to a buffer of `bodies` if there is one.
    pub(super) fn push(&mut self, chunk: &Bytes, bodies: &mut Bodies) {
        self.bytes += chunk.len();
        let small = chunk.len() < KEEP_FROM;
        if !self.gathered.is_empty() && (!small || self.gathered.len() + chunk.len() > GATHER) {
            self.chunks.push(std::mem::take(&mut self.gathered).into());
        }
        if small {
            if self.gathered.capacity() == 0 {
                self.gathered = bodies.take();
            }
            self.gathered.extend_from_slice(chunk);
        } else {
            self.chunks.push(chunk.clone());
        }
    }

    pub(super) fn set_trailers(&mut self, trailers: Rc<HeaderList>) {
        self.lists += trailers.memory();
        self.trailers = Some(trailers);
    }

    /// Drops all of it. Returns the bytes that were held, and the header list; the body's buffer is for the next body.
    pub(super) fn discard(&mut self, bodies: &mut Bodies) -> (usize, Option<Rc<HeaderList>>) {
        self.chunks = Vec::new();
        bodies.give_back(std::mem::take(&mut self.gathered));
        self.trailers = None;
        let held = std::mem::take(&mut self.bytes) + std::mem::take(&mut self.lists);
        (held, self.request.take())
    }

    /// The header list, while all of the request so far is here.
    pub(super) fn request(&self) -> Option<&Rc<HeaderList>> {
        self.request.as_ref()
    }

    /// The size of its longest header list, as `SETTINGS_MAX_HEADER_LIST_SIZE` counts (RFC 9113 §6.5.2).
    pub(super) fn longest_list(&self) -> usize {
        let size = |list: &Option<Rc<HeaderList>>| list.as_ref().map_or(0, |list| list.size());
        size(&self.request).max(size(&self.trailers))
    }

    /// All of the request so far is here.
    pub(super) fn is_whole(&self) -> bool {
        self.request.is_some()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the header lists.
    pub(super) fn lists(&self) -> usize {
        self.lists
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

/// Buffers of bodies that are not kept any more, for the next ones: most calls have one small body.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    empty: Vec<Vec<u8>>,
    /// Memory of all of them.
    bytes: usize,
}

impl Bodies {
    /// Memory that is kept in all.
    const KEPT: usize = 64 << 10;

    fn take(&mut self) -> Vec<u8> {
        let buffer = self.empty.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && self.bytes + buffer.capacity() <= Self::KEPT {
            buffer.clear();
            self.bytes += buffer.capacity();
            self.empty.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(len: usize, bodies: &mut Bodies) -> Kept {
        let mut kept = Kept::new(Rc::default());
        kept.push(&vec![1; len].into(), bodies);
        kept
    }

    #[test]
    fn a_body_takes_the_buffer_of_an_earlier_one() {
        let mut bodies = Bodies::default();
        let mut first = kept(100, &mut bodies);
        let at = first.gathered.as_ptr();
        let list = HeaderList::new().memory();
        assert_eq!(first.discard(&mut bodies).0, list + 100);
        let second = kept(50, &mut bodies);
        assert_eq!(
            (second.gathered.as_ptr(), &second.gathered[..]),
            (at, &[1; 50][..])
        );
        assert_eq!(bodies.bytes, 0);
    }

    #[test]
    fn many_bodies_leave_no_more_than_a_bound() {
        let mut bodies = Bodies::default();
        let mut many: Vec<_> = (0..1000).map(|_| kept(GATHER, &mut bodies)).collect();
        for kept in &mut many {
            kept.discard(&mut bodies);
        }
        let left: usize = bodies.empty.iter().map(Vec::capacity).sum();
        assert_eq!((left, left <= Bodies::KEPT), (bodies.bytes, true));
    }
}
