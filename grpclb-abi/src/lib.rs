//! Every byte, key and name that the kernel programs and the agent share, and nothing else: no logic, no IO, no imports.
//!
//! Rules of this crate: fixed integers and byte arrays only (no enum, no `Option`, no `bool` in a map), `#[repr(C)]` with
//! padding written out, addresses as 16 bytes in network order (IPv4 as `::ffff:a.b.c.d`), ports in host order. So
//! `bpftool map dump` prints each field by name, and both sides read the same bytes. A change of any layout here raises
//! [`ABI_VERSION`]: an agent refuses kernel programs of another version.

#![no_std]
#![forbid(unsafe_code)]

mod address;
mod counters;
mod names;
mod records;
mod slot;

pub use address::{Address, LOOPBACK_V6, is_mapped_ipv4, mapped_ipv4};
pub use counters::{COUNTERS, Counter, Counters};
pub use names::{map, program};
pub use records::{
    Accepted, Backend, BackendKey, Flow, Instance, Pod, SERVICE_HTTP2, Service, ServiceKey, Steered, TEXT,
    Text, pod_flags, text, text_bytes,
};
pub use slot::{InvalidSlot, Slot};

/// Raised with every change of a layout, a name or a meaning in this crate.
///
/// The feature `next-abi` makes the version after this one, whose tables no program of this one could read: an agent for tests of
/// upgrades.
pub const ABI_VERSION: u32 = if cfg!(feature = "next-abi") { 2 } else { 1 };

/// ELF section of the kernel object that holds [`ABI_VERSION`] as four little-endian bytes.
pub const ABI_SECTION: &str = "grpclb_abi";

/// `SO_MARK` of the agent's own sockets: our connect programs leave them alone.
///
/// None of its bits is used by kube-proxy (0x4000, 0x8000), Cilium (0x0f00), Calico (0xffff0000) or Istio (0x539).
pub const MARK: u32 = 0x106c;

/// `HEARTBEATS` has one entry for each data worker, and the last one for the agent's own check at attach.
pub const MAX_WORKERS: u32 = 64;

/// The heartbeat that the check at attach uses.
pub const VERIFY_WORKER: u32 = MAX_WORKERS;

/// A heartbeat older than this (nanoseconds of the machine's `CLOCK_MONOTONIC`) is stale: connects are not intercepted.
pub const HEARTBEAT_STALE_NS: u64 = 500_000_000;

/// A heartbeat further ahead of the kernel's clock than this (nanoseconds) is stale: its writer reads another clock, and its
/// heartbeats would stay fresh after it stopped. Up to here it may be another CPU's, written a moment ago.
pub const HEARTBEAT_AHEAD_NS: u64 = 100_000_000;

/// How often a worker beats, in nanoseconds.
pub const HEARTBEAT_INTERVAL_NS: u64 = 100_000_000;

/// Most pods of one node that can be steered.
pub const MAX_PODS: usize = 4096;
/// Most (address, port) pairs of Services.
pub const MAX_SERVICES: usize = 65_536;
/// Most entries of the table of endpoints, which is for people only.
pub const MAX_BACKENDS: usize = 131_072;
/// IPv6 handshakes under way at one moment; least recently used ones are forgotten first.
pub const MAX_FLOWS: usize = 8192;
/// Sockets handed to `sk_msg`, where a pod opted in.
pub const MAX_SOCKETS: usize = 65_536;
