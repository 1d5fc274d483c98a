//! The room against real namespaces (root): what it asks of the kernel and the relay, in which order, and who reaches the
//! listener. The relay is a thread that answers the probe; the kernel is a list of what it was told.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch as channel};

use super::*;
use crate::model::{NetnsRef, PodId, PodSpec};

mod late;
mod panics;
mod sandboxes;

const TOKEN: &str = "instance-under-test";
const TARGET: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);
const LIMIT: Duration = Duration::from_secs(20);

/// What the room asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Accept { incarnation: String, shared: bool },
    Leave { incarnation: String, how: Leave },
    Steer { name: String, cookie: u64, ipv6: bool },
    Unsteer { cookie: u64 },
    Panicked { name: String, reason: String },
}

fn steered(name: &str, cookie: u64, ipv6: bool) -> Asked {
    let name = name.to_owned();
    Asked::Steer { name, cookie, ipv6 }
}

/// Accepts and answers with the token, or with something else.
struct Recorder {
    asked: mpsc::UnboundedSender<Asked>,
    /// What accepts for each incarnation, ended with it.
    accepting: BTreeMap<String, tokio::task::JoinSet<()>>,
    answer: &'static str,
    /// Accepts no more while this is set.
    stalled: channel::Receiver<bool>,
    /// Connections accepted over IPv4 and over IPv6.
    accepted: Accepted,
}

type Accepted = Arc<[AtomicU32; 2]>;

impl Steering for Recorder {
    fn accept(&mut self, pod: Accept) -> anyhow::Result<u32> {
        let answer = self.answer;
        let mut accepting = tokio::task::JoinSet::new();
        for listener in [Some(pod.listeners.v4), pod.listeners.v6].into_iter().flatten() {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let accepted = Arc::clone(&self.accepted);
            let mut stalled = self.stalled.clone();
            accepting.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stalled.wait_for(|stalled| !stalled).await;
                    let mut stream = stream.into_std().expect("a std stream");
                    let family = usize::from(stream.local_addr().is_ok_and(|local| local.is_ipv6()));
                    accepted[family].fetch_add(1, Ordering::Relaxed);
                    if stream.local_addr().is_ok_and(|local| local.is_ipv6()) {
                        // As the relay does with what nothing steered to it.
                        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    } else {
                        let _ = stream.write_all(answer.as_bytes());
                    }
                }
            });
        }
        self.accepting.insert(pod.incarnation.to_string(), accepting);
        let _ = self.asked.send(Asked::Accept {
            incarnation: pod.incarnation.to_string(),
            shared: pod.shared,
        });
        Ok(0)
    }

    fn leave(&mut self, incarnation: &Arc<str>, how: Leave) -> Ended {
        self.accepting.remove(&**incarnation);
        let _ = self.asked.send(Asked::Leave {
            incarnation: incarnation.to_string(),
            how,
        });
        Box::pin(std::future::pending())
    }

    fn steer(&mut self, cookie: u64, steer: &Steer) -> anyhow::Result<()> {
        let _ = self.asked.send(Asked::Steer {
            name: steer.name.to_string(),
            cookie,
            ipv6: steer.ipv6,
        });
        Ok(())
    }

    fn unsteer(&mut self, cookie: u64) {
        let _ = self.asked.send(Asked::Unsteer { cookie });
    }

    fn report_panic(&mut self, pod: &PodSpec, reason: &str) {
        let (name, reason) = (pod.name.to_string(), reason.to_owned());
        let _ = self.asked.send(Asked::Panicked { name, reason });
    }
}

