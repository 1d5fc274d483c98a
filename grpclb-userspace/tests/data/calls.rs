//! HTTP/2 through the real sockets: calls are spread, bodies arrive as they were sent, ends are what they should be.

use std::time::Duration;

use bytes::Bytes;
use grpclb_userspace::data::Leave;
use grpclb_userspace::model::Protocol;
use tokio::io::AsyncReadExt;

use crate::h2_peers::{Client, Echo, send};
use crate::rig::{Rig, SLOT, accept, assert_reset, backend, pod, refusing};

async fn three() -> [Echo; 3] {
    [
        Echo::start("a").await,
        Echo::start("b").await,
        Echo::start("c").await,
    ]
}

/// Calls until every backend has run one: what comes before a backend has answered goes to those that have. How many
/// each has run then.
async fn warmed(client: &Client, backends: &[Echo; 3]) -> [usize; 3] {
    while backends.iter().any(|backend| backend.calls() == 0) {
        client.call(Bytes::from_static(b"x")).await.expect("a call");
    }
    backends.each_ref().map(Echo::calls)
}

fn calls_since(backends: &[Echo; 3], before: [usize; 3]) -> [usize; 3] {
    [0, 1, 2].map(|index| backends[index].calls() - before[index])
}

/// 30 calls are ten rounds, of which the first may have begun before and the last may end after.
fn assert_even(calls: [usize; 3]) {
    assert!(calls.iter().all(|count| (9..=11).contains(count)), "{calls:?}");
}

#[tokio::test]
async fn the_calls_of_one_connection_reach_all_backends_in_turn() {
    let rig = Rig::start();
    let backends = three().await;
    rig.serve(
        SLOT,
        Protocol::Http2,
        &backends.each_ref().map(|backend| backend.address),
    );
    let client = Client::connect(&rig, SLOT).await;
    let before = warmed(&client, &backends).await;
    for number in 0..30_u8 {
        let answer = client.call(Bytes::from(vec![number; 100])).await.expect("a call");
        assert_eq!(answer.body, vec![number; 100]);
        assert_eq!(answer.grpc("grpc-status"), "0");
    }
    assert_even(calls_since(&backends, before));
    assert_eq!(backends.each_ref().map(Echo::connections), [1, 1, 1]);
}

#[tokio::test]
async fn the_calls_of_many_connections_share_the_pods_upstream_connections() {
    let rig = Rig::start();
    let backends = three().await;
    rig.serve(
        SLOT,
        Protocol::Detect,
        &backends.each_ref().map(|backend| backend.address),
    );
    let before = warmed(&Client::connect(&rig, SLOT).await, &backends).await;
    for _ in 0..30 {
        let client = Client::connect(&rig, SLOT).await;
        client
            .call(Bytes::from_static(b"one call a connection"))
            .await
            .expect("a call");
    }
    assert_even(calls_since(&backends, before));
    assert_eq!(backends.each_ref().map(Echo::connections), [1, 1, 1]);
}

#[tokio::test]
async fn a_hundred_calls_at_once_on_one_connection_all_come_back_with_their_own_bodies() {
    let rig = Rig::start();
    let backends = three().await;
    rig.serve(
        SLOT,
        Protocol::Http2,
        &backends.each_ref().map(|backend| backend.address),
    );
    let client = Client::connect(&rig, SLOT).await;
    let calls = (0..100_u8).map(|number| {
        let client = &client;
        async move {
            let body = vec![number; 1000 + 100 * usize::from(number)];
            let answer = client.call(Bytes::from(body.clone())).await.expect("a call");
            assert!(answer.body == body, "call {number} came back with other bytes");
        }
    });
    join_all(calls).await;
    assert_eq!(backends.iter().map(Echo::calls).sum::<usize>(), 100);
}

/// 1 GiB up and the same back down, in four calls at once, byte for byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_each_way_passes_byte_for_byte() {
    const CALLS: usize = 4;
    const EACH: usize = (1 << 30) / CALLS;
    let rig = Rig::start();
    let backends = three().await;
    rig.serve(
        SLOT,
        Protocol::Http2,
        &backends.each_ref().map(|backend| backend.address),
    );
    let client = Client::connect(&rig, SLOT).await;
    let calls = (0..CALLS).map(|number| echo_bytes(&client, number as u64, EACH));
    tokio::time::timeout(Duration::from_mins(3), join_all(calls))
        .await
        .expect("2 GiB within three minutes");
}

