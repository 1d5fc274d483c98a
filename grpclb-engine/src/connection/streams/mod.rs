//! The streams of one connection: a slab whose keys never dangle, the lists in which streams wait, and ids.
//! What frames do to a stream is decided in `recv`, what leaves it in `send`.

mod ids;
mod state;

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use self::ids::{ClosedStreams, IdIndex};
pub use self::state::{Outcome, State, StreamEvent};
use super::Tag;
use super::flow::{RecvWindow, SendWindow};
use crate::Time;
use crate::frame::{ErrorCode, StreamId};
use crate::hpack::HeaderList;

/// Slots that a connection without streams keeps: bursts of a hundred calls, the usual limit, allocate nothing anew.
const KEPT_SLOTS: usize = 128;

/// Names a stream for as long as it lives. A key of a stream that has ended names nothing, whatever came after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    index: u32,
    generation: u32,
}

/// One stream.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Stream {
    /// Zero: the slot is free.
    generation: u32,
    /// Zero until a stream of ours leaves.
    pub(super) id: StreamId,
    pub(super) tag: Tag,
    pub(super) state: State,
    pub(super) listed: Listed,
    /// Stands in [`Streams::credits`].
    pub(super) credit_listed: bool,
    /// What the peer has still to send of its message.
    pub(super) expect: Expect,
    /// The peer's message has no content, whatever its content-length (HEAD, 204, 304).
    pub(super) bodiless: bool,
    /// We sent `END_STREAM`, or will after `queue`.
    pub(super) end_queued: bool,
    /// A final response has been sent or received.
    pub(super) answered: bool,
    /// Our `END_STREAM` had left when we reset it: the peer's makes the `RST_STREAM` needless that still waits.
    pub(super) ended: bool,
    /// What its informational responses have cost.
    pub(super) informed: u32,
    /// Content-length less what came.
    pub(super) content_left: Option<u64>,
    pub(super) queue: VecDeque<Item>,
    pub(super) send: SendWindow,
    pub(super) recv: RecvWindow,
    /// We reset the stream: at once, or (`NO_ERROR`) when `queue` has left.
    pub(super) reset: Option<ErrorCode>,
    pub(super) opened: Time,
    /// Where its HEADERS began and ended in the output.
    pub(super) headers_span: (u64, u64),
}

/// Something to send, in order.
#[derive(Debug)]
pub(super) enum Item {
    Headers(Rc<HeaderList>),
    /// Not empty. Shares the memory of the buffer that it was read into.
    Data(Bytes),
    /// Not empty. Small chunks that were copied together, since they had to wait.
    Gathered(BytesMut),
}

/// The list that a stream stands in, one at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    No,
    /// Has something to send, and may.
    Ready,
    /// Waits for the connection's window.
    Blocked,
    /// Waits to be given an id.
    Opening,
}

/// Which part of its message the peer sends next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Head,
    Body,
    Nothing,
}

impl Stream {
    fn vacant() -> Self {
        Self {
            generation: 0,
            id: StreamId::CONNECTION,
            tag: 0,
            state: State::Idle,
            listed: Listed::No,
            credit_listed: false,
            expect: Expect::Head,
            bodiless: false,
            end_queued: false,
            answered: false,
            ended: false,
            informed: 0,
            content_left: None,
            queue: VecDeque::new(),
            send: SendWindow::new(0),
            recv: RecvWindow::new(0),
            reset: None,
            opened: Time::ZERO,
            headers_span: (0, 0),
        }
    }

    /// Whether its HEADERS have been encoded, or were the peer's.
    pub(super) const fn has_id(&self) -> bool {
        !self.id.is_connection()
    }

    /// Whether there is something to send.
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty() || (self.end_queued && self.state.can_send())
    }

    /// Whether there is something that no stream window holds up.
    pub(super) fn can_work(&self) -> bool {
        match self.queue.front() {
            Some(Item::Headers(_)) => true,
            Some(Item::Data(_) | Item::Gathered(_)) => self.send.available() > 0,
            None => self.end_queued && self.state.can_send(),
        }
    }
}

