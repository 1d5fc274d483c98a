//! Takes the steps that [`super::plan`] decides: one pod at a time, so that one pod's trouble never delays another.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::plan::{self, Incarnation, Pod, Stage, Step};
use super::sandbox::{Missing, Sandbox, Sandboxes};
use super::status::status_of;
use super::{
    Accept, Addresses, Arrived, Config, Leave, ListenError, Panicked, PodStatus, ProbeError, Steer, Steering,
    listener,
};
use crate::model::{NetnsRef, PodId, PodSpec};
use crate::netns::Netns;

/// How often IPv6 is proved again, where it was. `[::1]` cannot carry the probe's slot, so each time looks in the counters like
/// a process of the pod that dials the listener by itself: not every time that IPv4 is proved.
const V6_INTERVAL: Duration = Duration::from_mins(10);

/// All pods, and how their steps are taken.
pub(super) struct Pods<S> {
    config: Config,
    steering: S,
    /// What the plan knows of each incarnation …
    plan: BTreeMap<Incarnation, Pod>,
    /// … and what stands in the namespace of those that listen.
    places: BTreeMap<Incarnation, Place>,
    pub(super) sandboxes: Sandboxes,
    /// Addresses that pods had in a sandbox that is gone: until the source tells others, they say nothing of the new one.
    former: BTreeMap<PodId, Arc<[IpAddr]>>,
    pub(super) probes: JoinSet<Outcome>,
    /// Those that drain, as they come to their end.
    pub(super) departures: JoinSet<Incarnation>,
    incarnations: u64,
}

/// What a listening pod has.
pub(super) struct Place {
    pub(super) namespace: Arc<Netns>,
    /// Where it was found, unless it was given.
    sandbox: Option<Sandbox>,
    pub(super) steer: Steer,
    /// There is a listener on `[::1]`.
    listens_v6: bool,
    pub(super) note: Option<String>,
    /// IPv6 was proved, and is not asked again before this moment.
    v6_proved_until: Option<Instant>,
    pub(super) ready_after: Option<Duration>,
}

pub(super) struct Outcome {
    incarnation: Incarnation,
    asked_v6: bool,
    arrived: Result<Arrived, ProbeError>,
    addresses: Vec<IpAddr>,
}

impl<S: Steering> Pods<S> {
    pub(super) fn new(config: Config, steering: S) -> io::Result<Self> {
        Ok(Self {
            config,
            steering,
            plan: BTreeMap::new(),
            places: BTreeMap::new(),
            sandboxes: Sandboxes::new()?,
            former: BTreeMap::new(),
            probes: JoinSet::new(),
            departures: JoinSet::new(),
            incarnations: 0,
        })
    }

    /// Looks for the sandboxes of the wanted pods, and of those that leave.
    pub(super) fn look_for(&mut self, wanted: &BTreeMap<PodId, Arc<PodSpec>>) {
        let specs = wanted.values().chain(self.plan.values().map(|pod| &pod.spec));
        let sandbox = |spec: &Arc<PodSpec>| match &spec.netns {
            NetnsRef::Sandbox(uid) => Some(Arc::clone(uid)),
            _ => None,
        };
        self.sandboxes.want(&specs.filter_map(sandbox).collect());
        self.former.retain(|id, _| wanted.contains_key(id));
    }

