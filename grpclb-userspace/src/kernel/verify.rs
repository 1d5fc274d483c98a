//! Proves that the programs take effect: a connect of our own, from a process in the target cgroup, to an address that does
//! not exist, must arrive at a listener of ours with the right Service, and the dialler must see the address it dialled.
//!
//! It happens in a network namespace made for it: no other process is there, no route leads out, and nothing else can be
//! steered to that listener. The address is from TEST-NET-1 or the documentation prefix (RFC 5737, RFC 3849), so that
//! without effect the connect fails at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use grpclb_abi::{Slot, VERIFY_WORKER};
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, connect, getpeername, getsockname,
    socket,
};
use nix::sys::wait::{WaitStatus, waitpid};

use super::loader::Maps;
use super::pod::Plain;
use super::tables::{Pod, Service, service_key};
use super::{Heartbeat, Identify, sys};
use crate::claim::{Refused, claim, of_the_dead};
use crate::netns::cookie_here;

const SERVICE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SOURCE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SERVICE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const SERVICE_PORT: u16 = 50_051;

/// How often a heartbeat is written meanwhile. Also the longest time that passes after the end unnoticed.
const BEAT: Duration = Duration::from_millis(20);

/// What the dialling process says by its exit code, beside the error number of its connect.
const SEEN_WRONG_PEER: u8 = 250;
const SEEN_WRONG_SOURCE: u8 = 251;
const NOT_IN_CGROUP: u8 = 252;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Steered,
    NotSteered(String),
    /// The proof itself could not be made here.
    Unknown(String),
}

/// Dials over IPv4 and, if wanted, over IPv6, from within `cgroup`. The tables are as before afterwards.
pub(super) fn verify(
    cgroup: &Path,
    instance: &str,
    maps: &mut Maps,
    heartbeat: &Heartbeat,
    identify: &Identify,
    ipv6: bool,
) -> (Finding, Finding) {
    let unknown = |error: io::Error| Finding::Unknown(error.to_string());
    let place = match Place::make(cgroup, instance) {
        Ok(place) => place,
        Err(error) => return (unknown(error), Finding::Unknown("not tried".into())),
    };
    if let Err(error) = heartbeat.write(VERIFY_WORKER) {
        return (unknown(error), Finding::Unknown("not tried".into()));
    }
    // A thread of its own: the namespace is the thread's, and goes with it.
    let proved = std::thread::scope(|scope| -> io::Result<_> {
        let dial_both = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let four = dial(IpAddr::V4(SERVICE4), IpAddr::V4(SOURCE4), &place, maps, identify);
            let six = if ipv6 {
                dial(IpAddr::V6(SERVICE6), IpAddr::V6(SOURCE6), &place, maps, identify)
                    .unwrap_or_else(unknown)
            } else {
                Finding::Unknown("not wanted".into())
            };
            Ok((four.unwrap_or_else(unknown), six))
        };
        let dialling = std::thread::Builder::new().spawn_scoped(scope, dial_both)?;
        // Real heartbeats, for as long as it takes: they prove as well that the kernel's clock is the one we write in.
        while !dialling.is_finished() {
            let _stale: io::Result<()> = heartbeat.write(VERIFY_WORKER);
            std::thread::park_timeout(BEAT);
        }
        let panicked = |_| Err(io::Error::other("the thread panicked"));
        dialling.join().unwrap_or_else(panicked)
    });
    proved.unwrap_or_else(|error| (unknown(error), Finding::Unknown("not tried".into())))
}

/// One connect in the namespace of this thread.
fn dial(
    service: IpAddr,
    source: IpAddr,
    place: &Place,
    maps: &mut Maps,
    identify: &Identify,
) -> io::Result<Finding> {
    let listener = TcpListener::bind(SocketAddr::new(unspecified(service), 0));
    // Before the first listener `lo` may be down; any socket of the namespace will do.
    let any = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    sys::set_loopback_up(&any)?;
    let listener = listener?;
    listener.set_nonblocking(true)?;
    let cookie = cookie_here()?;
    let steering = Steering::set_up(maps, cookie, service, source, listener.local_addr()?.port())?;
    let code = place.run(|| child(SocketAddr::new(service, SERVICE_PORT), source))?;
    drop(steering);

    match code {
        0 => {}
        SEEN_WRONG_PEER => {
            return Ok(Finding::NotSteered(
                "getpeername did not answer the Service's address".into(),
            ));
        }
        SEEN_WRONG_SOURCE => {
            return Ok(Finding::NotSteered(
                "getsockname did not answer the pod's address".into(),
            ));
        }
        NOT_IN_CGROUP => {
            return Ok(Finding::Unknown(
                "a process of ours could not enter the cgroup".into(),
            ));
        }
        errno => {
            let reason = io::Error::from_raw_os_error(i32::from(errno));
            return Ok(Finding::NotSteered(format!("it went the plain way: {reason}")));
        }
    }
    let (accepted, _) = listener.accept()?;
    let slot = match accepted.local_addr()?.ip() {
        IpAddr::V4(address) => Slot::from_ipv4(address),
        IpAddr::V6(_) => identify.service_of(accepted.as_fd()),
    };
    if slot == Some(Slot::VERIFY) {
        Ok(Finding::Steered)
    } else {
        Ok(Finding::NotSteered(format!(
            "it arrived as {slot:?} instead of {:?}",
            Slot::VERIFY
        )))
    }
}

