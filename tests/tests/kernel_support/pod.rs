//! Pods as network namespaces without a name, the agent's listeners in them, and where a connect comes out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use grpclb_abi::Slot;
use grpclb_userspace::kernel::{self, Identify, Kernel};
use grpclb_userspace::model::NetnsRef;
use grpclb_userspace::netns::Netns;
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

use super::{LISTENER_PORT, Machine, POD4, POD6, SERVICE_PORT, SERVICE4, SERVICE6, wait_until};

/// A network namespace that stands for a pod: `lo` carries its addresses and the Service's, where a listener answers what
/// goes the plain way.
pub struct Pod {
    pub netns: Netns,
    plain4: TcpListener,
    plain6: TcpListener,
}

/// Where a connect came out.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// At the agent's listener, as this Service.
    Agent(Option<Slot>),
    /// Where it would have gone without us.
    Plain,
}

impl Pod {
    pub fn new() -> Self {
        let netns = fresh_netns();
        ip(&netns, &["link", "set", "lo", "up"]);
        for address in [
            format!("{POD4}/32"),
            format!("{SERVICE4}/32"),
            format!("{POD6}/128"),
            format!("{SERVICE6}/128"),
        ] {
            ip(&netns, &["addr", "add", &address, "dev", "lo", "nodad"]);
        }
        // The kernel makes IPv6 addresses local in its own time, also without duplicate detection. Then, and not before,
        // a port on which nobody listens refuses.
        let is_local = |address: Ipv6Addr| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
            let answer = socket.connect(&SocketAddr::from((address, 9)).into());
            answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        wait_until("its IPv6 addresses are local", || {
            netns.run(|| is_local(POD6) && is_local(SERVICE6)).unwrap()
        });
        let bind = |address: IpAddr| {
            netns
                .run(|| TcpListener::bind((address, SERVICE_PORT)).unwrap())
                .unwrap()
        };
        let (plain4, plain6) = (bind(SERVICE4.into()), bind(SERVICE6.into()));
        Self {
            netns,
            plain4,
            plain6,
        }
    }

    pub fn cookie(&self) -> u64 {
        self.netns.cookie()
    }

    /// The agent's listeners in this pod, as the design wants them.
    pub fn listen(&self) -> Listeners {
        self.listen_on(LISTENER_PORT)
    }

    pub fn listen_on(&self, port: u16) -> Listeners {
        self.netns
            .run(|| {
                let four = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
                four.set_reuse_address(true).unwrap();
                four.bind_device(Some(b"lo")).unwrap();
                four.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())
                    .unwrap();
                four.listen(128).unwrap();
                let six = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
                six.set_reuse_address(true).unwrap();
                six.set_only_v6(true).unwrap();
                six.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, port)).into())
                    .unwrap();
                six.listen(128).unwrap();
                Listeners {
                    four: four.into(),
                    six: six.into(),
                }
            })
            .unwrap()
    }

    /// Enables it: the entry that `pods` would write.
    pub fn enable(&self, kernel: &mut Kernel) {
        self.enable_as(kernel, &self.entry());
    }

    pub fn enable_as(&self, kernel: &mut Kernel, entry: &kernel::Pod) {
        kernel.put_pod(self.cookie(), entry).unwrap();
    }

    pub fn entry(&self) -> kernel::Pod {
        kernel::Pod {
            name: "shop/cart".into(),
            worker: 0,
            port: LISTENER_PORT,
            ipv6: true,
            accelerate: false,
            source4: Some(POD4),
            source6: Some(POD6),
        }
    }

    /// A socket of the pod's, of the family that dials this address.
    pub fn socket(&self, service: SocketAddr) -> Socket {
        self.netns
            .run(|| Socket::new(Domain::for_address(service), Type::STREAM, Some(Protocol::TCP)).unwrap())
            .unwrap()
    }

    /// Whether a plain connection waits. Loopback: what was connected has arrived.
    pub fn plain_arrived(&self) -> bool {
        accept_now(&self.plain4).is_some() | accept_now(&self.plain6).is_some()
    }

    /// Takes the listener's end of a connection out of `sk_msg`'s table, by hand.
    pub fn forget_listener_end(&self, machine: &Machine, server: &TcpStream) {
        let key = self.flow_key(server.local_addr().unwrap(), server.peer_addr().unwrap());
        let mut command = Command::new("bpftool");
        command.args([
            "map",
            "delete",
            "pinned",
            machine.sockets_pin().to_str().unwrap(),
            "key",
        ]);
        let status = command
            .args(key.iter().map(u8::to_string))
            .status()
            .expect("bpftool");
        assert!(status.success());
    }

    /// The bytes of a `grpclb_abi::Flow` in this pod.
    pub fn flow_key(&self, local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
        let bytes = |address: SocketAddr| match address.ip().to_canonical() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let mut key = self.cookie().to_le_bytes().to_vec();
        key.extend(bytes(local));
        key.extend(bytes(remote));
        key.extend(local.port().to_le_bytes());
        key.extend(remote.port().to_le_bytes());
        key.extend([0; 4]);
        key
    }

    /// Runs a command in the pod's namespace; it must succeed.
    pub fn command(&self, program: &str, args: &[&str]) {
        run_in(&self.netns, program, args);
    }
}

pub struct Listeners {
    pub four: TcpListener,
    pub six: TcpListener,
}

impl Listeners {
    /// The connection that waits, and its Service as the agent reads it.
    pub fn accept(&self, identify: &Identify) -> Option<(TcpStream, Option<Slot>)> {
        if let Some(stream) = accept_now(&self.four) {
            let IpAddr::V4(local) = stream.local_addr().unwrap().ip() else {
                panic!("an IPv4 listener")
            };
            return Some((stream, Slot::from_ipv4(local)));
        }
        let stream = accept_now(&self.six)?;
        let slot = identify.service_of(stream.as_fd());
        Some((stream, slot))
    }
}

/// Where the connect that just completed came out; asserts that it is one place.
pub fn arrival(pod: &Pod, listeners: &Listeners, identify: &Identify) -> Arrival {
    match (listeners.accept(identify), pod.plain_arrived()) {
        (Some((_, slot)), false) => Arrival::Agent(slot),
        (None, true) => Arrival::Plain,
        (agent, plain) => panic!("one arrival wanted: agent {agent:?}, plain {plain}"),
    }
}

fn accept_now(listener: &TcpListener) -> Option<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            Some(stream)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("accept: {error}"),
    }
}

/// A namespace without a name, which lives as long as the value.
fn fresh_netns() -> Netns {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
        Netns::open(&NetnsRef::Host).unwrap()
    })
    .join()
    .unwrap()
}

fn ip(netns: &Netns, args: &[&str]) {
    run_in(netns, "ip", args);
}

fn run_in(netns: &Netns, program: &str, args: &[&str]) {
    let output = netns.run(|| Command::new(program).args(args).output()).unwrap();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
