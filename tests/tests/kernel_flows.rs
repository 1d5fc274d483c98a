//! `sock_ops` and `sk_msg`: the Service of IPv6 connections, strangers at the listener, and the acceleration that a pod may
//! opt in to.

#![allow(clippy::unwrap_used)] // what fails here is a test that fails

mod kernel_support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use grpclb_userspace::kernel::{self, Kernel};
use kernel_support::*;

fn steered_pod(kernel: &mut Kernel, accelerate: bool) -> (Pod, Listeners) {
    let pod = Pod::new();
    let listeners = pod.listen();
    kernel.heartbeat().beat(0);
    pod.enable_as(
        kernel,
        &kernel::Pod {
            accelerate,
            ..pod.entry()
        },
    );
    put_service(kernel, 3);
    (pod, listeners)
}

#[test]
fn a_process_that_dials_the_listener_by_itself_has_no_service_and_is_counted() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let (pod, listeners) = steered_pod(&mut kernel, false);
    let listener = SocketAddr::from((Ipv6Addr::LOCALHOST, LISTENER_PORT));
    let counted = moved(&mut kernel, |_| {
        pod.socket(listener).connect(&listener.into()).unwrap();
    });
    assert_eq!(counted, [("no_service", 1), ("flow_unknown", 1)]);
    let (_, slot) = listeners.accept(&kernel.identify()).unwrap();
    assert_eq!(slot, None);
}

#[test]
fn a_connection_whose_service_cannot_be_kept_has_none_and_is_counted() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let (pod, listeners) = steered_pod(&mut kernel, false);
    // Hold the handshake until the listener's sockets have no room for a record.
    pod.command("nft", &["add", "table", "inet", "t"]);
    pod.command(
        "nft",
        &["add chain inet t c { type filter hook input priority 0; }"],
    );
    pod.command("nft", &["add rule inet t c tcp dport 15021 drop"]);
    kernel.heartbeat().beat(0);
    let client = pod.socket(service6());
    client.set_nonblocking(true).unwrap();
    assert_eq!(
        client.connect(&service6().into()).unwrap_err().raw_os_error(),
        Some(nix::libc::EINPROGRESS)
    );
    pod.netns
        .run(|| std::fs::write("/proc/sys/net/core/optmem_max", "0").unwrap())
        .unwrap();
    let identify = kernel.identify();
    let counted = moved(&mut kernel, |_| {
        pod.command("nft", &["delete", "table", "inet", "t"]);
        let mut arrived = None;
        wait_until("the second SYN arrives", || {
            arrived = listeners.accept(&identify);
            arrived.is_some()
        });
        assert_eq!(arrived.unwrap().1, None, "the agent will reset it");
    });
    assert_eq!(counted, [("established", 1), ("flow_lost", 1)]);
}

#[test]
fn every_one_of_many_ipv6_connections_finds_its_own_service() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let (pod, listeners) = steered_pod(&mut kernel, false);
    let service = |n: u16| SocketAddr::from((SERVICE6, SERVICE_PORT + n));
    let slot = |n: u16| grpclb_abi::Slot::new(0x20_00_00 + u32::from(n)).unwrap();
    for n in 1..=50 {
        let entry = kernel::Service {
            name: format!("many/{n}").into(),
            slot: slot(n),
            endpoints: 1,
            http2: false,
        };
        kernel
            .put_service(SERVICE6.into(), SERVICE_PORT + n, &entry)
            .unwrap();
    }
    let identify = kernel.identify();
    // Closed at once, so that the kernel reuses source ports.
    for round in 0..40 {
        kernel.heartbeat().beat(0);
        for n in 1..=50 {
            let client = pod.socket(service(n));
            client.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            client.connect(&service(n).into()).unwrap();
            let (_, found) = listeners.accept(&identify).unwrap();
            assert_eq!(found, Some(slot(n)), "round {round}");
        }
    }
    assert_eq!(counter(&kernel, "flow_lost"), 0);
}

