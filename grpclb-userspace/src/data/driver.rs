//! The driver of a pod: the one task that writes. It runs after all connections that were readable in this turn of the
//! loop, so that what they caused leaves in one write for each connection; it also carries out what the splitter asks
//! for and keeps the splitter's one timer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use grpclb_engine::Time;
use grpclb_engine::balance::Endpoint;
use grpclb_engine::splitter::{Action, ConnId, DialError, Ended, How, UpstreamId};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};
use tracing::debug;

use super::dial::dial;
use super::leg;
use super::panics::Turn;
use super::pod::Pod;
use super::socket::socket_error;
use super::turns::TURN;
use super::wake::Wake;

/// How the pod's tasks reach the driver.
#[derive(Default)]
pub(super) struct Driver {
    wake: Wake,
    /// Connections whose full socket can be written again, or whose rest was left for the next turn.
    writable: RefCell<Vec<ConnId>>,
    /// Dials that are under way.
    dials: RefCell<HashMap<UpstreamId, AbortHandle>>,
    /// When the timer fires; it may be early, never late.
    armed: Cell<Option<Time>>,
}

impl Driver {
    /// Something changed in the splitter.
    pub(super) fn wake(&self) {
        self.wake.wake();
    }

    /// A full socket can be written again.
    pub(super) fn writable(&self, id: ConnId) {
        self.writable.borrow_mut().push(id);
        self.wake();
    }
}

/// Runs until it is aborted.
pub(super) async fn run(pod: Rc<Pod>) {
    let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
    poll_fn(|cx| {
        pod.turn(Turn::Drive);
        pod.driver.wake.register(cx);
        pod.reap(cx);
        let now = pod.worker.now();
        let due = pod.splitter.borrow().poll_timeout();
        if due.is_some_and(|due| due <= now) {
            pod.splitter.borrow_mut().handle_timeout(now);
        }
        if !pump(&pod, now) {
            pod.turns.wait_to_drive();
        }
        pod.turns.spend(pod.worker.now().since(now));
        poll_timer(&pod, now, timer.as_mut(), cx)
    })
    .await;
}

/// Sees to it that the driver runs again when the splitter's next deadline has come. The timer is moved only when that
/// deadline is earlier than the one it is set to: most deadlines move away before they are due.
fn poll_timer(pod: &Pod, now: Time, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    let Some(due) = pod.splitter.borrow().poll_timeout() else {
        return Poll::Pending;
    };
    let armed = pod.driver.armed.get().filter(|armed| *armed > now);
    if armed.is_none_or(|armed| due < armed) {
        // A millisecond is tokio's grain; a deadline that has passed again is served then, too.
        timer
            .as_mut()
            .reset(Instant::now() + due.since(now).max(Duration::from_millis(1)));
        pod.driver
            .armed
            .set(Some(now + due.since(now).max(Duration::from_millis(1))));
        if timer.poll(cx).is_ready() {
            pod.driver.armed.set(None);
            pod.driver.wake();
        }
    }
    Poll::Pending
}

/// Does what the splitter asks for and writes what it has to say. Returns false if that takes more than a turn: the rest is for
/// the next one.
fn pump(pod: &Rc<Pod>, now: Time) -> bool {
    let writable = std::mem::take(&mut *pod.driver.writable.borrow_mut());
    for id in writable {
        flush(pod, now, id);
    }
    loop {
        let mut idle = true;
        while let Some(action) = next(|| pod.splitter.borrow_mut().poll_action()) {
            idle = false;
            act(pod, now, action);
        }
        while let Some(id) = next(|| pod.splitter.borrow_mut().poll_dirty()) {
            idle = false;
            flush(pod, now, id);
            if is_over(pod, now) {
                return false;
            }
        }
        if idle {
            return pod.driver.writable.borrow().is_empty();
        }
    }
}

/// Ends the borrow that `poll` makes before its result is used.
fn next<T>(poll: impl FnOnce() -> Option<T>) -> Option<T> {
    poll()
}

fn flush(pod: &Pod, now: Time, id: ConnId) {
    let Some(leg) = pod.legs.borrow().get(id) else {
        return;
    };
    if leg.is_full() {
        return; // written when the socket is writable
    }
    let is_over = || is_over(pod, now);
    if is_over() {
        leg.leave_rest();
        return pod.driver.writable.borrow_mut().push(id);
    }
    let result = leg.flush(now, &mut pod.splitter.borrow_mut(), is_over);
    match result {
        Ok(true) => {}
        Ok(false) => pod.driver.writable.borrow_mut().push(id),
        Err(error) => {
            debug!(pod = %pod.id, ?id, %error, "write failed");
            pod.splitter
                .borrow_mut()
                .handle_closed(now, id, Ended::Error(socket_error(&error)));
            leg.end(How::Reset);
        }
    }
}

/// Returns true if the driver, which runs since `now`, has used the pod's turn.
fn is_over(pod: &Pod, now: Time) -> bool {
    pod.worker.now().since(now) >= TURN
}

fn act(pod: &Rc<Pod>, now: Time, action: Action) {
    match action {
        Action::Dial { upstream, endpoint } => {
            let dialing = pod.spawn(dial_upstream(Rc::clone(pod), upstream, endpoint));
            pod.driver
                .dials
                .borrow_mut()
                .extend(dialing.map(|task| (upstream, task)));
        }
        Action::CloseClient { client, how } => close(pod, now, ConnId::Client(client), how),
        Action::CloseUpstream { upstream, how } => close(pod, now, ConnId::Upstream(upstream), how),
        Action::ResumeInput { id } => {
            if let Some(leg) = pod.legs.borrow().get(id) {
                leg.resume();
            }
        }
    }
}

fn close(pod: &Pod, now: Time, id: ConnId, how: How) {
    if how == How::Graceful {
        flush(pod, now, id);
    }
    if let Some(leg) = pod.legs.borrow().get(id) {
        leg.end(how);
    } else if let ConnId::Upstream(upstream) = id
        && let Some(dialing) = pod.driver.dials.borrow_mut().remove(&upstream)
    {
        dialing.abort();
    }
}

async fn dial_upstream(pod: Rc<Pod>, upstream: UpstreamId, endpoint: Endpoint) {
    let id = ConnId::Upstream(upstream);
    let dialed = dial(&pod.netns, endpoint.address, &pod.worker.config).await;
    pod.driver.dials.borrow_mut().remove(&upstream);
    let result = dialed.as_ref().map(|_| ()).map_err(dial_error);
    let wanted = pod
        .splitter
        .borrow_mut()
        .handle_dialed(pod.worker.now(), upstream, result);
    pod.driver.wake();
    match dialed {
        Ok(_) if !wanted => debug!(pod = %pod.id, endpoint = %endpoint.address, "dialled too late"),
        Ok(stream) => leg::serve_upstream(pod, stream, id).await,
        Err(error) => debug!(pod = %pod.id, endpoint = %endpoint.address, %error, "dial failed"),
    }
}

fn dial_error(error: &std::io::Error) -> DialError {
    match (error.raw_os_error(), error.kind()) {
        (Some(_), _) => DialError::Socket(socket_error(error)),
        (None, std::io::ErrorKind::TimedOut) => DialError::TimedOut,
        _ => DialError::Other,
    }
}
