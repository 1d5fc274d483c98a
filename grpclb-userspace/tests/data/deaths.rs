//! What clients and backends see when the process dies: a reset, never a clean end of stream.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use grpclb_userspace::data::Config;
use grpclb_userspace::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::h2_peers::Client;
use crate::rig::{Rig, SLOT, accept, address_of, assert_reset, backend, config, passes, read_exactly};

/// The data plane of these tests, in a process of its own: says where it listens and relays until it dies. A line on
/// its input makes its worker panic.
#[tokio::test]
#[ignore = "the other tests of this file run it"]
async fn relay_until_it_dies() {
    let backend = std::env::var("GRPCLB_TEST_BACKEND").expect("run by another test");
    let panic = Arc::new(AtomicBool::new(false));
    let ordered = Arc::clone(&panic);
    let heartbeat = move |_| assert!(!ordered.load(Ordering::Relaxed), "a panic on order");
    let rig = Rig::with(&Config {
        heartbeat: Arc::new(heartbeat),
        ..config(1)
    });
    rig.serve(SLOT, Protocol::Detect, &[backend.parse().expect("an address")]);
    println!("listening on {}", rig.port);
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next())
        .await
        .expect("joined");
    panic.store(line.is_some(), Ordering::Relaxed);
    std::future::pending::<()>().await;
}

struct Relay {
    process: Child,
    port: u16,
}

impl Relay {
    fn start(backend: SocketAddr) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this test"))
            .args([
                "--exact",
                "deaths::relay_until_it_dies",
                "--ignored",
                "--nocapture",
            ])
            .env("GRPCLB_TEST_BACKEND", backend.to_string())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the relay starts");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| line.split("listening on ").nth(1)?.trim().parse().ok());
        Self {
            process,
            port: port.expect("the relay says where it listens"),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect((address_of(SLOT), self.port))
            .await
            .expect("accepted")
    }

    /// Both ends of an opaque connection that has passed bytes each way and has nothing on the way.
    async fn opaque(&self, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let mut client = self.connect().await;
        client.write_all(b"hello").await.expect("written");
        let mut server = accept(listener).await;
        assert_eq!(read_exactly(&mut server, 5).await, b"hello");
        passes(&mut server, &mut client, b"a part of a long answer").await;
        (client, server)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn kill_9_resets_opaque_connections_at_both_ends() {
    let (listener, address) = backend().await;
    let mut relay = Relay::start(address);
    let (mut client, mut server) = relay.opaque(&listener).await;
    relay.process.kill().expect("killed");
    assert_reset(&mut client, "the client").await;
    assert_reset(&mut server, "the server").await;
}

#[tokio::test]
async fn kill_9_resets_http2_connections_at_both_ends() {
    let (listener, address) = backend().await;
    let mut relay = Relay::start(address);
    let mut client = relay.connect().await;
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("written");
    client.read_u8().await.expect("its SETTINGS begin");
    let other = Client::over(relay.connect().await).await;
    let _call = other.begin(false).await.expect("a call that makes it dial");
    let mut server = accept(&listener).await;
    server.read_u8().await.expect("the preface begins");
    relay.process.kill().expect("killed");
    assert_reset(&mut client, "the client").await;
    assert_reset(&mut server, "the backend").await;
    let error = other.connection.await.expect("joined").expect_err("a reset");
    assert_eq!(
        error.get_io().map(std::io::Error::kind),
        Some(std::io::ErrorKind::ConnectionReset),
        "{error}"
    );
}

#[tokio::test]
async fn a_panic_of_a_worker_ends_the_process_and_resets_both_ends() {
    const SIGABRT: i32 = 6;
    let (listener, address) = backend().await;
    let mut relay = Relay::start(address);
    let (mut client, mut server) = relay.opaque(&listener).await;
    relay
        .process
        .stdin
        .take()
        .expect("its input")
        .write_all(b"panic\n")
        .expect("written");
    assert_reset(&mut client, "the client").await;
    assert_reset(&mut server, "the server").await;
    assert_eq!(relay.process.wait().expect("ended").signal(), Some(SIGABRT));
}
