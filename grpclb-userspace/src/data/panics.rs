//! Keeps a panic within the pod whose turn raised it.
//!
//! Every entry into a pod's code (its tasks, and the calls that the worker's loop makes into it) runs under
//! [`contain`]. A pod that has panicked fails: [`Pod::fail`](super::pod::Pod::fail) drops its tasks, sockets and splitter as
//! a whole, because nothing that the panic interrupted is looked at again. A panic of the worker's own code, outside of any
//! pod's, ends the process.
//!
//! `catch_unwind` yields the message of a panic and not its location, which only the process's panic hook is given:
//! [`install_panic_hook`] keeps it for the thread that catches.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::pod::Pod;
use crate::model::PodId;

/// Longest panic message that is kept, in characters: a message may quote what a peer sent.
const MESSAGE: usize = 300;

/// Panics outside of pods that are logged in each [`WINDOW`]; the others are counted.
const LOGGED: u64 = 10;
const WINDOW: Duration = Duration::from_mins(1);

/// The entries into a pod's code, as [`Config::on_turn`](super::Config::on_turn) is told of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A connection was accepted.
    Accept,
    /// Bytes of an HTTP/2 connection go to the splitter.
    Input,
    /// The driver runs.
    Drive,
    /// An opaque connection is relayed.
    Relay,
    /// The endpoints of a Service changed.
    ServiceChanged,
    /// The pod begins to drain.
    Drain,
    /// The pod's status is collected.
    Status,
}

/// Called with the pod's id at each entry into the pod's code.
pub type OnTurn = Arc<dyn Fn(&str, Turn) + Send + Sync>;

/// Called with the id of a pod that has failed, and with the panic's message and location.
pub type OnPanic = Arc<dyn Fn(&PodId, &str) + Send + Sync>;

/// A panic that was caught.
#[derive(Debug)]
pub(super) struct Panic {
    message: String,
    location: Option<String>,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.location {
            Some(location) => write!(f, ", at {location}"),
            None => Ok(()),
        }
    }
}

thread_local! {
    /// [`contain`] is on this thread's stack: it reports a panic, and the hook does not.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
    /// Location of the panic that unwinds this thread.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `code` and returns its panic as a value.
///
/// Unwind safety: the caller uses nothing of the pod afterwards but what [`Pod::fail`] drops. What pods share is sound after
/// an unwind: the scratch buffers are cleared before each use, totals are added to outside of pods' code, and the table of
/// Services changes by single inserts and removals.
pub(super) fn contain<T>(code: impl FnOnce() -> T) -> Result<T, Panic> {
    let outer = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(code));
    CONTAINED.set(outer);
    result.map_err(|payload| Panic {
        message: message_of(&*payload),
        location: LOCATION.take(),
    })
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    one_line(message.unwrap_or("a panic without a message"))
}

fn one_line(message: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    message.chars().take(MESSAGE).map(printable).collect()
}

/// Replaces the process's panic hook: a panic becomes one line of the log, with its location and without a backtrace. A
/// panic within a pod's turn is logged by its worker, with the pod's name.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        if CONTAINED.get() {
            let location = info.location().map(ToString::to_string);
            LOCATION.with_borrow_mut(|known| *known = location);
        } else {
            log(info);
        }
    }));
}

fn log(info: &PanicHookInfo<'_>) {
    static PACE: LazyLock<Pace> = LazyLock::new(Pace::new);
    let Some(suppressed) = PACE.admit(PACE.started.elapsed()) else {
        return;
    };
    let thread = std::thread::current();
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        location = %info.location().map(ToString::to_string).unwrap_or_default(),
        suppressed,
        "the agent panicked: {}",
        one_line(info.payload_as_str().unwrap_or("a panic without a message"))
    );
}

/// Admits [`LOGGED`] panics in each [`WINDOW`].
struct Pace {
    started: Instant,
    window: AtomicU64,
    count: AtomicU64,
}

impl Pace {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            window: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }

    /// Returns how many were refused in the window before, if this one is admitted.
    fn admit(&self, elapsed: Duration) -> Option<u64> {
        let window = elapsed.as_secs() / WINDOW.as_secs();
        let mut suppressed = 0;
        if self.window.swap(window, Ordering::Relaxed) != window {
            suppressed = self.count.swap(0, Ordering::Relaxed).saturating_sub(LOGGED);
        }
        (self.count.fetch_add(1, Ordering::Relaxed) < LOGGED).then_some(suppressed)
    }
}

/// A task of a pod: its panic, also one while it is dropped, fails the pod and nothing else.
///
/// Boxed, so that it can be dropped within [`contain`]: one allocation a connection.
pub(super) struct Contained<F> {
    pod: Rc<Pod>,
    task: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = ()>> Contained<F> {
    pub(super) fn new(pod: Rc<Pod>, task: F) -> Self {
        Self {
            pod,
            task: Some(Box::pin(task)),
        }
    }
}

impl<F> Contained<F> {
    fn end(&mut self) {
        if let Some(task) = self.task.take()
            && let Err(panic) = contain(|| drop(task))
        {
            self.pod.fail(&panic);
        }
    }
}

impl<F: Future<Output = ()>> Future for Contained<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(task) = &mut self.task else {
            return Poll::Ready(());
        };
        match contain(|| task.as_mut().poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(())) => {}
            Err(panic) => self.pod.fail(&panic),
        }
        self.end();
        Poll::Ready(())
    }
}

impl<F> Drop for Contained<F> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends the process when the code around it panics: a worker's connections must be reset by the process's death and
/// never stand still. Tokio would catch the panic of a task and go on without it.
pub(super) struct DieOnPanic;

impl Drop for DieOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contain_returns_values_and_panics() {
        assert_eq!(contain(|| 7).unwrap(), 7);
        let panic = contain(|| panic!("no such stream: {}", 5)).unwrap_err();
        assert_eq!(panic.message, "no such stream: 5");
    }

    #[test]
    fn message_is_one_bounded_line() {
        let message = one_line(&"x\n\u{1b}[31m".repeat(1000));
        assert_eq!(message.chars().count(), MESSAGE);
        assert!(message.chars().all(|c| !c.is_control()));
    }

    #[test]
    fn pace_admits_ten_panics_a_minute_and_counts_the_rest() {
        let pace = Pace::new();
        let admitted = |second| pace.admit(Duration::from_secs(second));
        let first: Vec<_> = (0..13).map(|_| admitted(1)).collect();
        assert_eq!(first[..10], [Some(0); 10]);
        assert_eq!(first[10..], [None; 3]);
        assert_eq!(admitted(61), Some(3));
        assert_eq!(admitted(62), Some(0));
    }
}
