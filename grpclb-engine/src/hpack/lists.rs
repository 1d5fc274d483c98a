//! Header lists that have been used, for the next ones: in steady state no call makes one anew.

use std::rc::Rc;

use super::HeaderList;

/// Lists that are kept: as many as a burst of a hundred calls, the usual limit, has at once. A call has three.
const KEPT: usize = 3 * 128;

/// A list with room for more fields than this is not kept: few messages have as many.
const KEPT_FIELDS: usize = 32;

/// Empty lists. They hold no fields, so what peers sent is not kept alive by them.
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<Rc<HeaderList>>);

impl Lists {
    /// An empty list that nobody else has.
    pub(super) fn take(&mut self) -> Rc<HeaderList> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes back a list of which its last user has no more need; others may still have it, and then it is theirs.
    pub(super) fn give_back(&mut self, mut list: Rc<HeaderList>) {
        if self.0.len() < KEPT
            && let Some(unused) = Rc::get_mut(&mut list)
            && unused.capacity() <= KEPT_FIELDS
        {
            unused.clear();
            self.0.push(list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpack::{Fields, Indexing};

    #[test]
    fn a_list_is_used_again_when_nobody_has_it_any_more() {
        let mut fields = Fields::new(1 << 20, 7);
        let field = fields.intern(b"x", b"y");
        let mut lists = Lists::default();
        let mut list = lists.take();
        Rc::make_mut(&mut list).push(Rc::clone(&field), Indexing::Index);
        let at = Rc::as_ptr(&list);
        lists.give_back(Rc::clone(&list));
        assert_eq!(lists.0.len(), 0, "it is still in use");
        lists.give_back(list);
        let again = lists.take();
        assert_eq!((Rc::as_ptr(&again), again.len()), (at, 0));
    }

    #[test]
    fn neither_many_lists_nor_large_ones_are_kept() {
        let mut fields = Fields::new(1 << 20, 7);
        let field = fields.intern(b"x", b"y");
        let mut lists = Lists::default();
        let mut large = HeaderList::new();
        (0..=KEPT_FIELDS).for_each(|_| large.push(Rc::clone(&field), Indexing::Index));
        lists.give_back(Rc::new(large));
        assert_eq!(lists.0.len(), 0);
        (0..2 * KEPT).for_each(|_| lists.give_back(Rc::default()));
        assert_eq!(lists.0.len(), KEPT);
    }
}
