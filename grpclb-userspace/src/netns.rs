//! Network namespaces of pods: opening one, its cookie, and doing something inside it.
//!
//! **The one rule about threads:** a thread is in the agent's own namespace except within [`Netns::run`]. `run` takes a
//! plain closure, so no `.await` can stand in it and no task of a runtime ever sees a thread that is elsewhere; the
//! guard behind it cannot leave its thread and restores on every way out, a panic included. A thread that cannot be
//! brought back would send one pod's traffic from another pod's address: then the process ends.
//!
//! A socket belongs to the namespace that it was made in for all its life; only `socket(2)` has to run inside. Nothing
//! here knows what a pod is.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc; // nix's macros below name it so
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, sockopt_impl};

use crate::model::NetnsRef;

/// Where `ip netns` and CRI-O keep the names of namespaces.
pub const NAMES: &str = "/run/netns";

/// `SO_NETNS_COOKIE` (Linux 5.14, asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

sockopt_impl!(
    /// The number that `bpf_get_netns_cookie` gives in the kernel programs.
    NetnsCookie, GetOnly, libc::SOL_SOCKET, SO_NETNS_COOKIE, u64
);

/// An open network namespace. It stays alive for as long as this value does, even when its name is gone.
#[derive(Debug)]
pub struct Netns {
    file: File,
    cookie: u64,
    name: Box<str>,
}

impl Netns {
    /// Opens the namespace.
    ///
    /// # Errors
    /// `NotFound`: no such name or process (yet). `PermissionDenied`: entering it takes `CAP_SYS_ADMIN`. The message
    /// names the path. `InvalidInput`: the path is no network namespace.
    pub fn open(namespace: &NetnsRef) -> io::Result<Self> {
        let path = path_of(namespace).ok_or_else(|| {
            let message = "a pod's sandbox has to be found before its network namespace can be opened";
            io::Error::new(io::ErrorKind::NotFound, message)
        })?;
        Self::open_path(&path).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("network namespace {}: {}", path.display(), Os(&error)),
            )
        })
    }

    fn open_path(path: &Path) -> io::Result<Self> {
        Self::from_file(File::open(path)?, path.display().to_string())
    }

    /// A namespace whose file is open already. `name`: for messages.
    ///
    /// # Errors
    /// As [`Netns::open`].
    pub fn from_file(file: File, name: String) -> io::Result<Self> {
        let mut namespace = Self {
            file,
            cookie: 0,
            name: name.into(),
        };
        namespace.cookie = namespace.run(cookie_here)??;
        Ok(namespace)
    }

    /// The kernel's name for this namespace: unique until the machine restarts, never 0.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Whether `namespace` (still) stands for this one: `false` when the name or the process is gone or stands for another.
    pub fn is(&self, namespace: &NetnsRef) -> bool {
        let identity = |metadata: io::Result<std::fs::Metadata>| metadata.map(|of| (of.dev(), of.ino())).ok();
        path_of(namespace)
            .is_some_and(|path| identity(self.file.metadata()) == identity(std::fs::metadata(path)))
    }

    /// Device and inode of its file, which tell it from every other one that is there.
    ///
    /// # Errors
    /// The system's.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// The path that it was opened by, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `inside` with the calling thread in this namespace, then brings the thread back, also when `inside` panics.
    ///
    /// `inside` makes sockets and nothing slow: the thread does nothing else meanwhile. Calls may be nested.
    ///
    /// # Errors
    /// The namespace could not be entered; `inside` did not run.
    pub fn run<T>(&self, inside: impl FnOnce() -> T) -> io::Result<T> {
        let guard = Inside::enter(&self.file)?;
        let result = inside();
        drop(guard);
        Ok(result)
    }
}

/// By the kernel's name for it.
impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.cookie == other.cookie
    }
}

impl Eq for Netns {}

