//! The listener in a pod's namespace: on its loopback, unreachable from anywhere else.
//!
//! Makes sockets and hands them on; accepts nothing itself. Our port is taken from the pod (its own bind to it fails), so
//! the ports are few, documented and where nothing else looks for one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// The ports that the agent's listeners use, the first free one of them: outside the ephemeral range (32768 to 60999) and
/// the `NodePort` range (30000 to 32767), unassigned at IANA. More than one, since an application may hold one and an
/// agent's successor needs another.
pub const PORTS: [u16; 8] = [28651, 28659, 28667, 28673, 28681, 28687, 28693, 28697];

/// Connections that wait to be accepted; the namespace's `somaxconn` may lower it.
const BACKLOG: i32 = 4096;

/// The listening sockets of one pod, non-blocking, on one port.
#[derive(Debug)]
pub struct Listeners {
    /// On 0.0.0.0, bound to the device `lo`: every 127.S.S.S comes here, nothing from outside does.
    pub v4: TcpListener,
    /// On `[::1]`; not there where the namespace has no IPv6.
    pub v6: Option<TcpListener>,
    pub port: u16,
}

/// The pod's own addresses, as its namespace has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot enter {name}: {source}")]
    Enter { name: String, source: io::Error },
    #[error(
        "the loopback interface of the pod is down (a young namespace? `ip link set lo up` is its runtime's part)"
    )]
    LoopbackDown,
    #[error("the pod's own processes hold or declare all of the ports {PORTS:?}: free one of them")]
    NoFreePort,
    #[error("cannot listen on the pod's loopback: {0}")]
    Socket(#[from] io::Error),
}

/// Opens the listeners within the namespace, on none of the ports that the pod's containers `declared`.
pub(super) fn listen(namespace: &Netns, declared: &[u16]) -> Result<Listeners, ListenError> {
    namespace
        .run(|| listen_here(declared))
        .map_err(|source| ListenError::Enter {
            name: namespace.name().to_owned(),
            source,
        })?
}

impl Addresses {
    /// The first one of each family; runtimes give `eth0` first.
    pub(super) fn first_of(all: &[IpAddr]) -> Self {
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        };
        let v6 = |address: &IpAddr| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(*v6),
        };
        Self {
            v4: all.iter().find_map(v4),
            v6: all.iter().find_map(v6),
        }
    }
}

/// The addresses of the namespace that are not local to the machine or the link, in the order of its interfaces.
pub(super) fn addresses(namespace: &Netns) -> io::Result<Vec<IpAddr>> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        if let Some(v4) = address.as_sockaddr_in() {
            let v4 = v4.ip();
            return (!v4.is_loopback() && !v4.is_link_local()).then_some(IpAddr::V4(v4));
        }
        let v6 = address.as_sockaddr_in6()?.ip();
        (!v6.is_loopback() && !v6.is_unicast_link_local()).then_some(IpAddr::V6(v6))
    };
    Ok(namespace.run(getifaddrs)??.filter_map(address).collect())
}

fn listen_here(declared: &[u16]) -> Result<Listeners, ListenError> {
    // [::1] exists only while lo is up, and a probe would fail: better to say so and come back.
    if !loopback_is_up()? {
        return Err(ListenError::LoopbackDown);
    }
    // A container that declares one and is not listening yet must find it free.
    for port in PORTS.into_iter().filter(|port| !declared.contains(port)) {
        match listen_on(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return Ok(outcome?),
        }
    }
    Err(ListenError::NoFreePort)
}

fn listen_on(port: u16) -> io::Result<Listeners> {
    let v4 = open(Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    let v6 = match open(Domain::IPV6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
        Ok(socket) => Some(socket),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "no IPv6 on a pod's loopback");
            None
        }
    };
    Ok(Listeners { v4, v6, port })
}

fn open(domain: Domain, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    // Connections in TIME_WAIT from a former agent do not hold the port; a listener of anyone still does.
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(b"lo"))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn loopback_is_up() -> io::Result<bool> {
    Ok(getifaddrs()?.any(|interface| {
        interface.interface_name == "lo" && interface.flags.contains(InterfaceFlags::IFF_UP)
    }))
}
