//! The connect hooks: what is steered arrives as its Service with true names, and each reason to leave a connect alone
//! leaves it exactly as it would have been and is counted.

#![allow(clippy::unwrap_used)] // what fails here is a test that fails

mod kernel_support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use grpclb_userspace::kernel::{Kernel, MachineClock};
use kernel_support::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;

/// A pod that is enabled and a Service that is known, with a fresh heartbeat.
struct World {
    pod: Pod,
    listeners: Listeners,
    kernel: Kernel,
    machine: Machine,
}

impl World {
    fn new() -> Self {
        let machine = Machine::new();
        let mut kernel = machine.attached("one");
        let pod = Pod::new();
        let listeners = pod.listen();
        kernel.heartbeat().beat(0);
        pod.enable(&mut kernel);
        put_service(&mut kernel, 3);
        Self {
            pod,
            listeners,
            kernel,
            machine,
        }
    }

    /// Dials a Service with a socket that `prepare` has changed; where did it come out, what was counted?
    fn dial(
        &mut self,
        service: SocketAddr,
        prepare: impl FnOnce(&Socket),
    ) -> (Arrival, Vec<(&'static str, u64)>) {
        self.kernel.heartbeat().beat(0);
        let Self {
            pod,
            listeners,
            kernel,
            ..
        } = self;
        let mut arrived = None;
        let counted = moved(kernel, |kernel| {
            let socket = pod.socket(service);
            prepare(&socket);
            socket
                .connect(&service.into())
                .expect("a connect never fails for our sake");
            arrived = Some(arrival(pod, listeners, &kernel.identify()));
        });
        (arrived.unwrap(), counted)
    }

    /// As [`World::dial`], for what must go the plain way and count `reason` alone.
    fn left_alone(&mut self, service: SocketAddr, reason: &'static str, prepare: impl FnOnce(&Socket)) {
        assert_eq!(self.dial(service, prepare), (Arrival::Plain, vec![(reason, 1)]));
    }
}

type Connect = fn(&Socket, SocketAddr);

/// How an application may come to a connected socket.
fn ways_to_connect() -> [(&'static str, Connect); 2] {
    fn blocking(socket: &Socket, service: SocketAddr) {
        socket.connect(&service.into()).unwrap();
    }
    fn non_blocking(socket: &Socket, service: SocketAddr) {
        socket.set_nonblocking(true).unwrap();
        if let Err(error) = socket.connect(&service.into()) {
            assert_eq!(error.raw_os_error(), Some(nix::libc::EINPROGRESS));
            let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            assert_eq!(poll(&mut ready, PollTimeout::from(5000_u16)), Ok(1));
        }
        assert!(socket.take_error().unwrap().is_none());
        socket.set_nonblocking(false).unwrap();
    }
    [("blocking", blocking), ("non-blocking", non_blocking)]
}

#[test]
fn a_steered_connect_arrives_as_its_service_and_both_names_are_what_the_application_expects() {
    let world = World::new();
    let identify = world.kernel.identify();
    for service in [service4(), service6(), service_mapped()] {
        for (way, connect) in ways_to_connect() {
            let mut client = world.pod.socket(service);
            connect(&client, service);
            let (mut server, slot) = world
                .listeners
                .accept(&identify)
                .expect("it arrives at the agent");
            assert_eq!(slot, Some(kernel_support::slot()), "{service} {way}");
            assert!(!world.pod.plain_arrived());

            let (own, peer) = names(&client);
            assert_eq!(peer, service, "{way}: getpeername answers what was dialled");
            let pod = if service == service6() {
                POD6.into()
            } else {
                std::net::IpAddr::from(POD4)
            };
            assert_eq!(
                own.ip().to_canonical(),
                pod,
                "{service} {way}: getsockname answers the pod's address"
            );
            assert_eq!(own.is_ipv4(), service.is_ipv4());
            assert_eq!(
                own.port(),
                server.peer_addr().unwrap().port(),
                "and the port that the socket has"
            );
            exchange(&mut client, &mut server);
        }
    }
}

#[test]
fn a_client_bound_to_the_pods_address_is_steered_from_that_address() {
    let world = World::new();
    for (service, own) in [
        (service4(), SocketAddr::from((POD4, 0))),
        (service6(), SocketAddr::from((POD6, 0))),
    ] {
        let client = world.pod.socket(service);
        client.bind(&own.into()).unwrap();
        client.connect(&service.into()).unwrap();
        let (server, slot) = world.listeners.accept(&world.kernel.identify()).unwrap();
        assert_eq!(slot, Some(kernel_support::slot()));
        assert_eq!(server.peer_addr().unwrap().ip(), own.ip());
        assert_eq!(names(&client).0.ip(), own.ip());
    }
}

#[test]
fn a_steered_connect_counts_each_of_its_steps_once() {
    let mut world = World::new();
    let (arrived, counted) = world.dial(service4(), |_| {});
    assert_eq!(arrived, Arrival::Agent(Some(kernel_support::slot())));
    assert_eq!(counted, [("steered", 1), ("established", 1)]);

    let (arrived, counted) = world.dial(service6(), |_| {});
    assert_eq!(arrived, Arrival::Agent(Some(kernel_support::slot())));
    assert_eq!(counted, [("steered", 1), ("established", 1), ("flow_claimed", 1)]);
}

#[test]
fn names_are_restored_once_for_each_question() {
    let mut world = World::new();
    for service in [service4(), service6(), service_mapped()] {
        let World { pod, kernel, .. } = &mut world;
        let client = pod.socket(service);
        client.connect(&service.into()).unwrap();
        let counted = moved(kernel, |_| {
            names(&client);
        });
        assert_eq!(counted, [("peer_restored", 1), ("name_restored", 1)], "{service}");
    }
}

#[test]
fn a_socket_that_dials_something_else_later_tells_the_truth_about_it() {
    let mut world = World::new();
    let other = world
        .pod
        .netns
        .run(|| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 7777)).unwrap())
        .unwrap();
    let client = world.pod.socket(service4());
    client.connect(&service4().into()).unwrap();
    disconnect(&client);
    let counted = moved(&mut world.kernel, |_| {
        client.connect(&other.local_addr().unwrap().into()).unwrap();
        let (own, peer) = names(&client);
        assert_eq!(peer, other.local_addr().unwrap());
        assert_eq!(
            own.ip(),
            Ipv4Addr::LOCALHOST,
            "the record of the earlier connect does not speak for this one"
        );
    });
    assert_eq!(counted, [("no_service", 1)]);
}

