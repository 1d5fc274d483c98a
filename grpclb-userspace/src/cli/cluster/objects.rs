//! The fields of Kubernetes' objects that the command line reads; no others are taken in.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    pub(super) items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ListMeta {
    /// Asks for the next page; empty on the last.
    #[serde(default, rename = "continue")]
    pub(super) rest: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::cli) struct Metadata {
    pub(in crate::cli) name: String,
    pub(in crate::cli) namespace: String,
    pub(in crate::cli) labels: BTreeMap<String, String>,
    pub(in crate::cli) annotations: BTreeMap<String, String>,
    /// RFC 3339: later ones are greater.
    pub(in crate::cli) creation_timestamp: String,
    pub(in crate::cli) deletion_timestamp: Option<String>,
    pub(in crate::cli) owner_references: Vec<Owner>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Owner {
    pub(in crate::cli) kind: String,
    pub(in crate::cli) name: String,
}

/// An object of which only the metadata matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Object {
    pub(in crate::cli) metadata: Metadata,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Pod {
    pub(in crate::cli) metadata: Metadata,
    pub(in crate::cli) spec: PodSpec,
    pub(in crate::cli) status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::cli) struct PodSpec {
    pub(in crate::cli) node_name: String,
    pub(in crate::cli) containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Container {
    pub(in crate::cli) image: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::cli) struct PodStatus {
    pub(in crate::cli) phase: String,
    pub(in crate::cli) conditions: Vec<Condition>,
    pub(in crate::cli) container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::cli) struct ContainerStatus {
    pub(in crate::cli) restart_count: u32,
    pub(in crate::cli) state: ContainerState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct ContainerState {
    pub(in crate::cli) waiting: Option<Waiting>,
    pub(in crate::cli) running: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Waiting {
    pub(in crate::cli) reason: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::cli) struct Condition {
    #[serde(rename = "type")]
    pub(in crate::cli) kind: String,
    pub(in crate::cli) status: String,
}

impl Pod {
    pub(in crate::cli) fn is_ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter();
        conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
    }

    /// Whether one of its containers runs.
    pub(in crate::cli) fn runs(&self) -> bool {
        self.status
            .container_statuses
            .iter()
            .any(|container| container.state.running.is_some())
    }

    /// Why it does not run, in Kubernetes' own word: `ImagePullBackOff`.
    pub(in crate::cli) fn waits_for(&self) -> String {
        let mut containers = self.status.container_statuses.iter();
        let waiting = containers.find_map(|container| container.state.waiting.as_ref());
        waiting.map_or_else(|| self.status.phase.clone(), |waiting| waiting.reason.clone())
    }
}
