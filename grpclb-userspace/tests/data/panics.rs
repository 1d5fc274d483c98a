//! A panic in one pod's turn, beside a good pod on the same worker: it ends the one and is not felt by the other.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use grpclb_userspace::data::{self, Config, Leave, Listeners, Turn};
use grpclb_userspace::model::{NetnsRef, PodId, Protocol};
use grpclb_userspace::netns::Netns;
use grpclb_userspace::observe::logging;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::h2_peers::{Client, Echo};
use crate::rig::{
    Rig, SLOT, accept, address_of, assert_reset, backend, config, passes, pod, read_exactly, service,
};

/// The opaque Service; that of [`SLOT`] is HTTP/2.
const OPAQUE: u32 = SLOT + 1;

/// Raises a panic in the next turn of its kind of the pod `client`.
#[derive(Clone, Default)]
struct Fault {
    armed: Arc<Mutex<Option<Turn>>>,
    /// Goes on panicking.
    always: Arc<AtomicBool>,
}

impl Fault {
    fn arm(&self, turn: Turn) {
        *self
            .armed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(turn);
    }

    fn on_turn(&self, turned: &str, turn: Turn) {
        let mut armed = self
            .armed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if turned != &*pod() || *armed != Some(turn) {
            return;
        }
        if !self.always.load(Ordering::Relaxed) {
            *armed = None;
        }
        drop(armed);
        panic!("injected in {turn:?}");
    }
}

/// Two pods on one worker, `client` and `good`, and what they talk to.
struct Neighbours {
    rig: Rig,
    fault: Fault,
    panics: mpsc::UnboundedReceiver<(PodId, String)>,
    good_port: u16,
    echo: Echo,
    opaque: TcpListener,
}

fn add(rig: &Rig, id: &str) -> u16 {
    let v4 = std::net::TcpListener::bind("0.0.0.0:0").expect("a listener");
    let port = v4.local_addr().expect("its address").port();
    let netns = Arc::new(Netns::open(&NetnsRef::Host).expect("root opens its own namespace"));
    rig.plane
        .add_pod(id.into(), netns, Listeners { v4, v6: None }, false);
    port
}

impl Neighbours {
    async fn start() -> Self {
        let fault = Fault::default();
        let (tell, panics) = mpsc::unbounded_channel();
        let injected = fault.clone();
        let rig = Rig::with(&Config {
            on_turn: Some(Arc::new(move |pod, turn| injected.on_turn(pod, turn))),
            panicked: Arc::new(move |pod, panic| {
                let _ = tell.send((Arc::clone(pod), panic.to_owned()));
            }),
            ..config(1)
        });
        let good_port = add(&rig, "good");
        let (echo, (opaque, address)) = (Echo::start("a").await, backend().await);
        rig.serve(SLOT, Protocol::Http2, &[echo.address]);
        rig.serve(OPAQUE, Protocol::Detect, &[address]);
        Self {
            rig,
            fault,
            panics,
            good_port,
            echo,
            opaque,
        }
    }

    async fn http2(&self, port: u16) -> Client {
        let stream = TcpStream::connect((address_of(SLOT), port)).await;
        Client::over(stream.expect("accepted")).await
    }

    /// Both ends of an opaque connection that has passed bytes.
    async fn opaque(&self, port: u16) -> (TcpStream, TcpStream) {
        let stream = TcpStream::connect((address_of(OPAQUE), port)).await;
        let mut client = stream.expect("accepted");
        client.write_all(b"hello").await.expect("written");
        let mut server = accept(&self.opaque).await;
        assert_eq!(read_exactly(&mut server, 5).await, b"hello");
        (client, server)
    }

    async fn panicked(&mut self) -> (PodId, String) {
        tokio::time::timeout(Duration::from_secs(10), self.panics.recv())
            .await
            .expect("the panic is reported within 10 s")
            .expect("the data plane runs")
    }
}

/// Makes the turn come in which the pod is to panic; whatever becomes of that is for the pod's clients.
async fn provoke(turn: Turn, on: &Neighbours, client: &Client, relayed: &mut TcpStream) {
    match turn {
        Turn::Accept => _ = TcpStream::connect((address_of(SLOT), on.rig.port)).await,
        Turn::Input | Turn::Drive => _ = client.call(Bytes::from_static(b"x")).await,
        Turn::Relay => relayed.write_all(b"x").await.expect("written"),
        Turn::ServiceChanged => on
            .rig
            .serve(SLOT, Protocol::Http2, &[on.echo.address, on.echo.address]),
        Turn::Drain => on.rig.plane.remove_pod(&pod(), Leave::Drain).await,
        Turn::Status => _ = on.rig.plane.status(Duration::from_secs(10)).await,
    }
}

