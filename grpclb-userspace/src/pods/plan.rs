//! What to do next for each pod, decided from what is wanted and what is there. Pure: no IO, time is an argument.
//!
//! Each pod climbs `Waiting → Listening → Steered` one step at a time and leaves in the reverse order. The whole table:
//!
//! | stage     | its namespace is gone | not wanted any more | wanted, and the next step is due          |
//! |-----------|-----------------------|---------------------|-------------------------------------------|
//! | Waiting   | Forget                | Forget              | Listen                                    |
//! | Listening | Reset                 | Drain               | Steer if a probe came through, else Probe |
//! | Steered   | Unsteer               | Unsteer             | Probe (again)                             |
//! | Leaving   | Reset                 | Reset, when due     | Reset, when due                           |
//!
//! A step's outcome is told by [`Pod`]'s methods; a failure only ever changes the pod that it happened to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{PodId, PodSpec};

/// How often a steered pod is probed again: a firewall may appear in its namespace at any time.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// The first retry after a failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(15);

/// One incarnation of a pod in this agent. A pod that is disabled and enabled again has two: the first one drains.
pub(super) type Incarnation = Arc<str>;

/// What is there for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) spec: Arc<PodSpec>,
    pub(super) stage: Stage,
    /// Its namespace does not exist any more, or its name stands for another one.
    pub(super) gone: bool,
    /// A probe is under way.
    pub(super) probing: bool,
    /// The last probe came through.
    pub(super) proved: bool,
    /// Nothing is done for a wanted pod before this moment.
    due: Instant,
    /// When this incarnation began to be wanted.
    pub(super) begun: Instant,
    /// Failures since the last step that went well.
    failures: u32,
    /// Why it is not steered.
    pub(super) reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing of ours is in its namespace.
    Waiting,
    /// The relay accepts there; the kernel sends nothing to it.
    Listening,
    /// The kernel sends its connections to the relay.
    Steered,
    /// Steered no more: its connections run on until `due`.
    Leaving,
}

/// One step for one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Open the namespace, listen in it, let the relay accept.
    Listen,
    /// Dial the listener from within the namespace.
    Probe,
    /// Tell the kernel.
    Steer,
    /// Take it away from the kernel.
    Unsteer,
    /// Let its connections end in order.
    Drain,
    /// End its connections with a reset and close the listener.
    Reset,
    /// Nothing of it is left.
    Forget,
}

/// The steps to take now, and when to plan again if nothing happens before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<(Incarnation, Step)>,
    pub(super) wake: Option<Instant>,
    /// Wanted pods that have no incarnation yet.
    pub(super) begin: Vec<Arc<PodSpec>>,
    /// What is known of them now; they are steered as before.
    pub(super) take_up: Vec<(Incarnation, Arc<PodSpec>)>,
}

/// Compares what is wanted with what is there.
pub(super) fn plan(
    wanted: &BTreeMap<PodId, Arc<PodSpec>>,
    there: &BTreeMap<Incarnation, Pod>,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    for (incarnation, pod) in there {
        let wanted = wanted
            .get(&pod.spec.id)
            .filter(|spec| spec.steered_like(&pod.spec));
        if let Some(spec) = wanted.filter(|spec| **spec != pod.spec && pod.stage != Stage::Leaving) {
            plan.take_up.push((incarnation.clone(), Arc::clone(spec)));
        }
        match pod.next(wanted.is_some()) {
            Next::Now(step) => plan.steps.push((incarnation.clone(), step)),
            Next::WhenDue(step) if pod.due <= now => plan.steps.push((incarnation.clone(), step)),
            Next::WhenDue(_) => plan.wake = Some(plan.wake.map_or(pod.due, |wake| wake.min(pod.due))),
            Next::Nothing => {}
        }
    }
    let is_there = |id: &PodId| {
        there
            .values()
            .any(|pod| pod.spec.id == *id && pod.stage != Stage::Leaving)
    };
    plan.begin = wanted
        .values()
        .filter(|spec| !is_there(&spec.id))
        .cloned()
        .collect();
    plan
}

enum Next {
    Now(Step),
    WhenDue(Step),
    /// An outcome is awaited.
    Nothing,
}

impl Pod {
    pub(super) fn new(spec: Arc<PodSpec>, now: Instant) -> Self {
        Self {
            spec,
            stage: Stage::Waiting,
            gone: false,
            probing: false,
            proved: false,
            due: now,
            begun: now,
            failures: 0,
            reason: None,
        }
    }

