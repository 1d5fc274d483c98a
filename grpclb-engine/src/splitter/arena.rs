//! Slabs with generational keys: a key of something that is gone names nothing, whatever took its place.

/// Names an entry of one [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    pub(super) const fn index(self) -> u32 {
        self.index
    }
}

/// Places that an empty arena keeps: bursts of a hundred calls, the usual limit, allocate nothing anew.
const KEPT: usize = 128;

/// Entries that keep their place; places are used again.
#[derive(Debug)]
pub(super) struct Arena<T> {
    /// Each with the generation of its key.
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    generation: u32,
}

impl<T> Arena<T> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            generation: 0,
        }
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            self.entries.len() as u32 - 1
        });
        self.generation = self.generation.wrapping_add(1);
        self.entries[index as usize] = (self.generation, Some(value));
        Key {
            index,
            generation: self.generation,
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self
            .entries
            .get_mut(key.index as usize)
            .filter(|entry| entry.0 == key.generation)?;
        let value = entry.1.take()?;
        self.release(key.index);
        Some(value)
    }

    fn release(&mut self, index: u32) {
        self.free.push(index);
        if self.len() == 0 && self.entries.len() > KEPT {
            // What a burst took is given back. Generations go on, so old keys stay stale.
            self.entries = Vec::new();
            self.free = Vec::new();
        }
    }

    /// Drops the entry where it is, which is cheaper than to move a large one out; false: there is none.
    pub(super) fn discard(&mut self, key: Key) -> bool {
        let Some(entry) = self
            .entries
            .get_mut(key.index as usize)
            .filter(|entry| entry.0 == key.generation && entry.1.is_some())
        else {
            return false;
        };
        entry.1 = None;
        self.release(key.index);
        true
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        #[cfg(test)]
        lookups::count();
        self.entries
            .get(key.index as usize)
            .filter(|entry| entry.0 == key.generation)?
            .1
            .as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        #[cfg(test)]
        lookups::count();
        self.entries
            .get_mut(key.index as usize)
            .filter(|entry| entry.0 == key.generation)?
            .1
            .as_mut()
    }

    /// The key of the entry that is at `index` now.
    pub(super) fn key_at(&self, index: u32) -> Option<Key> {
        #[cfg(test)]
        lookups::count();
        let (generation, value) = self.entries.get(index as usize)?;
        value.as_ref().map(|_| Key {
            index,
            generation: *generation,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries
            .iter()
            .zip(0..)
            .filter_map(|((generation, value), index)| {
                value.as_ref().map(|value| {
                    (
                        Key {
                            index,
                            generation: *generation,
                        },
                        value,
                    )
                })
            })
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }
}

/// Counts look-ups of this thread, for tests of how much work something is.
#[cfg(test)]
pub(super) mod lookups {
    use std::cell::Cell;

    thread_local! {
        static LOOKUPS: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        LOOKUPS.set(LOOKUPS.get() + 1);
    }

    /// Returns the number of look-ups that `work` does.
    pub(in crate::splitter) fn of(work: impl FnOnce()) -> u64 {
        let before = LOOKUPS.get();
        work();
        LOOKUPS.get() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_something_that_is_gone_names_nothing() {
        let mut arena = Arena::new();
        let first = arena.insert('a');
        assert_eq!(arena.remove(first), Some('a'));
        let second = arena.insert('b');
        assert_eq!(first.index(), second.index());
        assert_eq!((arena.get(first), arena.get(second)), (None, Some(&'b')));
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.len(), 1);
    }

    #[test]
    fn an_arena_that_is_empty_again_keeps_little_and_knows_no_old_key() {
        let mut arena = Arena::new();
        let burst: Vec<_> = (0..10_000).map(|number| arena.insert(number)).collect();
        for &key in &burst {
            arena.remove(key);
        }
        assert_eq!(arena.entries.capacity(), 0);
        let next = arena.insert(-1);
        assert!(burst.iter().all(|&key| arena.get(key).is_none()));
        assert_eq!(arena.get(next), Some(&-1));
    }
}