#[test]
fn udp_is_left_alone() {
    let mut world = World::new();
    let World { pod, kernel, .. } = &mut world;
    let counted = moved(kernel, |_| {
        for (from, to) in [("0.0.0.0:0", service4()), ("[::]:0", service6())] {
            let socket = pod.netns.run(|| UdpSocket::bind(from).unwrap()).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), to);
        }
    });
    assert_eq!(counted, [("not_tcp", 2)]);
}

#[test]
fn a_pod_that_is_not_enabled_is_left_alone() {
    let mut world = World::new();
    world.kernel.remove_pod(world.pod.cookie()).unwrap();
    for service in [service4(), service6(), service_mapped()] {
        world.left_alone(service, "not_enabled", |_| {});
    }
}

#[test]
fn a_service_that_is_not_known_is_left_alone() {
    let mut world = World::new();
    for service in [service4(), service6()] {
        world.kernel.remove_service(service.ip(), SERVICE_PORT).unwrap();
    }
    for service in [service4(), service6(), service_mapped()] {
        world.left_alone(service, "no_service", |_| {});
    }
}

#[test]
fn another_port_of_a_known_service_address_is_left_alone() {
    let mut world = World::new();
    let World { pod, kernel, .. } = &mut world;
    let other = pod
        .netns
        .run(|| std::net::TcpListener::bind((SERVICE4, 9090)).unwrap())
        .unwrap();
    let counted = moved(kernel, |_| {
        let client = pod.socket(service4());
        client
            .connect(&SocketAddr::from((SERVICE4, 9090)).into())
            .unwrap();
        other.accept().unwrap();
    });
    assert_eq!(counted, [("no_service", 1)]);
}

#[test]
fn our_own_sockets_are_left_alone() {
    let mut world = World::new();
    for service in [service4(), service6(), service_mapped()] {
        world.left_alone(service, "own_socket", |socket| {
            socket.set_mark(grpclb_abi::MARK).unwrap();
        });
    }
}

#[test]
fn a_socket_bound_to_a_device_is_left_alone() {
    let mut world = World::new();
    for service in [service4(), service6(), service_mapped()] {
        world.left_alone(service, "bound_device", |socket| {
            socket.bind_device(Some(b"lo")).unwrap();
        });
    }
}

#[test]
fn a_service_without_endpoints_is_left_alone() {
    let mut world = World::new();
    put_service(&mut world.kernel, 0);
    for service in [service4(), service6(), service_mapped()] {
        world.left_alone(service, "no_endpoint", |_| {});
    }
}

#[test]
fn a_worker_that_never_beat_is_stale() {
    let mut world = World::new();
    let entry = grpclb_userspace::kernel::Pod {
        worker: 1,
        ..world.pod.entry()
    };
    world.pod.enable_as(&mut world.kernel, &entry);
    for service in [service4(), service6(), service_mapped()] {
        world.left_alone(service, "stale_heartbeat", |_| {});
    }
}

