//! What is not HTTP/2 passes untouched, whoever speaks first and in whatever pieces.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use grpclb_userspace::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::rig::{Rig, SLOT, accept, backend, passes, read_exactly, read_to_end, refusing};

/// Both ends of a connection whose client has said `hello` already.
async fn opened(rig: &Rig, protocol: Protocol) -> (TcpStream, TcpStream) {
    let (listener, address) = backend().await;
    rig.serve(SLOT, protocol, &[address]);
    let mut client = rig.connect(SLOT).await;
    client.write_all(b"hello").await.expect("written");
    let mut server = accept(&listener).await;
    assert_eq!(read_exactly(&mut server, 5).await, b"hello");
    (client, server)
}

#[tokio::test]
async fn http1_passes_on_a_port_that_declares_nothing_and_on_one_declared_http2() {
    for protocol in [Protocol::Detect, Protocol::Http2] {
        let rig = Rig::start();
        let (listener, address) = backend().await;
        rig.serve(SLOT, protocol, &[address]);
        let mut client = rig.connect(SLOT).await;
        let request =
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n";
        client.write_all(request).await.expect("written");
        let mut server = accept(&listener).await;
        assert_eq!(read_exactly(&mut server, request.len()).await, request);
        passes(
            &mut server,
            &mut client,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let status = rig.status().await;
        assert_eq!(
            (status.accept.opaque, status.opaque_connections),
            (1, 1),
            "{protocol:?}"
        );
    }
}

#[tokio::test]
async fn bytes_like_a_tls_handshake_pass_as_they_are() {
    let rig = Rig::start();
    let (listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Http2, &[address]);
    let mut client = rig.connect(SLOT).await;
    let hello: Vec<u8> = [0x16, 3, 1]
        .into_iter()
        .chain((0..=255).cycle().take(3000))
        .collect();
    client.write_all(&hello).await.expect("written");
    let mut server = accept(&listener).await;
    assert_eq!(read_exactly(&mut server, hello.len()).await, hello);
}

#[tokio::test]
async fn the_beginning_of_a_preface_that_goes_wrong_passes_as_it_is() {
    let rig = Rig::start();
    let (listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Http2, &[address]);
    let mut client = rig.connect(SLOT).await;
    client.write_all(b"PRI * HTTP/2.0\r\n").await.expect("written");
    client.write_all(b"nonsense").await.expect("written");
    let mut server = accept(&listener).await;
    assert_eq!(read_exactly(&mut server, 24).await, b"PRI * HTTP/2.0\r\nnonsense");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_after_a_second() {
    let rig = Rig::start();
    let (listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Detect, &[address]);
    let begun = Instant::now();
    let mut client = rig.connect(SLOT).await;
    let mut server = accept(&listener).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(950),
        "dialled after {:?}",
        begun.elapsed()
    );
    passes(&mut server, &mut client, b"220 mail ready\r\n").await;
    passes(&mut client, &mut server, b"EHLO me\r\n").await;
    assert_eq!(rig.status().await.accept.silent, 1);
}

#[tokio::test]
async fn a_silent_client_of_a_port_declared_http2_is_not_dialled_for() {
    let rig = Rig::start();
    let (listener, address) = backend().await;
    rig.serve(SLOT, Protocol::Http2, &[address]);
    let mut client = rig.connect(SLOT).await;
    let early = tokio::time::timeout(Duration::from_millis(1500), listener.accept()).await;
    assert!(
        early.is_err(),
        "the backend was dialled for a client that had said nothing"
    );
    client.write_all(b"late, and not HTTP/2").await.expect("written");
    let mut server = accept(&listener).await;
    assert_eq!(read_exactly(&mut server, 20).await, b"late, and not HTTP/2");
}

#[tokio::test]
async fn the_client_may_end_its_side_and_still_be_answered() {
    let rig = Rig::start();
    let (mut client, mut server) = opened(&rig, Protocol::Detect).await;
    client.write_all(b"question").await.expect("written");
    client.shutdown().await.expect("shut down");
    assert_eq!(
        read_to_end(&mut server).await.expect("an end in order"),
        b"question"
    );
    server.write_all(b"answer").await.expect("written");
    drop(server);
    assert_eq!(
        read_to_end(&mut client).await.expect("an end in order"),
        b"answer"
    );
    rig.until("both ends counted as one orderly end", |pod| {
        pod.opaque.ended == 1 && pod.opaque_connections == 0
    })
    .await;
}

#[tokio::test]
async fn the_server_may_end_its_side_and_still_be_asked() {
    let rig = Rig::start();
    let (mut client, mut server) = opened(&rig, Protocol::Detect).await;
    server.write_all(b"goodbye").await.expect("written");
    server.shutdown().await.expect("shut down");
    assert_eq!(
        read_to_end(&mut client).await.expect("an end in order"),
        b"goodbye"
    );
    client.write_all(b"one more thing").await.expect("written");
    drop(client);
    assert_eq!(
        read_to_end(&mut server).await.expect("an end in order"),
        b"one more thing"
    );
}

#[tokio::test]
async fn a_refused_dial_is_made_to_another_endpoint_unseen_by_the_client() {
    let rig = Rig::start();
    let (listener, address) = backend().await;
    let endpoints: [SocketAddr; 2] = [refusing(), address];
    rig.serve(SLOT, Protocol::Detect, &endpoints);
    for _ in 0..4 {
        let mut client = rig.connect(SLOT).await;
        client.write_all(b"to whoever is there").await.expect("written");
        let mut server = accept(&listener).await;
        assert_eq!(read_exactly(&mut server, 19).await, b"to whoever is there");
    }
    assert!(
        rig.status().await.opaque.failed_dials >= 1,
        "the refusing endpoint was never tried"
    );
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer() {
    const FAR_TOO_MUCH: usize = 256 << 20;
    let rig = Rig::start();
    let (client, mut server) = opened(&rig, Protocol::Detect).await;
    let block = vec![7; 1 << 20];
    let mut written = 0;
    while let Ok(result) = tokio::time::timeout(Duration::from_secs(1), server.write(&block)).await {
        written += result.expect("written");
        assert!(
            written < FAR_TOO_MUCH,
            "{written} bytes were taken while nobody read"
        );
    }
    drop(client);
}

/// 1 GiB each way at once, byte for byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_passes_each_way_at_once_byte_for_byte() {
    const TOTAL: usize = 1 << 30;
    let rig = Rig::start();
    let (mut client, mut server) = opened(&rig, Protocol::Detect).await;
    let (up, down) = (pattern(1), pattern(2));
    let (mut client_reads, mut client_writes) = client.split();
    let (mut server_reads, mut server_writes) = server.split();
    let all = async {
        tokio::join!(
            send(&mut client_writes, &up, TOTAL),
            send(&mut server_writes, &down, TOTAL),
            receive(&mut server_reads, &up, TOTAL),
            receive(&mut client_reads, &down, TOTAL),
        )
    };
    tokio::time::timeout(Duration::from_mins(2), all)
        .await
        .expect("2 GiB pass within two minutes");
}

/// A block whose length is a prime: no buffer size of ours divides it, so a lost or doubled piece shows.
fn pattern(seed: u64) -> Vec<u8> {
    let mut random = grpclb_engine::rng::Rng::seeded(seed);
    (0..65_521).map(|_| random.next_u64() as u8).collect()
}

async fn send(to: &mut WriteHalf<'_>, pattern: &[u8], total: usize) {
    let mut sent = 0;
    while sent < total {
        let piece = pattern.len().min(total - sent);
        to.write_all(&pattern[..piece]).await.expect("written");
        sent += piece;
    }
    to.shutdown().await.expect("shut down");
}

async fn receive(from: &mut ReadHalf<'_>, pattern: &[u8], total: usize) {
    let mut received = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = from.read(&mut buffer).await.expect("read");
        if read == 0 {
            break;
        }
        let mut bytes = &buffer[..read];
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
}
