//! How connections end: resets stay resets, a pod's end frees its namespace, our own death is a reset, a drain waits.

use std::time::Duration;

use grpclb_userspace::data::Leave;
use grpclb_userspace::model::Protocol;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::rig::{
    Rig, SLOT, accept, address_of, assert_reset, backend, passes, pod, read_exactly, refusing, reset,
};

async fn opened(rig: &Rig) -> (TcpStream, TcpStream) {
    let (listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Detect, &[address]);
    let mut client = rig.connect(SLOT).await;
    client.write_all(b"hello").await.expect("written");
    let mut server = accept(&listener).await;
    assert_eq!(read_exactly(&mut server, 5).await, b"hello");
    (client, server)
}

#[tokio::test]
async fn a_clients_reset_reaches_the_server_as_a_reset() {
    let rig = Rig::start();
    let (client, mut server) = opened(&rig).await;
    reset(client);
    assert_reset(&mut server, "the server").await;
    rig.until("counted as a reset", |pod| pod.opaque.reset == 1).await;
}

#[tokio::test]
async fn a_servers_reset_reaches_the_client_as_a_reset() {
    let rig = Rig::start();
    let (mut client, server) = opened(&rig).await;
    reset(server);
    assert_reset(&mut client, "the client").await;
}

#[tokio::test]
async fn a_client_that_no_endpoint_takes_is_reset() {
    let rig = Rig::start();
    rig.serve(SLOT, Protocol::Detect, &[refusing(), refusing()]);
    let mut client = rig.connect(SLOT).await;
    client.write_all(b"anybody?").await.expect("written");
    assert_reset(&mut client, "the client").await;
    assert_eq!(rig.status().await.opaque.unserved, 1);
}

#[tokio::test]
async fn a_removed_pod_resets_both_sides_and_stops_listening() {
    let rig = Rig::start();
    let (mut client, mut server) = opened(&rig).await;
    rig.plane.remove_pod(&pod(), Leave::Reset).await;
    assert_reset(&mut client, "the client").await;
    assert_reset(&mut server, "the server").await;
    let refused = TcpStream::connect((address_of(SLOT), rig.port))
        .await
        .expect_err("nobody listens any more");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_pod_that_drains_ends_with_its_last_connection() {
    let rig = Rig::start();
    let (mut client, mut server) = opened(&rig).await;
    let mut gone = Box::pin(rig.plane.remove_pod(&pod(), Leave::Drain));
    let early = tokio::time::timeout(Duration::from_secs(3), &mut gone).await;
    assert!(early.is_err(), "the pod went while a connection was open");
    passes(&mut client, &mut server, b"still here").await;
    drop((client, server));
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("the pod goes after its last connection");
}

#[tokio::test]
async fn the_drain_of_the_agent_waits_for_connections_up_to_its_limit() {
    let rig = Rig::start();
    let (client, server) = opened(&rig).await;
    assert!(
        !rig.plane.drain(Duration::from_secs(3)).await,
        "one connection was still open"
    );
    drop((client, server));
    assert!(rig.plane.drain(Duration::from_secs(10)).await, "none was open");
}
