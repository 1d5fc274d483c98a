//! What connections hold outside of the engine is charged to their pod, and slows or ends what that pod does, nothing else.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use grpclb_userspace::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use crate::h2_peers::{Client, Echo};
use crate::rig::{Rig, SLOT, accept, backend, passes, read_exactly, read_to_end};

/// The opaque Service; that of [`SLOT`] is HTTP/2.
const OPAQUE: u32 = SLOT + 1;

/// As `data/charge.rs` has them.
const UNDETECTED: usize = 4 << 10;
const OPAQUE_FLAT: usize = 6 << 10;

async fn silent(rig: &Rig, count: usize) -> Vec<TcpStream> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(rig.connect(SLOT).await);
    }
    clients
}

/// A relayed connection whose server reads nothing: what the client sends fills the sockets, then us.
async fn blocked(rig: &Rig) -> (TcpStream, TcpStream) {
    let (listener, address) = backend().await;
    rig.serve(OPAQUE, Protocol::Detect, &[address]);
    let mut client = rig.connect(OPAQUE).await;
    client.write_all(b"hello").await.expect("written");
    let server = accept(&listener).await;
    (client, server)
}

/// Sends for as long as the value lives.
struct Sending(tokio::task::JoinHandle<()>);

impl Sending {
    fn on(mut client: OwnedWriteHalf) -> Self {
        Self(tokio::spawn(async move {
            let chunk = vec![7; 256 << 10];
            while client.write_all(&chunk).await.is_ok() {}
        }))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn undetected_connections_are_charged_until_they_end_or_are_detected() {
    let rig = Rig::start();
    let (_listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Http2, &[address]);
    let clients = silent(&rig, 50).await;
    rig.until("each is charged", |pod| pod.held == 50 * UNDETECTED)
        .await;
    assert_eq!(rig.status().await.buffered, 0, "they hold nothing of calls");
    drop(clients);
    rig.until("none is charged", |pod| pod.held == 0).await;

    let client = Client::connect(&rig, SLOT).await;
    rig.until("it is the engine's", |pod| {
        pod.accept.http2 == 1 && pod.held > UNDETECTED
    })
    .await;
    drop(client.requests);
    client.connection.await.expect("joined").expect("its end");
    rig.until("it is charged no more", |pod| pod.held == 0).await;
}

#[tokio::test]
async fn waiting_opaque_bytes_are_charged_until_they_leave() {
    let rig = Rig::start();
    let (client, mut server) = blocked(&rig).await;
    rig.until("its flat cost", |pod| pod.held == OPAQUE_FLAT).await;
    let (from, to) = client.into_split();
    let sending = Sending::on(to);
    rig.until("bytes wait", |pod| pod.held > OPAQUE_FLAT).await;
    drop(sending); // which ends the client's direction
    read_to_end(&mut server).await.expect("all that was sent");
    rig.until("nothing waits", |pod| pod.held == OPAQUE_FLAT).await;
    drop((from, server));
    rig.until("it is charged no more", |pod| pod.held == 0).await;
}

/// The beginning of a frame whose rest does not come, on an HTTP/2 connection.
#[tokio::test]
async fn unfinished_frames_are_charged() {
    let rig = Rig::start();
    let (_listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Http2, &[address]);
    let mut client = rig.connect(SLOT).await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    client.write_all(&bytes).await.expect("written");
    client.read_u8().await.expect("its SETTINGS begin");
    let idle = rig.status().await.held;
    // HEADERS of 16,000 bytes, of which 10,000 come.
    bytes = vec![0, 0x3e, 0x80, 1, 4, 0, 0, 0, 1];
    bytes.extend([0; 10_000]);
    client.write_all(&bytes).await.expect("written");
    rig.until("the part is charged", |pod| pod.held >= idle + 10_000)
        .await;
    drop(client);
    rig.until("it is charged no more", |pod| pod.held == 0).await;
}

/// A pod that opens connections and says nothing: the oldest of them make room, what has shown itself stays.
#[tokio::test]
async fn oldest_undetected_connections_are_reset_when_slowing_does_not_help() {
    let rig = Rig::start();
    let echo = Echo::start("a").await;
    rig.serve(SLOT, Protocol::Http2, &[echo.address]);
    let client = Client::connect(&rig, SLOT).await;
    client.call(Bytes::from_static(b"before")).await.expect("a call");
    let (mut opaque, mut server) = blocked(&rig).await;
    assert_eq!(read_exactly(&mut server, 5).await, b"hello");

    rig.plane.set_memory_budget(2 << 20);
    let mut flood = silent(&rig, 400).await;
    rig.until("some are reset", |pod| pod.accept.undetected_reset > 0)
        .await;
    rig.until("all are accepted", |pod| pod.accept.accepted == 402)
        .await;
    let status = rig.status().await;
    assert!(status.held < (2 << 20), "{}", status.held);

    let oldest = flood[0].read_u8().await.expect_err("reset");
    assert_eq!(oldest.kind(), ErrorKind::ConnectionReset);
    let mut newest = flood.pop().expect("the last");
    let nothing = tokio::time::timeout(Duration::from_millis(50), newest.read_u8()).await;
    assert!(nothing.is_err(), "the newest is there");
    client
        .call(Bytes::from_static(b"beside it"))
        .await
        .expect("a call");
    passes(&mut opaque, &mut server, b"beside it").await;
}

#[tokio::test]
async fn new_opaque_connections_are_reset_when_slowing_does_not_help() {
    let rig = Rig::start();
    let (listener, address) = backend().await;
    rig.serve(OPAQUE, Protocol::Detect, &[address]);
    let accepting = tokio::spawn(async move {
        let mut servers = Vec::new();
        while let Ok((server, _)) = listener.accept().await {
            servers.push(server);
        }
    });
    rig.plane.set_memory_budget(2 << 20);
    let mut clients = Vec::new();
    for _ in 0..250 {
        let mut client = rig.connect(OPAQUE).await;
        client.write_all(b"x").await.expect("written");
        clients.push(client);
    }
    rig.until("some are refused", |pod| pod.opaque.refused > 0).await;
    rig.until("each is served or refused", |pod| {
        pod.accept.opaque == 250 && pod.opaque_connections as u64 + pod.opaque.refused == 250
    })
    .await;
    let status = rig.status().await;
    assert!(status.held < (2 << 20), "{}", status.held);
    assert_eq!(status.opaque.reset, 0, "those that are relayed stay");
    accepting.abort();
}

#[tokio::test]
async fn opaque_connections_hold_little_while_the_pod_is_short() {
    let rig = Rig::start();
    let echo = Echo::start("a").await;
    rig.serve(SLOT, Protocol::Http2, &[echo.address]);
    let (client, _server) = blocked(&rig).await;
    rig.plane.set_memory_budget(2 << 20);
    // Short of memory, and not so much that connections are reset.
    let _silent = silent(&rig, 240).await;
    rig.until("they are accepted", |pod| pod.accept.accepted == 241)
        .await;
    let before = rig.status().await.held;
    let (_from, to) = client.into_split();
    let _sending = Sending::on(to);
    rig.until("bytes wait", |pod| pod.held > before).await;
    let status = rig.status().await;
    assert!(status.held - before <= 16 << 10, "{} wait", status.held - before);
    assert_eq!(status.accept.undetected_reset, 0);
}
