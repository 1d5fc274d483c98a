//! Whether the agent does its work. Whoever stands in the way holds a guard; the agent is ready when nobody does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// All reasons why the agent is not ready.
#[derive(Clone, Debug, Default)]
pub(super) struct Readiness(Arc<Mutex<Reasons>>);

#[derive(Debug, Default)]
struct Reasons {
    next: u64,
    held: BTreeMap<u64, String>,
}

/// Not ready while this lives.
#[derive(Debug)]
pub(super) struct NotReady {
    readiness: Readiness,
    key: u64,
}

impl Readiness {
    /// Not ready, for `reason` (a sentence for people), until the guard is dropped.
    pub(super) fn hold(&self, reason: impl Into<String>) -> NotReady {
        self.with(|reasons| {
            let key = reasons.next;
            reasons.next += 1;
            reasons.held.insert(key, reason.into());
            NotReady {
                readiness: self.clone(),
                key,
            }
        })
    }

    /// Empty when the agent is ready.
    pub(super) fn reasons(&self) -> Vec<String> {
        self.with(|reasons| reasons.held.values().cloned().collect())
    }

    fn with<T>(&self, action: impl FnOnce(&mut Reasons) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl NotReady {
    /// The reason has become another one.
    pub(super) fn now(&self, reason: impl Into<String>) {
        self.readiness
            .with(|reasons| reasons.held.insert(self.key, reason.into()));
    }
}

impl Drop for NotReady {
    fn drop(&mut self) {
        self.readiness.with(|reasons| reasons.held.remove(&self.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_the_last_guard_has_gone() {
        let readiness = Readiness::default();
        let (pods, kernel) = (readiness.hold("pods are tried"), readiness.hold("not attached"));
        kernel.now("not attached: not permitted");
        assert_eq!(
            readiness.reasons(),
            ["pods are tried", "not attached: not permitted"]
        );
        drop(pods);
        assert_eq!(readiness.reasons().len(), 1);
        drop(kernel);
        assert!(readiness.reasons().is_empty());
    }
}
