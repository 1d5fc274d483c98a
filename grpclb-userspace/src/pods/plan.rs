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

use super::pause::Pause;
use crate::model::{PodId, PodSpec};

/// How often a steered pod is probed again: a firewall may appear in its namespace at any time.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// A steered pod is unsteered after so many probes in a row that something else than our listener seems to have accepted.
const MOST_UNANSWERED: u32 = 3;
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
    /// Probes in a row that something accepted and nobody answered.
    unanswered: u32,
    /// Failures since the last step that went well.
    failures: u32,
    /// Panics of the agent's in its turn.
    pub(super) pause: Pause,
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
            unanswered: 0,
            failures: 0,
            pause: Pause::default(),
            reason: None,
        }
    }

    /// More became known of it. New addresses have to be those of its namespace: the next probe tells, at once.
    pub(super) fn take_up(&mut self, spec: Arc<PodSpec>, now: Instant) {
        if self.spec.addresses != spec.addresses && self.stage != Stage::Leaving {
            self.due = self.pause.until(now).unwrap_or(now);
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
        (self.probing, self.proved, self.unanswered) = (false, true, 0);
        match self.stage {
            Stage::Steered if changed => (self.stage, self.due) = (Stage::Listening, now),
            Stage::Steered => {
                (self.failures, self.reason) = (0, None);
                self.due = now + PROBE_INTERVAL;
            }
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

    /// The probe was not dropped, and not answered in time: a pod that is steered stays so, and is probed again. `true` if it
    /// must be unsteered at once: where our listener's queue is empty (`queued` is false) for several probes in a row, something
    /// else accepts them.
    #[must_use]
    pub(super) fn probe_late(&mut self, reason: String, queued: bool, now: Instant) -> bool {
        self.unanswered = if queued {
            0
        } else {
            self.unanswered.saturating_add(1)
        };
        if self.stage != Stage::Steered || self.unanswered >= MOST_UNANSWERED {
            return self.probe_failed(reason, now);
        }
        self.probing = false;
        self.failed(reason, now);
        false
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
            self.due = self.pause.until(now).unwrap_or(now);
        }
    }

    /// The agent panicked in its turn: nothing of ours is in its namespace any more.
    pub(super) fn panicked(&mut self, panic: &str, now: Instant) {
        let (until, reason) = self.pause.begin(panic, now);
        (self.probing, self.proved) = (false, false);
        if self.stage == Stage::Leaving {
            return self.due = now;
        }
        (self.stage, self.due, self.reason) = (Stage::Waiting, until, Some(reason));
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests;
