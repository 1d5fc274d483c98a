//! One HTTP/2 connection's socket, a client's or a backend's: its task reads, the pod's driver writes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use grpclb_engine::Time;
use grpclb_engine::splitter::{ConnId, Ended, How, ServiceKey, Splitter};
use tokio::net::TcpStream;
use tracing::debug;

use super::charge::recharge;
use super::panics::Turn;
use super::pod::Pod;
use super::socket;
use super::turns::TURN;
use super::wake::Wake;
use super::worker::FRAMES_READ;

/// How long a peer may take to read what is left for it when the connection ends.
const FLUSH: Duration = Duration::from_secs(30);

/// How long a peer may take to answer our end of stream with its own, before the connection is closed all the same.
const FINISH: Duration = Duration::from_secs(2);

/// Room for a read behind an unfinished frame.
const LEAST_READ: usize = 4096;

/// Slices of one writev(2): a whole bulk read in frames of 16 KiB, each with its header.
const SLICES: usize = 64;

/// A connection's socket and what its two users, the reading task and the writing driver, tell each other.
pub(super) struct Leg {
    pub id: ConnId,
    stream: TcpStream,
    /// What the splitter has left: the beginning of a frame, or, while it reads nothing of this connection, all that came.
    unread: RefCell<BytesMut>,
    /// Bytes of it, as they are charged to the pod.
    charged: Cell<usize>,
    /// The splitter reads again: `unread` is to be handed in, whether more comes or not.
    resumed: Cell<bool>,
    /// The last read filled its buffer: the next one gets a larger one. Fewer, larger reads are fewer, larger writes.
    bulk: Cell<bool>,
    /// Bytes of the next read, at most.
    most: Cell<usize>,
    /// The socket takes no more; the task waits for it to be writable.
    full: Cell<bool>,
    /// The socket was full, is writable again, or the turn was over, and the driver has not written the rest yet.
    rest: Cell<bool>,
    /// The pod's turn is over, and the task waits for the next one.
    awaits_turn: Cell<bool>,
    /// What the splitter decided.
    ending: Cell<Option<How>>,
    /// Wakes the task.
    wake: Wake,
}

impl Leg {
    fn new(id: ConnId, stream: TcpStream) -> Rc<Self> {
        Rc::new(Self {
            id,
            stream,
            unread: RefCell::default(),
            charged: Cell::new(0),
            resumed: Cell::new(false),
            bulk: Cell::new(false),
            most: Cell::new(usize::MAX),
            full: Cell::new(false),
            rest: Cell::new(false),
            awaits_turn: Cell::new(false),
            ending: Cell::new(None),
            wake: Wake::default(),
        })
    }

    /// The splitter is done with this connection: it ends when its task next runs.
    pub(super) fn end(&self, how: How) {
        self.ending.set(Some(how));
        self.wake.wake();
    }

    /// The splitter reads this connection again.
    pub(super) fn resume(&self) {
        self.resumed.set(true);
        self.wake.wake();
    }

    /// The pod's next turn has begun.
    pub(super) fn begin_turn(&self) {
        self.awaits_turn.set(false);
        self.wake.wake();
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.get()
    }

    /// The driver will write what is left in the pod's next turn.
    pub(super) fn leave_rest(&self) {
        self.rest.set(true);
    }

