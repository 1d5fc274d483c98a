//! Tells people of bad values: a line in the log, a count, and an Event on the object.
//!
//! Each agent would write the same Event. So it has a name that follows from the object, the key and the value: the first agent
//! makes it, the others are told that it is there. They write at random times, and each at most one in [`PACE`].

use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::mpsc;

use super::api::{Api, Failure};
use super::clock;
use super::reflector::random_up_to;
use super::state::Complaint;

/// Between two Events of one agent, at least; up to twice that.
const PACE: Duration = Duration::from_secs(1);
/// What may wait to be written; what is more is in the log alone.
const WAITING: usize = 256;
/// Where Events on what is in no namespace have to be.
const DEFAULT_NAMESPACE: &str = "default";
/// Of a name, 253 characters are allowed.
const MAX_NAME: usize = 200;

/// Takes complaints and writes Events of them, in its own time.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Complaint>,
}

impl Writer {
    /// Must be called within a tokio runtime. It ends when this value is dropped.
    pub(super) fn new(api: Api, node: String) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        tokio::spawn(write_all(api, node, waiting));
        Self { queue }
    }

    /// Logs the complaint, and has an Event written of it if a pod of this node may use the object.
    pub(super) fn tell(&self, complaint: Complaint, concerns_this_node: bool) {
        tracing::warn!(
            kind = complaint.kind,
            namespace = complaint.namespace,
            name = complaint.name,
            "{}",
            complaint.bad
        );
        if concerns_this_node {
            // Full: the line in the log must do.
            let _full = self.queue.try_send(complaint);
        }
    }
}

async fn write_all(api: Api, node: String, mut waiting: mpsc::Receiver<Complaint>) {
    while let Some(complaint) = waiting.recv().await {
        tokio::time::sleep(PACE + random_up_to(PACE)).await;
        let (path, event) = event(&complaint, &node, SystemTime::now());
        match api.post(&path, event.to_string().into_bytes()).await {
            // 409: another agent was first.
            Ok(()) | Err(Failure::Refused { code: 409, .. }) => {}
            Err(failure) => tracing::info!(%failure, name = complaint.name, "no Event was written"),
        }
    }
}

/// Where the Event is made, and what it is.
fn event(complaint: &Complaint, node: &str, now: SystemTime) -> (String, serde_json::Value) {
    let namespace = if complaint.namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        &complaint.namespace
    };
    let bad = &complaint.bad;
    let mut hash = crc32fast::Hasher::new();
    for part in [&complaint.uid, &bad.key, &bad.value] {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    let object: String = complaint.name.chars().take(MAX_NAME).collect();
    let now = clock::rfc3339(now);
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": namespace, "name": format!("{object}.grpclb-{:08x}", hash.finalize())},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": complaint.kind,
            "namespace": complaint.namespace,
            "name": complaint.name,
            "uid": complaint.uid,
        },
        "type": "Warning",
        "reason": "BadValue",
        "message": bad.to_string(),
        "source": {"component": "grpclb", "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    (format!("/api/v1/namespaces/{namespace}/events"), event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::kubernetes::annotations::BadValue;

    fn complaint(value: &str, namespace: &str) -> Complaint {
        Complaint {
            kind: "Service",
            namespace: namespace.to_owned(),
            name: "cart".to_owned(),
            uid: "uid".to_owned(),
            bad: BadValue {
                key: "grpclb.io/policy".to_owned(),
                value: value.to_owned(),
                expected: "random",
            },
        }
    }

    #[test]
    fn the_same_complaint_has_the_same_name_on_every_node_and_another_has_another() {
        let name = |value, node| {
            let (_, event) = event(&complaint(value, "shop"), node, SystemTime::now());
            event["metadata"]["name"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(name("a", "node1"), name("a", "node2"));
        assert_ne!(name("a", "node1"), name("b", "node1"));
    }

    #[test]
    fn events_on_what_is_in_no_namespace_are_in_the_default_one() {
        let (path, found) = event(&complaint("a", ""), "node1", SystemTime::now());
        assert_eq!(path, "/api/v1/namespaces/default/events");
        assert_eq!(found["involvedObject"]["namespace"], "");
        let (path, found) = event(&complaint("a", "shop"), "node1", SystemTime::now());
        assert_eq!(path, "/api/v1/namespaces/shop/events");
        assert_eq!(found["metadata"]["namespace"], "shop");
    }
}