async fn panic_in(turn: Turn) {
    let mut on = Neighbours::start().await;
    let (bad, good) = (on.http2(on.rig.port).await, on.http2(on.good_port).await);
    let (_bad_call, _) = bad.begin(false).await.expect("a call");
    let (good_call, mut good_body) = good.begin(false).await.expect("a call");
    let (mut bad_client, mut bad_server) = on.opaque(on.rig.port).await;
    let (mut good_client, mut good_server) = on.opaque(on.good_port).await;
    for client in [&bad, &good] {
        client.call(Bytes::from_static(b"before")).await.expect("a call");
    }

    on.fault.arm(turn);
    let calls = async {
        for _ in 0..200 {
            good.call(Bytes::from_static(b"during"))
                .await
                .expect("a call of the good pod");
        }
    };
    tokio::join!(provoke(turn, &on, &bad, &mut bad_client), calls);

    let (panicked, panic) = on.panicked().await;
    assert_eq!(&*panicked, "client");
    assert!(panic.starts_with(&format!("injected in {turn:?}")), "{panic}");
    assert_reset(&mut bad_client, "the bad pod's client").await;
    assert_reset(&mut bad_server, "its backend").await;
    let error = bad.connection.await.expect("joined").expect_err("a reset");
    assert_eq!(
        error.get_io().map(std::io::Error::kind),
        Some(ErrorKind::ConnectionReset)
    );
    let refused = TcpStream::connect((address_of(SLOT), on.rig.port)).await;
    assert_eq!(
        refused.expect_err("nobody listens").kind(),
        ErrorKind::ConnectionRefused
    );

    passes(&mut good_client, &mut good_server, b"untouched").await;
    good_body
        .send_data(Bytes::new(), true)
        .expect("the good pod's call is there");
    good_call.await.expect("the good pod's call completes");
    let workers = on.rig.plane.status(Duration::from_secs(10)).await;
    let worker = workers[0].as_ref().expect("the worker lives");
    let pods: Vec<&str> = worker.pods.iter().map(|pod| &*pod.pod).collect();
    assert_eq!((pods, worker.panics), (vec!["good"], 1));
    assert!(
        worker.departed.counters["accepted"] >= 2,
        "what the bad pod counted stays"
    );
    assert!(
        worker.departed.counters["calls"] >= 2,
        "what its splitter counted stays"
    );

    let port = add(&on.rig, "client");
    let again = on.http2(port).await;
    again
        .call(Bytes::from_static(b"again"))
        .await
        .expect("a call of the pod that was added again");
    let (mut client, mut server) = on.opaque(port).await;
    passes(&mut server, &mut client, b"and opaque").await;
    assert!(on.panics.try_recv().is_err(), "once");
}

#[tokio::test]
async fn panic_in_any_turn_resets_that_pod_only() {
    for turn in [
        Turn::Accept,
        Turn::Input,
        Turn::Drive,
        Turn::Relay,
        Turn::ServiceChanged,
        Turn::Drain,
        Turn::Status,
    ] {
        println!("a panic in {turn:?}");
        panic_in(turn).await;
    }
}

#[tokio::test]
async fn panics_of_a_pod_that_is_added_again_are_counted_each() {
    let mut on = Neighbours::start().await;
    on.fault.always.store(true, Ordering::Relaxed);
    on.fault.arm(Turn::Input);
    let mut port = on.rig.port;
    for _ in 0..3 {
        let client = on.http2(port).await;
        let _ = client.call(Bytes::from_static(b"x")).await;
        on.panicked().await;
        port = add(&on.rig, "client");
    }
    let workers = on.rig.plane.status(Duration::from_secs(10)).await;
    assert_eq!(workers[0].as_ref().map(|worker| worker.panics), Some(3));
    on.http2(on.good_port)
        .await
        .call(Bytes::from_static(b"x"))
        .await
        .expect("a call of the good pod");
}

/// A body that the backend does not read stays with us: more than a pod's first step of the agent's budget.
#[tokio::test]
async fn panic_gives_back_what_the_pod_held() {
    let mut on = Neighbours::start().await;
    let (silent, address) = backend().await;
    on.rig
        .plane
        .set_service(SLOT, &service(Protocol::Http2, &[address]));
    let client = on.http2(on.rig.port).await;
    let (_response, mut body) = client.begin(false).await.expect("a call");
    body.send_data(Bytes::from(vec![0; 60_000]), false)
        .expect("a body");
    let _backend = accept(&silent).await;
    on.rig
        .until("the body is held", |pod| pod.buffered >= 60_000)
        .await;
    assert!(on.rig.plane.memory().held > 0);

    on.fault.arm(Turn::Status);
    let _ = on.rig.plane.status(Duration::from_secs(10)).await;
    on.panicked().await;
    assert_eq!(on.rig.plane.memory().held, 0);
}

/// The log of a panic, in a process of its own: the hook is the process's.
#[tokio::test]
#[ignore = "the next test runs it"]
async fn log_a_panic() {
    logging::init("info", logging::Format::Text).expect("logging");
    data::install_panic_hook();
    let mut on = Neighbours::start().await;
    let client = on.http2(on.rig.port).await;
    on.fault.arm(Turn::Input);
    let _ = client.call(Bytes::from_static(b"x")).await;
    on.panicked().await;
}

#[test]
fn panic_is_logged_in_one_line_with_its_pod_and_location() {
    let ran = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "panics::log_a_panic", "--ignored", "--nocapture"])
        .env("RUST_BACKTRACE", "1")
        .output()
        .expect("it runs");
    let log = String::from_utf8_lossy(&ran.stderr).into_owned();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let [line] = lines[..] else {
        panic!("not one line: {log}")
    };
    assert!(
        line.contains("ERROR") && line.contains("pod=client") && line.contains("injected in Input, at "),
        "{line}"
    );
    assert!(line.contains("tests/data/panics.rs:"), "{line}");
}
