//! What waits to be written to one socket: small bytes gathered in one buffer, large payloads by reference.
//!
//! It belongs to the owner of the socket, not to the connection, and lives exactly as long as the socket: the connection
//! compares positions in it with [`Output::written`], to know what the kernel has taken.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};

/// Payloads of at least this many bytes are referenced, smaller ones are copied: below it a copy costs less than one
/// more slice of the write.
pub const REFERENCE_FROM: usize = 4096;

/// Payloads that have to wait are referenced from this many bytes on, smaller ones are copied: a reference keeps the whole
/// buffer that it was read into.
pub const KEEP_FROM: usize = 16 << 10;

/// What small bytes find at least where they gather next to payloads that are referenced: each of these ends what has
/// gathered, and a buffer of its own for each frame's head would cost more than the head.
const GATHER: usize = 4096;

/// A head of DATA and its stream's trailers mostly fit into so many bytes.
const LEAST: usize = 64;

/// The largest buffer that an empty queue gives back for the next one.
const RETURN: usize = 64 << 10;

/// Bytes for one socket, in order. Not a pipe: whoever fills it asks for [`Output::room`] first.
#[derive(Debug)]
pub struct Output {
    /// Finished pieces, the oldest first. The first has lost what was written of it.
    pieces: VecDeque<Bytes>,
    /// Where small bytes gather, after all pieces.
    tail: BytesMut,
    /// Bytes at the start of `tail` that were written.
    tail_written: usize,
    len: usize,
    bound: usize,
    written: u64,
}

impl Output {
    /// The default bound of [`Output::new`]: 256 KiB.
    pub const BOUND: usize = 256 << 10;

    /// An empty queue that asks to be filled up to about `bound` bytes.
    pub fn new(bound: usize) -> Self {
        Self {
            pieces: VecDeque::new(),
            tail: BytesMut::new(),
            tail_written: 0,
            len: 0,
            bound,
            written: 0,
        }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes until the bound.
    pub fn room(&self) -> usize {
        self.bound.saturating_sub(self.len)
    }

    /// Asks to be filled up to about `bound` bytes from now on.
    pub fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
    }

    /// Bytes ever written to the socket: the sum of all [`Output::advance`].
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The position of the next byte: [`Output::written`] and what waits.
    pub fn position(&self) -> u64 {
        self.written + self.len as u64
    }

    /// Appends what `write` appends to the buffer that it is given. It must not take anything away.
    pub fn write<R>(&mut self, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        let before = self.tail.len();
        let result = write(&mut self.tail);
        self.len += self.tail.len() - before;
        result
    }

    /// Appends `chunk`, by reference when it is large.
    pub fn push(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        if chunk.len() < REFERENCE_FROM {
            self.tail.extend_from_slice(&chunk);
        } else {
            self.finish_tail();
            self.pieces.push_back(chunk);
        }
    }

    /// Takes `buffer` for small bytes to gather in, if it has none.
    pub fn take_buffer(&mut self, buffer: &mut BytesMut) {
        if self.tail.capacity() == 0 {
            self.tail = std::mem::take(buffer);
        }
    }

    /// An empty queue gives its buffer back, for the next one to be filled: so idle connections hold none, and busy ones
    /// need not make any.
    pub fn return_buffer(&mut self, buffer: &mut BytesMut) {
        if self.is_empty() {
            let mut tail = std::mem::take(&mut self.tail);
            // What can be made to hold more than that is larger, whatever its front was used for.
            if buffer.capacity() == 0 && !tail.try_reclaim(RETURN + 1) {
                *buffer = tail;
            }
        }
    }

    /// Fills `slices` from the front of the queue; how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = &self.tail[self.tail_written..];
        let all = self
            .pieces
            .iter()
            .map(|piece| &piece[..])
            .chain((!tail.is_empty()).then_some(tail));
        let mut filled = 0;
        for (slot, piece) in slices.iter_mut().zip(all) {
            *slot = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// The socket took the first `n` bytes; `n` is at most [`Output::len`].
    pub fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.len, "a socket cannot take more than there is");
        let mut left = n.min(self.len);
        self.len -= left;
        self.written += left as u64;
        while let Some(piece) = self.pieces.front_mut() {
            if left < piece.len() {
                bytes::Buf::advance(piece, left);
                return;
            }
            left -= piece.len();
            self.pieces.pop_front();
        }
        self.tail_written += left;
        if self.tail_written == self.tail.len() {
            self.reset();
        }
    }

    /// Drops all that waits: the socket is gone.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
        self.reset();
    }

    fn finish_tail(&mut self) {
        let mut finished = self.tail.split();
        bytes::Buf::advance(&mut finished, std::mem::take(&mut self.tail_written));
        if !finished.is_empty() {
            self.pieces.push_back(finished.freeze());
        }
        if self.tail.capacity() < LEAST {
            self.tail.reserve(GATHER);
        }
    }

    /// Nothing waits.
    fn reset(&mut self) {
        self.tail.clear();
        self.tail_written = 0;
        if self.pieces.capacity() > 64 {
            self.pieces = VecDeque::new();
        }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self::new(Self::BOUND)
    }
}