    /// More became known of it. New addresses have to be those of its namespace: the next probe tells, at once.
    pub(super) fn take_up(&mut self, spec: Arc<PodSpec>, now: Instant) {
        if self.spec.addresses != spec.addresses && self.stage != Stage::Leaving {
            self.due = now;
        }
        self.spec = spec;
    }

    /// The table at the top of this file.
    fn next(&self, wanted: bool) -> Next {
        let stays = wanted && !self.gone;
        match self.stage {
            Stage::Waiting if !stays => Next::Now(Step::Forget),
            Stage::Waiting => Next::WhenDue(Step::Listen),
            Stage::Listening | Stage::Leaving if self.gone => Next::Now(Step::Reset),
            Stage::Listening if !stays => Next::Now(Step::Drain),
            Stage::Steered if !stays => Next::Now(Step::Unsteer),
            Stage::Leaving => Next::WhenDue(Step::Reset),
            Stage::Listening | Stage::Steered if self.probing => Next::Nothing,
            Stage::Listening if self.proved => Next::WhenDue(Step::Steer),
            Stage::Listening | Stage::Steered => Next::WhenDue(Step::Probe),
        }
    }

    pub(super) fn listening(&mut self, now: Instant) {
        self.stage = Stage::Listening;
        (self.proved, self.due) = (false, now);
    }

    pub(super) fn probe_begins(&mut self) {
        self.probing = true;
    }

    /// The probe came through. `changed`: the kernel's entry for a steered pod is to be written again.
    pub(super) fn probe_arrived(&mut self, changed: bool, now: Instant) {
        (self.probing, self.proved) = (false, true);
        match self.stage {
            Stage::Steered if changed => (self.stage, self.due) = (Stage::Listening, now),
            Stage::Steered => self.due = now + PROBE_INTERVAL,
            Stage::Waiting | Stage::Listening | Stage::Leaving => {}
        }
    }

    /// The probe did not come through: `true` if the pod must be unsteered at once.
    #[must_use]
    pub(super) fn probe_failed(&mut self, reason: String, now: Instant) -> bool {
        (self.probing, self.proved) = (false, false);
        let steered = self.stage == Stage::Steered;
        if self.stage != Stage::Leaving {
            self.failed(reason, now);
        }
        steered
    }

    pub(super) fn steered(&mut self, now: Instant) {
        self.stage = Stage::Steered;
        (self.failures, self.reason) = (0, None);
        self.due = now + PROBE_INTERVAL;
    }

    pub(super) fn unsteered(&mut self) {
        self.stage = Stage::Listening;
    }

    pub(super) fn leaving(&mut self, until: Instant) {
        self.stage = Stage::Leaving;
        self.due = until;
    }

    /// Its last connection has ended: there is nothing more to wait for.
    pub(super) fn drained(&mut self, now: Instant) {
        if self.stage == Stage::Leaving {
            self.due = now;
        }
    }

    /// A step failed: it is tried again later, and status shows why.
    pub(super) fn failed(&mut self, reason: String, now: Instant) {
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.reason = Some(reason);
        self.due = now + wait;
    }

    /// What it waits for is being made: the first step is tried again after `wait`, without ever longer pauses.
    pub(super) fn awaits(&mut self, reason: String, wait: Duration, now: Instant) {
        self.failures = self.failures.max(1);
        self.reason = Some(reason);
        self.due = now + wait;
    }

