//! A connection that is not HTTP/2: one endpoint for all of it, picked like any call.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tracing::debug;

use grpclb_engine::balance::Endpoint;
use grpclb_engine::splitter::ServiceKey;

use super::dial::dial;
use super::pod::Pod;
use super::relay::{self, Passed};
use super::socket;

/// Endpoints that are tried before the client is reset. Nothing was exchanged yet, so another try is unseen.
const TRIES: u32 = 3;

/// Relays the connection to its end. Whatever goes wrong resets both sides; an end in order is passed on in order.
pub(super) async fn serve(pod: Rc<Pod>, client: TcpStream, service: ServiceKey, first: BytesMut) {
    let Some((upstream, endpoint)) = connect(&pod, service).await else {
        pod.counters.borrow_mut().opaque.unserved += 1;
        return; // dropping the client resets it
    };
    socket::lift_notsent_lowat(&client);
    socket::lift_notsent_lowat(&upstream);
    let _open = OpenConnection::new(&pod, service, endpoint);

    let mut passed = Passed::default();
    let result = relay::relay(&pod.worker.bulk, &client, &upstream, first, &mut passed).await;

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
async fn connect(pod: &Pod, service: ServiceKey) -> Option<(TcpStream, Endpoint)> {
    for _ in 0..TRIES {
        let endpoint = pod.splitter.borrow_mut().pick_opaque(pod.worker.now(), service)?;
        pod.counters.borrow_mut().opaque.dials += 1;
        match dial(&pod.netns, endpoint.address, pod.worker.config.mark).await {
            Ok(upstream) => return Some((upstream, endpoint)),
            Err(error) => {
                pod.counters.borrow_mut().opaque.failed_dials += 1;
                debug!(pod = %pod.id, endpoint = %endpoint.address, %error, "opaque dial failed");
                pod.splitter
                    .borrow_mut()
                    .opaque_failed(pod.worker.now(), service, &endpoint);
            }
        }
    }
    None
}

/// Tells the splitter's picker when the connection is over, however it ends.
struct OpenConnection {
    pod: Rc<Pod>,
    service: ServiceKey,
    endpoint: Endpoint,
}

impl OpenConnection {
    fn new(pod: &Rc<Pod>, service: ServiceKey, endpoint: Endpoint) -> Self {
        pod.counters.borrow_mut().opaque_open += 1;
        Self {
            pod: Rc::clone(pod),
            service,
            endpoint,
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.pod.counters.borrow_mut().opaque_open -= 1;
        self.pod
            .splitter
            .borrow_mut()
            .opaque_closed(self.pod.worker.now(), self.service, &self.endpoint);
    }
}
