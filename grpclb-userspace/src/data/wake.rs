//! Waking a task of the same thread, without atomics of our own.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

/// One task's waker, and whether it was already woken since it last ran.
#[derive(Default)]
pub(super) struct Wake {
    waker: RefCell<Option<Waker>>,
    woken: Cell<bool>,
}

impl Wake {
    /// Called by the task each time that it runs, before it looks at what it may have been woken for.
    pub(super) fn register(&self, cx: &mut Context<'_>) {
        self.woken.set(false);
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Makes the task run again; many calls before it runs are one.
    pub(super) fn wake(&self) {
        if !self.woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}
