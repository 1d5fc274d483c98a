//! A pod's connections whose protocol is not known yet, in the order in which they were accepted.
//!
//! Nothing was exchanged on them, so they are the first to go when the pod holds more memory than it may and slowing down does
//! not help: the oldest first, for it has had the most time to say something.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::task::AbortHandle;

use super::charge::{Charge, UNDETECTED};
use super::pod::Pod;

/// The tasks of a pod's undetected connections.
#[derive(Default)]
pub(super) struct Undetected {
    accepted: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, AbortHandle>>,
}

impl Undetected {
    /// Notes the task that serves the connection.
    pub(super) fn insert(&self, waiting: u64, task: AbortHandle) {
        self.tasks.borrow_mut().insert(waiting, task);
    }

    /// Resets the connection that was accepted first; `false` if there is none.
    pub(super) fn reset_oldest(&self) -> bool {
        let oldest = self.tasks.borrow_mut().pop_first();
        oldest.map(|(_, task)| task.abort()).is_some()
    }
}

/// A connection that is not detected yet, charged to the pod.
pub(super) struct Waiting {
    pod: Rc<Pod>,
    pub number: u64,
    _charge: Charge,
}

impl Waiting {
    pub(super) fn new(pod: &Rc<Pod>) -> Self {
        let number = pod.undetected.accepted.get();
        pod.undetected.accepted.set(number.wrapping_add(1));
        Self {
            pod: Rc::clone(pod),
            number,
            _charge: Charge::new(pod, UNDETECTED),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pod.undetected.tasks.borrow_mut().remove(&self.number);
    }
}
