//! Pods that make it hard: `lo` down, a firewall in their namespace, a process of their own on our port, and pods that go
//! while they are steered. The pods room and the kernel room together, with a relay that only answers the probe: whatever
//! the pod does, its connects end where they would have ended without us, and nothing of it stays behind.

#![allow(clippy::unwrap_used)] // what fails here is a test that fails

mod kernel_support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grpclb_abi::Slot;
use grpclb_userspace::kernel::{self, Kernel};
use grpclb_userspace::model::{Desired, NetnsRef, PodSpec};
use grpclb_userspace::pods::{
    self, Accept, Ended, Leave, PORTS, Panicked, PodState, PodStatus, Probe, Steer, Steering,
};
use kernel_support::*;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener as AsyncListener;
use tokio::sync::{mpsc, watch};

const TOKEN: &str = "the-test";

/// The kernel room and the connections that arrived, shared with the pods room.
struct Relay {
    kernel: Arc<Mutex<Kernel>>,
    arrived: Arc<Mutex<Vec<TcpStream>>>,
    tasks: BTreeMap<Arc<str>, Vec<tokio::task::JoinHandle<()>>>,
}

impl Steering for Relay {
    fn accept(&mut self, pod: Accept) -> anyhow::Result<u32> {
        let listeners = [Some(pod.listeners.v4), pod.listeners.v6];
        let tasks = listeners
            .into_iter()
            .flatten()
            .map(|listener| self.relay(listener));
        self.tasks.insert(pod.incarnation, tasks.collect());
        Ok(0)
    }

    fn leave(&mut self, incarnation: &Arc<str>, _how: Leave) -> Ended {
        for task in self.tasks.remove(incarnation).into_iter().flatten() {
            task.abort();
        }
        // Reset, as a pod that goes asks for: a plain close keeps its namespace alive.
        self.arrived.lock().unwrap().clear();
        Box::pin(std::future::ready(()))
    }

    fn steer(&mut self, cookie: u64, steer: &Steer) -> anyhow::Result<()> {
        let pod = kernel::Pod {
            name: steer.name.to_string(),
            worker: steer.worker,
            port: steer.port,
            ipv6: steer.ipv6,
            accelerate: steer.accelerate,
            source4: steer.addresses.v4,
            source6: steer.addresses.v6,
        };
        Ok(self.kernel.lock().unwrap().put_pod(cookie, &pod)?)
    }

    fn unsteer(&mut self, cookie: u64) {
        self.kernel.lock().unwrap().remove_pod(cookie).unwrap();
    }

    fn report_panic(&mut self, _pod: &PodSpec, _reason: &str) {}
}

impl Relay {
    /// Answers the probe, resets strangers, keeps the rest.
    fn relay(&self, listener: TcpListener) -> tokio::task::JoinHandle<()> {
        let (identify, arrived) = (self.kernel.lock().unwrap().identify(), Arc::clone(&self.arrived));
        let listener = AsyncListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            loop {
                let mut stream = listener.accept().await.unwrap().0.into_std().unwrap();
                set_reset_on_close(&stream);
                let slot = match stream.local_addr().unwrap().ip() {
                    std::net::IpAddr::V4(ip) => Slot::from_ipv4(ip),
                    std::net::IpAddr::V6(_) => identify.service_of(stream.as_fd()),
                };
                match slot {
                    Some(Slot::PROBE) => {
                        socket2::SockRef::from(&stream).set_linger(None).unwrap();
                        stream.write_all(TOKEN.as_bytes()).unwrap();
                    }
                    Some(_) => arrived.lock().unwrap().push(stream),
                    None => {}
                }
            }
        })
    }
}

