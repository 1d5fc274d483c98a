//! A machine for the kernel tests: a cgroup of its own with this process in it, pods as network namespaces without a name,
//! and the kernel room attached to that cgroup. Everything goes with the process, however it ends; what a killed run left
//! (an empty cgroup, pins without an owner) is swept at the next start.
#![allow(dead_code, unreachable_pub, unused_imports)] // each test binary uses its part of it
#![allow(clippy::unwrap_used, clippy::unused_self)] // a helper that fails is a test that fails

mod machine;
mod pod;
pub mod program;

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use grpclb_abi::Slot;
use grpclb_userspace::kernel::{self, Kernel};
use nix::poll::{PollTimeout, poll};
use socket2::{SockAddr, Socket};

pub use machine::{Machine, enter};
pub use pod::{Arrival, Listeners, Pod, arrival};

pub const SERVICE4: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 1);
pub const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 7, 1);
pub const SERVICE_PORT: u16 = 50_051;
pub const POD4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 1, 7);
pub const LISTENER_PORT: u16 = 15_021;

/// A Service's slot that tests use.
pub fn slot() -> Slot {
    Slot::new(0x12_34_56).unwrap()
}

/// Makes the Service known on both addresses.
pub fn put_service(kernel: &mut Kernel, endpoints: u32) {
    let service = kernel::Service {
        name: "shop/orders:grpc".into(),
        slot: slot(),
        endpoints,
        http2: true,
    };
    for address in [IpAddr::from(SERVICE4), IpAddr::from(SERVICE6)] {
        kernel.put_service(address, SERVICE_PORT, &service).unwrap();
    }
}

pub fn service4() -> SocketAddr {
    (SERVICE4, SERVICE_PORT).into()
}

pub fn service6() -> SocketAddr {
    (SERVICE6, SERVICE_PORT).into()
}

/// The IPv4 Service as an IPv6 socket dials it.
pub fn service_mapped() -> SocketAddr {
    (SERVICE4.to_ipv6_mapped(), SERVICE_PORT).into()
}

/// What a counter stands at.
pub fn counter(kernel: &Kernel, name: &str) -> u64 {
    let counters = kernel.counters();
    counters
        .iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("no counter {name}"))
        .1
}

/// The counters that moved while `act` ran, and by how much.
pub fn moved(kernel: &mut Kernel, act: impl FnOnce(&mut Kernel)) -> Vec<(&'static str, u64)> {
    let before = kernel.counters();
    act(kernel);
    let after = kernel.counters();
    before
        .iter()
        .zip(after)
        .filter(|((_, before), (_, after))| after != before)
        .map(|((name, before), (_, after))| (*name, after - before))
        .collect()
}

/// Looks again and again, for ten seconds, at something that tells nobody when it happens.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "waited in vain until {what}"
        );
        poll(&mut [], PollTimeout::from(5_u16)).unwrap();
    }
}

/// Both names of a socket.
pub fn names(socket: &Socket) -> (SocketAddr, SocketAddr) {
    let address = |address: io::Result<SockAddr>| address.unwrap().as_socket().unwrap();
    (address(socket.local_addr()), address(socket.peer_addr()))
}

/// `connect(AF_UNSPEC)`: afterwards the socket has no peer.
pub fn disconnect(socket: &Socket) {
    program::disconnect(socket).unwrap();
}

/// Sends a few bytes there and back, to prove that it is one connection.
pub fn exchange(client: &mut impl Exchange, server: &mut TcpStream) {
    client.send_all(b"ping").unwrap();
    let mut read = [0; 4];
    server.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"ping");
    server.write_all(b"pong").unwrap();
    client.receive(&mut read).unwrap();
    assert_eq!(&read, b"pong");
}

/// A stream, whatever type it has.
pub trait Exchange {
    fn send_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<()>;
}

impl Exchange for Socket {
    fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        // Blocking readers of sk_msg see EAGAIN now and then (measured; one reason why it is an opt-in).
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read(&mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
