//! The last few of something, for people who ask what happened just now. Costs a store for each.

/// How many are remembered.
const KEPT: usize = 8;

/// A ring of the last ones.
#[derive(Clone, Debug)]
pub(super) struct Recent<T> {
    ring: [Option<T>; KEPT],
    next: usize,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            ring: [const { None }; KEPT],
            next: 0,
        }
    }
}

impl<T> Recent<T> {
    pub(super) fn note(&mut self, one: T) {
        self.ring[self.next] = Some(one);
        self.next = (self.next + 1) % KEPT;
    }

    pub(super) fn newest_first(&self) -> impl Iterator<Item = &T> {
        let (later, earlier) = self.ring.split_at(self.next);
        later.iter().rev().chain(earlier.iter().rev()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_told_the_newest_first() {
        let mut recent = Recent::default();
        assert_eq!(recent.newest_first().count(), 0);
        for number in 1..=3 {
            recent.note(number);
        }
        assert_eq!(recent.newest_first().copied().collect::<Vec<_>>(), [3, 2, 1]);
        for number in 4..=20 {
            recent.note(number);
        }
        let last: Vec<i32> = recent.newest_first().copied().collect();
        assert_eq!(last, [20, 19, 18, 17, 16, 15, 14, 13]);
    }
}
