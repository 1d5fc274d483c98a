//! Turns of pods on their worker: the connections of one pod share a short time, then other pods have theirs.
//!
//! A task that makes itself ready again is run before the runtime looks at any socket, up to 61 times in a row; a few busy
//! connections would so hide other pods' sockets for as many turns. Between two turns of a pod the runtime therefore looks at the
//! sockets ([`tokio::task::yield_now`] wakes a task only after that). Connections that wait are served in the order of arrival.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use grpclb_engine::splitter::ConnId;
use tokio::sync::Notify;

use super::pod::Pod;

/// Time of its worker that a pod may take until other pods have had their turn. A read of frames takes some tens of microseconds.
pub(super) const TURN: Duration = Duration::from_millis(1);

/// The pause between two turns of a pod that opens calls faster than its servers take them: more of them would only wait, or
/// be refused.
const CONGESTED: Duration = Duration::from_millis(10);

/// Connections that are woken in one turn: each costs little, but a pod may have thousands that wait.
const WOKEN: usize = 32;

/// One pod's turns.
#[derive(Default)]
pub(super) struct Turns {
    /// Time that the pod's tasks have taken of this turn.
    used: Cell<Duration>,
    waiting: RefCell<VecDeque<ConnId>>,
    /// The driver has more to write.
    driver_waits: Cell<bool>,
    over: Notify,
}

impl Turns {
    /// Counts time that a task of the pod has worked.
    pub(super) fn spend(&self, time: Duration) {
        self.used.set(self.used.get().saturating_add(time));
    }

    /// Returns true if the pod reads nothing until its next turn.
    pub(super) fn is_over(&self) -> bool {
        self.used.get() >= TURN
    }

    /// Lets a connection wait for the next turn, which wakes it.
    pub(super) fn wait(&self, id: ConnId) {
        self.waiting.borrow_mut().push_back(id);
        self.over.notify_one();
    }

    /// Lets the driver wait for the next turn.
    pub(super) fn wait_to_drive(&self) {
        self.driver_waits.set(true);
        self.over.notify_one();
    }

    /// Begins a turn: the connections that have waited longest come first.
    fn begin(&self) -> Vec<ConnId> {
        self.used.set(Duration::ZERO);
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().min(WOKEN);
        let first = waiting.drain(..count).collect();
        if !waiting.is_empty() {
            self.over.notify_one();
        }
        first
    }
}

/// Begins the pod's turns, until it is aborted.
pub(super) async fn run(pod: Rc<Pod>) {
    loop {
        pod.turns.over.notified().await;
        let is_congested = pod.splitter.borrow().is_congested();
        if is_congested {
            tokio::time::sleep(CONGESTED).await;
        } else {
            tokio::task::yield_now().await;
        }
        for id in pod.turns.begin() {
            if let Some(leg) = pod.legs.borrow().get(id) {
                leg.begin_turn();
            }
        }
        if pod.turns.driver_waits.take() {
            pod.driver.wake();
        }
    }
}