/// All streams of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    free: Vec<u32>,
    generation: u32,
    by_id: IdIndex,
    closed: ClosedStreams,
    /// Streams with an id: those that count for the other end.
    active: usize,
    /// Of those, the ones in [`State::ResetByUs`].
    resetting: usize,
    /// Bytes of the header lists in all queues.
    pub(super) queued_headers: usize,
    /// Streams with something to send, one DATA frame a turn.
    pub(super) ready: Waiting,
    /// Streams that wait for the connection's window.
    pub(super) blocked: Waiting,
    /// Streams of ours without an id.
    pub(super) opening: Waiting,
    /// Streams with credit to announce.
    pub(super) credits: Waiting,
    /// Streams whose `RST_STREAM` is to be sent.
    pub(super) resets: VecDeque<StreamKey>,
}

/// Streams that wait, in order. Keys of streams that have ended meanwhile are swept out before they are many.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<StreamKey>);

impl Waiting {
    pub(super) fn pop(&mut self) -> Option<StreamKey> {
        self.0.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = StreamKey> + '_ {
        self.0.iter().copied()
    }
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            generation: 0,
            by_id: IdIndex::default(),
            closed: ClosedStreams::default(),
            active: 0,
            resetting: 0,
            queued_headers: 0,
            ready: Waiting::default(),
            blocked: Waiting::default(),
            opening: Waiting::default(),
            credits: Waiting::default(),
            resets: VecDeque::new(),
        }
    }

    /// All streams, those without an id included.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Streams that count against a limit on concurrent streams.
    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// Streams that we have reset and that live until their `RST_STREAM` is written.
    pub(super) fn resetting(&self) -> usize {
        self.resetting
    }

    /// Queues the `RST_STREAM` of a stream that has just come into [`State::ResetByUs`].
    pub(super) fn push_reset(&mut self, key: StreamKey) {
        self.resetting += 1;
        self.resets.push_back(key);
        // The peer may end streams whose `RST_STREAM` waits, and not read.
        if self.resets.len() > 2 * self.len() + 64 {
            let slots = &self.slots;
            self.resets.retain(|key| is_live(slots, *key));
        }
    }

    pub(super) fn insert(&mut self, tag: Tag, state: State, send: u32, recv: u32, now: Time) -> StreamKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Stream::vacant());
            self.slots.len() as u32 - 1
        });
        self.generation = self.generation.wrapping_add(1).max(1);
        let slot = &mut self.slots[index as usize];
        let queue = std::mem::take(&mut slot.queue);
        *slot = Stream {
            generation: self.generation,
            tag,
            state,
            queue,
            send: SendWindow::new(send),
            recv: RecvWindow::new(recv),
            opened: now,
            ..Stream::vacant()
        };
        StreamKey {
            index,
            generation: self.generation,
        }
    }

    /// Gives the stream its id, which is larger than all before it.
    pub(super) fn assign_id(&mut self, key: StreamKey, id: StreamId) {
        if let Some(stream) = self.get_mut(key) {
            stream.id = id;
            self.by_id.insert(id, key.index);
            self.active += 1;
        }
    }

    pub(super) fn get(&self, key: StreamKey) -> Option<&Stream> {
        self.slots
            .get(key.index as usize)
            .filter(|stream| stream.generation == key.generation)
    }

    pub(super) fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.slots
            .get_mut(key.index as usize)
            .filter(|stream| stream.generation == key.generation)
    }

    pub(super) fn find(&self, id: StreamId) -> Option<StreamKey> {
        let index = self.by_id.get(id)?;
        Some(StreamKey {
            index,
            generation: self.slots[index as usize].generation,
        })
    }

    /// How a stream that is not live was closed; `None`: certainly never opened.
    pub(super) fn closed_state(&self, id: StreamId) -> Option<State> {
        self.closed.state(id)
    }

    pub(super) fn remember_closed(&mut self, id: StreamId, state: State) {
        self.closed.remember(id, state);
    }

    pub(super) fn set_closed_state(&mut self, id: StreamId, state: State) {
        self.closed.set_state(id, state);
    }

    /// Forgets the stream but for how it was closed.
    pub(super) fn remove(&mut self, key: StreamKey, state: State) {
        let Some(stream) = self.get_mut(key) else { return };
        let dropped = stream.queued_headers();
        stream.generation = 0;
        if !stream.queue.is_empty() {
            stream.queue.clear();
        }
        if stream.queue.capacity() > 16 {
            stream.queue = VecDeque::new();
        }
        let (id, reset) = (stream.id, stream.state == State::ResetByUs);
        debug_assert!(!reset || self.resetting > 0, "each was counted by `push_reset`");
        self.resetting = self.resetting.saturating_sub(usize::from(reset));
        if !id.is_connection() {
            self.by_id.remove(id);
            self.closed.remember(id, state);
            self.active -= 1;
        }
        self.queued_headers -= dropped;
        self.free.push(key.index);
        if self.free.len() == self.slots.len() && self.slots.len() > KEPT_SLOTS {
            // An idle connection keeps little. Generations go on, so old keys stay stale.
            self.slots = Vec::new();
            self.free = Vec::new();
            self.by_id = IdIndex::default();
            self.drop_lists();
        }
    }

    /// Every live stream.
    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamKey, &Stream)> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, stream)| stream.generation != 0)
            .map(|(index, stream)| {
                (
                    StreamKey {
                        index: index as u32,
                        generation: stream.generation,
                    },
                    stream,
                )
            })
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamKey, &mut Stream)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter(|(_, stream)| stream.generation != 0)
            .map(|(index, stream)| {
                (
                    StreamKey {
                        index: index as u32,
                        generation: stream.generation,
                    },
                    stream,
                )
            })
    }

    /// Puts the stream into the list for what it can do next, unless it stands in one.
    pub(super) fn schedule(&mut self, key: StreamKey) {
        let Some(stream) = self.get_mut(key) else { return };
        if stream.listed != Listed::No {
            return;
        }
        let list = if stream.has_id() {
            if !stream.can_work() {
                return;
            }
            Listed::Ready
        } else {
            Listed::Opening
        };
        stream.listed = list;
        self.enlist(key, list);
    }

    /// The stream has something to send, but the connection's window is used up.
    pub(super) fn block(&mut self, key: StreamKey) {
        if let Some(stream) = self.get_mut(key) {
            stream.listed = Listed::Blocked;
            self.enlist(key, Listed::Blocked);
        }
    }

    /// The stream has credit to announce.
    pub(super) fn list_credit(&mut self, key: StreamKey) {
        if let Some(stream) = self.get_mut(key)
            && !std::mem::replace(&mut stream.credit_listed, true)
        {
            self.credits.0.push_back(key);
            if self.credits.len() > 2 * self.len() + 64 {
                let slots = &self.slots;
                self.credits.0.retain(|key| is_live(slots, *key));
            }
        }
    }

    /// Forgets everything that waits: the connection has ended.
    pub(super) fn clear_work(&mut self) {
        for (_, stream) in self.iter_mut() {
            stream.queue = VecDeque::new();
            stream.listed = Listed::No;
        }
        self.queued_headers = 0;
        self.drop_lists();
    }

    /// Empties every list of work, and gives their memory back.
    fn drop_lists(&mut self) {
        for list in [
            &mut self.ready,
            &mut self.blocked,
            &mut self.opening,
            &mut self.credits,
        ] {
            list.0 = VecDeque::new();
        }
        self.resets = VecDeque::new();
    }

    fn enlist(&mut self, key: StreamKey, list: Listed) {
        let live = self.len();
        let slots = &self.slots;
        let list = match list {
            Listed::No => return,
            Listed::Ready => &mut self.ready,
            Listed::Blocked => &mut self.blocked,
            Listed::Opening => &mut self.opening,
        };
        list.0.push_back(key);
        if list.len() > 2 * live + 64 {
            list.0.retain(|key| is_live(slots, *key));
        }
    }
}

fn is_live(slots: &[Stream], key: StreamKey) -> bool {
    slots
        .get(key.index as usize)
        .is_some_and(|stream| stream.generation == key.generation)
}