/// The running room.
struct Room {
    desired: channel::Sender<Arc<Desired>>,
    asked: mpsc::UnboundedReceiver<Asked>,
    status: channel::Receiver<Arc<[PodStatus]>>,
    panics: mpsc::UnboundedSender<Panicked>,
    accepted: Accepted,
    stalled: channel::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Room {
    fn start(answer: &'static str) -> Self {
        let (asked_in, asked) = mpsc::unbounded_channel();
        let (desired, wanted) = channel::channel(Arc::default());
        let (status_in, status) = channel::channel(Arc::from([]));
        let (panics, panics_out) = mpsc::unbounded_channel();
        let accepted = Accepted::default();
        let (stalled, is_stalled) = channel::channel(false);
        let recorder = Recorder {
            stalled: is_stalled,
            accepted: Arc::clone(&accepted),
            asked: asked_in,
            accepting: BTreeMap::new(),
            answer,
        };
        let config = Config {
            probe: Probe {
                target: TARGET,
                token: TOKEN.into(),
            },
            drain_timeout: Duration::from_mins(10),
        };
        let task = tokio::spawn(start(config, wanted, recorder, status_in, panics_out).unwrap());
        Self {
            desired,
            asked,
            status,
            panics,
            accepted,
            stalled,
            task,
        }
    }

    fn want(&self, pods: &[(&str, NetnsRef)]) {
        let spec = |(id, netns): &(&str, NetnsRef)| PodSpec::new(PodId::from(*id), netns.clone());
        self.want_specs(pods.iter().map(spec));
    }

    fn want_specs(&self, specs: impl IntoIterator<Item = PodSpec>) {
        let pods = specs
            .into_iter()
            .map(|spec| (spec.id.clone(), Arc::new(spec)))
            .collect();
        self.desired.send_replace(Arc::new(Desired {
            pods,
            ..Desired::default()
        }));
    }

    async fn asked(&mut self) -> Asked {
        tokio::time::timeout(LIMIT, self.asked.recv())
            .await
            .expect("the room asked nothing")
            .expect("the room ended")
    }

    async fn status_where(&mut self, id: &str, condition: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let reached = async {
            loop {
                let found = self
                    .status
                    .borrow_and_update()
                    .iter()
                    .find(|pod| &*pod.id == id && condition(pod))
                    .cloned();
                match found {
                    Some(pod) => return pod,
                    None => self.status.changed().await.expect("the room ended"),
                }
            }
        };
        tokio::time::timeout(LIMIT, reached)
            .await
            .expect("the pod never came into the awaited state")
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A namespace of `ip netns`, removed at the end.
struct Named(String);

impl Named {
    fn new(name: &str) -> Self {
        let named = Self(format!("glb-pods-{}-{name}", std::process::id()));
        named.ip(&["netns", "add", &named.0]);
        named
    }

    fn up(name: &str) -> Self {
        let named = Self::new(name);
        named.inside(&["link", "set", "lo", "up"]);
        named
    }

    fn ip(&self, arguments: &[&str]) {
        let done = Command::new("ip")
            .args(arguments)
            .status()
            .expect("iproute2 is installed");
        assert!(done.success(), "ip {arguments:?} for {}", self.0);
    }

    fn inside(&self, arguments: &[&str]) {
        self.ip(&[&["-n", &self.0], arguments].concat());
    }

    fn nft(&self, rules: &str) {
        let done = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{}", self.0), "nft", rules])
            .status()
            .expect("nftables is installed");
        assert!(done.success(), "nft {rules}");
    }

    fn reference(&self) -> NetnsRef {
        NetnsRef::Name(self.0.clone())
    }

    fn open(&self) -> Netns {
        Netns::open(&self.reference()).expect("the namespace opens")
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.0])
            .stderr(std::process::Stdio::null())
            .status();
    }
}

#[allow(clippy::disallowed_methods)] // inside `Netns::run`: just the namespace that is meant
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    // Longer than the second after which a first SYN is repeated: a veth pair is young.
    TcpStream::connect_timeout(&address, Duration::from_secs(5))
}

#[tokio::test]
async fn a_pod_is_accepted_then_probed_then_steered_and_leaves_in_the_reverse_order() {
    let pod = Named::up("order");
    let cookie = pod.open().cookie();
    let mut room = Room::start(TOKEN);
    room.want(&[("a", pod.reference())]);
    assert_eq!(
        room.asked().await,
        Asked::Accept {
            incarnation: "a".into(),
            shared: false
        }
    );
    assert_eq!(room.asked().await, steered("a", cookie, true));
    room.want(&[]);
    assert_eq!(room.asked().await, Asked::Unsteer { cookie });
    assert_eq!(
        room.asked().await,
        Asked::Leave {
            incarnation: "a".into(),
            how: Leave::Drain
        }
    );
    room.want(&[("a", pod.reference())]);
    assert_eq!(
        room.asked().await,
        Asked::Accept {
            incarnation: "a~2".into(),
            shared: false
        }
    );
    assert_eq!(room.asked().await, steered("a", cookie, true));
}

#[tokio::test]
async fn a_namespace_that_vanishes_is_unsteered_and_reset_and_taken_up_again_when_it_returns() {
    let mut room = Room::start(TOKEN);
    let pod = Named::up("vanish");
    let cookie = pod.open().cookie();
    room.want(&[("a", pod.reference())]);
    room.asked().await;
    assert_eq!(room.asked().await, steered("a", cookie, true));
    drop(pod);
    assert_eq!(room.asked().await, Asked::Unsteer { cookie });
    assert_eq!(
        room.asked().await,
        Asked::Leave {
            incarnation: "a".into(),
            how: Leave::Reset
        }
    );
    room.status_where("a", |pod| {
        pod.reason
            .as_deref()
            .is_some_and(|reason| reason.contains("/run/netns/"))
    })
    .await;
    let pod = Named::up("vanish");
    room.asked().await;
    assert_eq!(room.asked().await, steered("a", pod.open().cookie(), true));
}

#[tokio::test]
async fn a_pod_whose_loopback_is_down_waits_and_says_so_and_harms_no_other() {
    let (young, good) = (Named::new("young"), Named::up("good"));
    let mut room = Room::start(TOKEN);
    room.want(&[("young", young.reference()), ("good", good.reference())]);
    room.status_where("good", |pod| pod.state == PodState::Steered)
        .await;
    let waiting = room.status_where("young", |pod| pod.failures > 0).await;
    assert!(
        waiting
            .reason
            .is_some_and(|reason| reason.contains("loopback interface of the pod is down"))
    );
    assert!(
        room.status.borrow().iter().all(PodStatus::settled),
        "readiness waits for neither"
    );
    young.inside(&["link", "set", "lo", "up"]);
    room.status_where("young", |pod| pod.state == PodState::Steered)
        .await;
}