fn set_reset_on_close(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// The two rooms at work on the pods that the test wants.
struct Rooms {
    kernel: Arc<Mutex<Kernel>>,
    arrived: Arc<Mutex<Vec<TcpStream>>>,
    desired: watch::Sender<Arc<Desired>>,
    status: watch::Receiver<Arc<[PodStatus]>>,
    panics: mpsc::UnboundedSender<Panicked>,
    runtime: tokio::runtime::Runtime,
    machine: Machine,
}

impl Rooms {
    fn new() -> Self {
        let machine = Machine::new();
        let mut kernel = machine.attached("one");
        put_service(&mut kernel, 3);
        let kernel = Arc::new(Mutex::new(kernel));
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let relay = Relay {
            kernel: Arc::clone(&kernel),
            arrived: Arc::clone(&arrived),
            tasks: BTreeMap::new(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (desired, wanted) = watch::channel(Arc::default());
        let (tell, status) = watch::channel(Arc::from([]));
        let (panics, panicked) = mpsc::unbounded_channel();
        let probe = Probe {
            target: Slot::PROBE.to_ipv4(),
            token: TOKEN.into(),
        };
        let config = pods::Config {
            probe,
            drain_timeout: Duration::from_secs(1),
        };
        let pods = move || pods::start(config, wanted, relay, tell, panicked).unwrap();
        runtime.spawn(async move { pods().await });
        Self {
            kernel,
            arrived,
            desired,
            status,
            panics,
            runtime,
            machine,
        }
    }

    /// Wants this pod alone.
    fn want(&self, name: &NamedPod) {
        let spec = PodSpec::new("shop/cart".into(), NetnsRef::Path(name.path.clone()));
        let pods = [(Arc::clone(&spec.id), Arc::new(spec))].into();
        self.desired.send_replace(Arc::new(Desired {
            pods,
            ..Desired::default()
        }));
    }

    /// Waits for the pod's state to be as `wanted` says.
    fn wait(&mut self, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let found = self.runtime.block_on(async {
            let wait = self.status.wait_for(|pods| pods.iter().any(&wanted));
            tokio::time::timeout(Duration::from_secs(15), wait)
                .await
                .map(|pods| pods.unwrap().to_vec())
        });
        match found {
            Ok(pods) => pods.into_iter().find(|pod| wanted(pod)).unwrap(),
            Err(elapsed) => panic!("{elapsed}: {:?}", self.status.borrow()),
        }
    }

    /// Dials the Service from the pod: whether it arrived at the relay.
    fn is_steered(&self, pod: &Pod) -> bool {
        self.kernel.lock().unwrap().heartbeat().beat(0);
        let before = counter(&self.kernel.lock().unwrap(), "steered");
        pod.socket(service4())
            .connect(&service4().into())
            .expect("a connect never fails for our sake");
        let steered = counter(&self.kernel.lock().unwrap(), "steered") > before;
        assert_eq!(pod.plain_arrived(), !steered);
        steered
    }
}

/// A pod whose namespace has a name, which the pods room opens it by.
struct NamedPod {
    pod: Pod,
    path: PathBuf,
    // The name: an open file of this process, so that it goes with the process.
    name: File,
}

impl NamedPod {
    fn new() -> Self {
        let pod = Pod::new();
        let name = pod
            .netns
            .run(|| File::open("/proc/thread-self/ns/net").unwrap())
            .unwrap();
        Self {
            pod,
            path: PathBuf::from(format!("/proc/self/fd/{}", name.as_raw_fd())),
            name,
        }
    }

    fn pod(&self) -> &Pod {
        &self.pod
    }
}

#[test]
fn an_ordinary_pod_is_steered_with_its_own_addresses_read_from_its_namespace() {
    let mut rooms = Rooms::new();
    let pod = NamedPod::new();
    rooms.want(&pod);
    let status = rooms.wait(|pod| pod.state == PodState::Steered);
    assert!(status.ipv6 && PORTS.contains(&status.port.unwrap()), "{status:?}");
    assert!(rooms.is_steered(pod.pod()));
}

#[test]
fn connects_of_a_pod_go_the_plain_way_after_a_panic_in_its_turn() {
    let mut rooms = Rooms::new();
    let pod = NamedPod::new();
    rooms.want(&pod);
    let status = rooms.wait(|pod| pod.state == PodState::Steered);
    assert!(rooms.is_steered(pod.pod()));
    rooms
        .panics
        .send(Panicked {
            incarnation: status.incarnation,
            panic: "index out of bounds".to_owned(),
        })
        .unwrap();
    rooms.wait(|pod| pod.state == PodState::Paused);
    assert!(!rooms.is_steered(pod.pod()));
}

#[test]
fn a_pod_whose_loopback_is_down_waits_and_is_steered_when_it_comes_up() {
    let mut rooms = Rooms::new();
    let pod = NamedPod::new();
    pod.pod().command("ip", &["link", "set", "lo", "down"]);
    rooms.want(&pod);
    let status = rooms.wait(|pod| pod.failures > 0);
    assert_eq!(status.state, PodState::Waiting);
    assert!(
        status.reason.unwrap().contains("loopback"),
        "the operator is told why"
    );

    pod.pod().command("ip", &["link", "set", "lo", "up"]);
    rooms.wait(|pod| pod.state == PodState::Steered);
    assert!(rooms.is_steered(pod.pod()));
}

#[test]
fn a_pod_whose_firewall_redirects_even_loopback_is_not_steered_and_its_connects_work() {
    let mut rooms = Rooms::new();
    let pod = NamedPod::new();
    // As a transparent proxy does that forgot to exempt `lo`: everything but the Service goes to a port where nobody is.
    pod.pod().command("nft", &["add", "table", "ip", "mesh"]);
    pod.pod().command(
        "nft",
        &["add chain ip mesh out { type nat hook output priority -100; }"],
    );
    pod.pod().command(
        "nft",
        &["add rule ip mesh out ip daddr 127.0.0.0/8 tcp dport != 50051 redirect to :15001"],
    );
    rooms.want(&pod);
    let status = rooms.wait(|pod| pod.failures > 0);
    assert_ne!(status.state, PodState::Steered);
    assert!(
        status.reason.unwrap().contains("firewall"),
        "the operator is told why"
    );
    assert!(!rooms.is_steered(pod.pod()), "without us it works");

    pod.pod().command("nft", &["delete", "table", "ip", "mesh"]);
    rooms.wait(|pod| pod.state == PodState::Steered);
    assert!(rooms.is_steered(pod.pod()));
}

#[test]
fn a_pod_whose_firewall_drops_what_is_not_on_its_list_is_not_steered_and_its_connects_work() {
    let mut rooms = Rooms::new();
    let pod = NamedPod::new();
    pod.pod().command("nft", &["add", "table", "inet", "strict"]);
    pod.pod().command(
        "nft",
        &["add chain inet strict out { type filter hook output priority 0; policy drop; }"],
    );
    pod.pod()
        .command("nft", &["add rule inet strict out ip daddr 10.0.0.0/8 accept"]);
    rooms.want(&pod);
    let status = rooms.wait(|pod| pod.failures > 0);
    assert!(
        status.reason.unwrap().contains("firewall"),
        "the operator is told why"
    );
    assert!(!rooms.is_steered(pod.pod()), "without us it works");
}

#[test]
fn a_pod_that_holds_our_port_itself_keeps_it_and_is_steered_by_another() {
    let mut rooms = Rooms::new();
    let pod = NamedPod::new();
    let own = pod
        .pod()
        .netns
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORTS[0])).unwrap())
        .unwrap();
    rooms.want(&pod);
    let status = rooms.wait(|pod| pod.state == PodState::Steered);
    assert_ne!(status.port, Some(PORTS[0]));
    assert!(rooms.is_steered(pod.pod()));

    let client = pod.pod().socket(service4());
    client
        .connect(&SocketAddr::from((POD4, PORTS[0])).into())
        .unwrap();
    own.accept().expect("the pod's own listener still answers");
}