#[test]
fn a_worker_that_stopped_is_stale_after_half_a_second_and_not_before() {
    let mut world = World::new();
    let World {
        pod,
        kernel,
        listeners,
        ..
    } = &mut world;
    let identify = kernel.identify();
    let beaten = std::time::Instant::now();
    kernel.heartbeat().beat(0);
    let steered_for = loop {
        let client = pod.socket(service4());
        client.connect(&service4().into()).unwrap();
        match arrival(pod, listeners, &identify) {
            Arrival::Agent(_) => assert!(beaten.elapsed() < Duration::from_secs(5), "it never became stale"),
            Arrival::Plain => break beaten.elapsed(),
        }
        // The next look, 10 ms on; nothing else would wake us.
        poll(&mut [], PollTimeout::from(10_u16)).unwrap();
    };
    assert!(steered_for >= Duration::from_millis(500), "{steered_for:?}");
    kernel.heartbeat().beat(0);
    pod.socket(service4()).connect(&service4().into()).unwrap();
    assert_eq!(
        arrival(pod, listeners, &identify),
        Arrival::Agent(Some(kernel_support::slot())),
        "it came back"
    );
}

/// A worker whose clock is ahead and that then stops would otherwise be fresh for as long as its clock was ahead.
#[test]
fn heartbeat_from_further_ahead_than_another_cpu_is_stale() {
    let mut world = World::new();
    let now = MachineClock::new().monotonic().unwrap();
    for (ahead, steered) in [
        (Duration::from_millis(50), true),
        (Duration::from_secs(20), false),
        (Duration::from_hours(24), false),
        (Duration::from_nanos(u64::MAX - now), false),
    ] {
        let beat = now + u64::try_from(ahead.as_nanos()).unwrap();
        world.machine.write_heartbeat(0, beat);
        let World {
            pod,
            kernel,
            listeners,
            ..
        } = &mut world;
        let before = counter(kernel, "stale_heartbeat");
        pod.socket(service4()).connect(&service4().into()).unwrap();
        let arrived = arrival(pod, listeners, &kernel.identify());
        assert_eq!(arrived != Arrival::Plain, steered, "{ahead:?} ahead");
        let counted = counter(kernel, "stale_heartbeat") - before;
        assert_eq!(counted, u64::from(!steered), "{ahead:?} ahead");
    }
}

/// `bpf_ktime_get_ns` is the machine's clock in every time namespace.
#[test]
fn heartbeats_from_a_time_namespace_are_written_in_the_machines_clock() {
    const INSIDE: &str = "GRPCLB_TEST_IN_TIME_NAMESPACE";
    const NAME: &str = "heartbeats_from_a_time_namespace_are_written_in_the_machines_clock";
    if std::env::var_os(INSIDE).is_some() {
        // Attaching has proved it already: that connect is steered by real heartbeats as well.
        let mut world = World::new();
        let arrived = world.dial(service4(), |_| {}).0;
        assert_eq!(arrived, Arrival::Agent(Some(kernel_support::slot())));
        let stops = Duration::from_millis(700);
        poll(&mut [], PollTimeout::try_from(stops).unwrap()).unwrap();
        let World {
            pod,
            listeners,
            kernel,
            ..
        } = &mut world;
        pod.socket(service4()).connect(&service4().into()).unwrap();
        assert_eq!(arrival(pod, listeners, &kernel.identify()), Arrival::Plain);
        return;
    }
    if !std::path::Path::new("/proc/self/timens_offsets").exists() {
        eprintln!("this kernel has no time namespaces");
        return;
    }
    for offset in ["100000", "-30"] {
        let inside = Command::new("unshare")
            .args([
                "--time",
                "--fork",
                "--monotonic",
                offset,
                "--boottime",
                offset,
                "--",
            ])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&inside.stderr);
        let ran = String::from_utf8_lossy(&inside.stdout);
        assert!(
            inside.status.success() && ran.contains("1 passed"),
            "{offset} s: {ran} {said}"
        );
    }
}

#[test]
fn a_pod_without_ipv6_loopback_is_left_alone_over_ipv6_and_steered_over_ipv4() {
    let mut world = World::new();
    let entry = grpclb_userspace::kernel::Pod {
        ipv6: false,
        ..world.pod.entry()
    };
    world.pod.enable_as(&mut world.kernel, &entry);
    world.left_alone(service6(), "no_ipv6", |_| {});
    assert_eq!(
        world.dial(service_mapped(), |_| {}).0,
        Arrival::Agent(Some(kernel_support::slot()))
    );
}

#[test]
fn a_connect_whose_record_finds_no_room_is_left_alone() {
    let mut world = World::new();
    // What a socket may hold for others is bounded by this setting of its namespace; now there is no room for a record.
    let limit = "/proc/sys/net/core/optmem_max";
    world
        .pod
        .netns
        .run(|| std::fs::write(limit, "0").unwrap())
        .unwrap();
    for service in [service4(), service6(), service_mapped()] {
        world.left_alone(service, "no_record", |_| {});
    }
}
