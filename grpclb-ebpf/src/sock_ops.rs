//! `sock_ops`: tells the listener which Service a steered IPv6 connection is for, and hands sockets of pods that opted in to
//! `sk_msg`.
//!
//! IPv4 carries the Service in the listener's address; IPv6 has no room for it. So the client's end publishes its record
//! under namespace and tuple when its handshake is done (before its last ACK leaves), and the listener's end, which becomes
//! established by that ACK, moves it into its own socket. A tuple alone is not enough: namespaces reuse them.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock,
};
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use grpclb_abi::{Accepted, Counter, Flow, LOOPBACK_V6, mapped_ipv4, pod_flags};

use crate::count::count;
use crate::family::{self, is_loopback, same};
use crate::maps::{ACCEPTED, FLOWS, PODS, SOCKETS, STEERED};
use crate::storage;
use crate::verdict::Verdict;

#[sock_ops]
pub fn grpclb_sockops(ctx: SockOpsContext) -> u32 {
    let verdict = match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => client_established(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => server_established(&ctx),
        _ => Verdict::PROCEED,
    };
    verdict.code() as u32
}

/// The client's end of a steered connection.
#[inline(always)]
fn client_established(ctx: &SockOpsContext) -> Verdict {
    let Some(sk) = socket(ctx) else {
        return Verdict::PROCEED;
    };
    // SAFETY: the socket of this context, checked; its record is not written after connect.
    let Some(record) = (unsafe { storage::get(&STEERED, sk) }) else {
        return Verdict::PROCEED;
    };
    let flow = flow(ctx);
    // A record from an earlier connect of this socket does not count.
    if flow.remote_port != record.listener_port || !same(&flow.remote, &record.listener) {
        return Verdict::PROCEED;
    }
    count(Counter::Established);
    let accelerate = record.flags & u32::from(pod_flags::ACCELERATE) != 0;
    if same(&record.listener, &LOOPBACK_V6) || accelerate {
        let value = Accepted {
            slot: record.slot,
            flags: record.flags,
        };
        if FLOWS.insert(&flow, &value, 0).is_err() {
            count(Counter::FlowLost);
        }
    }
    if accelerate {
        hand_to_sk_msg(ctx, flow);
    }
    Verdict::PROCEED
}

/// The listener's end, if this is one of ours.
#[inline(always)]
fn server_established(ctx: &SockOpsContext) -> Verdict {
    let flow = flow(ctx);
    if !is_loopback(&flow.local) {
        return Verdict::PROCEED;
    }
    let Some(sk) = socket(ctx) else {
        return Verdict::PROCEED;
    };
    let client = Flow {
        netns: flow.netns,
        local: flow.remote,
        remote: flow.local,
        local_port: flow.remote_port,
        remote_port: flow.local_port,
        padding: 0,
    };
    // SAFETY: copied at once; nothing else writes an entry under a tuple that is in use.
    let Some(accepted) = (unsafe { FLOWS.get(&client) }).copied() else {
        count_stranger(&flow);
        return Verdict::PROCEED;
    };
    if same(&flow.local, &LOOPBACK_V6) {
        // SAFETY: the socket of this context, checked; nobody else has it yet.
        if unsafe { storage::put(&ACCEPTED, sk, &accepted) } {
            count(Counter::FlowClaimed);
        } else {
            count(Counter::FlowLost);
        }
    }
    // What is gone already was the oldest of a full table.
    let _: Result<(), i32> = FLOWS.remove(&client);
    if accepted.flags & u32::from(pod_flags::ACCELERATE) != 0 {
        hand_to_sk_msg(ctx, flow);
    }
    Verdict::PROCEED
}

/// A process of an enabled pod that dials the listener by itself over IPv6; the agent will close it.
#[inline(always)]
fn count_stranger(flow: &Flow) {
    if !same(&flow.local, &LOOPBACK_V6) {
        return;
    }
    // SAFETY: the agent replaces entries whole.
    if let Some(pod) = unsafe { PODS.get(flow.netns) }
        && pod.port == flow.local_port
    {
        count(Counter::FlowUnknown);
    }
}

/// Puts this socket where `sk_msg` finds it. If that fails, TCP carries its bytes as ever.
#[inline(always)]
fn hand_to_sk_msg(ctx: &SockOpsContext, flow: Flow) {
    // SAFETY: the context that the kernel gave.
    let ops = unsafe { &mut *ctx.ops };
    match SOCKETS.update(flow, ops, BPF_NOEXIST.into()) {
        Ok(()) => count(Counter::Accelerated),
        Err(_) => count(Counter::AccelerateFailed),
    }
}

/// The context's socket, which the verifier wants checked.
#[inline(always)]
fn socket(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the context that the kernel gave.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    (!sk.is_null()).then_some(sk)
}

/// This connection as this socket sees it.
#[inline(always)]
fn flow(ctx: &SockOpsContext) -> Flow {
    // SAFETY: the context that the kernel gave.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    family::flow!(ctx.ops, netns)
}
