//! `sk_msg`: hands what one end of a connection writes straight to the other end's receive queue, where a pod opted in.
//!
//! Off by default, for two reasons that were measured: a reader that stops does not stop the writer (gigabytes pile up in
//! kernel memory, where TCP stops at a few MB), and blocking readers see EAGAIN.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_INGRESS, sk_action::SK_PASS};
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use grpclb_abi::{Counter, Flow, mapped_ipv4};

use crate::count::count;
use crate::family;
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
    // SAFETY: the context that the kernel gave.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let own = family::flow!(ctx.msg, netns);
    Flow {
        netns,
        local: own.remote,
        remote: own.local,
        local_port: own.remote_port,
        remote_port: own.local_port,
        padding: 0,
    }
}