    /// Writes what the splitter has for this connection, until nothing is left, the socket is full, or the turn `is_over`. Returns
    /// false in the last case: the rest is for the next turn.
    pub(super) fn flush(
        &self,
        now: Time,
        splitter: &mut Splitter,
        is_over: impl Fn() -> bool,
    ) -> io::Result<bool> {
        if self.rest.replace(false) && self.ending.get().is_some() {
            self.wake.wake();
        }
        while let Some(output) = splitter.transmit(now, self.id) {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = output.slices(&mut slices);
            let written = match &slices[..count] {
                [] => break,
                [one] => self.stream.try_write(one), // send(2) costs less than writev(2)
                several => self.stream.try_write_vectored(several),
            };
            match written {
                Ok(written) => output.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    splitter.handle_blocked(self.id);
                    self.full.set(true);
                    self.wake.wake();
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
            if is_over() {
                self.leave_rest();
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what is there and hands it to the splitter, until the splitter or the socket ends the connection.
    fn poll<'a>(&'a self, pod: &Pod, closed: &mut Closed<'a>, cx: &mut Context<'_>) -> Poll<How> {
        self.wake.register(cx);
        self.poll_writable(pod, cx);
        if let Some(how) = self.ending.get() {
            return Poll::Ready(how);
        }
        loop {
            if pod.turns.is_over() {
                if !self.awaits_turn.replace(true) {
                    pod.turns.wait(self.id);
                }
                return Poll::Pending;
            }
            if self.resumed.replace(false) {
                self.hand_in_unread(pod);
            }
            if !pod.splitter.borrow().wants_input(self.id) {
                ready!(self.poll_closed(closed, cx));
                return Poll::Ready(self.report_end(pod, Ended::Eof));
            }
            *closed = None;
            let ended = match ready!(self.stream.poll_read_ready(cx)).and_then(|()| self.read(pod)) {
                Ok(Read::Drained) => continue,
                Ok(Read::More) => {
                    // What was read goes out first: nothing piles up, and others have their turn.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(Read::Ended) => Ended::Eof,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => {
                    debug!(pod = %pod.id, id = ?self.id, %error, "read failed");
                    Ended::Error(socket::socket_error(&error))
                }
            };
            return Poll::Ready(self.report_end(pod, ended));
        }
    }

    /// The socket has ended by itself.
    fn report_end(&self, pod: &Pod, ended: Ended) -> How {
        pod.splitter
            .borrow_mut()
            .handle_closed(pod.worker.now(), self.id, ended);
        pod.driver.wake();
        // What the socket did not take is for nobody any more.
        self.full.set(false);
        self.rest.set(false);
        if ended == Ended::Eof {
            How::Graceful
        } else {
            How::Reset
        }
    }

    /// While the socket is not read: waits for a client's end of stream or reset, behind whatever it has sent. Its calls are
    /// over then, and nothing unread can matter. A backend's last bytes do matter: its end is noticed when it is read again.
    fn poll_closed<'a>(&'a self, closed: &mut Closed<'a>, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.id, ConnId::Upstream(_)) {
            return Poll::Pending;
        }
        let closed = closed.get_or_insert_with(|| Box::pin(socket::read_closed(&self.stream)));
        closed.as_mut().poll(cx)
    }

    /// Tells the driver when a full socket can be written again.
    fn poll_writable(&self, pod: &Pod, cx: &mut Context<'_>) {
        if self.full.get() && self.stream.poll_write_ready(cx).is_ready() {
            self.full.set(false);
            self.rest.set(true);
            pod.driver.writable(self.id);
        }
    }

    /// Waits until the driver has written all that the splitter had left. What the peer sends meanwhile is read away:
    /// it may be blocked in sending, and then does not read.
    fn poll_flushed(&self, pod: &Pod, cx: &mut Context<'_>) -> Poll<()> {
        self.wake.register(cx);
        self.poll_writable(pod, cx);
        if !self.full.get() && !self.rest.get() {
            return Poll::Ready(());
        }
        let _ended = poll_discard(&self.stream, cx);
        Poll::Pending
    }

    fn read(&self, pod: &Pod) -> io::Result<Read> {
        let mut input = if self.bulk.get() {
            pod.worker.bulk.take()
        } else {
            pod.worker.frames.take()
        };
        let mut unread = self.unread.borrow_mut();
        input.extend_from_slice(&unread);
        input.reserve(LEAST_READ);
        let most = self.most.get();
        let read = socket::read_at_most(&self.stream, &mut input, most)?;
        if read == 0 {
            return Ok(Read::Ended);
        }
        let filled = input.len() == input.capacity() || read == most;
        let took = self.hand_in(pod, &mut input);
        self.most.set(next_read(most, read, took));
        self.bulk.set(filled || read >= FRAMES_READ);
        *unread = if input.is_empty() {
            BytesMut::new()
        } else {
            BytesMut::from(&input[..])
        };
        pod.driver.wake();
        Ok(if filled { Read::More } else { Read::Drained })
    }

    /// Hands bytes to the splitter and charges what it leaves in `input`; the time that it took.
    fn hand_in(&self, pod: &Pod, input: &mut BytesMut) -> Duration {
        let now = pod.worker.now();
        pod.turn(Turn::Input);
        let splitter = &mut pod.splitter.borrow_mut();
        splitter.handle_input(now, self.id, input);
        recharge(splitter, &self.charged, input.len());
        let took = pod.worker.now().since(now);
        pod.turns.spend(took);
        took
    }

    /// Hands in once more what the splitter has left.
    fn hand_in_unread(&self, pod: &Pod) {
        let mut unread = self.unread.borrow_mut();
        self.hand_in(pod, &mut unread);
        if unread.is_empty() {
            *unread = BytesMut::new();
        }
        pod.driver.wake();
    }
}

/// Waits for the end of a client's stream while the socket is not read; `None` until then.
type Closed<'a> = Option<Pin<Box<dyn Future<Output = ()> + 'a>>>;

/// Bytes of the next read, at most, after one of `read` bytes that `took` so long to handle: small calls cost a hundred times as
/// much as DATA does, and one read should not take much more than a turn.
fn next_read(most: usize, read: usize, took: Duration) -> usize {
    if took < TURN {
        return most.saturating_mul(2);
    }
    let affordable = read as u128 * TURN.as_nanos() / took.as_nanos();
    usize::try_from(affordable).unwrap_or(usize::MAX).max(LEAST_READ)
}

/// What one read left behind.
enum Read {
    /// The socket is empty.
    Drained,
    /// The buffer was filled: there may be more.
    More,
    Ended,
}

/// A client's connection, from its preface (at the beginning of `first`) to its end.
pub(super) async fn serve_client(pod: Rc<Pod>, stream: TcpStream, service: ServiceKey, first: BytesMut) {
    let opened = pod.splitter.borrow_mut().open_client(pod.worker.now(), service);
    let Ok(client) = opened else { return };
    let leg = Leg::new(ConnId::Client(client), stream);
    pod.legs.borrow_mut().insert(Rc::clone(&leg));
    recharge(&mut pod.splitter.borrow_mut(), &leg.charged, first.len());
    *leg.unread.borrow_mut() = first;
    leg.resume();
    run(pod, leg).await;
}

/// A connection to a backend that has just been established.
pub(super) async fn serve_upstream(pod: Rc<Pod>, stream: TcpStream, id: ConnId) {
    let leg = Leg::new(id, stream);
    pod.legs.borrow_mut().insert(Rc::clone(&leg));
    pod.driver.wake();
    run(pod, leg).await;
}

async fn run(pod: Rc<Pod>, leg: Rc<Leg>) {
    let mut closed = None;
    let how = poll_fn(|cx| leg.poll(&pod, &mut closed, cx)).await;
    drop(closed);
    if how == How::Graceful {
        finish(&pod, &leg).await;
    }
    pod.legs.borrow_mut().remove(leg.id);
    recharge(&mut pod.splitter.borrow_mut(), &leg.charged, 0);
}

/// Ends the connection in order: what is left to say, our end of stream, then the peer's, then the close. Until then a
/// reset is still what our death would be, and what becomes of a peer that does not take the rest.
async fn finish(pod: &Pod, leg: &Leg) {
    let flushed = tokio::time::timeout(FLUSH, poll_fn(|cx| leg.poll_flushed(pod, cx))).await;
    if flushed.is_err() || socket::shutdown_write(&leg.stream).is_err() {
        return;
    }
    // What still comes is read away, or the kernel would answer it with a reset.
    let _ = tokio::time::timeout(FINISH, poll_fn(|cx| poll_discard(&leg.stream, cx))).await;
    socket::lift_linger(&leg.stream);
}

fn poll_discard(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    let mut sink = [0; 4096];
    loop {
        if ready!(stream.poll_read_ready(cx)).is_err() {
            return Poll::Ready(());
        }
        match stream.try_read(&mut sink) {
            Ok(0) => return Poll::Ready(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_shrink_to_one_turn_of_work_and_grow_again() {
        assert_eq!(next_read(usize::MAX, 64 << 10, TURN / 2), usize::MAX);
        assert_eq!(next_read(usize::MAX, 64 << 10, TURN * 8), 8 << 10);
        assert_eq!(next_read(8 << 10, 8 << 10, TURN / 2), 16 << 10);
        assert_eq!(next_read(8 << 10, 8 << 10, TURN * 1000), LEAST_READ);
    }
}