#[test]
fn a_pod_that_opted_in_has_its_messages_handed_over_and_byte_exact() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let (pod, listeners) = steered_pod(&mut kernel, true);
    for service in [service4(), service6(), service_mapped()] {
        kernel.heartbeat().beat(0);
        let mut client = pod.socket(service);
        let mut server = None;
        let counted = moved(&mut kernel, |kernel| {
            client.connect(&service.into()).unwrap();
            server = listeners.accept(&kernel.identify());
        });
        assert!(counted.contains(&("accelerated", 2)), "{service}: {counted:?}");
        let (mut server, slot) = server.unwrap();
        assert_eq!(slot, Some(kernel_support::slot()));

        let counted = moved(&mut kernel, |_| {
            exchange(&mut client, &mut server);
            let sent: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
            let mut received = vec![0; sent.len()];
            std::thread::scope(|scope| {
                scope.spawn(|| server.write_all(&sent).unwrap());
                client.receive(&mut received).unwrap();
            });
            assert!(received == sent, "byte-exact");
        });
        let redirected = counted
            .iter()
            .find(|(name, _)| *name == "redirected")
            .map_or(0, |(_, n)| *n);
        assert!(redirected >= 3, "{service}: {counted:?}");
        assert!(
            counted.iter().all(|(name, _)| *name == "redirected"),
            "{service}: {counted:?}"
        );

        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0, "its end is an end");
    }
}

#[test]
fn a_message_to_an_end_that_sk_msg_does_not_know_goes_by_tcp() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let (pod, listeners) = steered_pod(&mut kernel, true);
    let mut client = pod.socket(service4());
    client.connect(&service4().into()).unwrap();
    let (mut server, _) = listeners.accept(&kernel.identify()).unwrap();
    // The listener's end leaves the table, as after a failed entry; the client's stays.
    pod.forget_listener_end(&machine, &server);
    let counted = moved(&mut kernel, |_| {
        client.write_all(b"ping").unwrap();
        let mut read = [0; 4];
        server.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"ping");
    });
    assert_eq!(counted, [("not_redirected", 1)]);
}

#[test]
fn a_socket_that_sk_msg_cannot_take_uses_plain_tcp() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let (pod, listeners) = steered_pod(&mut kernel, true);
    // Another socket stands where the client's would.
    let own = SocketAddr::from((POD4, 40_001));
    let listener = SocketAddr::from((slot().to_ipv4(), LISTENER_PORT));
    let (squatter, _other_end) = pod.netns.run(pair).unwrap();
    program::put_socket(&machine.sockets_pin(), &pod.flow_key(own, listener), &squatter).unwrap();
    let counted = moved(&mut kernel, |kernel| {
        let mut client = pod.socket(service4());
        client.set_reuse_address(true).unwrap();
        client.bind(&own.into()).unwrap();
        client.connect(&service4().into()).unwrap();
        let (mut server, _) = listeners.accept(&kernel.identify()).unwrap();
        client.write_all(b"ping").unwrap();
        let mut read = [0; 4];
        server.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"ping");
    });
    assert_eq!(
        counted,
        [
            ("steered", 1),
            ("established", 1),
            ("accelerated", 1),
            ("accelerate_failed", 1)
        ]
    );
}

/// Two ends of a connection that has nothing to do with us.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    #[allow(clippy::disallowed_methods)] // loopback, in the test's namespace
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

#[test]
fn a_pod_that_did_not_opt_in_uses_plain_tcp() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let (pod, listeners) = steered_pod(&mut kernel, false);
    let counted = moved(&mut kernel, |kernel| {
        let mut client = pod.socket(service4());
        client.connect(&service4().into()).unwrap();
        let (mut server, _) = listeners.accept(&kernel.identify()).unwrap();
        exchange(&mut client, &mut server);
    });
    assert_eq!(counted, [("steered", 1), ("established", 1)]);
}
