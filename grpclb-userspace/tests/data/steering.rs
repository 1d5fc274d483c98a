//! Which Service a connection is for, the probe, and connections by the hundred.

use grpclb_userspace::model::Protocol;
use tokio::io::AsyncWriteExt;

use crate::rig::{
    PROBE, Rig, SLOT, TOKEN, accept, assert_refused_slot, backend, passes, read_exactly, read_to_end,
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
