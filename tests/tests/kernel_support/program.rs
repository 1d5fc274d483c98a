//! Another owner's connect programs, of a few instructions each, attached as other owners do: by `BPF_PROG_ATTACH`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::libc;

pub const ALLOW_NONE: u32 = 0;
pub const ALLOW_OVERRIDE: u32 = 1;
pub const ALLOW_MULTI: u32 = 2;

const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;

/// What the program does with a connect.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    Nothing,
    Deny,
    /// Sends connects to `from` to `to`, as a socket load balancer does.
    Rewrite {
        from: Ipv4Addr,
        to: Ipv4Addr,
    },
}

/// An attached program; dropping it detaches it.
pub struct Attached {
    program: OwnedFd,
    cgroup: File,
}

/// One BPF instruction: opcode, registers (source << 4 | destination), offset, immediate.
fn insn(code: u8, registers: u8, offset: i16, immediate: u32) -> u64 {
    u64::from(code)
        | u64::from(registers) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate) << 32
}

fn instructions(does: Does) -> Vec<u64> {
    let leave = |verdict| vec![insn(0xb7, 0, 0, verdict), insn(0x95, 0, 0, 0)];
    match does {
        Does::Nothing => leave(1),
        Does::Deny => leave(0),
        Does::Rewrite { from, to } => {
            let word = |address: Ipv4Addr| u32::from_ne_bytes(address.octets());
            let mut program = vec![
                // w2 = ctx->user_ip4; if w2 != from, leave; ctx->user_ip4 = to
                insn(0x61, 0x12, 4, 0),
                insn(0x56, 0x02, 2, word(from)),
                insn(0xb4, 0x03, 0, word(to)),
                insn(0x63, 0x31, 4, 0),
            ];
            program.extend(leave(1));
            program
        }
    }
}

/// Loads and attaches; `flags` as the other owner chose them.
pub fn attach(cgroup: &Path, does: Does, flags: u32) -> io::Result<Attached> {
    let program = load(&instructions(does))?;
    let cgroup = File::open(cgroup)?;
    let attr = [fd(&cgroup), fd(&program), BPF_CGROUP_INET4_CONNECT, flags, 0];
    // SAFETY: `attr` is the head of `union bpf_attr` for this command, its size is given.
    unsafe { bpf(BPF_PROG_ATTACH, attr.as_ptr().cast(), size_of_val(&attr)) }?;
    Ok(Attached { program, cgroup })
}

fn load(instructions: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        expected_attach_type: u32,
    }
    let attr = Load {
        kind: BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"another_owner\0\0\0",
        ifindex: 0,
        expected_attach_type: BPF_CGROUP_INET4_CONNECT,
    };
    // SAFETY: `attr` is laid out as the kernel reads it and points to what it counts.
    let fd = unsafe { bpf(BPF_PROG_LOAD, (&raw const attr).cast(), size_of::<Load>()) }?;
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Drop for Attached {
    fn drop(&mut self) {
        let attr = [
            fd(&self.cgroup),
            fd(&self.program),
            BPF_CGROUP_INET4_CONNECT,
            0,
            0,
        ];
        // SAFETY: as in `attach`.
        drop(unsafe { bpf(BPF_PROG_DETACH, attr.as_ptr().cast(), size_of_val(&attr)) });
    }
}

fn fd(file: &impl std::os::fd::AsRawFd) -> u32 {
    file.as_raw_fd().cast_unsigned()
}

/// # Safety
/// `attr` points to `size` bytes that are what the command reads.
unsafe fn bpf(command: libc::c_long, attr: *const libc::c_void, size: usize) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as libc::c_int)
    }
}

/// `connect(AF_UNSPEC)`, which no library offers.
pub fn disconnect(socket: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    let unspecified = [0_u8; 16];
    // SAFETY: a `sockaddr` of 16 bytes, all zero: AF_UNSPEC.
    let result = unsafe { libc::connect(socket.as_raw_fd(), unspecified.as_ptr().cast(), 16) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Puts a socket into a pinned socket hash, as any program with the rights may.
pub fn put_socket(pin: &Path, key: &[u8], socket: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    let path = std::ffi::CString::new(pin.as_os_str().as_encoded_bytes())?;
    let get = [path.as_ptr() as u64, 0];
    // SAFETY: the head of `union bpf_attr` for this command: a path that ends in zero, and flags.
    let map = unsafe { bpf(BPF_OBJ_GET, get.as_ptr().cast(), size_of_val(&get)) }?;
    // SAFETY: the kernel has just made it, for us alone.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    let value = fd(socket);
    let update = [
        u64::from(fd(&map)),
        key.as_ptr() as u64,
        (&raw const value) as u64,
        0,
    ];
    // SAFETY: as above: the map, a key and a value of its sizes, and flags.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, update.as_ptr().cast(), size_of_val(&update)) }.map(drop)
}

/// Gives up all capabilities of the calling thread, for good.
pub fn drop_capabilities() -> io::Result<()> {
    // `struct __user_cap_header_struct` of version 3, and two empty `__user_cap_data_struct`.
    let header = [0x2008_0522_u32, 0];
    let none = [0_u32; 6];
    // SAFETY: both are laid out as capset(2) reads them.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