    /// Takes all steps that can be taken now; returns when to come back at the latest.
    pub(super) fn reconcile(&mut self, wanted: &BTreeMap<PodId, Arc<PodSpec>>) -> Option<Instant> {
        loop {
            let now = Instant::now();
            let plan = plan::plan(wanted, &self.plan, now);
            if plan.steps.is_empty() && plan.begin.is_empty() && plan.take_up.is_empty() {
                return plan.wake;
            }
            for (incarnation, spec) in plan.take_up {
                if let Some(pod) = self.plan.get_mut(&incarnation) {
                    pod.take_up(spec, now);
                }
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
                let stage = is_a_stage(&error);
                if stage
                    && let NetnsRef::Sandbox(uid) = &pod.spec.netns
                    && let Some(wait) = self.sandboxes.try_again(uid, now)
                {
                    return pod.awaits(reason, wait, now);
                }
                if stage && matches!(pod.spec.netns, NetnsRef::Sandbox(_)) {
                    tracing::debug!(pod = %pod.spec.name, %reason, "a pod is awaited");
                } else if pod.reason.as_deref() != Some(&*reason) {
                    tracing::warn!(pod = %pod.spec.name, %reason, "a pod is not steered; its connections go the plain way");
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
        let mut sandbox = None;
        let namespace = Arc::new(match &spec.netns {
            NetnsRef::Sandbox(uid) => {
                let (found, namespace) = self.sandboxes.open(uid, known_addresses(&self.former, &spec))?;
                sandbox = Some(found);
                namespace
            }
            given => Netns::open(given)?,
        });
        if let Some(owner) = self.owner_of(namespace.cookie()) {
            anyhow::bail!("its network namespace is that of pod {owner}, which is steered already");
        }
        let addresses = Addresses::first_of(&listener::addresses(&namespace)?);
        let listeners = listener::listen(&namespace, &spec.ports)?;
        let (port, listens_v6) = (listeners.port, listeners.v6.is_some());
        let shared = spec.netns == NetnsRef::Host;
        let accept = Accept {
            incarnation: Arc::clone(incarnation),
            namespace: Arc::clone(&namespace),
            listeners,
            shared,
        };
        let worker = self.steering.accept(accept)?;
        let (name, accelerate) = (Arc::clone(&spec.name), spec.accelerate);
        let steer = Steer {
            name,
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
                sandbox,
                steer,
                listens_v6,
                note: None,
                v6_proved_until: None,
                ready_after: None,
            },
        );
        Ok(())
    }

    /// The name of the pod that has this namespace; one that drains does not count.
    fn owner_of(&self, cookie: u64) -> Option<&str> {
        let active = |incarnation: &Incarnation| {
            self.plan
                .get(incarnation)
                .is_some_and(|pod| pod.stage != Stage::Leaving)
        };
        let mut places = self.places.iter();
        let (_, place) =
            places.find(|(incarnation, place)| place.namespace.cookie() == cookie && active(incarnation))?;
        Some(&place.steer.name)
    }

    fn probe(&mut self, incarnation: &Incarnation) {
        let (Some(pod), Some(place)) = (self.plan.get_mut(incarnation), self.places.get(incarnation)) else {
            return;
        };
        let proved =
            pod.stage == Stage::Steered && place.steer.ipv6 && place.v6_proved_until > Some(Instant::now());
        let ask_v6 = place.listens_v6 && !proved;
        pod.probe_begins();
        let (probe, incarnation) = (self.config.probe.clone(), Arc::clone(incarnation));
        let (namespace, port) = (Arc::clone(&place.namespace), place.steer.port);
        self.probes.spawn(async move {
            let mut arrived = probe.run(&namespace, port, ask_v6).await;
            if let Ok(arrived) = &mut arrived {
                arrived.ipv6 |= proved;
            }
            let addresses = listener::addresses(&namespace).unwrap_or_default();
            Outcome {
                incarnation,
                asked_v6: ask_v6,
                arrived,
                addresses,
            }
        });
    }

    pub(super) fn probed(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        let Ok(Outcome {
            incarnation,
            asked_v6,
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
        let expected = known_addresses(&self.former, &pod.spec);
        let arrived = match arrived {
            Ok(_) if !confirmed(expected, &addresses) => Err((not_confirmed(expected, &addresses), None)),
            arrived => arrived.map_err(|error| (error.to_string(), error.is_late())),
        };
        match arrived {
            Ok(Arrived { ipv6, note }) => {
                if asked_v6 {
                    place.v6_proved_until = ipv6.then(|| now + V6_INTERVAL);
                }
                let addresses = Addresses::first_of(&addresses);
                let changed = (place.steer.ipv6, place.steer.addresses) != (ipv6, addresses);
                (place.steer.ipv6, place.steer.addresses, place.note) = (ipv6, addresses, note);
                pod.probe_arrived(changed, now);
            }
            Err((reason, late)) => {
                let is_new = pod.reason.as_deref() != Some(&*reason);
                let unsteers = match late {
                    Some(queued) => pod.probe_late(reason.clone(), queued, now),
                    None => pod.probe_failed(reason.clone(), now),
                };
                let stays = pod.stage == Stage::Steered && !unsteers;
                if stays && is_new {
                    tracing::warn!(pod = %pod.spec.name, %reason, "a pod's probe is late; the pod stays steered");
                } else if is_new || unsteers {
                    tracing::warn!(pod = %pod.spec.name, %reason, "a pod is not steered; its connections go the plain way");
                }
                if unsteers {
                    self.unsteer(&incarnation);
                }
            }
        }
    }

    pub(super) fn ended(&mut self, ended: Result<Incarnation, tokio::task::JoinError>) {
        if let Ok(incarnation) = ended
            && let Some(pod) = self.plan.get_mut(&incarnation)
        {
            pod.drained(Instant::now());
        }
    }

    fn steer(&mut self, incarnation: &Incarnation) -> anyhow::Result<()> {
        let (Some(pod), Some(place)) = (self.plan.get(incarnation), self.places.get_mut(incarnation)) else {
            return Ok(());
        };
        self.steering.steer(place.namespace.cookie(), &place.steer)?;
        let appeared = match &pod.spec.netns {
            NetnsRef::Sandbox(uid) => self.sandboxes.appeared(uid),
            _ => None,
        };
        let since = appeared.map_or(pod.begun, |appeared| appeared.max(pod.begun));
        let ready_after = *place.ready_after.get_or_insert_with(|| since.elapsed());
        tracing::info!(pod = %pod.spec.name, port = place.steer.port, ipv6 = place.steer.ipv6, ?ready_after, "pod is steered");
        Ok(())
    }

    fn unsteer(&mut self, incarnation: &Incarnation) {
        if let Some(place) = self.places.get(incarnation) {
            self.steering.unsteer(place.namespace.cookie());
            tracing::info!(pod = %place.steer.name, "pod is steered no more");
        }
        if let Some(pod) = self.plan.get_mut(incarnation) {
            pod.unsteered();
        }
    }

    /// The relay has let go of the pod: the kernel must send nothing to it.
    pub(super) fn panicked(&mut self, panicked: &Panicked) {
        let Panicked { incarnation, panic } = panicked;
        if self
            .plan
            .get(incarnation)
            .is_some_and(|pod| pod.stage == Stage::Steered)
        {
            self.unsteer(incarnation);
        }
        self.places.remove(incarnation);
        if let Some(pod) = self.plan.get_mut(incarnation) {
            pod.panicked(panic, Instant::now());
            let reason = pod.reason.as_deref().unwrap_or(panic);
            self.steering.report_panic(&pod.spec, reason);
        }
    }

    /// Compares every namespace with what its name stands for now. `names_changed`: those that wait try at once.
    pub(super) fn look_again(&mut self, names_changed: bool) {
        let now = Instant::now();
        for (incarnation, pod) in &mut self.plan {
            if let Some(place) = self.places.get_mut(incarnation) {
                notice_end(pod, place, &mut self.sandboxes, &mut self.former);
            }
            if names_changed && may_be_named(&pod.spec) {
                pod.retry_now(now);
            }
        }
    }

    pub(super) fn resync_sandboxes(&mut self) {
        let lost = self.plan.values().filter(|pod| pod.stage == Stage::Waiting);
        let uids = lost.filter_map(|pod| match &pod.spec.netns {
            NetnsRef::Sandbox(uid) => Some(Arc::clone(uid)),
            _ => None,
        });
        let uids: Vec<_> = uids.collect();
        self.sandboxes.resync(Instant::now(), &uids);
    }

    /// Something happened to the cgroups of these pods.
    pub(super) fn sandboxes_changed(&mut self, uids: &[Arc<str>]) {
        let now = Instant::now();
        for (incarnation, pod) in &mut self.plan {
            match &pod.spec.netns {
                NetnsRef::Sandbox(uid) if uids.contains(uid) => pod.retry_now(now),
                _ => continue,
            }
            if let Some(place) = self.places.get_mut(incarnation) {
                notice_end(pod, place, &mut self.sandboxes, &mut self.former);
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

    pub(super) fn status(&self) -> Arc<[PodStatus]> {
        self.plan
            .iter()
            .map(|(incarnation, pod)| status_of(incarnation, pod, self.places.get(incarnation)))
            .collect()
    }
}

/// Whether a name in `/run/netns` may be what the pod waits for. Runtimes make one for every sandbox, and a sandbox with a
/// process is found by its cgroup.
fn may_be_named(spec: &PodSpec) -> bool {
    !matches!(spec.netns, NetnsRef::Sandbox(_)) || !spec.addresses.is_empty()
}

/// Whether every pod passes through this while its sandbox is made.
fn is_a_stage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Missing>().is_some_and(Missing::is_a_stage)
        || matches!(error.downcast_ref(), Some(ListenError::LoopbackDown))
}

/// Whether a pod's namespace is gone, or its name stands for another one.
fn notice_end(
    pod: &mut Pod,
    place: &mut Place,
    sandboxes: &mut Sandboxes,
    former: &mut BTreeMap<PodId, Arc<[IpAddr]>>,
) {
    let stays = match &mut place.sandbox {
        Some(sandbox) => sandboxes.is_there(sandbox),
        None => place.namespace.is(&pod.spec.netns),
    };
    if stays || pod.gone {
        return;
    }
    if let Some(sandbox) = &place.sandbox
        && pod.stage != Stage::Leaving
    {
        sandboxes.gone(&sandbox.uid);
    }
    tracing::info!(pod = %pod.spec.name, namespace = place.namespace.name(), "a pod's network namespace is gone");
    pod.gone = true;
    former.insert(pod.spec.id.clone(), Arc::clone(&pod.spec.addresses));
}

/// The addresses that its namespace must have, as far as the source knows them.
fn known_addresses<'s>(former: &BTreeMap<PodId, Arc<[IpAddr]>>, spec: &'s PodSpec) -> &'s [IpAddr] {
    if former.get(&spec.id) == Some(&spec.addresses) {
        &[]
    } else {
        &spec.addresses
    }
}

/// Whether a namespace is the one of a pod with these addresses. Some networks show a pod under further ones.
fn confirmed(expected: &[IpAddr], found: &[IpAddr]) -> bool {
    expected.is_empty() || expected.iter().any(|address| found.contains(address))
}

fn not_confirmed(expected: &[IpAddr], found: &[IpAddr]) -> String {
    format!(
        "the namespace that was found has the addresses {found:?}, and the API tells {expected:?} of this pod"
    )
}
