//! The pods room: keeps a listener in the namespace of every wanted pod, proves that it is reached, and only then has the
//! kernel steer the pod there.
//!
//! Decisions are made in [`plan`], pure and as a table; this file applies them, one step a pod at a time, so that one
//! pod's trouble never delays another. What other rooms have to do is asked for through [`Steering`]: this room knows
//! neither the kernel nor the relay.
//!
//! A pod whose namespace goes has its connections reset: a plain close would keep the namespace alive for more than a
//! minute (measured). A pod that is disabled is taken from the kernel first; its connections end in order.

mod listener;
mod plan;
mod probe;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
use tokio::task::JoinSet;

pub use listener::{Addresses, ListenError, Listeners, PORTS};
pub use probe::{Arrived, Probe, ProbeError};

use crate::model::{Desired, NetnsRef, PodId, PodSpec};
use crate::netns::Netns;
use plan::{Incarnation, Pod, Stage, Step};

/// How often namespaces are compared with what their names stand for: a stat(2) for each pod.
const RESYNC: Duration = Duration::from_secs(1);

/// What this room asks of the others; `app` answers with the data plane and the kernel room.
pub trait Steering: Send {
    /// Accept from these listeners from now on. Returns the data worker that has the pod.
    fn accept(&mut self, pod: Accept) -> anyhow::Result<u32>;
    /// Stop accepting. Connections are reset, or end in their own time; [`Ended`] completes when none is left.
    fn leave(&mut self, incarnation: &Arc<str>, how: Leave) -> Ended;
    /// Send the connections of this namespace to the listener. Also changes what was said before.
    fn steer(&mut self, cookie: u64, steer: &Steer) -> anyhow::Result<()>;
    /// Send no more of them.
    fn unsteer(&mut self, cookie: u64);
}

/// Completes when nothing of a pod is left. What it stands for goes on without being polled.
pub type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A pod's listeners for the relay.
#[derive(Debug)]
pub struct Accept {
    /// Unique among all incarnations of all pods: the pod's id, or `id~2` for its second incarnation.
    pub incarnation: Arc<str>,
    pub namespace: Arc<Netns>,
    pub listeners: Listeners,
    /// The namespace belongs to more than one pod: connections to backends are not shared.
    pub shared: bool,
}

/// A pod for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    pub id: PodId,
    pub worker: u32,
    pub port: u16,
    pub ipv6: bool,
    pub accelerate: bool,
    pub addresses: Addresses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Drain,
    Reset,
}

/// What status shows of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    pub id: PodId,
    /// As in [`Accept`].
    pub incarnation: Arc<str>,
    pub state: PodState,
    /// Why it is not steered, or not over IPv6.
    pub reason: Option<String>,
    /// How its namespace was given.
    pub namespace: String,
    pub cookie: Option<u64>,
    pub port: Option<u16>,
    pub ipv6: bool,
    pub worker: Option<u32>,
    pub addresses: Vec<std::net::IpAddr>,
    /// Failed steps since the last success.
    pub failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Nothing was tried yet, or the last try failed: `reason` says why. Connections go the plain way.
    Waiting,
    /// The listener stands, the probe has not come through. Connections go the plain way.
    Probing,
    Steered,
    /// Not wanted any more: its connections run on until they end or the drain limit.
    Draining,
}

impl PodStatus {
    /// Whether it was tried at least once, so that readiness need not wait for it.
    pub fn settled(&self) -> bool {
        self.state == PodState::Steered || self.state == PodState::Draining || self.failures > 0
    }
}

/// Settings of the room.
#[derive(Clone, Debug)]
pub struct Config {
    pub probe: Probe,
    /// How long the connections of a disabled pod may run on.
    pub drain_timeout: Duration,
}

/// Keeps the pods as `desired` wants them, for as long as the task runs.
pub async fn run<S: Steering>(
    config: Config,
    mut desired: channel::Receiver<Arc<Desired>>,
    steering: S,
    status: channel::Sender<Arc<[PodStatus]>>,
) -> anyhow::Result<()> {
    let mut pods = Pods::new(config, steering);
    let mut names = watch::NamesWatch::new()?;
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let wanted = desired.borrow_and_update().clone();
        let wake = pods.reconcile(&wanted.pods);
        status.send_replace(pods.status());
        let wake = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return Ok(()) },
            Some(outcome) = pods.probes.join_next() => pods.probed(outcome),
            Some(ended) = pods.departures.join_next() => pods.ended(ended),
            () = names.changed() => pods.look_again(true),
            _ = resync.tick() => { names.watch_again(); pods.look_again(false); }
            () = wake => {}
        }
    }
}

