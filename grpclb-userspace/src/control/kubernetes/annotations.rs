//! The labels and annotations under `grpclb.io/`: what they are called, what may be written, and what is wrong with what was.
//!
//! A value that is not understood is as good as none: the default stays in force, and the [`BadValue`] says what was expected.

use std::fmt;

use grpclb_engine::balance::Policy;

use super::wire::ObjectMeta;
use crate::model::Adopt;

/// The domain of every name below. It stands here, in `deploy/`, in the docs, and nowhere else.
macro_rules! key {
    ($name:literal) => {
        concat!("grpclb.io/", $name)
    };
}

/// What all our keys begin with.
pub const PREFIX: &str = key!("");
/// Label of a namespace, pod, Service or node: `true` or `false`.
pub const ENABLED: &str = key!("enabled");
/// Annotation of a Service: one of [`Policy::ALL`].
pub const POLICY: &str = key!("policy");
/// Annotation of a Service: how many endpoints one client pod uses at most, 1 to 10,000.
pub const SUBSET: &str = key!("subset");
/// Annotation of a Service: `shared` or `per-connection`.
pub const UPSTREAM: &str = key!("upstream");
/// Annotation of a pod or namespace: `<request>[,rate=N]`, see [`Adopt`].
pub const ADOPT: &str = key!("adopt");
/// Annotation of a pod or namespace: `true` or `false`, see [`crate::model::PodSpec::accelerate`].
pub const ACCELERATE: &str = key!("accelerate");

/// How many endpoints one client pod uses of a Service that says nothing.
const DEFAULT_SUBSET: usize = 20;
/// Connections a second and pod of a wish to adopt that names no rate.
const DEFAULT_RATE: u32 = 10;

/// Characters of the name of a request to adopt, at most: the agent keeps it, and says it in its status.
const MAX_REQUEST: usize = 128;
/// Characters of a value that are shown to people. A value may have 256 KiB.
const MAX_SHOWN: usize = 64;

/// A value under `grpclb.io/` that is not understood. It keeps the beginning of the value, and a hash of all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadValue {
    pub(super) key: String,
    /// At most [`MAX_SHOWN`] characters.
    shown: String,
    /// More follows.
    cut: bool,
    expected: &'static str,
    hash: u32,
}

impl BadValue {
    pub(super) fn new(key: &str, value: &str, expected: &'static str) -> Self {
        let mut hash = crc32fast::Hasher::new();
        hash.update(key.as_bytes());
        hash.update(&[0]);
        hash.update(value.as_bytes());
        let end = value.char_indices().nth(MAX_SHOWN).map(|(end, _)| end);
        Self {
            key: key.to_owned(),
            shown: value[..end.unwrap_or(value.len())].to_owned(),
            cut: end.is_some(),
            expected,
            hash: hash.finalize(),
        }
    }

    /// Returns a hash of the key and the whole value. It is the same on every node.
    pub(super) fn hash(&self) -> u32 {
        self.hash
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, shown) = (self.key.escape_debug(), &self.shown);
        let more = if self.cut { "…" } else { "" };
        write!(
            f,
            "{key}: {shown:?}{more} is not understood and has no effect: expected {}",
            self.expected
        )
    }
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceSettings {
    pub(super) enabled: Option<bool>,
    pub(super) policy: Policy,
    pub(super) subset: usize,
    pub(super) per_connection: bool,
}

/// What a namespace or a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodSettings {
    pub(super) enabled: Option<bool>,
    pub(super) accelerate: Option<bool>,
    pub(super) adopt: Option<Adopt>,
}

pub(super) fn service(metadata: &ObjectMeta, bad: &mut Vec<BadValue>) -> ServiceSettings {
    unknown(metadata, &[ENABLED], &[POLICY, SUBSET, UPSTREAM], bad);
    let mut read = Reader { metadata, bad };
    ServiceSettings {
        enabled: read.label(ENABLED, BOOLEAN, boolean),
        policy: read
            .annotation(
                POLICY,
                "round_robin, random, least_request or peak_ewma",
                |value| value.parse().ok(),
            )
            .unwrap_or_default(),
        subset: read
            .annotation(SUBSET, "a number from 1 to 10000", |value| {
                value.parse().ok().filter(|n| (1..=10_000).contains(n))
            })
            .unwrap_or(DEFAULT_SUBSET),
        per_connection: read
            .annotation(UPSTREAM, "shared or per-connection", |value| match value {
                "shared" => Some(false),
                "per-connection" => Some(true),
                _ => None,
            })
            .unwrap_or_default(),
    }
}

/// Those of a pod, or of a namespace.
pub(super) fn pod(metadata: &ObjectMeta, bad: &mut Vec<BadValue>) -> PodSettings {
    unknown(metadata, &[ENABLED], &[ACCELERATE, ADOPT], bad);
    let mut read = Reader { metadata, bad };
    PodSettings {
        enabled: read.label(ENABLED, BOOLEAN, boolean),
        accelerate: read.annotation(ACCELERATE, BOOLEAN, boolean),
        adopt: read.annotation(
            ADOPT,
            "a name of at most 128 characters for this request, and perhaps a rate: 2026-11-21T12:00:00Z,rate=10",
            adopt,
        ),
    }
}

/// The label of a node.
pub(super) fn node(metadata: &ObjectMeta, bad: &mut Vec<BadValue>) -> Option<bool> {
    unknown(metadata, &[ENABLED], &[], bad);
    Reader { metadata, bad }.label(ENABLED, BOOLEAN, boolean)
}

struct Reader<'a> {
    metadata: &'a ObjectMeta,
    bad: &'a mut Vec<BadValue>,
}

