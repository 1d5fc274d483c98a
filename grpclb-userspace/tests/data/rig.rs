//! A data plane in this process, and peers for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use grpclb_userspace::data::{Config, DataPlane, DialTimes, Listeners, PodStatus};
use grpclb_userspace::model::{Endpoint, EndpointState, NetnsRef, PodId, Protocol, ServicePort};
use grpclb_userspace::netns::Netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const PROBE: u32 = 0xff_fffe;
pub(crate) const TOKEN: &str = "instance-of-this-test";

/// The slot that most tests use.
pub(crate) const SLOT: u32 = 0x01_0203;

/// A data plane with one pod, `client`, in this machine's own namespace.
pub(crate) struct Rig {
    pub(crate) plane: DataPlane,
    pub(crate) port: u16,
    pub(crate) port6: u16,
}

impl Rig {
    pub(crate) fn start() -> Self {
        Self::with_workers(1)
    }

    pub(crate) fn with_workers(workers: usize) -> Self {
        Self::with(&config(workers))
    }

    pub(crate) fn with(config: &Config) -> Self {
        Self::with_namespace(config, false)
    }

    /// `shared`: as for `host`, whose clients are many pods'.
    pub(crate) fn with_namespace(config: &Config, shared: bool) -> Self {
        let plane = DataPlane::start(config).expect("workers start");
        let bind = |address| std::net::TcpListener::bind(address).expect("a listener");
        let (v4, v6) = (bind("0.0.0.0:0"), bind("[::1]:0"));
        let port = |listener: &std::net::TcpListener| listener.local_addr().expect("its address").port();
        let (port, port6) = (port(&v4), port(&v6));
        let netns = Arc::new(Netns::open(&NetnsRef::Host).expect("root opens its own namespace"));
        plane.add_pod(pod(), netns, Listeners { v4, v6: Some(v6) }, shared);
        Self { plane, port, port6 }
    }

    /// Sets the Service of `slot`.
    pub(crate) fn serve(&self, slot: u32, protocol: Protocol, endpoints: &[SocketAddr]) {
        self.plane.set_service(slot, &service(protocol, endpoints));
    }

    /// A client's connection to the Service of `slot`.
    pub(crate) async fn connect(&self, slot: u32) -> TcpStream {
        let stream = TcpStream::connect((address_of(slot), self.port))
            .await
            .expect("the listener accepts");
        stream.set_nodelay(true).expect("nodelay");
        stream
    }

    pub(crate) async fn status(&self) -> PodStatus {
        let workers = self.plane.status(Duration::from_secs(10)).await;
        workers
            .into_iter()
            .flatten()
            .flat_map(|worker| worker.pods)
            .find(|status| status.pod == *pod())
            .expect("the pod is there")
    }

    /// Waits until the pod's status is as it should be.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&PodStatus) -> bool) {
        let waiting = async {
            while !holds(&self.status().await) {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), waiting)
            .await
            .is_err()
        {
            panic!("not within 10 s: {what}; {:#?}", self.status().await);
        }
    }
}

pub(crate) fn pod() -> PodId {
    Arc::from("client")
}

pub(crate) fn config(workers: usize) -> Config {
    Config {
        workers,
        node: Arc::from("test-node"),
        mark: None,
        probe_slot: PROBE,
        probe_token: Arc::from(TOKEN),
        heartbeat: Arc::new(|_| {}),
        identify: Arc::new(|_| None),
        detected: Arc::new(|_, _| ()),
        panicked: Arc::new(|_, _| ()),
        on_turn: None,
        seed: 7,
        dial: DialTimes::default(),
    }
}

pub(crate) fn service(protocol: Protocol, endpoints: &[SocketAddr]) -> Arc<ServicePort> {
    let endpoints = endpoints.iter().enumerate().map(|(index, address)| Endpoint {
        id: Arc::from(format!("backend-{index}")),
        address: *address,
        weight: 1,
        state: EndpointState::Ready,
    });
    Arc::new(ServicePort {
        id: Arc::from("test/service:80"),
        addresses: vec![Ipv4Addr::new(10, 96, 0, 1).into()],
        port: 80,
        protocol,
        policy: grpclb_engine::balance::Policy::RoundRobin,
        subset: 20,
        per_connection: false,
        endpoints: endpoints.collect(),
    })
}

pub(crate) fn address_of(slot: u32) -> Ipv4Addr {
    let [_, a, b, c] = slot.to_be_bytes();
    Ipv4Addr::new(127, a, b, c)
}

/// A backend that the test drives itself.
pub(crate) async fn backend() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a backend listens");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    let accepted = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
    accepted
        .expect("the backend is dialled within 10 s")
        .expect("accept")
        .0
}

/// An address where nobody listens: connects are refused. The port stays taken, so that no other test is given it.
pub(crate) fn refusing() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).expect("a port");
    let address = socket.local_addr().expect("its address");
    std::mem::forget(socket);
    address.as_socket().expect("an IP address")
}

/// Ends the connection by a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop(stream);
}

pub(crate) async fn read_exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut bytes)).await;
    read.expect("the bytes come within 10 s").expect("no error");
    bytes
}

/// What reading to the end gives.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes))
        .await
        .expect("ends within 10 s")?;
    Ok(bytes)
}

pub(crate) async fn assert_reset(stream: &mut TcpStream, whose: &str) {
    let error = read_to_end(stream)
        .await
        .expect_err(&format!("{whose} must see a reset, not an end of stream"));
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{whose}");
}

/// Sends `bytes` from one end and checks that they arrive at the other.
pub(crate) async fn passes(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.expect("written");
    assert_eq!(read_exactly(to, bytes.len()).await, bytes);
}

/// Dials a slot that leads nowhere: the connection is reset, during the connect or right after it.
pub(crate) async fn assert_refused_slot(rig: &Rig, slot: u32) {
    match TcpStream::connect((address_of(slot), rig.port)).await {
        Ok(mut client) => assert_reset(&mut client, "the client").await,
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}