/// All pods, and how their steps are taken.
struct Pods<S> {
    config: Config,
    steering: S,
    /// What the plan knows of each incarnation …
    plan: BTreeMap<Incarnation, Pod>,
    /// … and what stands in the namespace of those that listen.
    places: BTreeMap<Incarnation, Place>,
    probes: JoinSet<Outcome>,
    /// Those that drain, as they come to their end.
    departures: JoinSet<Incarnation>,
    incarnations: u64,
}

/// What a listening pod has.
struct Place {
    namespace: Arc<Netns>,
    steer: Steer,
    /// There is a listener on `[::1]`.
    listens_v6: bool,
    note: Option<String>,
}

struct Outcome {
    incarnation: Incarnation,
    arrived: Result<Arrived, ProbeError>,
    addresses: Addresses,
}

impl<S: Steering> Pods<S> {
    fn new(config: Config, steering: S) -> Self {
        let (plan, places) = (BTreeMap::new(), BTreeMap::new());
        Self {
            config,
            steering,
            plan,
            places,
            probes: JoinSet::new(),
            departures: JoinSet::new(),
            incarnations: 0,
        }
    }

    /// Takes all steps that can be taken now; returns when to come back at the latest.
    fn reconcile(&mut self, wanted: &BTreeMap<PodId, Arc<PodSpec>>) -> Option<Instant> {
        loop {
            let now = Instant::now();
            let plan = plan::plan(wanted, &self.plan, now);
            if plan.steps.is_empty() && plan.begin.is_empty() {
                return plan.wake;
            }
            for (incarnation, step) in plan.steps {
                self.take(&incarnation, step, now);
            }
            for spec in plan.begin {
                let incarnation = self.next_incarnation(&spec.id);
                self.plan.insert(incarnation, Pod::new(spec, now));
            }
        }
    }

    fn take(&mut self, incarnation: &Incarnation, step: Step, now: Instant) {
        tracing::debug!(pod = %incarnation, ?step, "pod step");
        match step {
            Step::Listen => {
                let outcome = self.listen(incarnation);
                self.settle(incarnation, now, outcome, Pod::listening);
            }
            Step::Probe => self.probe(incarnation),
            Step::Steer => {
                let outcome = self.steer(incarnation);
                self.settle(incarnation, now, outcome, Pod::steered);
            }
            Step::Unsteer => self.unsteer(incarnation),
            Step::Drain => {
                let (ended, incarnation_of) = (
                    self.steering.leave(incarnation, Leave::Drain),
                    Arc::clone(incarnation),
                );
                self.departures.spawn(async move {
                    ended.await;
                    incarnation_of
                });
                if let Some(pod) = self.plan.get_mut(incarnation) {
                    pod.leaving(now + self.config.drain_timeout);
                }
            }
            Step::Reset => {
                drop(self.steering.leave(incarnation, Leave::Reset));
                self.places.remove(incarnation);
                self.plan.remove(incarnation);
            }
            Step::Forget => {
                self.plan.remove(incarnation);
            }
        }
    }

    fn settle(
        &mut self,
        incarnation: &Incarnation,
        now: Instant,
        outcome: anyhow::Result<()>,
        done: fn(&mut Pod, Instant),
    ) {
        let Some(pod) = self.plan.get_mut(incarnation) else {
            return;
        };
        match outcome {
            Ok(()) => done(pod, now),
            Err(error) => {
                let reason = format!("{error:#}");
                if pod.reason.as_deref() != Some(&*reason) {
                    tracing::warn!(pod = %incarnation, %reason, "a pod is not steered; its connections go the plain way");
                }
                pod.failed(reason, now);
            }
        }
    }

    fn listen(&mut self, incarnation: &Incarnation) -> anyhow::Result<()> {
        let Some(pod) = self.plan.get(incarnation) else {
            return Ok(());
        };
        let spec = Arc::clone(&pod.spec);
        let namespace = Arc::new(Netns::open(&spec.netns)?);
        if let Some(owner) = self.owner_of(namespace.cookie()) {
            anyhow::bail!("its network namespace is that of pod {owner}, which is steered already");
        }
        let addresses = listener::addresses(&namespace)?;
        let listeners = listener::listen(&namespace)?;
        let (port, listens_v6) = (listeners.port, listeners.v6.is_some());
        let shared = spec.netns == NetnsRef::Host;
        let accept = Accept {
            incarnation: Arc::clone(incarnation),
            namespace: Arc::clone(&namespace),
            listeners,
            shared,
        };
        let worker = self.steering.accept(accept)?;
        let (id, accelerate) = (spec.id.clone(), spec.accelerate);
        let steer = Steer {
            id,
            worker,
            port,
            ipv6: false,
            accelerate,
            addresses,
        };
        self.places.insert(
            Arc::clone(incarnation),
            Place {
                namespace,
                steer,
                listens_v6,
                note: None,
            },
        );
        Ok(())
    }

