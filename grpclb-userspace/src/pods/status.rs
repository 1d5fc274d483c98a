//! What this room tells of each pod.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plan::{Incarnation, Pod, Stage};
use super::steps::Place;
use crate::model::{Adopt, NetnsRef, PodId};
use crate::netns::Netns;

/// What status shows of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    pub id: PodId,
    /// As in [`super::Accept`].
    pub incarnation: Arc<str>,
    /// For people, as in [`crate::model::PodSpec`].
    pub name: Arc<str>,
    pub state: PodState,
    /// Why it is not steered, or not over IPv6.
    pub reason: Option<String>,
    /// How its namespace was given.
    pub namespace: String,
    pub cookie: Option<u64>,
    pub port: Option<u16>,
    pub ipv6: bool,
    pub worker: Option<u32>,
    pub addresses: Vec<IpAddr>,
    /// Failed steps since the last success.
    pub failures: u32,
    /// How long it went the plain way: from when it was both wanted and there until it was steered.
    pub ready_after: Option<Duration>,
    /// The open namespace, for who looks into it. Held for long, it would keep the namespace alive.
    pub netns: Option<Arc<Netns>>,
    pub adopt: Option<Adopt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Nothing was tried yet, or the last try failed: `reason` says why. Connections go the plain way.
    Waiting,
    /// The agent panicked in its turn a moment ago. Connections go the plain way until it is tried again.
    Paused,
    /// The listener stands, the probe has not come through. Connections go the plain way.
    Probing,
    Steered,
    /// Not wanted any more: its connections run on until they end or the drain limit.
    Draining,
}

impl PodStatus {
    /// Whether it was tried at least once, so that readiness need not wait for it.
    pub fn settled(&self) -> bool {
        matches!(
            self.state,
            PodState::Steered | PodState::Draining | PodState::Paused
        ) || self.failures > 0
    }
}

pub(super) fn status_of(incarnation: &Incarnation, pod: &Pod, place: Option<&Place>) -> PodStatus {
    let addresses = place.map(|place| place.steer.addresses).unwrap_or_default();
    PodStatus {
        id: pod.spec.id.clone(),
        incarnation: Arc::clone(incarnation),
        name: Arc::clone(&pod.spec.name),
        state: match pod.stage {
            Stage::Waiting if pod.pause.until(Instant::now()).is_some() => PodState::Paused,
            Stage::Waiting => PodState::Waiting,
            Stage::Listening => PodState::Probing,
            Stage::Steered => PodState::Steered,
            Stage::Leaving => PodState::Draining,
        },
        reason: pod
            .reason
            .clone()
            .or_else(|| place.and_then(|place| place.note.clone())),
        namespace: as_given(&pod.spec.netns),
        cookie: place.map(|place| place.namespace.cookie()),
        port: place.map(|place| place.steer.port),
        ipv6: place.is_some_and(|place| place.steer.ipv6),
        worker: place.map(|place| place.steer.worker),
        addresses: addresses
            .v4
            .map(Into::into)
            .into_iter()
            .chain(addresses.v6.map(Into::into))
            .collect(),
        failures: pod.failures(),
        ready_after: place.and_then(|place| place.ready_after),
        netns: place.map(|place| Arc::clone(&place.namespace)),
        adopt: pod.spec.adopt.clone(),
    }
}

/// As the configuration writes it.
fn as_given(namespace: &NetnsRef) -> String {
    match namespace {
        NetnsRef::Name(name) => name.clone(),
        NetnsRef::Path(path) => path.display().to_string(),
        NetnsRef::Pid(pid) => format!("pid:{pid}"),
        NetnsRef::Sandbox(uid) => format!("sandbox of {uid}"),
        NetnsRef::Host => "host".to_owned(),
    }
}
