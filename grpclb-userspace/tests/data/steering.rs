//! Which Service a connection is for, the probe, and connections by the hundred.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bytes::Bytes;
use grpclb_userspace::data::Config;
use grpclb_userspace::model::Protocol;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::h2_peers::{Client, Echo};
use crate::rig::{
    PROBE, Rig, SLOT, TOKEN, accept, assert_refused_slot, assert_reset, backend, config, passes,
    read_exactly, read_to_end,
};

#[tokio::test]
async fn the_probe_is_answered_with_the_token_and_a_clean_end() {
    let rig = Rig::start();
    let mut probe = rig.connect(PROBE).await;
    assert_eq!(
        read_to_end(&mut probe).await.expect("a clean end"),
        TOKEN.as_bytes()
    );
    assert_eq!(rig.status().await.accept.probes, 1);
}

#[tokio::test]
async fn a_slot_of_no_service_is_reset() {
    let rig = Rig::start();
    assert_refused_slot(&rig, SLOT).await;
    assert_eq!(rig.status().await.accept.unknown_service, 1);
}

#[tokio::test]
async fn a_slot_is_reset_again_after_its_service_was_removed() {
    let rig = Rig::start();
    let (_listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Detect, &[address]);
    rig.plane.remove_service(SLOT);
    assert_refused_slot(&rig, SLOT).await;
}

#[tokio::test]
async fn each_slot_reaches_its_own_service() {
    let rig = Rig::start();
    let (first, first_address) = backend().await;
    let (second, second_address) = backend().await;
    rig.serve(SLOT, Protocol::Detect, &[first_address]);
    rig.serve(SLOT + 1, Protocol::Detect, &[second_address]);
    for (slot, listener, word) in [(SLOT + 1, &second, b"second"), (SLOT, &first, b"first ")] {
        let mut client = rig.connect(slot).await;
        client.write_all(word).await.expect("written");
        let mut server = accept(listener).await;
        assert_eq!(read_exactly(&mut server, 6).await, word);
    }
}

#[tokio::test]
async fn opaque_connections_are_spread_over_the_endpoints() {
    let rig = Rig::start();
    let (first, first_address) = backend().await;
    let (second, second_address) = backend().await;
    rig.serve(SLOT, Protocol::Detect, &[first_address, second_address]);
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = rig.connect(SLOT).await;
        client.write_all(b"x").await.expect("written");
        clients.push(client);
    }
    for listener in [&first, &second] {
        for _ in 0..5 {
            accept(listener).await;
        }
    }
}

#[tokio::test]
async fn a_thousand_connections_are_relayed_at_once() {
    let rig = Rig::with_workers(2);
    let (listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Detect, &[address]);
    let mut pairs = Vec::new();
    for number in 0..1000_u32 {
        let mut client = rig.connect(SLOT).await;
        client.write_all(&number.to_be_bytes()).await.expect("written");
        let mut server = accept(&listener).await;
        assert_eq!(read_exactly(&mut server, 4).await, number.to_be_bytes());
        pairs.push((client, server));
    }
    assert_eq!(rig.status().await.opaque_connections, 1000);
    for (client, server) in &mut pairs {
        passes(server, client, b"pong").await;
        passes(client, server, b"ping").await;
    }
    drop(pairs);
    rig.until("all have ended", |pod| {
        pod.opaque_connections == 0 && pod.opaque.ended == 1000
    })
    .await;
}

#[tokio::test]
async fn a_connection_over_ipv6_goes_where_the_kernels_record_says() {
    let identify = |socket: BorrowedFd<'_>| {
        let local = socket2::SockRef::from(&socket).local_addr().ok()?;
        local.is_ipv6().then_some(SLOT)
    };
    let rig = Rig::with(&Config {
        identify: Arc::new(identify),
        ..config(1)
    });
    let (listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Detect, &[address]);
    let mut client = TcpStream::connect(("::1", rig.port6)).await.expect("accepted");
    client.write_all(b"over IPv6").await.expect("written");
    let mut server = accept(&listener).await;
    assert_eq!(read_exactly(&mut server, 9).await, b"over IPv6");
}

#[tokio::test]
async fn a_connection_over_ipv6_without_a_record_is_reset() {
    let rig = Rig::start();
    let (_listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Detect, &[address]);
    match TcpStream::connect(("::1", rig.port6)).await {
        Ok(mut client) => assert_reset(&mut client, "the client").await,
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(rig.status().await.accept.unknown_service, 1);
}

#[tokio::test]
async fn clients_of_a_shared_namespace_share_no_upstream_connection() {
    for (shared, connections) in [(true, 3), (false, 1)] {
        let rig = Rig::with_namespace(&config(1), shared);
        let echo = Echo::start("a").await;
        rig.serve(SLOT, Protocol::Http2, &[echo.address]);
        let mut clients = Vec::new();
        for _ in 0..3 {
            let client = Client::connect(&rig, SLOT).await;
            client.call(Bytes::from_static(b"x")).await.expect("a call");
            clients.push(client);
        }
        assert_eq!(echo.connections(), connections, "shared: {shared}");
    }
}

#[tokio::test]
async fn the_status_counts_calls_where_they_went() {
    let rig = Rig::start();
    let echo = Echo::start("a").await;
    rig.serve(SLOT, Protocol::Http2, &[echo.address]);
    let client = Client::connect(&rig, SLOT).await;
    for _ in 0..7 {
        client.call(Bytes::from_static(b"x")).await.expect("a call");
    }
    let status = rig.status().await;
    assert_eq!((status.client_connections, status.upstream_connections), (1, 1));
    let [service] = &status.services[..] else {
        panic!("{status:#?}")
    };
    let [endpoint] = &service.endpoints[..] else {
        panic!("{status:#?}")
    };
    assert_eq!((service.slot, &*service.name), (SLOT, "test/service:80"));
    assert_eq!(
        (endpoint.address, endpoint.calls, endpoint.errors),
        (echo.address, 7, 0)
    );
    assert!(
        status.counters.contains(&(String::from("calls"), 7)),
        "{:?}",
        status.counters
    );
}