impl Reader<'_> {
    fn label<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let written = self.metadata.label(key)?;
        self.parse(key, written, expected, parse)
    }

    fn annotation<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let written = self.metadata.annotation(key)?;
        self.parse(key, written, expected, parse)
    }

    fn parse<T>(
        &mut self,
        key: &str,
        written: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(written);
        if value.is_none() {
            self.bad.push(BadValue::new(key, written, expected));
        }
        value
    }
}

const BOOLEAN: &str = "true or false";

fn boolean(value: &str) -> Option<bool> {
    value.parse().ok()
}

fn adopt(value: &str) -> Option<Adopt> {
    let (request, rate) = match value.split_once(",rate=") {
        Some((request, rate)) => (request, rate.parse().ok()?),
        None => (value, DEFAULT_RATE),
    };
    let length = 1..=MAX_REQUEST;
    (length.contains(&request.chars().count()) && !request.contains(',') && rate > 0).then(|| Adopt {
        request: request.into(),
        rate,
    })
}

/// Notes our keys that mean nothing where they stand: misspelt, on the wrong kind of object, or a label for an annotation.
fn unknown(metadata: &ObjectMeta, labels: &[&str], annotations: &[&str], bad: &mut Vec<BadValue>) {
    let ours = |key: &&String| key.starts_with(PREFIX);
    for (key, value) in &metadata.labels {
        if ours(&key) && !labels.contains(&key.as_str()) {
            let expected = if annotations.contains(&key.as_str()) {
                "this key as an annotation, not as a label"
            } else {
                "no label of this name here"
            };
            bad.push(BadValue::new(key, value, expected));
        }
    }
    for (key, value) in &metadata.annotations {
        if ours(&key) && !annotations.contains(&key.as_str()) {
            let expected = if labels.contains(&key.as_str()) {
                "this key as a label, not as an annotation"
            } else {
                "no annotation of this name here"
            };
            bad.push(BadValue::new(key, value, expected));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> ObjectMeta {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        ObjectMeta {
            labels: map(labels),
            annotations: map(annotations),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_service_that_says_nothing_has_the_defaults() {
        let mut bad = Vec::new();
        let settings = service(&ObjectMeta::default(), &mut bad);
        assert!(bad.is_empty());
        assert_eq!(
            (
                settings.enabled,
                settings.policy,
                settings.subset,
                settings.per_connection
            ),
            (None, Policy::default(), 20, false)
        );
    }

    #[test]
    fn every_policy_can_be_written() {
        for policy in Policy::ALL {
            let mut bad = Vec::new();
            let metadata = metadata(&[], &[(POLICY, policy.as_str())]);
            assert_eq!(service(&metadata, &mut bad).policy, policy);
            assert!(bad.is_empty());
        }
    }

    #[test]
    fn a_bad_value_leaves_the_default_in_force_and_says_what_was_expected() {
        let metadata = metadata(
            &[(ENABLED, "yes")],
            &[(POLICY, "fastest"), (SUBSET, "0"), (UPSTREAM, "shared")],
        );
        let mut bad = Vec::new();
        let settings = service(&metadata, &mut bad);
        assert_eq!(
            (settings.enabled, settings.policy, settings.subset),
            (None, Policy::default(), 20)
        );
        let told: Vec<String> = bad.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                r#"grpclb.io/enabled: "yes" is not understood and has no effect: expected true or false"#,
                r#"grpclb.io/policy: "fastest" is not understood and has no effect: expected round_robin, random, least_request or peak_ewma"#,
                r#"grpclb.io/subset: "0" is not understood and has no effect: expected a number from 1 to 10000"#,
            ]
        );
    }

    #[test]
    fn bad_value_keeps_little_of_a_large_value_and_shows_no_control_characters() {
        let value = |end| format!("\x1b[2J\n{}{end}", "é".repeat(100_000));
        let bad = BadValue::new(POLICY, &value("a"), "random");
        assert!(bad.shown.len() + bad.key.len() < 200);
        let shown = bad.to_string();
        assert!(
            shown.starts_with(r#"grpclb.io/policy: "\u{1b}[2J\nééé"#),
            "{shown}"
        );
        assert!(shown.contains("é\"… is not understood"), "{shown}");
        assert!(!shown.contains(char::is_control));
        assert_ne!(bad.hash(), BadValue::new(POLICY, &value("b"), "random").hash());
        assert_ne!(bad.hash(), BadValue::new(SUBSET, &value("a"), "random").hash());
    }

    #[test]
    fn a_key_that_is_misspelt_or_misplaced_is_told() {
        let metadata = metadata(
            &[(POLICY, "random")],
            &[
                (ENABLED, "true"),
                ("grpclb.io/polcy", "random"),
                ("other.io/x", ""),
            ],
        );
        let mut bad = Vec::new();
        service(&metadata, &mut bad);
        let expected: Vec<&str> = bad.iter().map(|bad| bad.expected).collect();
        assert_eq!(
            expected,
            [
                "this key as an annotation, not as a label",
                "this key as a label, not as an annotation",
                "no annotation of this name here"
            ]
        );
    }

    #[test]
    fn a_wish_to_adopt_has_a_name_and_perhaps_a_rate() {
        let wish = |value| pod(&metadata(&[], &[(ADOPT, value)]), &mut Vec::new()).adopt;
        let found = wish("2026-11-21T12:00:00Z,rate=50").unwrap();
        assert_eq!((&*found.request, found.rate), ("2026-11-21T12:00:00Z", 50));
        assert_eq!(wish("a").unwrap().rate, DEFAULT_RATE);
        for bad in ["", ",rate=1", "a,rate=0", "a,rate=x", "a,b", &"a".repeat(129)] {
            assert_eq!(wish(bad), None, "{bad}");
        }
    }
}
