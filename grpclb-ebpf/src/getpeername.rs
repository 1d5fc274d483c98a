//! `cgroup/getpeername4` and `getpeername6`: a steered socket's peer is the Service that the application dialled.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use grpclb_abi::Counter;

use crate::count::count;
use crate::family::{self, Family, V4, V6, same};
use crate::maps::STEERED;
use crate::storage;
use crate::verdict::Verdict;

#[cgroup_sock_addr(getpeername4)]
pub fn grpclb_peer4(ctx: SockAddrContext) -> i32 {
    restore::<V4>(&ctx).code()
}

#[cgroup_sock_addr(getpeername6)]
pub fn grpclb_peer6(ctx: SockAddrContext) -> i32 {
    restore::<V6>(&ctx).code()
}

/// Puts the Service's address back where the listener's stands. A record from an earlier connect of this socket, which has
/// another peer by now, does not count.
#[inline(always)]
fn restore<F: Family>(ctx: &SockAddrContext) -> Verdict {
    let addr = ctx.sock_addr;
    // SAFETY: the socket of this context; the verifier knows that it is not null. Records are written under its lock.
    let record = unsafe { storage::get(&STEERED, (*addr).__bindgen_anon_1.sk) };
    if let Some(record) = record
        // SAFETY: a context of family F.
        && unsafe { family::port(addr) } == record.listener_port
        && same(&unsafe { F::address(addr) }, &record.listener)
    {
        // SAFETY: as above; the Service's address is of the family that was dialled.
        unsafe {
            F::set_address(addr, &record.service);
            family::set_port(addr, record.service_port);
        }
        count(Counter::PeerRestored);
    }
    Verdict::PROCEED
}
