//! `cgroup/connect4` and `connect6`: sends connects of enabled pods to known Services to the agent's listener on the pod's
//! own loopback. Everything else passes unchanged.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_ktime_get_ns};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::{debug, trace};
use grpclb_abi::{
    Address, Counter, HEARTBEAT_AHEAD_NS, HEARTBEAT_STALE_NS, LOOPBACK_V6, MARK, Pod, Service, ServiceKey, Steered, mapped_ipv4,
    pod_flags,
};

use crate::count::count;
use crate::family::{self, Family, V4, V6, is_ipv4};
use crate::maps::{HEARTBEATS, PODS, SERVICES, STEERED};
use crate::storage;
use crate::verdict::Verdict;

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;

#[cgroup_sock_addr(connect4)]
pub fn grpclb_connect4(ctx: SockAddrContext) -> i32 {
    finish(&ctx, steer::<V4>(&ctx)).code()
}

#[cgroup_sock_addr(connect6)]
pub fn grpclb_connect6(ctx: SockAddrContext) -> i32 {
    finish(&ctx, steer::<V6>(&ctx)).code()
}

/// Counts what became of a connect. Left alone or steered, it goes on.
#[inline(always)]
fn finish(ctx: &SockAddrContext, outcome: Result<Steered, Counter>) -> Verdict {
    match outcome {
        Ok(record) => {
            count(Counter::Steered);
            debug!(
                ctx,
                "steered {:i}:{} to {:i}:{}",
                record.service,
                record.service_port,
                record.listener,
                record.listener_port
            );
        }
        Err(reason) => {
            count(reason);
            trace!(ctx, "left alone: outcome {}", reason as u32);
        }
    }
    Verdict::PROCEED
}

/// Steers the connect, or says why not; then nothing was changed.
#[inline(always)]
fn steer<F: Family>(ctx: &SockAddrContext) -> Result<Steered, Counter> {
    let addr = ctx.sock_addr;
    // SAFETY: the context of this hook; each field is read by itself.
    let (kind, protocol) = unsafe { ((*addr).type_, (*addr).protocol) };
    if kind != SOCK_STREAM || protocol != IPPROTO_TCP {
        return Err(Counter::NotTcp);
    }
    // SAFETY: as above.
    let netns = unsafe { bpf_get_netns_cookie(addr.cast()) };
    // SAFETY: the agent replaces entries whole; an entry read while it is replaced belongs to the same pod.
    let pod = unsafe { PODS.get(netns) }.ok_or(Counter::NotEnabled)?;
    // SAFETY: a context of family F.
    let key = unsafe {
        ServiceKey {
            address: F::address(addr),
            port: family::port(addr),
            padding: 0,
        }
    };
    // SAFETY: as for PODS.
    let service = unsafe { SERVICES.get(key) }.ok_or(Counter::NoService)?;
    // SAFETY: the socket of this context; the verifier knows that it is not null.
    let sk = unsafe { (*addr).__bindgen_anon_1.sk };
    check_socket(sk)?;
    if service.endpoints == 0 {
        return Err(Counter::NoEndpoint);
    }
    if !is_beating(pod.worker) {
        return Err(Counter::StaleHeartbeat);
    }
    let record = record(&key, pod, service)?;
    // The record first: without it the application would see the listener's address, and IPv6 would lose its Service.
    // SAFETY: the socket of this context; connect(2) holds its lock.
    if !unsafe { storage::put(&STEERED, sk, &record) } {
        return Err(Counter::NoRecord);
    }
    // SAFETY: a context of family F; the listener is of the family that was dialled.
    unsafe {
        F::set_address(addr, &record.listener);
        family::set_port(addr, record.listener_port);
    }
    Ok(record)
}

/// Our own sockets, and those bound to a device (loopback is another one), are left alone.
#[inline(always)]
fn check_socket(sk: *mut bpf_sock) -> Result<(), Counter> {
    // SAFETY: a context's socket; each field is read by itself.
    let (mark, device) = unsafe {
        (
            (&raw const (*sk).mark).read_volatile(),
            (&raw const (*sk).bound_dev_if).read_volatile(),
        )
    };
    if mark == MARK {
        Err(Counter::OwnSocket)
    } else if device != 0 {
        Err(Counter::BoundDevice)
    } else {
        Ok(())
    }
}

/// Returns whether the pod's worker has written a heartbeat lately. A heartbeat from the near future is another CPU's, a moment
/// ago; one from further ahead was written in another clock, and says nothing.
#[inline(always)]
fn is_beating(worker: u32) -> bool {
    let Some(beat) = HEARTBEATS.get(worker) else {
        return false;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // Wraps round for a heartbeat from further ahead, to a large number: both ends of the window are one comparison.
    let age = now.wrapping_sub(*beat).wrapping_add(HEARTBEAT_AHEAD_NS);
    // Zero: never written. Not fresh for the first half second after boot, where `now` is small.
    *beat != 0 && age < HEARTBEAT_STALE_NS + HEARTBEAT_AHEAD_NS
}

/// What this connect becomes.
#[inline(always)]
fn record(dialled: &ServiceKey, pod: &Pod, service: &Service) -> Result<Steered, Counter> {
    let (listener, source) = if is_ipv4(&dialled.address) {
        (slot_address(service.slot), pod.source4)
    } else if pod.flags & pod_flags::IPV6 != 0 {
        (LOOPBACK_V6, pod.source6)
    } else {
        return Err(Counter::NoIpv6);
    };
    Ok(Steered {
        service: dialled.address,
        listener,
        source,
        service_port: dialled.port,
        listener_port: pod.port,
        slot: service.slot,
        flags: u32::from(pod.flags),
        padding: 0,
    })
}

/// `127.S.S.S`, by which the listener knows the Service.
#[inline(always)]
fn slot_address(slot: u32) -> Address {
    let [_, a, b, c] = slot.to_be_bytes();
    mapped_ipv4([127, a, b, c])
}
