//! A probe that is late because the agent is busy, told apart from one that a firewall drops.

use std::fs;

use super::*;

/// A namespace with our listener, which nobody accepts from.
struct Stalled {
    pod: Named,
    namespace: Netns,
    listeners: Listeners,
}

impl Stalled {
    fn new(name: &str) -> Self {
        let pod = Named::up(name);
        let namespace = pod.open();
        // The queue holds one more than this.
        let shrink = || fs::write("/proc/sys/net/core/somaxconn", "1");
        namespace.run(shrink).unwrap().unwrap();
        let listeners = listener::listen(&namespace, &[]).unwrap();
        Self {
            pod,
            namespace,
            listeners,
        }
    }

    async fn probe(&self, ipv6: bool) -> Result<Arrived, ProbeError> {
        let (target, token) = (TARGET, TOKEN.to_owned());
        Probe { target, token }
            .run(&self.namespace, self.listeners.port, ipv6)
            .await
    }

    fn connect(&self) -> TcpStream {
        let address = SocketAddr::from((TARGET, self.listeners.port));
        self.namespace.run(|| connect(address)).unwrap().unwrap()
    }
}

#[tokio::test]
async fn probe_that_waits_to_be_accepted_is_late_and_not_dropped() {
    let stalled = Stalled::new("stalled");
    let late = stalled.probe(false).await.unwrap_err();
    assert!(matches!(late, ProbeError::Busy(_)), "{late}");
    assert_eq!(late.is_late(), Some(true));
}

/// The kernel drops SYNs to a listener whose queue is full: the handshake is not done, and no firewall is to blame.
#[tokio::test]
async fn probe_of_a_full_queue_is_late_and_not_dropped() {
    let stalled = Stalled::new("full");
    let waiting = [stalled.connect(), stalled.connect()];
    let late = stalled.probe(false).await.unwrap_err();
    assert!(matches!(late, ProbeError::Busy(_)), "{late}");
    drop(waiting);
}

#[tokio::test]
async fn probe_that_a_firewall_drops_is_lost_though_nobody_accepts() {
    let stalled = Stalled::new("lost");
    let drops = "table ip t { chain c { type filter hook output priority 0; ip daddr 127.0.0.0/8 drop; }; }";
    stalled.pod.nft(drops);
    let lost = stalled.probe(false).await.unwrap_err();
    assert!(matches!(lost, ProbeError::Lost(_)), "{lost}");
    assert_eq!(lost.is_late(), None);
}

#[tokio::test]
async fn probe_that_is_redirected_to_a_silent_listener_is_unanswered() {
    let stalled = Stalled::new("silent");
    let other = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4711));
    let _silent = stalled.namespace.run(other).unwrap().unwrap();
    let redirects = "table ip t { chain c { type nat hook output priority -100; ip daddr 127.0.0.0/8 tcp dport 28000-29000 redirect to :4711; }; }";
    stalled.pod.nft(redirects);
    let unanswered = stalled.probe(false).await.unwrap_err();
    assert!(matches!(unanswered, ProbeError::Unanswered(_)), "{unanswered}");
    assert_eq!(unanswered.is_late(), Some(false));
}

/// IPv6 would else be turned off for the ten minutes until it is asked again.
#[tokio::test]
async fn late_probe_over_ipv6_does_not_turn_ipv6_off() {
    let stalled = Stalled::new("late6");
    stalled.listeners.v4.set_nonblocking(false).unwrap();
    let v4 = stalled.listeners.v4.try_clone().unwrap();
    let answers = std::thread::spawn(move || v4.accept().unwrap().0.write_all(TOKEN.as_bytes()));
    let late = stalled.probe(true).await.unwrap_err();
    assert!(
        matches!(late, ProbeError::Busy(address) if address.is_ipv6()),
        "{late}"
    );
    answers.join().unwrap().unwrap();
}

#[tokio::test]
async fn steered_pod_stays_steered_while_the_agent_is_busy() {
    let pod = Named::up("busy");
    pod.inside(&["address", "add", "10.251.9.1/32", "dev", "lo"]);
    let mut room = Room::start(TOKEN);
    room.want(&[("a", pod.reference())]);
    room.status_where("a", |pod| pod.state == PodState::Steered).await;

    room.stalled.send_replace(true);
    // New addresses are confirmed by a probe at once.
    room.want_specs([PodSpec {
        addresses: ["10.251.9.1".parse().unwrap()].into(),
        ..PodSpec::new(PodId::from("a"), pod.reference())
    }]);
    let status = room.status_where("a", |pod| pod.failures >= 2).await;
    assert_eq!(status.state, PodState::Steered);
    let reason = status.reason.unwrap();
    assert!(reason.contains("the agent is busy"), "{reason}");

    room.stalled.send_replace(false);
    room.status_where("a", |pod| pod.state == PodState::Steered && pod.reason.is_none())
        .await;
    while let Ok(asked) = room.asked.try_recv() {
        assert!(!matches!(asked, Asked::Unsteer { .. }), "{asked:?}");
    }
}
