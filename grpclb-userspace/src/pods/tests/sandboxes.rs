//! Pods as the kubelet and a runtime make them: cgroups named by UIDs, real processes in namespaces of their own. The names
//! are those of both drivers; the hierarchies are those of this machine, v2 and, where there is one, v1.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::*;

/// A node's cgroups, removed at the end with all processes in them.
struct Kubelet {
    root: PathBuf,
}

/// A pod's sandbox. Dropped: its processes end, its cgroup goes.
struct Sandbox {
    cgroup: PathBuf,
    process: Child,
}

impl Kubelet {
    fn v2(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut points = mounts
            .lines()
            .filter(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let point = points.next().and_then(|line| line.split(' ').nth(1)).unwrap();
        Self::at(Path::new(point), name)
    }

    /// In a v1 hierarchy, on a machine that has one.
    fn v1(name: &str) -> Option<Self> {
        let pids = Path::new("/sys/fs/cgroup/pids");
        (pids.join("cgroup.procs").exists()).then(|| Self::at(pids, name))
    }

    fn at(hierarchy: &Path, name: &str) -> Self {
        let root = hierarchy.join(format!("glb-pods-{}-{name}", std::process::id()));
        fs::create_dir(&root).expect("these tests run as root");
        Self { root }
    }

    fn uid() -> Arc<str> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("0b5c9d7e-3b1f-4f6c-9a56-{:06x}{number:06x}", std::process::id()).into()
    }

    /// A container's process, in a namespace of its own with `lo` up and this address. It enters the cgroup first and the
    /// namespace then, as runc does.
    fn sandbox(&self, pod: &str, address: Option<&str>) -> Sandbox {
        let address = address.map_or(String::new(), |address| {
            format!("ip addr add {address} dev lo &&")
        });
        self.run(
            pod,
            &format!("exec unshare --net sh -c '{address} ip link set lo up && exec sleep 1000'"),
        )
    }

    fn run(&self, pod: &str, command: &str) -> Sandbox {
        let pod = self.root.join(pod);
        let cgroup = pod.join("4f6f0d8b2b0c");
        fs::create_dir_all(&cgroup).unwrap();
        let script = format!("echo $$ > {}/cgroup.procs && {command}", cgroup.display());
        let process = Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Sandbox { cgroup, process }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        fn remove(cgroup: &Path) {
            for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    remove(&entry.path());
                }
            }
            let _ = fs::remove_dir(cgroup);
        }
        remove(&self.root);
    }
}

impl Sandbox {
    fn netns(&self) -> Netns {
        Netns::open(&NetnsRef::Pid(self.process.id())).unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir(&self.cgroup);
    }
}

fn wanted(uid: &Arc<str>) -> PodSpec {
    PodSpec::new(Arc::clone(uid), NetnsRef::Sandbox(Arc::clone(uid)))
}

fn with_addresses(uid: &Arc<str>, addresses: &[&str]) -> PodSpec {
    PodSpec {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ..wanted(uid)
    }
}

/// The pod's cgroup with the cgroupfs driver.
fn cgroupfs(uid: &str) -> String {
    format!("kubepods/besteffort/pod{uid}")
}

/// The pod's cgroup with systemd's.
fn systemd(uid: &str) -> String {
    let uid = uid.replace('-', "_");
    format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice")
}

async fn steered(room: &mut Room, uid: &str) -> PodStatus {
    room.status_where(uid, |pod| pod.state == PodState::Steered).await
}

#[tokio::test]
async fn a_sandbox_is_found_by_its_uid_in_every_hierarchy_and_under_both_drivers() {
    let kubelets = [
        Some(Kubelet::v2("layouts")),
        Kubelet::v1("layouts"),
        Some(Kubelet::v2("nested")),
    ];
    for kubelet in kubelets.into_iter().flatten() {
        let mut room = Room::start(TOKEN);
        for name in [cgroupfs, systemd] {
            let uid = Kubelet::uid();
            let sandbox = kubelet.sandbox(&name(&uid), None);
            room.want_specs([wanted(&uid)]);
            let status = steered(&mut room, &uid).await;
            assert_eq!(status.cookie, Some(sandbox.netns().cookie()));
        }
    }
}

