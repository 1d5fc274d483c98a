//! A pod in a network namespace of its own: it is dialled from there, and nothing of ours outlives it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use grpclb_userspace::data::{DataPlane, Leave, Listeners};
use grpclb_userspace::model::{NetnsRef, Protocol};
use grpclb_userspace::netns::Netns;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::rig::{SLOT, accept, address_of, config, passes, pod, read_exactly, service};

const NODE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);

/// A namespace that lives as long as the process that was started in it, and as something in it does.
struct Namespace {
    holder: Child,
    netns: Arc<Netns>,
}

impl Namespace {
    fn new() -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .map(|mut holder| {
                let mut line = String::new();
                let output = holder.stdout.take().expect("its output");
                std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
                holder
            })
            .expect("unshare runs");
        let netns = Netns::open(&NetnsRef::Pid(holder.id())).expect("the namespace opens");
        let namespace = Self {
            holder,
            netns: Arc::new(netns),
        };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Runs `ip` within the namespace; whether it succeeded.
    fn try_ip(&self, arguments: &[&str]) -> bool {
        let run = || {
            Command::new("ip")
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
        };
        self.netns.run(run).expect("entered").expect("ip runs").success()
    }

    fn ip(&self, arguments: &[&str]) {
        assert!(self.try_ip(arguments), "ip {}", arguments.join(" "));
    }

    fn kill(&mut self) {
        self.holder.kill().expect("killed");
        self.holder.wait().expect("gone");
    }

    fn listen(&self, address: Ipv4Addr) -> std::net::TcpListener {
        let bind = || std::net::TcpListener::bind((address, 0));
        let listener = self.netns.run(bind).expect("entered").expect("bound");
        listener.set_nonblocking(true).expect("nonblocking");
        listener
    }

    async fn connect(&self, to: SocketAddr) -> TcpStream {
        let socket = self
            .netns
            .run(TcpSocket::new_v4)
            .expect("entered")
            .expect("a socket");
        socket.connect(to).await.expect("connected")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A node and a pod joined by a veth pair; `to-pod` is the node's end.
fn node_and_pod() -> (Namespace, Namespace) {
    let (node, pod) = (Namespace::new(), Namespace::new());
    let pid = pod.holder.id().to_string();
    node.ip(&[
        "link", "add", "to-pod", "type", "veth", "peer", "name", "eth0", "netns", &pid,
    ]);
    node.ip(&["addr", "add", &format!("{NODE}/24"), "dev", "to-pod"]);
    node.ip(&["link", "set", "to-pod", "up"]);
    pod.ip(&["addr", "add", &format!("{POD}/24"), "dev", "eth0"]);
    pod.ip(&["link", "set", "eth0", "up"]);
    (node, pod)
}

#[tokio::test]
async fn the_backend_sees_the_pods_address_and_a_removed_pods_namespace_is_freed() {
    let (node, mut client_pod) = node_and_pod();
    let backend = TcpListener::from_std(node.listen(NODE)).expect("a backend");
    let plane = DataPlane::start(&config(1)).expect("started");
    plane.set_service(
        SLOT,
        &service(Protocol::Detect, &[backend.local_addr().expect("its address")]),
    );
    let listener = client_pod.listen(Ipv4Addr::UNSPECIFIED);
    let port = listener.local_addr().expect("its address").port();
    let listeners = Listeners {
        v4: listener,
        v6: None,
    };
    plane.add_pod(pod(), Arc::clone(&client_pod.netns), listeners, false);

    let mut client = client_pod.connect((address_of(SLOT), port).into()).await;
    client.write_all(b"who am I?").await.expect("written");
    let mut server = accept(&backend).await;
    assert_eq!(read_exactly(&mut server, 9).await, b"who am I?");
    assert_eq!(server.peer_addr().expect("its peer").ip(), POD);
    passes(&mut server, &mut client, b"a pod").await;

    // The pod dies as pods do: its link is gone first, with bytes on the way that nobody will ever acknowledge.
    node.ip(&["link", "set", "to-pod", "down"]);
    let block = vec![0; 1 << 16];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), client.write(&block)).await {
        written.expect("taken until the buffers are full");
    }
    drop(client);
    client_pod.kill();
    plane.remove_pod(&pod(), Leave::Reset).await;
    assert!(
        node.try_ip(&["link", "show", "to-pod"]),
        "the pod's end of the veth is still held by this test"
    );
    drop(client_pod);

    // The veth goes with the namespace, and the namespace with the last socket in it.
    let freed = async {
        while node.try_ip(&["link", "show", "to-pod"]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), freed)
        .await
        .expect("the namespace is freed within 10 s");
}