    /// Something changed among the namespaces: a pod that waits for its own need not wait longer.
    pub(super) fn retry_now(&mut self, now: Instant) {
        if self.stage == Stage::Waiting {
            self.due = now;
        }
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NetnsRef;

    fn spec(id: &str) -> Arc<PodSpec> {
        Arc::new(PodSpec::new(id.into(), NetnsRef::Name(id.into())))
    }

    fn wanted(specs: &[&Arc<PodSpec>]) -> BTreeMap<PodId, Arc<PodSpec>> {
        specs
            .iter()
            .map(|spec| (spec.id.clone(), Arc::clone(spec)))
            .collect()
    }

    fn there(pod: Pod) -> BTreeMap<Incarnation, Pod> {
        [(Incarnation::from("incarnation"), pod)].into()
    }

    /// Every row and column of the table: (stage, proved, probing, gone, wanted, due) → step.
    #[test]
    fn each_stage_has_exactly_one_next_step() {
        use Stage::{Leaving, Listening, Steered, Waiting};
        let cases = [
            // stage, proved, probing, gone, wanted, due: expected
            ((Waiting, false, false, false, true, true), Some(Step::Listen)),
            ((Waiting, false, false, false, true, false), None),
            ((Waiting, false, false, false, false, false), Some(Step::Forget)),
            ((Waiting, false, false, true, true, true), Some(Step::Forget)),
            ((Listening, false, false, false, true, true), Some(Step::Probe)),
            ((Listening, false, false, false, true, false), None),
            ((Listening, false, true, false, true, true), None),
            ((Listening, true, false, false, true, true), Some(Step::Steer)),
            ((Listening, true, false, false, true, false), None),
            ((Listening, true, false, false, false, false), Some(Step::Drain)),
            ((Listening, false, true, false, false, false), Some(Step::Drain)),
            ((Listening, true, false, true, true, true), Some(Step::Reset)),
            ((Steered, true, false, false, true, true), Some(Step::Probe)),
            ((Steered, true, false, false, true, false), None),
            ((Steered, true, true, false, true, true), None),
            ((Steered, true, true, false, false, false), Some(Step::Unsteer)),
            ((Steered, true, false, true, true, false), Some(Step::Unsteer)),
            ((Leaving, true, false, false, true, false), None),
            ((Leaving, true, false, false, false, false), None),
            ((Leaving, true, false, false, false, true), Some(Step::Reset)),
            ((Leaving, true, false, true, false, false), Some(Step::Reset)),
        ];
        let now = Instant::now();
        for (case, expected) in cases {
            let (stage, proved, probing, gone, is_wanted, due) = case;
            let spec = spec("a");
            let mut pod = Pod::new(spec.clone(), now);
            (pod.stage, pod.proved, pod.probing, pod.gone) = (stage, proved, probing, gone);
            pod.due = if due { now } else { now + Duration::from_secs(1) };
            let all = if is_wanted {
                wanted(&[&spec])
            } else {
                BTreeMap::new()
            };
            let steps: Vec<Step> = plan(&all, &there(pod), now)
                .steps
                .into_iter()
                .map(|(_, step)| step)
                .collect();
            assert_eq!(steps, expected.into_iter().collect::<Vec<_>>(), "{case:?}");
        }
    }

    #[test]
    fn a_wanted_pod_begins_an_incarnation_and_only_one() {
        let (spec, now) = (spec("a"), Instant::now());
        let begun = plan(&wanted(&[&spec]), &BTreeMap::new(), now).begin;
        assert_eq!(begun, std::slice::from_ref(&spec));
        assert!(
            plan(&wanted(&[&spec]), &there(Pod::new(spec.clone(), now)), now)
                .begin
                .is_empty()
        );
    }

    #[test]
    fn a_pod_that_is_enabled_again_stands_beside_its_former_incarnation_that_drains() {
        let (spec, now) = (spec("a"), Instant::now());
        let mut former = Pod::new(spec.clone(), now);
        former.leaving(now + Duration::from_secs(30));
        let plan = plan(&wanted(&[&spec]), &there(former), now);
        assert_eq!(plan.begin, [spec]);
        assert_eq!(plan.steps, [], "the former incarnation is left to drain");
        assert_eq!(plan.wake, Some(now + Duration::from_secs(30)));
    }

    #[test]
    fn a_changed_spec_ends_the_old_incarnation_first() {
        let now = Instant::now();
        let old = spec("a");
        let new = Arc::new(PodSpec {
            accelerate: true,
            ..(*old).clone()
        });
        let mut pod = Pod::new(old, now);
        pod.steered(now);
        let plan = plan(&wanted(&[&new]), &there(pod), now);
        assert_eq!(plan.steps, [(Incarnation::from("incarnation"), Step::Unsteer)]);
        assert_eq!(
            plan.begin,
            [],
            "one incarnation at a time until the old one drains"
        );
    }

    #[test]
    fn what_does_not_change_how_a_pod_is_steered_is_taken_up_without_a_new_incarnation() {
        let now = Instant::now();
        let old = spec("a");
        let new = Arc::new(PodSpec {
            name: "namespace/a".into(),
            ports: [8080].into(),
            addresses: ["10.0.0.1".parse().unwrap()].into(),
            adopt: Some(crate::model::Adopt {
                request: "1".into(),
                rate: 10,
            }),
            ..(*old).clone()
        });
        let mut pod = Pod::new(old.clone(), now);
        pod.steered(now);
        let incarnation = Incarnation::from("incarnation");
        let planned = plan(&wanted(&[&new]), &there(pod.clone()), now);
        assert_eq!(planned.take_up, [(incarnation.clone(), Arc::clone(&new))]);
        assert_eq!((planned.steps, planned.begin), (vec![], vec![]));

        pod.take_up(Arc::clone(&new), now);
        let planned = plan(&wanted(&[&new]), &there(pod), now);
        assert_eq!(planned.take_up, []);
        assert_eq!(
            planned.steps,
            [(incarnation, Step::Probe)],
            "the new addresses are to be confirmed"
        );

        let mut leaving = Pod::new(old, now);
        leaving.leaving(now + Duration::from_secs(30));
        assert_eq!(plan(&wanted(&[&new]), &there(leaving), now).take_up, []);
    }

    #[test]
    fn a_sandbox_that_is_being_made_is_looked_at_often_and_counts_as_tried() {
        let now = Instant::now();
        let mut pod = Pod::new(spec("a"), now);
        for _ in 0..20 {
            pod.awaits("being made".into(), Duration::from_millis(2), now);
        }
        assert_eq!((pod.due - now, pod.failures()), (Duration::from_millis(2), 1));
    }

    #[test]
    fn a_failure_is_retried_ever_later_and_bounded_and_success_forgets_it() {
        let now = Instant::now();
        let mut pod = Pod::new(spec("a"), now);
        let mut waits = Vec::new();
        for _ in 0..40 {
            pod.failed("no such namespace".into(), now);
            waits.push(pod.due - now);
        }
        assert_eq!(waits[0], FIRST_RETRY);
        assert!(waits.is_sorted());
        assert_eq!(*waits.last().unwrap(), LAST_RETRY);
        assert_eq!(pod.reason.as_deref(), Some("no such namespace"));
        pod.steered(now);
        assert_eq!((pod.failures(), pod.reason.as_deref()), (0, None));
    }

    #[test]
    fn one_pods_failure_leaves_anothers_plan_alone() {
        let now = Instant::now();
        let (bad, good) = (spec("bad"), spec("good"));
        let mut failing = Pod::new(bad.clone(), now);
        failing.failed("no such namespace".into(), now);
        let all: BTreeMap<Incarnation, Pod> = [
            ("bad".into(), failing),
            ("good".into(), Pod::new(good.clone(), now)),
        ]
        .into();
        let plan = plan(&wanted(&[&bad, &good]), &all, now);
        assert_eq!(plan.steps, [(Incarnation::from("good"), Step::Listen)]);
        assert_eq!(plan.wake, Some(now + FIRST_RETRY));
    }

    #[test]
    fn a_steered_pod_whose_probe_fails_is_unsteered_and_probed_again() {
        let now = Instant::now();
        let spec = spec("a");
        let mut pod = Pod::new(spec.clone(), now);
        pod.listening(now);
        pod.probe_begins();
        pod.probe_arrived(false, now);
        pod.steered(now);
        assert!(
            pod.probe_failed("dropped by a firewall".into(), now),
            "must be unsteered"
        );
        pod.unsteered();
        assert_eq!(plan(&wanted(&[&spec]), &there(pod.clone()), now).steps, []);
        let steps = plan(&wanted(&[&spec]), &there(pod), now + FIRST_RETRY).steps;
        assert_eq!(steps, [(Incarnation::from("incarnation"), Step::Probe)]);
    }

    #[test]
    fn a_pod_whose_address_changed_is_told_to_the_kernel_again() {
        let now = Instant::now();
        let spec = spec("a");
        let mut pod = Pod::new(spec.clone(), now);
        pod.steered(now);
        pod.probe_arrived(true, now);
        assert_eq!(
            plan(&wanted(&[&spec]), &there(pod), now).steps,
            [(Incarnation::from("incarnation"), Step::Steer)]
        );
    }

    #[test]
    fn a_late_probe_does_not_bring_a_leaving_pod_back() {
        let now = Instant::now();
        let mut pod = Pod::new(spec("a"), now);
        pod.probe_begins();
        pod.leaving(now + Duration::from_secs(30));
        pod.probe_arrived(true, now);
        assert_eq!(pod.stage, Stage::Leaving);
        assert!(!pod.probe_failed("late".into(), now));
        assert_eq!(pod.due, now + Duration::from_secs(30), "the drain limit stands");
    }
}