/// The cookie of the namespace that the calling thread is in.
///
/// # Errors
/// A kernel before 5.14 has no `SO_NETNS_COOKIE`.
pub fn cookie_here() -> io::Result<u64> {
    let family = AddressFamily::Inet;
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(getsockopt(&socket, NetnsCookie)?)
}

/// The file that stands for the namespace; `None` for a sandbox, which has to be found first.
pub fn path_of(namespace: &NetnsRef) -> Option<PathBuf> {
    match namespace {
        NetnsRef::Name(name) => Some(Path::new(NAMES).join(name)),
        NetnsRef::Path(path) => Some(path.clone()),
        NetnsRef::Pid(pid) => Some(format!("/proc/{pid}/ns/net").into()),
        NetnsRef::Sandbox(_) => None,
        // The thread's, not /proc/self: that is the main thread's, wherever it may be.
        NetnsRef::Host => Some(PathBuf::from("/proc/thread-self/ns/net")),
    }
}

/// While it lives, the thread is in another namespace. Not `Send`: it must be dropped where it was made.
struct Inside {
    home: File,
    _stays_on_its_thread: PhantomData<*const ()>,
}

impl Inside {
    fn enter(namespace: &File) -> io::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(Self {
            home,
            _stays_on_its_thread: PhantomData,
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(error) = setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "a thread cannot return to the agent's network namespace; ending");
            std::process::abort();
        }
    }
}

/// An operating system's error without "(os error N)", which says nothing to an operator.
struct Os<'a>(&'a io::Error);

impl std::fmt::Display for Os<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.raw_os_error() {
            Some(code) => f.write_str(nix::errno::Errno::from_raw(code).desc()),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new namespace without any name: a thread of its own makes it, and it lives as long as the value.
    fn fresh() -> Netns {
        std::thread::spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("these tests run as root");
            Netns::open(&NetnsRef::Host).unwrap()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn inside_the_cookie_is_the_namespaces_and_afterwards_our_own_again() {
        let home = cookie_here().unwrap();
        let namespace = fresh();
        assert_ne!(namespace.cookie(), home);
        assert_eq!(
            namespace.run(|| cookie_here().unwrap()).unwrap(),
            namespace.cookie()
        );
        assert_eq!(cookie_here().unwrap(), home);
    }

    #[test]
    fn a_panic_inside_brings_the_thread_back() {
        let home = cookie_here().unwrap();
        let namespace = fresh();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            namespace.run(|| {
                assert_eq!(cookie_here().unwrap(), namespace.cookie());
                panic!("on purpose");
            })
        }));
        assert!(outcome.is_err());
        assert_eq!(cookie_here().unwrap(), home);
    }

    #[test]
    fn nested_runs_return_to_the_namespace_they_came_from() {
        let (outer, inner) = (fresh(), fresh());
        outer
            .run(|| {
                assert_eq!(inner.run(|| cookie_here().unwrap()).unwrap(), inner.cookie());
                assert_eq!(cookie_here().unwrap(), outer.cookie());
            })
            .unwrap();
    }

    #[test]
    fn a_socket_made_inside_stays_there() {
        let namespace = fresh();
        let family = AddressFamily::Inet;
        let made = namespace
            .run(|| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None))
            .unwrap()
            .unwrap();
        assert_eq!(getsockopt(&made, NetnsCookie).unwrap(), namespace.cookie());
    }

    #[test]
    fn a_name_that_stands_for_another_namespace_is_noticed() {
        let namespace = fresh();
        assert!(!namespace.is(&NetnsRef::Host));
        assert!(Netns::open(&NetnsRef::Host).unwrap().is(&NetnsRef::Host));
        assert!(!namespace.is(&NetnsRef::Name("no-such-namespace".into())));
    }

    #[test]
    fn a_missing_namespace_is_named_in_the_error() {
        let error = Netns::open(&NetnsRef::Name("no-such-namespace".into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(
            error.to_string().contains("/run/netns/no-such-namespace"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let error = Netns::open(&NetnsRef::Path("/etc/hostname".into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
}
