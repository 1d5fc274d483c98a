//! Bad values of objects, each reported once while its object has it. Pure.
//!
//! An object's author may write as many as fit into it, and others as often as it likes: of each object a few hashes are kept, for
//! as long as the object has the values, and a bounded number of reports.

use std::collections::HashMap;

use crate::control::kubernetes::annotations::BadValue;
use crate::control::kubernetes::wire;

/// Bad values of one object that are reported and remembered; others are counted.
const MAX_OF_OBJECT: usize = 8;
/// Objects whose bad values are remembered; bad values of others are counted.
const MAX_OBJECTS: usize = 10_000;
/// Reports that wait to be taken; bad values beyond are counted.
const MAX_WAITING: usize = 1_024;

/// A bad value, and on which object it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Complaint {
    pub(in super::super) kind: &'static str,
    /// Empty for what is in no namespace.
    pub(in super::super) namespace: String,
    pub(in super::super) name: String,
    pub(in super::super) uid: String,
    pub(in super::super) bad: BadValue,
}

/// The bad values that objects have now.
#[derive(Debug, Default)]
pub(super) struct BadValues {
    /// By kind and by name as the tables have it: the hashes of each object's bad values.
    objects: HashMap<&'static str, HashMap<Box<str>, Box<[u64]>>>,
    waiting: Vec<Complaint>,
    found: u64,
}

impl BadValues {
    /// Takes the bad values that an object has now, and reports those that it did not have before.
    pub(super) fn note(&mut self, kind: &'static str, metadata: &wire::ObjectMeta, bad: &[BadValue]) {
        if bad.is_empty() {
            return self.forget(kind, metadata);
        }
        let all: usize = self.objects.values().map(HashMap::len).sum();
        let objects = self.objects.entry(kind).or_default();
        let key = key(metadata);
        let before = objects.get(&*key);
        let is_new = |bad: &&BadValue| before.is_none_or(|before| !before.contains(&hash(metadata, bad)));
        let unremembered = bad.len().saturating_sub(MAX_OF_OBJECT);
        let bad = &bad[..bad.len() - unremembered];
        let new: Vec<&BadValue> = bad.iter().filter(is_new).collect();
        // An object with more than are remembered is counted with these when another of its bad values is new.
        if !new.is_empty() {
            self.found = self.found.saturating_add((new.len() + unremembered) as u64);
        }
        if before.is_none() && all >= MAX_OBJECTS {
            return;
        }
        for bad in new {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push(Complaint {
                    kind,
                    namespace: metadata.namespace.clone(),
                    name: metadata.name.clone(),
                    uid: metadata.uid.clone(),
                    bad: bad.clone(),
                });
            }
        }
        let now = bad.iter().map(|bad| hash(metadata, bad)).collect();
        objects.insert(key, now);
    }

    /// Forgets an object that is no more.
    pub(super) fn forget(&mut self, kind: &str, metadata: &wire::ObjectMeta) {
        self.forget_key(kind, &key(metadata));
    }

    /// The same, by the object's name as the tables have it.
    pub(super) fn forget_key(&mut self, kind: &str, key: &str) {
        if let Some(objects) = self.objects.get_mut(kind) {
            objects.remove(key);
        }
    }

    /// Forgets all objects of a kind.
    pub(super) fn forget_all(&mut self, kind: &str) {
        self.objects.remove(kind);
    }

    /// Returns how many bad values were found since the last call, and those of them that are to be reported.
    pub(super) fn take(&mut self) -> (u64, Vec<Complaint>) {
        (std::mem::take(&mut self.found), std::mem::take(&mut self.waiting))
    }
}

/// The name under which a table has the object.
fn key(metadata: &wire::ObjectMeta) -> Box<str> {
    if metadata.namespace.is_empty() {
        return metadata.name.as_str().into();
    }
    super::key(metadata).into()
}

/// An object that was made anew under the same name has other hashes.
fn hash(metadata: &wire::ObjectMeta, bad: &BadValue) -> u64 {
    u64::from(crc32fast::hash(metadata.uid.as_bytes())) << 32 | u64::from(bad.hash())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(name: &str) -> wire::ObjectMeta {
        wire::ObjectMeta {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            uid: format!("uid of {name}"),
            ..wire::ObjectMeta::default()
        }
    }

    fn bad(value: &str) -> BadValue {
        BadValue::new("grpclb.io/policy", value, "random")
    }

    /// Bytes that are kept of bad values.
    fn kept(values: &BadValues) -> usize {
        let hashes: usize = values
            .objects
            .values()
            .flatten()
            .map(|(key, hashes)| key.len() + 8 * hashes.len())
            .sum();
        let reports: usize = values
            .waiting
            .iter()
            .map(|complaint| complaint.bad.to_string().len())
            .sum();
        hashes + reports
    }

    #[test]
    fn note_keeps_little_of_an_object_that_is_updated_again_and_again() {
        let mut values = BadValues::default();
        for update in 0..3_000 {
            values.note(
                "Service",
                &metadata("cart"),
                &[bad(&format!("{update}{}", "x".repeat(200 << 10)))],
            );
        }
        assert!(kept(&values) < 400_000, "{}", kept(&values));
        let (found, reports) = values.take();
        assert_eq!((found, reports.len()), (3_000, MAX_WAITING));
        assert!(kept(&values) < 100, "{}", kept(&values));
    }

    #[test]
    fn note_reports_a_bad_value_once_while_the_object_has_it() {
        let mut values = BadValues::default();
        for _ in 0..3 {
            values.note("Service", &metadata("cart"), &[bad("a"), bad("b")]);
        }
        assert_eq!(values.take().0, 2);
        values.note("Service", &metadata("cart"), &[bad("b"), bad("c")]);
        assert_eq!(values.take().1.len(), 1);
        values.note("Service", &metadata("cart"), &[]);
        assert!(values.objects["Service"].is_empty());
        values.note("Service", &metadata("cart"), &[bad("b")]);
        assert_eq!(values.take().1.len(), 1);
    }

    #[test]
    fn note_reports_few_of_the_bad_values_of_one_object_and_counts_all() {
        let mut values = BadValues::default();
        let many: Vec<BadValue> = (0..10_000).map(|n| bad(&n.to_string())).collect();
        for _ in 0..3 {
            values.note("Service", &metadata("cart"), &many);
        }
        let (found, reports) = values.take();
        assert_eq!((found, reports.len()), (10_000, MAX_OF_OBJECT));
    }

    #[test]
    fn note_remembers_a_bounded_number_of_objects() {
        let mut values = BadValues::default();
        for n in 0..2 * MAX_OBJECTS {
            values.note("Service", &metadata(&n.to_string()), &[bad("a")]);
        }
        assert_eq!(values.objects["Service"].len(), MAX_OBJECTS);
    }
}
