//! System calls that neither std, nix nor aya offer: the only `unsafe` code of this room beside `pod.rs`.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use aya::maps::{HashMap, IterableMap as _, MapData};
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid};

/// `BPF_PROG_QUERY`, and what it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// `BPF_F_ALLOW_OVERRIDE`, `BPF_F_ALLOW_MULTI` or none, as the first of these programs was attached.
    pub(super) flags: u32,
    /// Ids of the programs in the order in which they run.
    pub(super) programs: Vec<u32>,
}

/// The kernel's `union bpf_attr` for `BPF_PROG_QUERY`, as far back as 4.15.
#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
/// The kernel runs at most 64 programs at one hook (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// The programs at this hook of a cgroup: its own, or (`effective`) all that run for it, its ancestors' included.
pub(super) fn query_cgroup(cgroup: &impl AsFd, attach_type: u32, effective: bool) -> io::Result<Query> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        attach_type,
        query_flags: if effective { BPF_F_QUERY_EFFECTIVE } else { 0 },
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        padding: 0,
    };
    // SAFETY: `attr` is laid out as the kernel reads it, and `ids` has room for `prog_cnt` ids.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    let programs = ids[..(attr.prog_cnt as usize).min(MAX_PROGRAMS)].to_vec();
    Ok(Query {
        flags: attr.attach_flags,
        programs,
    })
}

/// The kernel's `union bpf_attr` for `BPF_LINK_CREATE`, as far back as 5.7.
#[repr(C)]
struct LinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

const BPF_LINK_CREATE: libc::c_int = 28;

/// Attaches a program to a hook of a cgroup, for as long as the link is open. Others' programs stay: links are always `MULTI`.
///
/// aya does this, too, but keeps the descriptor to itself, and which number it has matters: see [`move_above`].
pub(super) fn link_to_cgroup(
    program: &impl AsFd,
    cgroup: &impl AsFd,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkAttr {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        target_fd: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        attach_type,
        flags: 0,
    };
    // SAFETY: `attr` is laid out as the kernel reads it, and points at nothing.
    let link = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel made this descriptor for us just now, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// The same descriptor with the first free number from `lowest` on; with its old one where there is none.
///
/// A process that dies lets go of its descriptors from the highest number to the lowest: the kernel notes them in ascending
/// order as work to be done at its exit, and does the newest first (`close_files`, `fput`, `task_work_run`).
pub(super) fn move_above(descriptor: OwnedFd, lowest: RawFd) -> OwnedFd {
    // SAFETY: F_DUPFD_CLOEXEC takes a number and touches no memory.
    let moved = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) };
    if moved < 0 {
        return descriptor;
    }
    // SAFETY: the kernel made this descriptor for us just now, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(moved) }
}

/// The kernel's `union bpf_attr` for `BPF_MAP_*_BATCH`, as far back as 5.6.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// On return: how many were done.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;

/// Writes many entries of a map by one call. Those before one that is refused are written.
pub(super) fn update_batch<K: aya::Pod, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    if keys.is_empty() {
        return Ok(()); // which the kernel would refuse
    }
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.map().fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `attr` is laid out as the kernel reads it; `keys` and `values` hold `count` entries of the map's sizes, which
    // aya has compared with those of `K` and `V`, and the kernel only reads them.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// bpf(2); what it answers is a descriptor, or nothing of interest.
///
/// # Safety
/// `attr` is laid out as the kernel reads it for this command, and what it points at is what the command reads or writes.
unsafe fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<RawFd> {
    let size = size_of::<A>() as libc::c_uint;
    // SAFETY: the caller's promise; the size is that of `attr`.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as RawFd) // an `int` in the kernel
    }
}

/// Sets `lo` up in the network namespace that the socket (of any kind) lives in.
pub(super) fn set_loopback_up(socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: all zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is an `ifreq` with a name that ends in zero, which is what SIOCSIFFLAGS reads.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Runs `child` in a forked process, which ends with the code that it returns, and which dies with the calling thread.
///
/// `child` must neither allocate nor lock: other threads' locks may be held for ever in the copy. System calls only.
pub(super) fn fork(child: impl FnOnce() -> u8) -> io::Result<Pid> {
    // SAFETY: the child makes system calls only (the caller's promise) and leaves by `_exit`.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = if nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok() {
                child()
            } else {
                u8::MAX
            };
            // SAFETY: ends this process without running anything of the parent's.
            unsafe { libc::_exit(i32::from(code)) }
        }
    }
}
