//! What is decided for the pod: by the agent, its labels, its namespace, the listener in it, the probe, the worker.

use super::{Facts, Trail};
use crate::control::kubernetes::annotations::ENABLED;
use crate::model::{EnabledBy, PodSpec};
use crate::observe::status as told;
use crate::pods::PodState;

/// A worker without a heartbeat for longer is not steered to.
const STALE_MS: u64 = grpclb_abi::HEARTBEAT_STALE_NS / 1_000_000;

pub(super) fn about_agent(facts: &Facts<'_>, trail: &mut Trail) {
    let agent = facts.agent;
    let is = format!("grpclb {} on {}", agent.version, agent.node);
    match (agent.phase, &agent.kernel.cgroup) {
        (told::Phase::Draining, _) => {
            let why = format!("{is} is about to end, and steers nothing new");
            trail.no(
                "agent",
                &why,
                Some("ask its successor; without one, start the agent".to_owned()),
            );
        }
        (_, None) => {
            let why = match &agent.kernel.error {
                Some(error) => format!("{is} steers nothing, for its programs are not attached: {error}"),
                None => format!("{is} steers nothing yet: its programs are not attached"),
            };
            trail.no("agent", &why, Some(format!("see grpclb check on {}", agent.node)));
        }
        (_, Some(cgroup)) => trail.yes("agent", &format!("{is} is attached to {cgroup}")),
    }
    for reason in &agent.readiness.reasons {
        trail.note("agent", &format!("not ready: {reason}"));
    }
    let source = &agent.source;
    if source.generation == 0 {
        let remedy = "what the source says is in its way; the agent's log has more".to_owned();
        return trail.no("source", &source.name, Some(remedy));
    }
    let confirmed = format!("{}, confirmed {} s ago", source.name, source.age_seconds);
    match &source.error {
        None => trail.yes("source", &confirmed),
        Some(error) => trail.note(
            "source",
            &format!("{confirmed}; what is newer is not known: {error}"),
        ),
    }
}

pub(super) fn about_pod(pod: &PodSpec, facts: &Facts<'_>, trail: &mut Trail) {
    match pod.enabled_by {
        EnabledBy::Configuration => trail.yes("configuration", "the file lists it"),
        EnabledBy::NamespaceLabel => {
            trail.yes("labels", &format!("its namespace's label {ENABLED} is true"));
        }
        EnabledBy::OwnLabel => trail.yes("labels", &format!("its label {ENABLED} is true")),
    }
    let Some(status) = facts.pods.iter().find(|status| status.id == pod.id) else {
        return trail.no(
            "pod",
            "it was enabled a moment ago, and has not been looked for yet",
            Some(WAIT.to_owned()),
        );
    };
    let why = || {
        status
            .reason
            .clone()
            .unwrap_or_else(|| "it has not been tried yet".to_owned())
    };
    if status.state == PodState::Paused {
        return trail.no("agent", &why(), Some(PANICKED.to_owned()));
    }
    match status.cookie {
        Some(cookie) => {
            let given = &status.namespace;
            trail.yes(
                "namespace",
                &format!("its network namespace is open ({given}, cookie {cookie})"),
            );
        }
        None => return trail.no("namespace", &why(), Some(WAIT.to_owned())),
    }
    let port = status
        .port
        .map_or(String::new(), |port| format!(" at port {port} of its loopback"));
    match status.state {
        PodState::Waiting | PodState::Paused => trail.no("listener", &why(), Some(PODS_OWN.to_owned())),
        PodState::Probing => {
            trail.yes("listener", &format!("the agent listens{port}"));
            let remedy = if status.failures > 0 { PODS_OWN } else { WAIT };
            trail.no("probe", &why(), Some(remedy.to_owned()));
        }
        PodState::Draining => trail.no(
            "listener",
            "it is no longer enabled: its connections run out",
            None,
        ),
        PodState::Steered => {
            trail.yes("listener", &format!("the agent listens{port}"));
            trail.yes("probe", "a connection of our own came through to it");
            if let Some(reason) = &status.reason {
                trail.note("probe", reason);
            }
        }
    }
    let worker = status
        .worker
        .and_then(|index| facts.agent.workers.iter().find(|worker| worker.index == index));
    if let Some(worker) = worker {
        let (index, age) = (worker.index, worker.heartbeat_age_ms);
        let says = format!("worker {index} has it; its last heartbeat is {age} ms old");
        if age > STALE_MS {
            trail.no(
                "worker",
                &says,
                Some("it stands still: the agent's log says why".to_owned()),
            );
        } else {
            trail.yes("worker", &says);
        }
    }
}

const WAIT: &str = "nothing: it is tried again by itself";
const PANICKED: &str =
    "report it, with the line of the agent's log that names this pod; the pod is tried again by itself";
const PODS_OWN: &str =
    "what the reason names in the pod itself (docs/troubleshooting.md); it is tried again by itself";
