//! What of Kubernetes' objects goes into a report: the fields listed here and no others. And, behind everything else, what looks
//! like a credential is blotted out wherever it stands.

use serde_json::{Map, Value};

/// Of labels and annotations, those of these owners: they decide whether and how calls are balanced.
const OWNERS: [&str; 7] = [
    "grpclb.io/",
    "istio.io/",
    "ambient.istio.io/",
    "service.cilium.io/",
    "service.kubernetes.io/",
    "kubernetes.io/service-name",
    "topology.kubernetes.io/zone",
];

pub(super) const NODE: &[&str] = &[
    "metadata.name",
    "metadata.labels",
    "status.nodeInfo",
    "status.conditions.type",
    "status.conditions.status",
];
pub(super) const NAMESPACE: &[&str] = &["metadata.name", "metadata.labels", "metadata.annotations"];
pub(super) const DAEMONSET: &[&str] = &[
    "metadata.name",
    "metadata.generation",
    "spec.updateStrategy",
    "spec.template.spec.containers.name",
    "spec.template.spec.containers.image",
    "spec.template.spec.containers.args",
    "spec.template.spec.containers.resources",
    "spec.template.spec.containers.securityContext",
    "spec.template.spec.hostPID",
    "spec.template.spec.hostNetwork",
    "status",
];
/// Of the agents' own pods.
pub(super) const AGENT: &[&str] = &[
    "metadata.name",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "spec.nodeName",
    "status.phase",
    "status.conditions",
    "status.podIPs",
    "status.containerStatuses.image",
    "status.containerStatuses.imageID",
    "status.containerStatuses.ready",
    "status.containerStatuses.restartCount",
    "status.containerStatuses.state",
    "status.containerStatuses.lastState",
];
pub(super) const POD: &[&str] = &[
    "metadata.name",
    "metadata.uid",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.labels",
    "metadata.annotations",
    "spec.nodeName",
    "spec.hostNetwork",
    "spec.runtimeClassName",
    "spec.containers.name",
    "spec.containers.ports",
    "spec.initContainers.name",
    "status.phase",
    "status.podIPs",
    "status.conditions.type",
    "status.conditions.status",
];
pub(super) const SERVICE: &[&str] = &[
    "metadata.name",
    "metadata.labels",
    "metadata.annotations",
    "spec.type",
    "spec.clusterIPs",
    "spec.ports",
    "spec.sessionAffinity",
    "spec.internalTrafficPolicy",
    "spec.trafficDistribution",
    "spec.publishNotReadyAddresses",
];
pub(super) const SLICE: &[&str] = &[
    "metadata.name",
    "metadata.labels",
    "addressType",
    "endpoints",
    "ports",
];
pub(super) const EVENT: &[&str] = &[
    "type",
    "reason",
    "message",
    "count",
    "firstTimestamp",
    "lastTimestamp",
    "eventTime",
    "involvedObject.kind",
    "involvedObject.name",
    "reportingComponent",
];

/// An object with these fields only; a path goes through lists.
pub(super) fn keep(object: &Value, fields: &[&str]) -> Value {
    let mut kept = Value::Object(Map::new());
    for field in fields {
        let path: Vec<&str> = field.split('.').collect();
        copy(object, &mut kept, &path);
    }
    kept
}

fn copy(from: &Value, to: &mut Value, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let Some(value) = from.get(*first) else { return };
            if rest.is_empty() {
                let value = if matches!(*first, "labels" | "annotations") {
                    of_owners(value)
                } else {
                    value.clone()
                };
                to.insert((*first).to_owned(), value);
            } else {
                let empty = if value.is_array() {
                    Value::Array(Vec::new())
                } else {
                    Value::Object(Map::new())
                };
                copy(value, to.entry(*first).or_insert(empty), rest);
            }
        }
        (Value::Array(from), Value::Array(to)) => {
            to.resize_with(from.len(), || Value::Object(Map::new()));
            for (from, to) in from.iter().zip(to) {
                copy(from, to, path);
            }
        }
        _ => {}
    }
}

fn of_owners(labels: &Value) -> Value {
    let labels = labels.as_object().into_iter().flatten();
    let decides = |key: &str| OWNERS.iter().any(|owner| key.starts_with(owner));
    let kept = labels.filter(|(key, _)| decides(key));
    Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// The text without what looks like a credential: JSON Web Tokens, and what stands behind `Bearer` or `Basic`.
pub(super) fn credentials(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut behind_scheme = false;
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.+/=~".contains(c);
    let mut rest = text;
    while let Some(begin) = rest.find(is_part) {
        let (between, from) = rest.split_at(begin);
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        clean.push_str(between);
        // A scheme and its credential stand side by side.
        let follows = behind_scheme && between.chars().all(|c| c == ' ') && !between.is_empty();
        let looks_random = word.len() >= 16;
        if is_token(word) || (follows && looks_random) {
            clean.push_str("(removed)");
        } else {
            clean.push_str(word);
        }
        behind_scheme = word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic");
        rest = after;
    }
    clean.push_str(rest);
    clean
}

/// A JSON Web Token: three parts, the first of which is a JSON object in base64.
fn is_token(word: &str) -> bool {
    let word = word.rsplit('=').find(|part| !part.is_empty()).unwrap_or(word);
    word.starts_with("eyJ") && word.len() > 40 && word.matches('.').count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_a_pod_the_environment_and_foreign_annotations_stay_behind() {
        let pod = json!({
            "metadata": {
                "name": "client",
                "annotations": {
                    "grpclb.io/adopt": "x",
                    "kubectl.kubernetes.io/last-applied-configuration": "{\"env\": \"SECRET\"}",
                },
                "labels": {"grpclb.io/enabled": "true", "customer": "SECRET"},
                "managedFields": [{"SECRET": 1}],
            },
            "spec": {
                "nodeName": "node1",
                "containers": [
                    {"name": "a", "image": "SECRET", "env": [{"name": "TOKEN", "value": "SECRET"}], "args": ["SECRET"]},
                    {"name": "b", "ports": [{"containerPort": 1}]},
                ],
                "volumes": [{"secret": {"secretName": "SECRET"}}],
            },
        });
        let kept = keep(&pod, POD);
        assert!(!kept.to_string().contains("SECRET"), "{kept}");
        assert_eq!(
            kept,
            json!({
                "metadata": {
                    "name": "client",
                    "annotations": {"grpclb.io/adopt": "x"},
                    "labels": {"grpclb.io/enabled": "true"},
                },
                "spec": {
                    "nodeName": "node1",
                    "containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 1}]}],
                },
            })
        );
    }

    #[test]
    fn credentials_are_blotted_out_and_all_else_stands() {
        let token = format!(
            "eyJhbGciOiJSUzI1NiJ9.{}.c2lnbmF0dXJl",
            "eyJpc3MiOiJrdWJlcm5ldGVzIn0"
        );
        for (text, expected) in [
            (format!("token={token} rest"), "(removed) rest"),
            (format!("\"{token}\""), "\"(removed)\""),
            (
                "authorization: Bearer abcdefghijklmnop0123; next".to_owned(),
                "authorization: Bearer (removed); next",
            ),
            (
                "the bearer of news\nbasic facts".to_owned(),
                "the bearer of news\nbasic facts",
            ),
            (
                "10.96.7.1:50051 ✓ a.b.c/d".to_owned(),
                "10.96.7.1:50051 ✓ a.b.c/d",
            ),
        ] {
            assert_eq!(credentials(&text), expected);
        }
    }
}
