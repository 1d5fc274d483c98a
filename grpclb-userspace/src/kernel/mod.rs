//! The kernel room: loads the kernel programs, attaches them where they cannot hurt another owner, and fills their maps.
//!
//! The only room that knows aya. It decides nothing about Services or pods: `app` tells it what to put into the maps.
//! Order of use: [`Kernel::load`] (maps are pinned, nothing is attached) → fill the maps → [`Kernel::attach`] (connect
//! hooks last, then a connect of its own proves that they work) → [`Kernel::detach_connect`] when another instance takes
//! over or the agent drains → drop (everything goes, own pins included). Links are held by the process: when it dies,
//! the kernel lets go of everything at once and connects are what plain Kubernetes would have made them.

pub mod check;
mod error;
mod pod;
mod tables;

pub use error::{Error, Result};
pub use tables::{Backend, Pod, Service};

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use grpclb_abi::Slot;

/// What [`Kernel::load`] needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// This agent instance's name: letters, digits, `-` and `_`; unique on the machine (bpffs forbids dots).
    pub instance: String,
    /// Where instances keep their pins, on a bpffs: `/sys/fs/bpf/grpclb`. Made, and its bpffs mounted, if it is missing.
    pub pin_root: PathBuf,
    /// The cgroup (v2) to attach to; without it the pods' cgroup where there is one, else the root.
    pub cgroup: Option<PathBuf>,
    /// Logs of the kernel programs: 0 none (and no cost), 1 errors … 5 everything, each connect included.
    pub log_level: u8,
}

/// The kernel programs and maps of this agent instance.
#[derive(Debug)]
pub struct Kernel {}

/// What stands attached, for status and logs.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Attached {
    pub cgroup: PathBuf,
    /// IPv6 is steered too.
    pub ipv6: bool,
    pub programs: Vec<AttachedProgram>,
    /// Things that an operator should know: what this kernel lacks, what was not verified.
    pub notes: Vec<String>,
}

/// One of our programs and its neighbours at the same hook.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct AttachedProgram {
    pub name: &'static str,
    pub id: u32,
    pub hook: &'static str,
    pub cgroup: PathBuf,
    /// Names and ids of the programs that run before ours, and behind it, whoever attached them.
    pub before: Vec<String>,
    pub after: Vec<String>,
}

impl Kernel {
    /// Loads the programs and pins the maps under `<pin_root>/<instance>/`. Nothing is attached yet. Removes the pins of
    /// instances that died; never a live one's.
    pub fn load(_options: &Options) -> Result<Self> {
        Err(Error::NoObject)
    }

    /// Attaches everything, `connect` last, and proves with a connect of its own that it works.
    /// On an error nothing stays attached.
    pub fn attach(&mut self) -> Result<Attached> {
        Err(Error::NoObject)
    }

    /// Lets go of `connect4/6` only: new connections go the plain way or to another instance, while sockets that were
    /// steered keep their names. Does nothing when it is not attached.
    pub fn detach_connect(&mut self) {}

    /// Enables a pod by its namespace cookie. Its listener must accept by now.
    pub fn put_pod(&mut self, _cookie: u64, _pod: &Pod) -> Result<()> {
        Err(Error::NoObject)
    }

    /// Disables a pod. No error if it is not there.
    pub fn remove_pod(&mut self, _cookie: u64) -> Result<()> {
        Err(Error::NoObject)
    }

    /// Makes a Service's address known, or changes it. With `endpoints` 0, connects to it are left alone.
    pub fn put_service(&mut self, _address: IpAddr, _port: u16, _service: &Service) -> Result<()> {
        Err(Error::NoObject)
    }

    /// Forgets a Service's address. No error if it is not there.
    pub fn remove_service(&mut self, _address: IpAddr, _port: u16) -> Result<()> {
        Err(Error::NoObject)
    }

    /// Writes a Service's endpoints for people who look with bpftool; the programs never read them. An empty list
    /// removes them.
    pub fn put_endpoints(&mut self, _slot: Slot, _endpoints: &[Backend]) -> Result<()> {
        Err(Error::NoObject)
    }

    /// The handle that data workers beat with.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat {}
    }

    /// The handle that tells which Service an accepted IPv6 connection is for.
    pub fn identify(&self) -> Identify {
        Identify {}
    }

    /// Every counter with its name, summed over CPUs.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// What is attached now, with the neighbours as they are at this moment.
    pub fn attached(&self) -> Attached {
        Attached::default()
    }
}

/// Writes heartbeats. Each data worker beats from its own loop every 100 ms ([`grpclb_abi::HEARTBEAT_INTERVAL_NS`]);
/// after 500 ms without, the connects of its pods go the plain way.
#[derive(Clone, Debug)]
pub struct Heartbeat {}

impl Heartbeat {
    /// Worker `worker` (below [`grpclb_abi::MAX_WORKERS`]) lives. Failures are of no use to a worker: they are logged once,
    /// and what follows from them is what the heartbeat is for.
    pub fn beat(&self, _worker: usize) {}
}

/// Tells which Service an accepted connection is for.
#[derive(Clone, Debug)]
pub struct Identify {}

impl Identify {
    /// The Service's slot of an accepted IPv6 connection; `None` if nothing steered it here (then close it).
    /// IPv4 connections carry it in their local address: [`Slot::from_ipv4`].
    pub fn service_of(&self, _socket: BorrowedFd<'_>) -> Option<Slot> {
        None
    }
}