#[test]
fn a_pod_that_binds_to_our_port_later_is_refused_as_by_any_listener_and_only_on_that_port() {
    let mut rooms = Rooms::new();
    let pod = NamedPod::new();
    rooms.want(&pod);
    let port = rooms.wait(|pod| pod.state == PodState::Steered).port.unwrap();
    let bind = |port: u16| {
        pod.pod()
            .netns
            .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map(drop))
            .unwrap()
    };
    assert_eq!(
        bind(port).unwrap_err().kind(),
        std::io::ErrorKind::AddrInUse,
        "documented: our port is taken from the pod"
    );
    for other in PORTS.into_iter().filter(|other| *other != port) {
        bind(other).unwrap();
    }
    let shared = pod.pod().netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())
    });
    assert!(
        shared.unwrap().is_err(),
        "nor may it share the port with us and take our connections"
    );
}

#[test]
fn a_pod_that_is_deleted_while_it_is_steered_leaves_nothing_behind() {
    let mut rooms = Rooms::new();
    let named = NamedPod::new();
    rooms.want(&named);
    let cookie = rooms.wait(|pod| pod.state == PodState::Steered).cookie.unwrap();
    // One connection is open, to make it harder.
    rooms.kernel.lock().unwrap().heartbeat().beat(0);
    let client = named.pod().socket(service4());
    client.connect(&service4().into()).unwrap();
    wait_until("the relay has it", || !rooms.arrived.lock().unwrap().is_empty());
    assert!(rooms.machine.dump("pods").contains(&format!("\"key\": {cookie}")));

    // A link into the namespace, which the kernel removes with it and not before.
    let link = format!("glbk{}", std::process::id());
    let namespace = format!("/proc/{}/fd/{}", std::process::id(), named.name.as_raw_fd());
    let ip = |args: &[&str]| {
        Command::new("ip")
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    assert!(ip(&[
        "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace
    ]));
    drop((client, named));

    rooms.wait(|pod| pod.state == PodState::Waiting);
    assert!(
        !rooms.machine.dump("pods").contains("\"key\""),
        "the kernel has forgotten it"
    );
    wait_until("the namespace is gone, and its link with it", || {
        !ip(&["link", "show", &link])
    });
}