/// The agent knows of the pod before its sandbox is there: nothing waits for a retry or a resync.
#[tokio::test]
async fn a_sandbox_that_comes_later_is_steered_within_moments() {
    let kubelet = Kubelet::v2("later");
    let mut room = Room::start(TOKEN);
    // Until the first pod of all, there is no cgroup of the kubelet: only the resync finds the first one here.
    fs::create_dir_all(kubelet.root.join("kubepods")).unwrap();
    let mut took = Vec::new();
    for _ in 0..3 {
        let uid = Kubelet::uid();
        room.want_specs([wanted(&uid)]);
        // By now the next retry is 1.6 s away.
        room.status_where(&uid, |pod| pod.failures >= 5).await;
        // The first one makes the cgroup of its class, too.
        let sandbox = kubelet.sandbox(&cgroupfs(&uid), None);
        let status = steered(&mut room, &uid).await;
        assert_eq!(status.cookie, Some(sandbox.netns().cookie()));
        took.push(status.ready_after.expect("it is told how long it took"));
    }
    took.sort();
    println!("from the sandbox's cgroup to a steered pod: {took:?}");
    assert!(took[took.len() / 2] < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_pod_in_the_network_of_its_node_is_left_alone_and_told() {
    let (kubelet, node) = (Kubelet::v2("host"), Named::up("node"));
    let mut room = Room::start(TOKEN);
    let (machine, of_node) = (Kubelet::uid(), Kubelet::uid());
    // In the namespace of this machine, and in that of a node that is a namespace itself.
    let first = kubelet.run(&cgroupfs(&machine), "exec sleep 1000");
    let second = kubelet.root.join(cgroupfs(&of_node)).join("1");
    fs::create_dir_all(&second).unwrap();
    let script = format!("sleep 1000 & echo $! > {}/cgroup.procs; wait", second.display());
    let mut runtime = Command::new("nsenter")
        .args([&format!("--net=/run/netns/{}", node.0), "sh", "-c", &script])
        .spawn()
        .unwrap();
    room.want_specs([wanted(&machine), wanted(&of_node)]);
    for uid in [&machine, &of_node] {
        let status = room
            .status_where(uid, |pod| {
                pod.reason
                    .as_deref()
                    .is_some_and(|reason| reason.contains("namespace of the node"))
            })
            .await;
        assert_eq!(status.state, PodState::Waiting);
    }
    drop(first);
    for pid in fs::read_to_string(second.join("cgroup.procs")).unwrap().lines() {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    runtime.wait().unwrap();
}

#[tokio::test]
async fn a_sandbox_made_anew_is_a_new_incarnation_and_the_old_one_is_reset() {
    let kubelet = Kubelet::v2("anew");
    let mut room = Room::start(TOKEN);
    let uid = Kubelet::uid();
    let first = kubelet.sandbox(&cgroupfs(&uid), Some("10.250.0.1/32"));
    room.want_specs([with_addresses(&uid, &["10.250.0.1"])]);
    let old = steered(&mut room, &uid).await;
    drop(first);
    // The API still tells the address of the old one; that must not keep the new one from being steered.
    let second = kubelet.sandbox(&cgroupfs(&uid), Some("10.250.0.2/32"));
    let new = room
        .status_where(&uid, |pod| {
            pod.state == PodState::Steered && pod.cookie != old.cookie
        })
        .await;
    assert_eq!(new.addresses, ["10.250.0.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(new.cookie, Some(second.netns().cookie()));
    let mut asked = Vec::new();
    while let Ok(next) = room.asked.try_recv() {
        asked.push(next);
    }
    let reset = Asked::Leave {
        incarnation: uid.to_string(),
        how: Leave::Reset,
    };
    let unsteer = Asked::Unsteer {
        cookie: old.cookie.unwrap(),
    };
    let place = |wanted: &Asked| asked.iter().position(|asked| asked == wanted);
    assert!(
        place(&unsteer).is_some() && place(&unsteer) < place(&reset),
        "{asked:?}"
    );

    room.want_specs([with_addresses(&uid, &["10.250.0.2"])]);
    room.want_specs([with_addresses(&uid, &["10.250.0.2"]), wanted(&Kubelet::uid())]);
    assert_eq!(steered(&mut room, &uid).await.incarnation, new.incarnation);
}

#[tokio::test]
async fn addresses_that_the_namespace_has_not_unsteer_the_pod_until_they_are_put_right() {
    let kubelet = Kubelet::v2("confirm");
    let mut room = Room::start(TOKEN);
    let uid = Kubelet::uid();
    let _sandbox = kubelet.sandbox(&cgroupfs(&uid), Some("10.250.0.1/32"));
    room.want_specs([wanted(&uid)]);
    let before = steered(&mut room, &uid).await;
    room.want_specs([with_addresses(&uid, &["10.250.0.9"])]);
    let status = room
        .status_where(&uid, |pod| pod.state == PodState::Probing && pod.failures > 0)
        .await;
    assert!(
        status
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("10.250.0.9"))
    );
    room.want_specs([with_addresses(&uid, &["10.250.0.1", "fd00::1"])]);
    let after = room
        .status_where(&uid, |pod| pod.state == PodState::Steered && pod.reason.is_none())
        .await;
    assert_eq!(after.incarnation, before.incarnation);
}

/// As with CRI-O: the sandbox is a name in `/run/netns` and no process.
#[tokio::test]
async fn a_sandbox_without_a_process_is_found_by_its_address() {
    let named = Named::up("named");
    named.inside(&["addr", "add", "10.250.7.7/32", "dev", "lo"]);
    let mut room = Room::start(TOKEN);
    let uid = Kubelet::uid();
    let kubelet = Kubelet::v2("named");
    fs::create_dir_all(kubelet.root.join(cgroupfs(&uid))).unwrap();
    room.want_specs([wanted(&uid)]);
    room.status_where(&uid, |pod| pod.failures > 0).await;
    room.want_specs([with_addresses(&uid, &["10.250.7.7"])]);
    let status = steered(&mut room, &uid).await;
    assert_eq!(status.cookie, Some(named.open().cookie()));
}

/// A probe over IPv6 cannot say that it is one: each would be counted as a stranger.
#[tokio::test]
async fn a_pod_that_is_proved_again_is_asked_over_ipv4_only() {
    let kubelet = Kubelet::v2("again");
    let mut room = Room::start(TOKEN);
    let uid = Kubelet::uid();
    let _sandbox = kubelet.sandbox(&cgroupfs(&uid), Some("10.250.0.1/32"));
    room.want_specs([wanted(&uid)]);
    assert!(steered(&mut room, &uid).await.ipv6);
    // What more becomes known is confirmed by another probe.
    room.want_specs([with_addresses(&uid, &["10.250.0.1"])]);
    let probed_again = async {
        while room.accepted[0].load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, probed_again).await.unwrap();
    room.want_specs([with_addresses(&uid, &["10.250.0.1", "10.250.0.2"])]);
    while room.accepted[0].load(Ordering::Relaxed) < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(room.accepted[1].load(Ordering::Relaxed), 1);
    assert!(steered(&mut room, &uid).await.ipv6);
}

#[tokio::test]
async fn ports_that_its_containers_declare_are_left_to_the_pod() {
    let kubelet = Kubelet::v2("ports");
    let mut room = Room::start(TOKEN);
    let uid = Kubelet::uid();
    let _sandbox = kubelet.sandbox(&cgroupfs(&uid), None);
    room.want_specs([PodSpec {
        ports: [PORTS[0], PORTS[1]].into(),
        ..wanted(&uid)
    }]);
    assert_eq!(steered(&mut room, &uid).await.port, Some(PORTS[2]));
}

#[tokio::test]
async fn a_hundred_short_lived_pods_leave_no_descriptor_behind() {
    let kubelet = Kubelet::v2("jobs");
    let mut room = Room::start(TOKEN);
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mut flat = None;
    for round in 0..10 {
        let uids: Vec<_> = (0..10).map(|_| Kubelet::uid()).collect();
        room.want_specs(uids.iter().map(wanted));
        let sandboxes: Vec<_> = uids
            .iter()
            .map(|uid| kubelet.sandbox(&cgroupfs(uid), None))
            .collect();
        for uid in &uids {
            steered(&mut room, uid).await;
        }
        drop(sandboxes);
        for uid in &uids {
            room.status_where(uid, |pod| pod.cookie.is_none()).await;
        }
        room.want_specs([]);
        let empty = async {
            while !room.status.borrow_and_update().is_empty() {
                room.status.changed().await.unwrap();
            }
        };
        tokio::time::timeout(LIMIT, empty).await.unwrap();
        // The other tests of this process have descriptors too, so: a bound far below what a hundred pods would leave.
        let flat = *flat.get_or_insert_with(open);
        assert!(open() < flat + 150, "round {round}: {flat} became {}", open());
    }
}

#[tokio::test]
async fn the_kernel_is_told_a_pods_name_and_not_its_uid() {
    let pod = Named::up("name");
    let cookie = pod.open().cookie();
    let mut room = Room::start(TOKEN);
    let spec = PodSpec {
        name: "shop/cart".into(),
        ..PodSpec::new("0f1d5b0c-2f6e-4a0e-9d5e-0a4c5f6b7a81".into(), pod.reference())
    };
    room.want_specs([spec]);
    room.asked().await;
    assert_eq!(room.asked().await, super::steered("shop/cart", cookie, true));
}
