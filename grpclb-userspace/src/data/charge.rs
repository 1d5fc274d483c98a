//! Charges to the pod for bytes that its connections hold outside of the engine: connections that are not detected yet,
//! what came before the end of detection, opaque bytes that wait for a full socket, unfinished frames.

use std::cell::Cell;
use std::rc::Rc;

use grpclb_engine::splitter::Splitter;

use super::pod::Pod;

/// Bytes that a connection costs from its accept to the end of its detection: its task, its socket's registration and its
/// entry in the list of undetected connections. An unfinished preface is within.
pub(super) const UNDETECTED: usize = 4 << 10;

/// Bytes that an opaque connection costs beside what waits in it: its task and two sockets' registrations.
pub(super) const OPAQUE: usize = 6 << 10;

/// Bytes that are charged to the pod for as long as this value lives.
pub(super) struct Charge {
    pod: Rc<Pod>,
    bytes: Cell<usize>,
}

impl Charge {
    pub(super) fn new(pod: &Rc<Pod>, bytes: usize) -> Self {
        let charge = Self {
            pod: Rc::clone(pod),
            bytes: Cell::new(0),
        };
        charge.set(bytes);
        charge
    }

    /// Charges `bytes` in place of what was charged before.
    pub(super) fn set(&self, bytes: usize) {
        if self.bytes.get() != bytes {
            recharge(&mut self.pod.splitter.borrow_mut(), &self.bytes, bytes);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // After a panic the splitter that was charged is dropped, or about to be.
        if !self.pod.has_failed() && !std::thread::panicking() {
            self.set(0);
        }
    }
}

/// Charges `bytes` in place of the `charged`.
#[inline]
pub(super) fn recharge(splitter: &mut Splitter, charged: &Cell<usize>, bytes: usize) {
    let before = charged.replace(bytes);
    if before != bytes {
        splitter.charge_external(bytes);
        splitter.discharge_external(before);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{accept, leg, opaque};
    use super::*;

    fn size_of_future<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Tokio's part of a task, two registered sockets, the notes about the connection: generously.
    const BESIDE: usize = 2 << 10;

    #[test]
    fn flat_costs_cover_the_tasks() {
        let serving = size_of_future(|pod, stream, waiting, ()| accept::serve(pod, stream, waiting));
        let relaying = size_of_future(opaque::serve);
        let framing = size_of_future(leg::serve_client);
        println!("serve {serving}, of which HTTP/2 {framing}; opaque {relaying}");
        assert!(serving + BESIDE <= UNDETECTED, "{serving}");
        assert!(serving + relaying + BESIDE <= OPAQUE, "{serving} + {relaying}");
    }
}