async fn echo_bytes(client: &Client, seed: u64, total: usize) {
    let mut random = grpclb_engine::rng::Rng::seeded(seed);
    let pattern: Bytes = (0..65_521).map(|_| random.next_u64() as u8).collect();
    let (response, mut to) = client.begin(false).await.expect("a call");
    let sending = async {
        let mut sent = 0;
        while sent < total {
            let piece = pattern.slice(..pattern.len().min(total - sent));
            sent += piece.len();
            send(&mut to, piece).await.expect("sent");
        }
        to.send_data(Bytes::new(), true).expect("ended");
    };
    let receiving = async {
        let mut from = response.await.expect("a response").into_body();
        let mut received = 0;
        while let Some(chunk) = from.data().await {
            let chunk = chunk.expect("data");
            from.flow_control()
                .release_capacity(chunk.len())
                .expect("released");
            let mut bytes = &chunk[..];
            while !bytes.is_empty() {
                let offset = received % pattern.len();
                let piece = bytes.len().min(pattern.len() - offset);
                assert!(
                    bytes[..piece] == pattern[offset..offset + piece],
                    "wrong bytes after {received}"
                );
                bytes = &bytes[piece..];
                received += piece;
            }
        }
        assert_eq!(received, total);
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_backend_and_not_another_call() {
    const FAR_TOO_MUCH: usize = 32 << 20;
    let rig = Rig::start();
    let backend = Echo::start("a").await;
    rig.serve(SLOT, Protocol::Http2, &[backend.address]);
    let client = Client::connect(&rig, SLOT).await;
    let (response, mut to) = client.begin(false).await.expect("a call");
    let response = response.await.expect("a response"); // kept, and its body is never read
    let block = Bytes::from(vec![1; 1 << 16]);
    let mut taken = 0;
    while let Ok(sent) = tokio::time::timeout(Duration::from_secs(1), send(&mut to, block.clone())).await {
        sent.expect("sent");
        taken += block.len();
        assert!(taken < FAR_TOO_MUCH, "{taken} bytes were taken while nobody read");
    }
    let answer = client
        .call(Bytes::from_static(b"beside it"))
        .await
        .expect("another call of the connection");
    assert_eq!(answer.body, b"beside it");
    drop(response);
}

#[tokio::test]
async fn a_call_that_no_backend_takes_is_told_so_by_name() {
    let rig = Rig::start();
    rig.serve(SLOT, Protocol::Http2, &[refusing()]);
    let client = Client::connect(&rig, SLOT).await;
    let answer = client
        .call(Bytes::from_static(b"anybody?"))
        .await
        .expect("an answer");
    assert_eq!(answer.grpc("grpc-status"), "14");
    let message = answer.grpc("grpc-message");
    assert!(message.starts_with("grpclb-agent/test-node:"), "{message}");
}

#[tokio::test]
async fn one_backend_of_three_that_refuses_connects_costs_no_call() {
    let rig = Rig::start();
    let [a, b] = [Echo::start("a").await, Echo::start("b").await];
    rig.serve(SLOT, Protocol::Http2, &[a.address, refusing(), b.address]);
    let client = Client::connect(&rig, SLOT).await;
    for _ in 0..30 {
        let answer = client.call(Bytes::from_static(b"x")).await.expect("a call");
        assert_eq!(answer.grpc("grpc-status"), "0");
    }
    assert_eq!(a.calls() + b.calls(), 30);
}

#[tokio::test]
async fn endpoints_that_come_and_go_are_followed_without_a_failed_call() {
    let rig = Rig::start();
    let [a, b, c] = three().await;
    rig.serve(SLOT, Protocol::Http2, &[a.address, b.address]);
    let client = Client::connect(&rig, SLOT).await;
    client.call(Bytes::from_static(b"x")).await.expect("a call");
    rig.serve(SLOT, Protocol::Http2, &[c.address]);
    rig.status().await; // commands are in order: the change has been made
    for _ in 0..10 {
        let answer = client.call(Bytes::from_static(b"x")).await.expect("a call");
        assert_eq!(answer.backend(), "c");
    }
}

#[tokio::test]
async fn a_drain_ends_idle_clients_in_order() {
    let rig = Rig::start();
    let backend = Echo::start("a").await;
    rig.serve(SLOT, Protocol::Http2, &[backend.address]);
    let client = Client::connect(&rig, SLOT).await;
    client.call(Bytes::from_static(b"x")).await.expect("a call");
    assert!(
        rig.plane.drain(Duration::from_secs(15)).await,
        "an idle client goes when it is told to"
    );
    client
        .connection
        .await
        .expect("joined")
        .expect("GOAWAY(NO_ERROR) and an end of stream, no reset");
}

#[tokio::test]
async fn a_drain_lets_a_call_that_runs_come_to_its_end() {
    let rig = Rig::start();
    let backend = Echo::start("a").await;
    rig.serve(SLOT, Protocol::Http2, &[backend.address]);
    let client = Client::connect(&rig, SLOT).await;
    let (response, mut to) = client.begin(false).await.expect("a call");
    let mut response = response.await.expect("a response");
    let mut drained = Box::pin(rig.plane.drain(Duration::from_secs(30)));
    let early = tokio::time::timeout(Duration::from_secs(4), &mut drained).await;
    assert!(early.is_err(), "drained while a call ran");
    send(&mut to, Bytes::from_static(b"late")).await.expect("sent");
    to.send_data(Bytes::new(), true).expect("ended");
    let echoed = response.body_mut().data().await.expect("data").expect("no error");
    assert_eq!(&echoed[..], b"late");
    response
        .body_mut()
        .flow_control()
        .release_capacity(echoed.len())
        .expect("released");
    assert!(response.body_mut().trailers().await.expect("no error").is_some());
    assert!(drained.await);
}

#[tokio::test]
async fn a_removed_pod_resets_http2_connections_on_both_sides() {
    let rig = Rig::start();
    let (listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Http2, &[address]);
    let client = Client::connect(&rig, SLOT).await;
    let (_response, _to) = client.begin(false).await.expect("a call");
    let mut server = accept(&listener).await;
    server.read_u8().await.expect("the preface begins");
    rig.plane.remove_pod(&pod(), Leave::Reset).await;
    assert_reset(&mut server, "the backend").await;
    let error = client.connection.await.expect("joined").expect_err("a reset");
    assert_eq!(
        error.get_io().map(std::io::Error::kind),
        Some(std::io::ErrorKind::ConnectionReset),
        "{error}"
    );
}

#[tokio::test]
async fn what_a_pod_counted_is_still_told_when_it_has_gone() {
    let rig = Rig::start();
    let backends = three().await;
    let addresses = backends.each_ref().map(|backend| backend.address);
    rig.serve(SLOT, Protocol::Http2, &addresses);
    let client = Client::connect(&rig, SLOT).await;
    for _ in 0..6 {
        client.call(Bytes::from_static(b"x")).await.expect("a call");
    }
    let calls = rig
        .status()
        .await
        .counters
        .iter()
        .find(|(name, _)| name == "calls")
        .map(|(_, calls)| *calls);
    assert_eq!(calls, Some(6));
    rig.plane.remove_pod(&pod(), Leave::Reset).await;

    let told = async || {
        let mut workers = rig.plane.status(Duration::from_secs(10)).await;
        let worker = workers.remove(0).expect("it answers");
        assert!(worker.pods.is_empty());
        worker.departed
    };
    let departed = told().await;
    assert_eq!(departed.counters.get("calls"), Some(&6));
    assert_eq!(departed.counters.get("http2"), Some(&1));
    let endpoints = &departed.services[&SLOT].endpoints;
    let calls: u64 = endpoints.values().map(|endpoint| endpoint.calls).sum();
    assert_eq!((endpoints.len(), calls), (3, 6));
    // Bounded: an endpoint that is no more is told of no more, and so is a Service.
    rig.serve(SLOT, Protocol::Http2, &addresses[..1]);
    assert_eq!(told().await.services[&SLOT].endpoints.len(), 1);
    rig.plane.remove_service(SLOT);
    assert!(told().await.services.is_empty());
}

#[tokio::test]
async fn three_hundred_http2_connections_are_served_at_once() {
    let rig = Rig::with_workers(2);
    let backends = three().await;
    rig.serve(
        SLOT,
        Protocol::Http2,
        &backends.each_ref().map(|backend| backend.address),
    );
    let first = Client::connect(&rig, SLOT).await;
    let before = warmed(&first, &backends).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(Client::connect(&rig, SLOT).await);
    }
    join_all(clients.iter().map(|client| async {
        client.call(Bytes::from_static(b"x")).await.expect("a call");
    }))
    .await;
    assert_eq!(calls_since(&backends, before), [100, 100, 100]);
    assert_eq!(rig.status().await.client_connections, 301);
    drop((first, clients));
    rig.until("all clients are gone", |pod| pod.client_connections == 0)
        .await;
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
