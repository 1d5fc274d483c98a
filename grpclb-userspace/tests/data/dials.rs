//! Dials that take long: a backend whose first answer to a SYN is lost, and clients that do not wait for it.

use std::net::SocketAddr;

use grpclb_userspace::model::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{Rig, SLOT, accept, backend, passes, read_exactly, reset};

/// A backend that drops SYNs: its accept queue is full of one connection, until the test accepts that.
struct Deaf {
    listener: TcpListener,
    address: SocketAddr,
    _filler: TcpStream,
}

impl Deaf {
    async fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("a port");
        socket.listen(0).expect("it listens");
        socket.set_nonblocking(true).expect("non-blocking");
        let listener = TcpListener::from_std(socket.into()).expect("a listener");
        let address = listener.local_addr().expect("its address");
        let filler = TcpStream::connect(address)
            .await
            .expect("the queue has one place");
        Self {
            listener,
            address,
            _filler: filler,
        }
    }

    /// Answers SYNs from now on: the next one comes when the kernel repeats it, a second after the first.
    async fn listen(self) -> TcpListener {
        let _filler = accept(&self.listener).await;
        self.listener
    }
}

#[tokio::test]
async fn lost_syn_delays_a_connection_to_the_only_endpoint_and_does_not_fail_it() {
    for protocol in [Protocol::Detect, Protocol::Http2] {
        let rig = Rig::start();
        let deaf = Deaf::new().await;
        rig.serve(SLOT, protocol, &[deaf.address]);
        let mut client = rig.connect(SLOT).await;
        client.write_all(b"hello").await.expect("written");
        rig.until("the backend is dialled", |status| status.opaque.dials == 1)
            .await;
        let listener = deaf.listen().await;
        let mut server = accept(&listener).await;
        assert_eq!(read_exactly(&mut server, 5).await, b"hello");
        passes(&mut server, &mut client, b"answer").await;
        let status = rig.status().await;
        assert_eq!((status.opaque.dials, status.opaque.failed_dials), (1, 0));
    }
}

#[tokio::test]
async fn silent_endpoint_is_given_up_for_another_one() {
    let rig = Rig::start();
    let (deaf, (listener, address)) = (Deaf::new().await, backend().await);
    rig.serve(SLOT, Protocol::Http2, &[deaf.address, address]);
    for _ in 0..2 {
        let mut client = rig.connect(SLOT).await;
        client.write_all(b"hello").await.expect("written");
        let mut server = accept(&listener).await;
        passes(&mut server, &mut client, b"answer").await;
    }
    let status = rig.status().await;
    assert_eq!((status.opaque.dials, status.opaque.failed_dials), (3, 1));
}

#[tokio::test]
async fn client_that_leaves_ends_the_dial() {
    let rig = Rig::start();
    let deaf = Deaf::new().await;
    rig.serve(SLOT, Protocol::Http2, &[deaf.address]);
    let mut client = rig.connect(SLOT).await;
    client.write_all(b"hello").await.expect("written");
    rig.until("the backend is dialled", |status| status.opaque_connections == 1)
        .await;
    reset(client);
    rig.until("the dial has ended", |status| {
        status.opaque_connections == 0 && status.opaque.reset == 1
    })
    .await;
    assert_eq!(rig.status().await.opaque.failed_dials, 0);
}
