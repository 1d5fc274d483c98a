//! Bounds on the lines and Events about objects of the API, so that one namespace's objects leave room for those of others. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Reports are counted anew after this time.
const WINDOW: Duration = Duration::from_mins(1);
/// Reports in a window: of one object, of all objects of one namespace, of all.
///
/// An agent writes at least 30 Events a minute, so that those of bad values never pile up.
const MAX_OF_OBJECT: u32 = 4;
const MAX_OF_NAMESPACE: u32 = 12;
const MAX: u32 = 30;

/// Admits reports within the bounds, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Limits {
    began: Option<Instant>,
    /// By namespace, and by namespace and object. Not more than are admitted in a window.
    admitted: HashMap<(String, Option<String>), u32>,
    all: u32,
    refused: u64,
}

impl Limits {
    /// Returns how many reports were refused since the last that was admitted, if this one is.
    ///
    /// An object that is in no namespace counts as a namespace of its own.
    pub(super) fn admit(&mut self, namespace: &str, object: &str, now: Instant) -> Option<u64> {
        if self
            .began
            .is_none_or(|began| now.saturating_duration_since(began) >= WINDOW)
        {
            self.began = Some(now);
            self.admitted.clear();
            self.all = 0;
        }
        let namespace = if namespace.is_empty() { object } else { namespace };
        let of_namespace = (namespace.to_owned(), None);
        let of_object = (namespace.to_owned(), Some(object.to_owned()));
        let admitted = |key| self.admitted.get(key).copied().unwrap_or_default();
        if self.all >= MAX
            || admitted(&of_namespace) >= MAX_OF_NAMESPACE
            || admitted(&of_object) >= MAX_OF_OBJECT
        {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        self.all += 1;
        for key in [of_namespace, of_object] {
            *self.admitted.entry(key).or_default() += 1;
        }
        Some(std::mem::take(&mut self.refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admit_leaves_reports_to_other_objects_and_namespaces() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let mut admitted = |namespace, object: &str, times: u32, now| {
            (0..times)
                .filter(|_| limits.admit(namespace, object, now).is_some())
                .count()
        };
        assert_eq!(admitted("a", "one", 3_000, now), 4);
        assert_eq!(admitted("a", "two", 3_000, now), 4);
        for object in 0..1_000 {
            admitted("a", &object.to_string(), 3, now);
        }
        assert_eq!(admitted("b", "one", 3_000, now), 4);
        assert_eq!(admitted("", "node", 3_000, now), 4);
        assert_eq!(admitted("a", "one", 3_000, now + WINDOW), 4);
    }

    #[test]
    fn admit_tells_how_many_were_refused_and_keeps_no_more_than_it_admits() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let refused = (0..3_000)
            .filter(|n: &u32| limits.admit(&n.to_string(), "x", now).is_none())
            .count();
        assert_eq!(refused, 2_970);
        assert!(limits.admitted.len() <= 2 * MAX as usize);
        assert_eq!(limits.admit("a", "x", now + WINDOW), Some(2_970));
        assert_eq!(limits.admit("a", "x", now + WINDOW), Some(0));
    }
}
