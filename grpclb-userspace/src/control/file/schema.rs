//! The file as it is written: its keys, before anything is checked but their names and kinds.
//!
//! Every value keeps the place where it stands, and even keys that must be there are optional here, so that
//! [`super::validate`] can tell all that is wrong at once. docs/configuration.md describes each key for people; a test
//! there holds the page to these structs.

use serde::Deserialize;
use serde_saphyr::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) services: Vec<Spanned<Service>>,
    #[serde(default)]
    pub(super) pods: Vec<Spanned<Pod>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) name: Option<Spanned<String>>,
    pub(super) addresses: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) ports: Option<Spanned<Vec<Spanned<Port>>>>,
    pub(super) policy: Option<Spanned<String>>,
    pub(super) subset: Option<Spanned<i64>>,
    pub(super) upstream: Option<Spanned<String>>,
    pub(super) endpoints: Option<Spanned<Vec<Spanned<Endpoint>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the keys of the file")]
pub(super) struct Port {
    pub(super) port: Option<Spanned<i64>>,
    pub(super) target_port: Option<Spanned<i64>>,
    pub(super) protocol: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    pub(super) id: Option<Spanned<String>>,
    pub(super) address: Option<Spanned<String>>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) weight: Option<Spanned<i64>>,
    pub(super) state: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pod {
    pub(super) name: Option<Spanned<String>>,
    pub(super) netns: Option<Spanned<String>>,
    pub(super) accelerate: Option<bool>,
}
