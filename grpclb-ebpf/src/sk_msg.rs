//! `sk_msg`: hands what one end of a connection writes straight to the other end's receive queue, where a pod opted in.
//!
//! Off by default, for two reasons that were measured: a reader that stops does not stop the writer (gigabytes pile up in
//! kernel memory, where TCP stops at a few MB), and blocking readers see EAGAIN.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_INGRESS, sk_action::SK_PASS};
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use grpclb_abi::{Address, Counter, Flow, mapped_ipv4};

use crate::count::count;
use crate::family::{AF_INET6, join};
use crate::maps::SOCKETS;

#[sk_msg]
pub fn grpclb_skmsg(ctx: SkMsgContext) -> u32 {
    let other_end = other_end(&ctx);
    if SOCKETS.redirect_msg(&ctx, other_end, BPF_F_INGRESS.into()) == i64::from(SK_PASS) {
        count(Counter::Redirected);
    } else {
        count(Counter::NotRedirected);
    }
    // Without a redirect this lets TCP carry the message.
    SK_PASS
}

/// The connection as the peer's socket sees it: its key in `SOCKETS`.
#[inline(always)]
fn other_end(ctx: &SkMsgContext) -> Flow {
    let msg = ctx.msg;
    // SAFETY: the context that the kernel gave; each field is read by itself.
    let (local, remote): (Address, Address) = unsafe {
        if (*msg).family == AF_INET6 {
            (join((*msg).local_ip6), join((*msg).remote_ip6))
        } else {
            (mapped_ipv4((*msg).local_ip4.to_ne_bytes()), mapped_ipv4((*msg).remote_ip4.to_ne_bytes()))
        }
    };
    // SAFETY: as above.
    let (local_port, remote_port) = unsafe { ((*msg).local_port, (*msg).remote_port) };
    Flow {
        // SAFETY: as above.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        local: remote,
        remote: local,
        // In network order, in the whole word.
        local_port: u32::from_be(remote_port) as u16,
        remote_port: local_port as u16,
        padding: 0,
    }
}