#[tokio::test]
async fn a_firewall_that_redirects_loopback_leaves_the_pod_unsteered_and_is_named() {
    let pod = Named::up("redirect");
    pod.nft("table ip t { chain c { type nat hook output priority -100; ip daddr 127.0.0.0/8 tcp dport 28000-29000 redirect to :9; }; }");
    let mut room = Room::start(TOKEN);
    room.want(&[("a", pod.reference())]);
    assert!(matches!(room.asked().await, Asked::Accept { .. }));
    let status = room.status_where("a", |pod| pod.failures > 0).await;
    assert!(
        status
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("refused")),
        "{:?}",
        status.reason
    );
    pod.nft("flush ruleset");
    room.status_where("a", |pod| pod.state == PodState::Steered && pod.reason.is_none())
        .await;
}

#[tokio::test]
async fn a_firewall_that_drops_loopback_leaves_the_pod_unsteered() {
    let pod = Named::up("drop");
    pod.nft("table ip t { chain c { type filter hook output priority 0; ip daddr 127.0.0.0/8 drop; }; }");
    let mut room = Room::start(TOKEN);
    room.want(&[("a", pod.reference())]);
    let status = room.status_where("a", |pod| pod.failures > 0).await;
    assert!(
        status
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("did not arrive")),
        "{:?}",
        status.reason
    );
}

#[tokio::test]
async fn an_answer_that_is_not_ours_leaves_the_pod_unsteered() {
    let pod = Named::up("other");
    let mut room = Room::start("another instance");
    room.want(&[("a", pod.reference())]);
    let status = room.status_where("a", |pod| pod.failures > 0).await;
    assert!(
        status
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("something else")),
        "{:?}",
        status.reason
    );
}

#[tokio::test]
async fn ipv6_is_off_and_ipv4_steered_where_the_namespace_has_no_ipv6() {
    let pod = Named::up("v4only");
    pod.inside(&["-6", "addr", "flush", "dev", "lo"]);
    let cookie = pod.open().cookie();
    let mut room = Room::start(TOKEN);
    room.want(&[("a", pod.reference())]);
    room.asked().await;
    assert_eq!(room.asked().await, steered("a", cookie, false));
}

#[tokio::test]
async fn of_two_pods_with_one_namespace_the_second_is_refused_until_the_first_leaves() {
    let pod = Named::up("twice");
    let mut room = Room::start(TOKEN);
    room.want(&[("a", pod.reference())]);
    room.status_where("a", |pod| pod.state == PodState::Steered).await;
    let path = NetnsRef::Path(format!("/run/netns/{}", pod.0).into());
    room.want(&[("a", pod.reference()), ("b", path.clone())]);
    let refused = room.status_where("b", |pod| pod.failures > 0).await;
    assert!(
        refused
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("that of pod a")),
        "{:?}",
        refused.reason
    );
    room.want(&[("b", path)]);
    room.status_where("b", |pod| pod.state == PodState::Steered).await;
}

#[tokio::test]
async fn a_port_that_the_pod_holds_is_left_to_it() {
    let pod = Named::up("port");
    let held = pod
        .open()
        .run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, PORTS[0])))
        .unwrap()
        .unwrap();
    let mut room = Room::start(TOKEN);
    room.want(&[("a", pod.reference())]);
    let status = room.status_where("a", |pod| pod.state == PodState::Steered).await;
    assert_eq!(status.port, Some(PORTS[1]));
    drop(held);
}

/// Two namespaces joined by a veth pair: the listener answers on every address of 127/8 inside, and on none from outside.
#[tokio::test]
async fn the_listener_is_reached_from_its_own_namespace_only() {
    let (pod, other) = (Named::up("inside"), Named::up("outside"));
    let peer = [
        "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &other.0,
    ];
    pod.inside(&peer);
    for (namespace, address) in [(&pod, "10.251.0.1/24"), (&other, "10.251.0.2/24")] {
        namespace.inside(&["addr", "add", address, "dev", "eth0"]);
        namespace.inside(&["link", "set", "eth0", "up"]);
    }
    let mut room = Room::start(TOKEN);
    room.want(&[("a", pod.reference())]);
    let status = room.status_where("a", |pod| pod.state == PodState::Steered).await;
    assert_eq!(
        status.addresses,
        ["10.251.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    let port = status.port.unwrap();
    let dial = |from: &Named, address: &str| {
        from.open()
            .run(|| connect(SocketAddr::new(address.parse().unwrap(), port)))
            .unwrap()
            .map(drop)
    };
    dial(&pod, "127.1.2.3").expect("the pod's own loopback reaches it");
    // The control: with a plain listener beside ours, the same way from outside does get through.
    let plain = pod
        .open()
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4711)))
        .unwrap()
        .unwrap();
    other
        .open()
        .run(|| connect("10.251.0.1:4711".parse().unwrap()))
        .unwrap()
        .expect("the two namespaces are joined");
    drop(plain);
    let refused = dial(&other, "10.251.0.1").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}
