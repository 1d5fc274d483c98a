//! From stream ids to slots, and what is remembered of closed streams. No hashing: a hostile peer chooses its ids.

use std::collections::VecDeque;

use super::State;
use crate::frame::StreamId;

/// Live streams by id. Ids only ever grow (RFC 9113 §5.1.1), so a queue in order of opening is sorted.
#[derive(Debug, Default)]
pub(super) struct IdIndex {
    entries: VecDeque<Entry>,
    dead: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: StreamId,
    slot: u32,
}

/// A slot that no stream has: the entry's stream has ended.
const DEAD: u32 = u32::MAX;

impl IdIndex {
    /// `id` is larger than all before it.
    pub(super) fn insert(&mut self, id: StreamId, slot: u32) {
        debug_assert!(
            self.entries.back().is_none_or(|last| last.id < id),
            "stream ids grow"
        );
        self.entries.push_back(Entry { id, slot });
    }

    pub(super) fn get(&self, id: StreamId) -> Option<u32> {
        self.position(id)
            .map(|at| self.entries[at].slot)
            .filter(|&slot| slot != DEAD)
    }

    pub(super) fn remove(&mut self, id: StreamId) {
        let Some(at) = self.position(id).filter(|&at| self.entries[at].slot != DEAD) else {
            return;
        };
        self.entries[at].slot = DEAD;
        self.dead += 1;
        while self.entries.front().is_some_and(|entry| entry.slot == DEAD) {
            self.entries.pop_front();
            self.dead -= 1;
        }
        if self.dead > self.entries.len() / 2 + 32 {
            self.entries.retain(|entry| entry.slot != DEAD);
            self.dead = 0;
        }
    }

    /// Where `id` stands. Streams that end in the order in which they began leave no gaps, so counting back from the
    /// last one mostly hits; where it does not, the entry stands behind the guess.
    fn position(&self, id: StreamId) -> Option<usize> {
        let last = self.entries.back()?;
        let back = (last.id.get().checked_sub(id.get())? / 2) as usize;
        let guess = (self.entries.len() - 1).saturating_sub(back);
        if self.entries[guess].id == id {
            return Some(guess);
        }
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }
}

/// How the streams that closed last were closed: what may still arrive for them differs (RFC 9113 §5.1).
#[derive(Debug, Default)]
pub(super) struct ClosedStreams {
    recent: VecDeque<(StreamId, State)>,
    /// Of the streams up to this id, some have been forgotten.
    forgotten: StreamId,
}

/// Closed streams that are remembered, for each connection.
const REMEMBERED: usize = 256;

impl ClosedStreams {
    pub(super) fn remember(&mut self, id: StreamId, state: State) {
        if self.recent.len() == REMEMBERED
            && let Some((oldest, _)) = self.recent.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.recent.push_back((id, state));
    }

    /// How the stream was closed; `None`: certainly never opened.
    pub(super) fn state(&self, id: StreamId) -> Option<State> {
        let known = self.recent.iter().rev().find(|(recent, _)| *recent == id);
        known
            .map(|&(_, state)| state)
            .or_else(|| (id <= self.forgotten).then_some(State::Forgotten))
    }

    /// We have answered a frame on a stream that the peer had reset: once is enough.
    pub(super) fn set_state(&mut self, id: StreamId, state: State) {
        if let Some(entry) = self.recent.iter_mut().rev().find(|(recent, _)| *recent == id) {
            entry.1 = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_whatever_has_ended_between_them() {
        let mut index = IdIndex::default();
        let id = |n: u32| StreamId::new(2 * n + 1);
        for n in 0..1000 {
            index.insert(id(n), n);
            // One in ten lives on.
            if n >= 50 && (n - 50) % 10 != 0 {
                index.remove(id(n - 50));
            }
        }
        for n in 0..1000 {
            let alive = n >= 950 || n % 10 == 0;
            assert_eq!(index.get(id(n)), alive.then_some(n), "stream {n}");
        }
        assert!(
            index.entries.len() < 2 * 150 + 64,
            "ended streams leave no memory behind"
        );
    }

    #[test]
    fn a_gap_in_the_ids_is_no_stream() {
        let mut index = IdIndex::default();
        index.insert(StreamId::new(1), 0);
        index.insert(StreamId::new(9), 1);
        assert_eq!(index.get(StreamId::new(5)), None);
        assert_eq!(index.get(StreamId::new(1)), Some(0));
        assert_eq!(index.get(StreamId::new(11)), None);
    }

    #[test]
    fn old_closed_streams_are_forgotten_and_skipped_ids_are_not_taken_for_them() {
        let mut closed = ClosedStreams::default();
        for n in 0..300 {
            closed.remember(StreamId::new(4 * n + 1), State::Ended);
        }
        assert_eq!(closed.state(StreamId::new(1)), Some(State::Forgotten));
        assert_eq!(closed.state(StreamId::new(4 * 299 + 1)), Some(State::Ended));
        assert_eq!(closed.state(StreamId::new(4 * 298 + 3)), None);
    }
}
