//! Real connections in a namespace, sent by nftables from a Service's address to a backend as kube-proxy does (root).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Command;

use nix::sys::socket::{setsockopt, sockopt::Mark};
use socket2::{Domain, Socket, Type};

use super::*;
use crate::model::NetnsRef;

const OWN: u32 = 0x106c;
const SERVICE4: &str = "10.96.0.1:50051";
const SERVICE6: &str = "[fd00:96::1]:50051";
const OTHER: &str = "10.96.0.2:50051";

/// A pod's namespace with a backend on its own address, behind Service addresses. Removed at the end.
struct Place {
    name: String,
    pod: Pod,
    _backend: TcpListener,
}

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("glb-leftovers-{}-{name}", std::process::id());
        let rules = "table inet t { chain output { type nat hook output priority -100;
             ip daddr 10.96.0.0/16 tcp dport 50051 dnat ip to 10.244.0.1:4000;
             ip6 daddr fd00:96::/112 tcp dport 50051 dnat ip6 to [fd00::1]:4000; }
             }";
        let script = format!(
            "ip netns add {name} && ip netns exec {name} sh -ec '
               ip link set lo up
               ip addr add 10.244.0.1/32 dev lo && ip route add 10.96.0.0/16 dev lo
               ip addr add fd00::1/128 dev lo nodad && ip route add fd00:96::/112 dev lo
               echo \"{rules}\" | nft -f -'"
        );
        let made = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(
            made.success(),
            "these tests run as root, with iproute2 and nftables"
        );
        let namespace = Arc::new(Netns::open(&NetnsRef::Name(name.clone())).unwrap());
        let backend = namespace.run(|| TcpListener::bind("[::]:4000")).unwrap().unwrap();
        let pod = Pod {
            incarnation: "pod".into(),
            name: "pod".into(),
            namespace,
        };
        Self {
            name,
            pod,
            _backend: backend,
        }
    }

    /// As a process of the pod dials.
    fn dial(&self, service: &str, mark: Option<u32>) -> TcpStream {
        self.dial_as(Domain::for_address(service.parse().unwrap()), service, mark)
    }

    fn dial_as(&self, domain: Domain, service: &str, mark: Option<u32>) -> TcpStream {
        let address: SocketAddr = service.parse().unwrap();
        let dialled = self.pod.namespace.run(|| {
            let socket = Socket::new(domain, Type::STREAM, None)?;
            if let Some(mark) = mark {
                setsockopt(&socket.as_fd(), Mark, &mark)?;
            }
            socket.connect(&address.into())?;
            io::Result::Ok(socket.into())
        });
        dialled.unwrap().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn services(addresses: &[&str]) -> Services {
    Arc::new(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

fn counts(expected: &[(&str, u64)]) -> BTreeMap<SocketAddr, u64> {
    let count = |(address, count): &(&str, u64)| (address.parse().unwrap(), *count);
    expected.iter().map(count).collect()
}

#[tokio::test]
async fn connections_to_known_services_are_counted_and_no_others() {
    let place = Place::new("count");
    let _open = [
        place.dial(SERVICE4, None),
        place.dial(SERVICE4, None),
        place.dial(SERVICE6, None),
        // An IPv6 socket that speaks IPv4.
        place.dial_as(Domain::IPV6, "[::ffff:10.96.0.1]:50051", None),
        // A Service that is not steered, the agent's own socket, the backend itself.
        place.dial(OTHER, None),
        place.dial(SERVICE4, Some(OWN)),
        place.dial("10.244.0.1:4000", None),
    ];
    // Ended, though a child of another test may hold the descriptor for a moment more.
    place.dial(SERVICE4, None).shutdown(Shutdown::Both).unwrap();
    let leftovers = Leftovers::new(OWN);
    let found = leftovers
        .count(vec![place.pod.clone()], services(&[SERVICE4, SERVICE6]))
        .await;
    let expected = counts(&[(SERVICE4, 3), (SERVICE6, 1)]);
    assert_eq!(found["pod"].bypassing, expected);
    assert_eq!(found["pod"].total(), 4);
}

#[tokio::test]
async fn what_came_too_early_adds_up_and_stays_when_it_has_ended() {
    let place = Place::new("early");
    let leftovers = Leftovers::new(OWN);
    let early = place.dial(SERVICE4, None);
    let _of_another_service = place.dial(OTHER, None);
    drop(place.dial(SERVICE4, None));
    let known = services(&[SERVICE4]);
    leftovers.count_early(place.pod.clone(), known.clone()).await;
    assert_eq!(leftovers.early(), 2, "one of them has ended already");
    drop(early);
    leftovers.count_early(place.pod.clone(), known).await;
    assert_eq!(leftovers.early(), 4, "as if of another pod");
}

#[tokio::test]
async fn adopting_resets_what_bypasses_paced_and_once_for_each_request() {
    let place = Place::new("adopt");
    let mut old: Vec<_> = (0..5).map(|_| place.dial(SERVICE4, None)).collect();
    let mut other = place.dial(OTHER, None);
    let leftovers = Leftovers::new(OWN);
    let wish = Adopt {
        request: "first".into(),
        rate: 20,
    };
    let known = services(&[SERVICE4]);
    leftovers.count(vec![place.pod.clone()], known.clone()).await;
    assert!(leftovers.begin(&place.pod, &wish));
    assert!(!leftovers.begin(&place.pod, &wish), "once for each request");
    let begun = Instant::now();
    let reset = Arc::clone(&leftovers).adopt(place.pod.clone(), known.clone(), wish.clone());
    assert_eq!(reset.await.unwrap(), 5);
    let told = leftovers.adoption(&place.pod.incarnation).unwrap();
    assert_eq!(
        (told.found, told.reset, told.ended, told.error),
        (Some(5), 5, true, None)
    );
    assert!(
        begun.elapsed() >= Duration::from_millis(4 * 1000 / 20),
        "paced: {:?}",
        begun.elapsed()
    );
    for connection in &mut old {
        // SOCK_DESTROY gives the connection's own process ECONNABORTED (tcp_abort), and its peer a reset.
        let error = connection.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    }
    other.write_all(b"is left alone").unwrap();
    tokio::time::sleep(FRESH).await;
    let found = leftovers.count(vec![place.pod.clone()], known).await;
    assert_eq!((found["pod"].total(), found["pod"].adopted), (0, 5));

    let next = Adopt {
        request: "second".into(),
        ..wish
    };
    assert!(leftovers.begin(&place.pod, &next));
}

#[tokio::test]
async fn a_pod_that_is_gone_is_forgotten_and_its_namespace_let_go_of() {
    let place = Place::new("gone");
    let leftovers = Leftovers::new(OWN);
    assert!(leftovers.begin(
        &place.pod,
        &Adopt {
            request: "first".into(),
            rate: 1
        }
    ));
    leftovers.count(vec![place.pod.clone()], services(&[])).await;
    assert_eq!(Arc::strong_count(&place.pod.namespace), 1);
    tokio::time::sleep(FRESH).await;
    assert!(leftovers.count(vec![], services(&[])).await.is_empty());
    assert!(leftovers.lock().adoptions.is_empty());
}
