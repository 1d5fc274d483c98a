//! A pod's accept loop, and what becomes of each accepted connection: its Service, its protocol, its handler.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use grpclb_abi::Slot;
use grpclb_engine::splitter::ServiceKey;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use super::detect::{Detected, detect};
use super::panics::Turn;
use super::pod::Pod;
use super::undetected::Waiting;
use super::{leg, opaque, socket};
use crate::model::Protocol;

/// The pause after an accept that failed for want of descriptors or memory: both come back when connections end.
const BACKOFF: Duration = Duration::from_millis(100);

/// Between two accepts while the pod holds nearly all the memory that it may.
const PACE: Duration = Duration::from_millis(10);

/// Accepts until the pod leaves. A failure concerns this pod only.
pub(super) async fn accept_loop(pod: Rc<Pod>, listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!(pod = %pod.id, %error, "cannot accept on the pod's listener"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                pod.counters.borrow_mut().accept.accepted += 1;
                let waiting = Waiting::new(&pod);
                let number = waiting.number;
                let task = pod.spawn(serve(Rc::clone(&pod), stream, waiting));
                let pause = make_room(&pod);
                // Not before: the new connection has had no time to say anything.
                if let Some(task) = task {
                    pod.undetected.insert(number, task);
                }
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
            }
            // The client gave up while it waited; the next one is not concerned.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                pod.counters.borrow_mut().accept.failed += 1;
                warn!(pod = %pod.id, %error, "accept failed");
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

/// Where slowing down did not help against a want of memory, resets the oldest connection that has not shown what it is.
/// Returns the pause before the next accept while the pod is short.
fn make_room(pod: &Pod) -> Option<Duration> {
    let (is_short, sheds) = {
        let mut splitter = pod.splitter.borrow_mut();
        (splitter.is_short(), splitter.refuses_connections())
    };
    if sheds && pod.undetected.reset_oldest() {
        pod.counters.borrow_mut().accept.undetected_reset += 1;
        return None;
    }
    is_short.then_some(PACE)
}

pub(super) async fn serve(pod: Rc<Pod>, stream: TcpStream, waiting: Waiting) {
    pod.turn(Turn::Accept);
    let _open = pod.client_opened();
    let slot = match slot_of(&pod, &stream) {
        Some(slot) if slot == pod.worker.config.probe_slot => return answer_probe(&pod, &stream),
        Some(slot) => slot,
        None => return unknown(&pod, &stream),
    };
    let Some(declared) = pod.learn_service(slot) else {
        return unknown(&pod, &stream);
    };
    let service = ServiceKey(slot);

    let mut first = BytesMut::new();
    let detected = detect(&pod.worker.frames, &stream, declared, &mut first).await;
    {
        if declared == Protocol::Detect && detected != Detected::Ended {
            (pod.worker.config.detected)(slot, detected == Detected::Http2);
        }
        let mut counters = pod.counters.borrow_mut();
        if matches!(detected, Detected::Opaque | Detected::Silent) {
            *counters.opaque_by_service.entry(slot).or_default() += 1;
        }
        let counters = &mut counters.accept;
        match detected {
            Detected::Http2 => counters.http2 += 1,
            Detected::Opaque => counters.opaque += 1,
            Detected::Silent => counters.silent += 1,
            Detected::Ended => counters.ended_early += 1,
        }
    }
    drop(waiting);
    match detected {
        Detected::Http2 => leg::serve_client(pod, stream, service, first).await,
        // Boxed: an HTTP/2 connection's task shall not be as large as a relay's.
        Detected::Opaque | Detected::Silent => Box::pin(opaque::serve(pod, stream, service, first)).await,
        Detected::Ended => socket::lift_linger(&stream),
    }
}

/// The Service's slot: in the address that the client was steered to (127.S.S.S), or in the kernel's record.
fn slot_of(pod: &Pod, stream: &TcpStream) -> Option<u32> {
    match stream.local_addr().ok()? {
        SocketAddr::V4(local) => Slot::from_ipv4(*local.ip()).map(Slot::get),
        SocketAddr::V6(local) => match local.ip().to_ipv4_mapped() {
            Some(ip) => Slot::from_ipv4(ip).map(Slot::get),
            None => (pod.worker.config.identify)(stream.as_fd()),
        },
    }
}

/// A process of the pod dialled our listener by itself, or the Service went a moment ago: the drop resets it.
fn unknown(pod: &Pod, stream: &TcpStream) {
    pod.counters.borrow_mut().accept.unknown_service += 1;
    debug!(pod = %pod.id, local = ?stream.local_addr().ok(), "connection for no known Service");
}

fn answer_probe(pod: &Pod, stream: &TcpStream) {
    pod.counters.borrow_mut().accept.probes += 1;
    // A fresh socket's buffer takes these few bytes whole; where it does not, the probe fails and is repeated.
    if stream.try_write(pod.worker.config.probe_token.as_bytes()).is_ok() {
        socket::lift_linger(stream);
    }
}
