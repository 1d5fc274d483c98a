//! Writes Events on objects of the API: of bad values, which are logged and counted, too, and on pods for the rest of the agent.
//!
//! Of a bad value each agent would write the same Event. So it has a name that follows from the object, the key and the value: the first agent
//! makes it, the others are told that it is there. They write at random times, and each at most one in [`PACE`].

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio::sync::mpsc;

use super::api::{Api, Failure};
use super::clock;
use super::limits::Limits;
use super::reflector::{Kind, random_up_to};
use super::state::Complaint;
use super::wire::Undecodable;
use crate::control::{PodEvent, PodEvents};

/// Between two Events of one agent, at least; up to twice that.
const PACE: Duration = Duration::from_secs(1);
/// What may wait to be written; what is more is in the log alone.
const WAITING: usize = 256;
/// Where Events on what is in no namespace have to be.
const DEFAULT_NAMESPACE: &str = "default";
/// Of a name, 253 characters are allowed.
const MAX_NAME: usize = 200;
/// Of a message, 1024 bytes are allowed; of text that is not ASCII, this many characters have room in them.
const MAX_MESSAGE: usize = 256;

/// An Event that is to be written.
#[derive(Debug)]
pub(in crate::control) struct Report {
    kind: &'static str,
    /// Empty for an object that is in no namespace.
    namespace: String,
    name: String,
    uid: String,
    reason: &'static str,
    message: String,
    /// Tells the Event's name from those of other Events on the object. `None` for the time at which it is written.
    identity: Option<u32>,
}

impl From<Complaint> for Report {
    fn from(complaint: Complaint) -> Self {
        Self {
            kind: complaint.kind,
            namespace: complaint.namespace,
            name: complaint.name,
            uid: complaint.uid,
            reason: "BadValue",
            message: complaint.bad.to_string(),
            identity: Some(complaint.bad.hash()),
        }
    }
}

impl From<PodEvent> for Report {
    fn from(event: PodEvent) -> Self {
        let (namespace, name) = event.name.split_once('/').unwrap_or(("", &event.name));
        Self {
            kind: "Pod",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: event.uid.to_string(),
            reason: event.reason,
            message: event.message.chars().take(MAX_MESSAGE).collect(),
            identity: None,
        }
    }
}

/// Takes reports and writes Events of them, in its own time.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Report>,
    bad_values: Limits,
    skipped: Limits,
}

impl Writer {
    /// Must be called within a tokio runtime. It ends when this value is dropped.
    pub(super) fn new(api: Api, node: String) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        tokio::spawn(write_all(api, node, waiting));
        Self {
            queue,
            bad_values: Limits::default(),
            skipped: Limits::default(),
        }
    }

    /// Logs the complaint, and has an Event written of it if a pod of this node may use the object; within limits.
    pub(super) fn tell(&mut self, complaint: Complaint, concerns_this_node: bool, now: Instant) {
        let Some(suppressed) = self.bad_values.admit(&complaint.namespace, &complaint.name, now) else {
            return;
        };
        tracing::warn!(
            kind = complaint.kind,
            namespace = complaint.namespace,
            name = complaint.name,
            suppressed,
            "{}",
            complaint.bad
        );
        if concerns_this_node {
            // Full: the line in the log must do.
            let _full = self.queue.try_send(complaint.into());
        }
    }

    /// Logs that an object was skipped, and why.
    pub(super) fn tell_skipped(&mut self, kind: Kind, object: &Undecodable) {
        let metadata = &object.metadata;
        if let Some(suppressed) = self
            .skipped
            .admit(&metadata.namespace, &metadata.name, Instant::now())
        {
            tracing::warn!(
                ?kind,
                suppressed,
                "an object that cannot be decoded is skipped, as if there were none: {object}"
            );
        }
    }

    /// Returns a handle by which other rooms have Events written on pods.
    pub(super) fn pod_events(&self) -> PodEvents {
        PodEvents(self.queue.clone())
    }
}