/// What the forked process does: system calls only, no memory of its own. Zero, or why not.
fn child(service: SocketAddr, source: IpAddr) -> u8 {
    fn errno(errno: Errno) -> u8 {
        (errno as i32).to_le_bytes()[0]
    }
    let family = if service.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = match socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
        Ok(socket) => socket,
        Err(error) => return errno(error),
    };
    let service = SockaddrStorage::from(service);
    if let Err(error) = connect(socket.as_raw_fd(), &service) {
        return errno(error);
    }
    if getpeername::<SockaddrStorage>(socket.as_raw_fd()) != Ok(service) {
        return SEEN_WRONG_PEER;
    }
    match getsockname::<SockaddrStorage>(socket.as_raw_fd())
        .ok()
        .as_ref()
        .and_then(ip)
    {
        Some(ip) if ip == source => 0,
        _ => SEEN_WRONG_SOURCE,
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    match address.family()? {
        AddressFamily::Inet => address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())),
        AddressFamily::Inet6 => address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())),
        _ => None,
    }
}

fn unspecified(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The entries that steer the one connect; dropping them removes them.
struct Steering<'a> {
    maps: &'a mut Maps,
    cookie: u64,
    service: IpAddr,
}

impl<'a> Steering<'a> {
    fn set_up(
        maps: &'a mut Maps,
        cookie: u64,
        service: IpAddr,
        source: IpAddr,
        port: u16,
    ) -> io::Result<Self> {
        let steering = Self {
            maps,
            cookie,
            service,
        };
        let pod = Pod {
            name: "grpclb/verify".into(),
            worker: VERIFY_WORKER,
            port,
            ipv6: true,
            accelerate: false,
            source4: if let IpAddr::V4(ip) = source {
                Some(ip)
            } else {
                None
            },
            source6: if let IpAddr::V6(ip) = source {
                Some(ip)
            } else {
                None
            },
        };
        let wanted = Service {
            name: "grpclb/verify".into(),
            slot: Slot::VERIFY,
            endpoints: 1,
            http2: false,
        };
        let key = Plain(service_key(service, SERVICE_PORT));
        steering
            .maps
            .services
            .insert(key, Plain(wanted.to_abi()), 0)
            .map_err(io::Error::other)?;
        steering
            .maps
            .pods
            .insert(cookie, Plain(pod.to_abi(false)), 0)
            .map_err(io::Error::other)?;
        Ok(steering)
    }
}

impl Drop for Steering<'_> {
    fn drop(&mut self) {
        // What is not there need not go; the namespace, and with it the cookie, is gone for good anyway.
        drop(self.maps.pods.remove(&self.cookie));
        drop(
            self.maps
                .services
                .remove(&Plain(service_key(self.service, SERVICE_PORT))),
        );
    }
}

/// A cgroup below the target for the dialling process: the target itself may hold cgroups only.
struct Place {
    cgroup: PathBuf,
    procs: File,
    _lock: Flock<File>,
}

const PREFIX: &str = "grpclb-verify-";

impl Place {
    fn make(target: &Path, instance: &str) -> io::Result<Self> {
        sweep(target);
        let cgroup = target.join(format!("{PREFIX}{instance}"));
        let made = || match fs::create_dir(&cgroup) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => File::open(&cgroup),
        };
        // While nobody runs in it yet, only the lock tells others that it is in use.
        let lock = claim(&cgroup, made).map_err(|refused| match refused {
            Refused::Alive => io::Error::other(format!("{} is in use", cgroup.display())),
            Refused::Io(error) => error,
        })?;
        let procs = OpenOptions::new().write(true).open(cgroup.join("cgroup.procs"))?;
        Ok(Self {
            cgroup,
            procs,
            _lock: lock,
        })
    }

    /// Runs `child` in a process in this cgroup and waits for its exit code.
    fn run(&self, child: impl FnOnce() -> u8) -> io::Result<u8> {
        let mut procs = &self.procs;
        let pid = sys::fork(move || {
            if procs.write_all(b"0").is_ok() {
                child()
            } else {
                NOT_IN_CGROUP
            }
        })?;
        loop {
            match waitpid(pid, None) {
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::Exited(_, code)) => return Ok(code.to_le_bytes()[0]),
                Ok(other) => {
                    return Err(io::Error::other(format!(
                        "the dialling process ended by {other:?}"
                    )));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _: io::Result<()> = fs::remove_dir(&self.cgroup);
    }
}

/// Removes cgroups that killed agents left.
fn sweep(target: &Path) {
    for entry in fs::read_dir(target).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Some(_lock) = of_the_dead(&entry.path())
        {
            let _: io::Result<()> = fs::remove_dir(entry.path());
        }
    }
}
