//! The table of steps, row by row, and what each outcome does to a pod.

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

fn steered_pod(now: Instant) -> Pod {
    let mut pod = Pod::new(spec("a"), now);
    pod.listening(now);
    pod.probe_begins();
    pod.probe_arrived(false, now);
    pod.steered(now);
    pod.probe_begins();
    pod
}

#[test]
fn late_probe_leaves_a_steered_pod_steered_and_is_sent_again_soon() {
    let now = Instant::now();
    let mut pod = steered_pod(now);
    for _ in 0..50 {
        assert!(!pod.probe_late("busy".into(), true, now));
    }
    assert_eq!((pod.stage, pod.reason.as_deref()), (Stage::Steered, Some("busy")));
    let wanted = wanted(&[&pod.spec]);
    let steps = plan(&wanted, &there(pod.clone()), now + LAST_RETRY).steps;
    assert_eq!(steps, [(Incarnation::from("incarnation"), Step::Probe)]);
    pod.probe_arrived(false, now);
    assert_eq!((pod.failures(), pod.reason.as_deref()), (0, None), "it is over");
}

#[test]
fn probes_that_nobody_answers_and_our_listener_never_had_unsteer_the_pod() {
    let now = Instant::now();
    let mut pod = steered_pod(now);
    let mut late = |queued| pod.probe_late("unanswered".into(), queued, now);
    let outcomes = [false, false, true, false, false, false].map(&mut late);
    assert_eq!(outcomes, [false, false, false, false, false, true]);
}

#[test]
fn late_probe_proves_nothing_for_a_pod_that_is_not_steered() {
    let now = Instant::now();
    let mut pod = Pod::new(spec("a"), now);
    pod.listening(now);
    pod.probe_begins();
    assert!(!pod.probe_late("busy".into(), true, now), "it is not steered");
    let steps = plan(&wanted(&[&pod.spec]), &there(pod.clone()), now + FIRST_RETRY).steps;
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
