//! The objects of one kind as they were told, by name; a new list replaces what is there by difference.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Objects by their key.
#[derive(Debug)]
pub(super) struct Table<T> {
    objects: HashMap<Arc<str>, T>,
    /// What the list that is being told has so far; `None`: none is.
    listed: Option<HashSet<Arc<str>>>,
    /// A list was told to its end.
    whole: bool,
}

/// What an object came upon.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put<T> {
    /// It is what it was.
    Same,
    New,
    /// What it was before.
    Instead(T),
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            listed: None,
            whole: false,
        }
    }
}

impl<T: PartialEq> Table<T> {
    /// Whether all objects are known: a list was told to its end, since when changes are told.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        self.objects.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.objects.iter()
    }

    /// A list begins; one that broke off before its end is forgotten.
    pub(super) fn listing(&mut self) {
        self.listed = Some(HashSet::new());
    }

    pub(super) fn put(&mut self, key: &Arc<str>, object: T) -> Put<T> {
        if let Some(listed) = &mut self.listed {
            listed.insert(Arc::clone(key));
        }
        match self.objects.get_mut(key) {
            Some(known) if *known == object => Put::Same,
            Some(known) => Put::Instead(std::mem::replace(known, object)),
            None => {
                self.objects.insert(Arc::clone(key), object);
                Put::New
            }
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<T> {
        self.objects.remove(key)
    }

    /// The list is whole. Returns what it did not have.
    pub(super) fn listed(&mut self) -> Vec<(Arc<str>, T)> {
        self.whole = true;
        match self.listed.take() {
            Some(listed) => self.objects.extract_if(|key, _| !listed.contains(key)).collect(),
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(table: &Table<u32>) -> Vec<(&str, u32)> {
        let mut keys: Vec<_> = table.iter().map(|(key, value)| (&**key, *value)).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_new_list_removes_what_it_does_not_have_and_only_at_its_end() {
        let (a, b, c): (Arc<str>, Arc<str>, Arc<str>) = ("a".into(), "b".into(), "c".into());
        let mut table = Table::default();
        table.listing();
        assert_eq!(table.put(&a, 1), Put::New);
        table.put(&b, 2);
        assert!(!table.is_whole());
        assert_eq!(table.listed(), []);
        assert!(table.is_whole());

        table.listing();
        table.put(&c, 3); // and breaks off here
        table.listing();
        assert_eq!(table.put(&b, 2), Put::Same);
        assert_eq!(table.put(&a, 4), Put::Instead(1));
        assert!(table.is_whole(), "what was known stays in force");
        assert_eq!(keys(&table), [("a", 4), ("b", 2), ("c", 3)]);
        assert_eq!(table.listed(), [(c, 3)]);
        assert_eq!(keys(&table), [("a", 4), ("b", 2)]);
    }

    #[test]
    fn what_comes_and_goes_while_a_list_is_told_is_as_it_was_told_last() {
        let a: Arc<str> = "a".into();
        let mut table = Table::default();
        table.listing();
        table.put(&a, 1);
        assert_eq!(table.remove("a"), Some(1));
        assert_eq!(table.listed(), []);
        assert_eq!(keys(&table), []);
    }
}