    /// The pod that has this namespace; one that drains does not count.
    fn owner_of(&self, cookie: u64) -> Option<&PodId> {
        let active = |incarnation: &Incarnation| {
            self.plan
                .get(incarnation)
                .is_some_and(|pod| pod.stage != Stage::Leaving)
        };
        let mut places = self.places.iter();
        let (_, place) =
            places.find(|(incarnation, place)| place.namespace.cookie() == cookie && active(incarnation))?;
        Some(&place.steer.id)
    }

    fn probe(&mut self, incarnation: &Incarnation) {
        let (Some(pod), Some(place)) = (self.plan.get_mut(incarnation), self.places.get(incarnation)) else {
            return;
        };
        pod.probe_begins();
        let (probe, incarnation) = (self.config.probe.clone(), Arc::clone(incarnation));
        let (namespace, port, ipv6) = (Arc::clone(&place.namespace), place.steer.port, place.listens_v6);
        self.probes.spawn(async move {
            let arrived = probe.run(&namespace, port, ipv6).await;
            let addresses = listener::addresses(&namespace).unwrap_or_default();
            Outcome {
                incarnation,
                arrived,
                addresses,
            }
        });
    }

    fn probed(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        let Ok(Outcome {
            incarnation,
            arrived,
            addresses,
        }) = outcome
        else {
            return;
        };
        let (Some(pod), Some(place)) = (self.plan.get_mut(&incarnation), self.places.get_mut(&incarnation))
        else {
            return;
        };
        let now = Instant::now();
        match arrived {
            Ok(Arrived { ipv6, note }) => {
                let changed = (place.steer.ipv6, place.steer.addresses) != (ipv6, addresses);
                (place.steer.ipv6, place.steer.addresses, place.note) = (ipv6, addresses, note);
                pod.probe_arrived(changed, now);
            }
            Err(error) => {
                let reason = error.to_string();
                if pod.reason.as_deref() != Some(&*reason) {
                    tracing::warn!(pod = %incarnation, %reason, "a pod is not steered; its connections go the plain way");
                }
                if pod.probe_failed(reason, now) {
                    self.unsteer(&incarnation);
                }
            }
        }
    }

    fn ended(&mut self, ended: Result<Incarnation, tokio::task::JoinError>) {
        if let Ok(incarnation) = ended
            && let Some(pod) = self.plan.get_mut(&incarnation)
        {
            pod.drained(Instant::now());
        }
    }

    fn steer(&mut self, incarnation: &Incarnation) -> anyhow::Result<()> {
        let Some(place) = self.places.get(incarnation) else {
            return Ok(());
        };
        self.steering.steer(place.namespace.cookie(), &place.steer)?;
        tracing::info!(pod = %place.steer.id, port = place.steer.port, ipv6 = place.steer.ipv6, "pod is steered");
        Ok(())
    }

    fn unsteer(&mut self, incarnation: &Incarnation) {
        if let Some(place) = self.places.get(incarnation) {
            self.steering.unsteer(place.namespace.cookie());
            tracing::info!(pod = %place.steer.id, "pod is steered no more");
        }
        if let Some(pod) = self.plan.get_mut(incarnation) {
            pod.unsteered();
        }
    }

    /// Compares every namespace with what its name stands for now. `names_changed`: those that wait try at once.
    fn look_again(&mut self, names_changed: bool) {
        let now = Instant::now();
        for (incarnation, pod) in &mut self.plan {
            if let Some(place) = self.places.get(incarnation)
                && !pod.gone
                && !place.namespace.is(&pod.spec.netns)
            {
                tracing::info!(pod = %incarnation, namespace = place.namespace.name(), "a pod's network namespace is gone");
                pod.gone = true;
            }
            if names_changed {
                pod.retry_now(now);
            }
        }
    }

    fn next_incarnation(&mut self, id: &PodId) -> Incarnation {
        if !self.plan.contains_key(id) {
            return Arc::clone(id);
        }
        self.incarnations += 1;
        format!("{id}~{}", self.incarnations + 1).into()
    }

    fn status(&self) -> Arc<[PodStatus]> {
        self.plan
            .iter()
            .map(|(incarnation, pod)| status_of(incarnation, pod, self.places.get(incarnation)))
            .collect()
    }
}

fn status_of(incarnation: &Incarnation, pod: &Pod, place: Option<&Place>) -> PodStatus {
    let addresses = place.map(|place| place.steer.addresses).unwrap_or_default();
    PodStatus {
        id: pod.spec.id.clone(),
        incarnation: Arc::clone(incarnation),
        state: match pod.stage {
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
