//! How long a pod is left alone after a panic of the agent's in that pod's turn. Pure: the time is an argument.
//!
//! What made the agent panic may come again with the pod's next connection: each further panic doubles the pause.

use std::time::{Duration, Instant};

/// After the first panic.
const FIRST: Duration = Duration::from_mins(1);
/// At most, however often the agent panics.
const LAST: Duration = Duration::from_mins(16);
/// After this time without a panic the next one counts as the first.
const FORGOTTEN: Duration = Duration::from_hours(1);

/// The panics of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pause {
    panics: u32,
    until: Option<Instant>,
}

impl Pause {
    /// Begins a pause after a panic; returns its end and why the pod is not steered until then.
    pub(super) fn begin(&mut self, panic: &str, now: Instant) -> (Instant, String) {
        if self
            .until
            .is_some_and(|until| now.saturating_duration_since(until) >= FORGOTTEN)
        {
            self.panics = 0;
        }
        let pause = FIRST.saturating_mul(1 << self.panics.min(16)).min(LAST);
        self.panics = self.panics.saturating_add(1);
        self.until = Some(now + pause);
        let reason = format!(
            "an internal error of the agent reset its connections ({panic}); new ones go via kube-proxy for {} s",
            pause.as_secs()
        );
        (now + pause, reason)
    }

    /// Returns the end of a pause that is not over.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::plan::{Pod, Stage, Step, plan};
    use super::*;
    use crate::model::{NetnsRef, PodSpec};

    #[test]
    fn pause_doubles_up_to_a_limit_and_starts_anew_after_an_hour() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        let mut minutes = Vec::new();
        for _ in 0..7 {
            let (until, _) = pause.begin("", now);
            minutes.push((until - now).as_secs() / 60);
            assert_eq!(pause.until(now), Some(until));
            now = until;
            assert_eq!(pause.until(now), None);
        }
        assert_eq!(minutes, [1, 2, 4, 8, 16, 16, 16]);
        let later = now + FORGOTTEN;
        let (until, reason) = pause.begin("index out of bounds", later);
        assert_eq!(until, later + FIRST);
        assert!(
            reason.contains("(index out of bounds)") && reason.ends_with("for 60 s"),
            "{reason}"
        );
    }

    fn steered(now: Instant) -> Pod {
        let mut pod = Pod::new(
            Arc::new(PodSpec::new("a".into(), NetnsRef::Name("a".into()))),
            now,
        );
        pod.listening(now);
        pod.probe_begins();
        pod.probe_arrived(false, now);
        pod.steered(now);
        pod
    }

    fn next(pod: &Pod, now: Instant) -> (Vec<Step>, Option<Instant>) {
        let wanted: BTreeMap<_, _> = [(pod.spec.id.clone(), Arc::clone(&pod.spec))].into();
        let planned = plan(&wanted, &[("a".into(), pod.clone())].into(), now);
        (
            planned.steps.into_iter().map(|(_, step)| step).collect(),
            planned.wake,
        )
    }

    #[test]
    fn pod_listens_again_only_after_its_pause_whatever_happens_meanwhile() {
        let now = Instant::now();
        let mut pod = steered(now);
        pod.panicked("index out of bounds", now);
        let until = now + FIRST;
        assert_eq!(
            (pod.stage, next(&pod, now)),
            (Stage::Waiting, (vec![], Some(until)))
        );
        assert!(
            pod.pause.until(now).is_some()
                && pod
                    .reason
                    .as_ref()
                    .is_some_and(|why| why.contains("index out of bounds"))
        );

        pod.retry_now(now);
        let addresses = ["10.0.0.1".parse().unwrap()].into();
        pod.take_up(
            Arc::new(PodSpec {
                addresses,
                ..(*pod.spec).clone()
            }),
            now,
        );
        assert_eq!(
            next(&pod, now),
            (vec![], Some(until)),
            "neither a name nor an address ends the pause"
        );
        assert_eq!(next(&pod, until).0, [Step::Listen]);
        assert!(pod.pause.until(until).is_none());

        pod.listening(until);
        pod.panicked("again", until);
        assert_eq!(next(&pod, until).1, Some(until + 2 * FIRST));
    }

    #[test]
    fn draining_pod_ends_at_once_after_a_panic() {
        let now = Instant::now();
        let mut pod = steered(now);
        pod.leaving(now + Duration::from_mins(10));
        pod.panicked("index out of bounds", now);
        assert_eq!(
            (pod.stage, next(&pod, now).0),
            (Stage::Leaving, vec![Step::Reset])
        );
    }
}
