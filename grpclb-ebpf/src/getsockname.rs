//! `cgroup/getsockname4` and `getsockname6`: a steered socket's own address is the pod's, not loopback's. Applications
//! register themselves under what this call answers.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use grpclb_abi::Counter;

use crate::count::count;
use crate::family::{self, Family, V4, V6, is_loopback, is_zero, same};
use crate::maps::STEERED;
use crate::storage;
use crate::verdict::Verdict;

#[cgroup_sock_addr(getsockname4)]
pub fn grpclb_name4(ctx: SockAddrContext) -> i32 {
    restore::<V4>(&ctx).code()
}

#[cgroup_sock_addr(getsockname6)]
pub fn grpclb_name6(ctx: SockAddrContext) -> i32 {
    restore::<V6>(&ctx).code()
}

/// Puts the pod's address where a loopback address stands; the port is the socket's own. Holds only while the socket's
/// peer is the listener, and a socket that was bound to the pod's address tells the truth already.
#[inline(always)]
fn restore<F: Family>(ctx: &SockAddrContext) -> Verdict {
    let addr = ctx.sock_addr;
    // SAFETY: the socket of this context; the verifier knows that it is not null.
    let sk = unsafe { (*addr).__bindgen_anon_1.sk };
    // SAFETY: records are written under the socket's lock.
    if let Some(record) = unsafe { storage::get(&STEERED, sk) }
        && !is_zero(&record.source)
        // SAFETY: a socket and a context of family F.
        && unsafe { family::peer_port(sk) } == record.listener_port
        && same(&unsafe { F::peer(sk) }, &record.listener)
        && is_loopback(&unsafe { F::address(addr) })
    {
        // SAFETY: as above; the pod's address is of the family that was dialled.
        unsafe { F::set_address(addr, &record.source) };
        count(Counter::NameRestored);
    }
    Verdict::PROCEED
}