async fn write_all(api: Api, node: String, mut waiting: mpsc::Receiver<Report>) {
    while let Some(report) = waiting.recv().await {
        tokio::time::sleep(PACE + random_up_to(PACE)).await;
        let (path, event) = event(&report, &node, SystemTime::now());
        match api.post(&path, event.to_string().into_bytes()).await {
            // 409: another agent was first.
            Ok(()) | Err(Failure::Refused { code: 409, .. }) => {}
            Err(failure) => tracing::info!(%failure, name = report.name, "no Event was written"),
        }
    }
}

/// Where the Event is made, and what it is.
fn event(report: &Report, node: &str, now: SystemTime) -> (String, serde_json::Value) {
    let namespace = if report.namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        &report.namespace
    };
    let now = clock::rfc3339(now);
    let mut hash = crc32fast::Hasher::new();
    hash.update(report.uid.as_bytes());
    match report.identity {
        Some(identity) => hash.update(&identity.to_be_bytes()),
        None => {
            for part in [report.reason, &*now] {
                hash.update(&[0]);
                hash.update(part.as_bytes());
            }
        }
    }
    let object: String = report.name.chars().take(MAX_NAME).collect();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": namespace, "name": format!("{object}.grpclb-{:08x}", hash.finalize())},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": report.kind,
            "namespace": report.namespace,
            "name": report.name,
            "uid": report.uid,
        },
        "type": "Warning",
        "reason": report.reason,
        "message": report.message,
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
            bad: BadValue::new("grpclb.io/policy", value, "random"),
        }
    }

    #[test]
    fn the_same_complaint_has_the_same_name_on_every_node_and_another_has_another() {
        let name = |value, node| {
            let (_, event) = event(&complaint(value, "shop").into(), node, SystemTime::now());
            event["metadata"]["name"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(name("a", "node1"), name("a", "node2"));
        assert_ne!(name("a", "node1"), name("b", "node1"));
    }

    #[test]
    fn tell_reports_few_of_the_bad_values_of_one_object() {
        let (queue, mut waiting) = mpsc::channel(WAITING);
        let mut writer = Writer {
            queue,
            bad_values: Limits::default(),
            skipped: Limits::default(),
        };
        let now = Instant::now();
        for update in 0..3_000 {
            writer.tell(complaint(&update.to_string(), "shop"), true, now);
        }
        writer.tell(complaint("a", "other"), true, now);
        let reports = std::iter::from_fn(|| waiting.try_recv().ok());
        let namespaces: Vec<String> = reports.map(|report| report.namespace).collect();
        assert_eq!(namespaces, ["shop", "shop", "shop", "shop", "other"]);
    }

    #[test]
    fn events_on_what_is_in_no_namespace_are_in_the_default_one() {
        let (path, found) = event(&complaint("a", "").into(), "node1", SystemTime::now());
        assert_eq!(path, "/api/v1/namespaces/default/events");
        assert_eq!(found["involvedObject"]["namespace"], "");
        let (path, found) = event(&complaint("a", "shop").into(), "node1", SystemTime::now());
        assert_eq!(path, "/api/v1/namespaces/shop/events");
        assert_eq!(found["metadata"]["namespace"], "shop");
    }

    #[test]
    fn event_on_a_pod_names_the_pod_and_has_a_name_of_its_own_each_time() {
        let panicked = |message: &str| PodEvent {
            uid: "uid".into(),
            name: "shop/client".into(),
            reason: "AgentPanic",
            message: message.to_owned(),
        };
        let now = SystemTime::now();
        let written = |event_of: PodEvent, now| event(&event_of.into(), "node1", now);
        let (path, first) = written(panicked(&"\u{20ac}".repeat(1000)), now);
        assert_eq!(path, "/api/v1/namespaces/shop/events");
        assert_eq!(
            (&first["reason"], &first["involvedObject"]["name"]),
            (&"AgentPanic".into(), &"client".into())
        );
        assert!(
            first["message"]
                .as_str()
                .is_some_and(|message| message.len() <= 1024)
        );
        let (_, later) = written(panicked("again"), now + Duration::from_mins(1));
        assert_ne!(first["metadata"]["name"], later["metadata"]["name"]);
    }
}
