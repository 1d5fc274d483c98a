//! A connection that is not HTTP/2: one endpoint for all of it, picked like any call.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tracing::debug;

use grpclb_engine::balance::Endpoint;
use grpclb_engine::splitter::ServiceKey;

use super::charge::{self, Charge};
use super::dial::dial;
use super::pod::Pod;
use super::relay::{self, Held, Passed};
use super::socket;

/// Endpoints that are tried before the client is reset. Nothing was exchanged yet, so another try is unseen.
const TRIES: u32 = 3;

/// Relays the connection to its end. Whatever goes wrong resets both sides; an end in order is passed on in order.
pub(super) async fn serve(pod: Rc<Pod>, client: TcpStream, service: ServiceKey, first: BytesMut) {
    if pod.splitter.borrow_mut().refuses_connections() {
        pod.counters.borrow_mut().opaque.refused += 1;
        return; // as a connection of HTTP/2 is reset then
    }
    let _charge = Charge::new(&pod, charge::OPAQUE);
    let first = Held::new(&pod, first);
    let connected = tokio::select! {
        biased;
        connected = connect(&pod, service) => connected,
        () = client_left(&client, first.is_empty()) => {
            pod.counters.borrow_mut().opaque.reset += 1;
            return; // which ends the dial, too
        }
    };
    let Some((upstream, _open)) = connected else {
        pod.counters.borrow_mut().opaque.unserved += 1;
        return; // dropping the client resets it
    };
    socket::lift_notsent_lowat(&client);
    socket::lift_notsent_lowat(&upstream);
    let mut passed = Passed::default();
    let result = relay::relay(&pod, &client, &upstream, first, &mut passed).await;

    let counters = &mut pod.counters.borrow_mut().opaque;
    counters.bytes_from_clients += passed.to_upstream;
    counters.bytes_to_clients += passed.to_client;
    match result {
        Ok(()) => {
            counters.ended += 1;
            // Both ends of stream were passed on: what the kernel still holds is delivered after the close.
            socket::lift_linger(&client);
            socket::lift_linger(&upstream);
        }
        Err(error) => {
            counters.reset += 1;
            debug!(pod = %pod.id, %error, "opaque connection reset");
        }
    }
}

/// Dials until an endpoint answers.
async fn connect(pod: &Rc<Pod>, service: ServiceKey) -> Option<(TcpStream, OpenConnection)> {
    for tries_left in (0..TRIES).rev() {
        let endpoint = pod.splitter.borrow_mut().pick_opaque(pod.worker.now(), service)?;
        let mut picked = OpenConnection::new(pod, service, endpoint);
        pod.counters.borrow_mut().opaque.dials += 1;
        let dialed = dial_patiently(pod, service, &picked.endpoint, tries_left > 0).await;
        let (mut splitter, now) = (pod.splitter.borrow_mut(), pod.worker.now());
        match dialed {
            Ok(upstream) => {
                splitter.opaque_connected(now, service, &picked.endpoint);
                drop(splitter);
                return Some((upstream, picked));
            }
            Err(error) => {
                pod.counters.borrow_mut().opaque.failed_dials += 1;
                debug!(pod = %pod.id, endpoint = %picked.endpoint.address, %error, "opaque dial failed");
                splitter.opaque_failed(now, service, &picked.endpoint);
                picked.told = true;
            }
        }
        drop(splitter);
        pod.driver.wake();
    }
    None
}

/// Dials this endpoint. Gives it up for another when it takes long, if there is another and `may_change`; else it has all the
/// time of a connect.
async fn dial_patiently(
    pod: &Pod,
    service: ServiceKey,
    endpoint: &Endpoint,
    may_change: bool,
) -> io::Result<TcpStream> {
    let (times, begun) = (pod.worker.config.dial, tokio::time::Instant::now());
    let mut dialing = pin!(dial(&pod.netns, endpoint.address, &pod.worker.config));
    loop {
        let left = times.connect.saturating_sub(begun.elapsed());
        if let Ok(dialed) = tokio::time::timeout(left.min(times.patience), &mut dialing).await {
            return dialed;
        }
        let now = pod.worker.now();
        let has_other = || {
            pod.splitter
                .borrow_mut()
                .has_other_endpoint(now, service, endpoint)
        };
        if begun.elapsed() >= times.connect || (may_change && has_other()) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer to connect within {:?}", begun.elapsed()),
            ));
        }
    }
}

/// Completes when the client has reset its connection, or ended it before it said anything. An end of stream behind its first
/// bytes is no sign of that: half of a connection may be closed while the answer is waited for.
async fn client_left(client: &TcpStream, silent: bool) {
    if silent && !matches!(client.peek(&mut [0]).await, Ok(1..)) {
        return;
    }
    let _error = client.ready(Interest::ERROR).await;
}

/// Tells the splitter's picker when the connection, or the dial for it, is over, however it ends.
struct OpenConnection {
    pod: Rc<Pod>,
    service: ServiceKey,
    endpoint: Endpoint,
    /// The picker knows.
    told: bool,
}

impl OpenConnection {
    fn new(pod: &Rc<Pod>, service: ServiceKey, endpoint: Endpoint) -> Self {
        pod.counters.borrow_mut().opaque_open += 1;
        Self {
            pod: Rc::clone(pod),
            service,
            endpoint,
            told: false,
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        {
            let open = &mut self.pod.counters.borrow_mut().opaque_open;
            *open = open.saturating_sub(1);
        }
        // After a panic the splitter that counted the connection is dropped or about to be.
        if !self.told && !self.pod.has_failed() && !std::thread::panicking() {
            let mut splitter = self.pod.splitter.borrow_mut();
            splitter.opaque_closed(self.pod.worker.now(), self.service, &self.endpoint);
        }
    }
}
