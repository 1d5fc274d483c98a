//! A machine for the kernel tests: a cgroup of its own with this process in it, pods as network namespaces without a name,
//! and the kernel room attached to that cgroup. Everything goes with the process, however it ends; what a killed run left
//! (an empty cgroup, pins without an owner) is swept at the next start.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part of it
#![allow(clippy::unwrap_used, clippy::unused_self)] // a helper that fails is a test that fails

pub mod program;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grpclb_abi::Slot;
use grpclb_userspace::kernel::{self, Identify, Kernel, Options};
use grpclb_userspace::model::NetnsRef;
use grpclb_userspace::netns::Netns;
use nix::poll::{PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub const SERVICE4: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 1);
pub const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 7, 1);
pub const SERVICE_PORT: u16 = 50_051;
pub const POD4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 1, 7);
pub const LISTENER_PORT: u16 = 15_021;
const PREFIX: &str = "glb-kernel-test-";

/// A Service's slot that tests use.
pub fn slot() -> Slot {
    Slot::new(0x12_34_56).unwrap()
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One test at a time is in its cgroup, since a process is in one only.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The test's part of the machine. Dropping it takes the process out of the cgroup again and removes all.
pub struct Machine {
    pub cgroup: PathBuf,
    pub pin_root: PathBuf,
    home: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    pub fn new() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(nix::unistd::Uid::effective().is_root(), "kernel tests need root");
        let root = cgroup_root();
        sweep(&root);
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let cgroup = root.join(&name);
        let home = own_cgroup(&root);
        fs::create_dir(&cgroup).expect("a cgroup for the test");
        enter(&cgroup);
        Self {
            cgroup,
            pin_root: Path::new("/sys/fs/bpf").join(name),
            home,
            _turn: turn,
        }
    }

    pub fn options(&self, instance: &str) -> Options {
        Options {
            instance: instance.into(),
            pin_root: self.pin_root.clone(),
            cgroup: Some(self.cgroup.clone()),
            log_level: 0,
        }
    }

    pub fn options_for(&self, cgroup: &Path, instance: &str) -> Options {
        Options {
            cgroup: Some(cgroup.to_path_buf()),
            ..self.options(instance)
        }
    }

    /// A cgroup below the test's own.
    pub fn child(&self, name: &str) -> PathBuf {
        let child = self.cgroup.join(name);
        fs::create_dir(&child).expect("a cgroup below the test's");
        child
    }

    /// `sk_msg`'s table of the instance that attached last.
    pub fn sockets_pin(&self) -> PathBuf {
        self.pin_root.join("current/sockets")
    }

    /// What bpftool shows of a pinned map of the instance that attached last.
    pub fn dump(&self, file: &str) -> String {
        let pin = self.pin_root.join("current").join(file);
        let output = Command::new("bpftool")
            .args(["map", "dump", "pinned", pin.to_str().unwrap()])
            .output();
        String::from_utf8(output.expect("bpftool").stdout).unwrap()
    }

    /// A kernel room, attached to the test's cgroup.
    pub fn attached(&self, instance: &str) -> Kernel {
        self.attached_to(&self.cgroup, instance)
    }

    pub fn attached_to(&self, cgroup: &Path, instance: &str) -> Kernel {
        let mut kernel = Kernel::load(&self.options_for(cgroup, instance)).expect("the kernel programs load");
        let attached = kernel.attach().expect("they attach");
        assert!(attached.verified && attached.ipv6, "{attached:?}");
        kernel
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        enter(&self.home);
        remove_cgroups(&self.cgroup);
        remove_pins(&self.pin_root);
    }
}

fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    line.and_then(|line| line.split(' ').nth(1))
        .expect("a cgroup v2 hierarchy")
        .into()
}

fn own_cgroup(root: &Path) -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .expect("a place in the v2 hierarchy");
    root.join(path)
}

/// Moves this process there, as if it were a pod's. [`Machine`] brings it home.
pub fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), "0").expect("root may move itself");
}

fn sweep(root: &Path) {
    let mine = |entry: &fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next().map(str::to_owned));
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    for entry in fs::read_dir(root).into_iter().flatten().flatten().filter(mine) {
        remove_cgroups(&entry.path());
    }
    for entry in fs::read_dir("/sys/fs/bpf")
        .into_iter()
        .flatten()
        .flatten()
        .filter(mine)
    {
        remove_pins(&entry.path());
    }
}

fn remove_cgroups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

fn remove_pins(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_pins(&entry.path());
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

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

/// Looks again and again, for ten seconds, at something that tells nobody when it happens.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
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
