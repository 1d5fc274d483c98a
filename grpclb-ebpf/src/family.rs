//! The two shapes of a socket address in `bpf_sock_addr` and `bpf_sock`, read and written as one form.
//!
//! The verifier wants each field of a context read by itself, at a constant offset and in its own width: hence volatile.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use grpclb_abi::{Address, mapped_ipv4};

/// `AF_INET6` of `socket(2)`; bindgen leaves it out.
pub const AF_INET6: u32 = 10;

/// How one address family lies in the context. Ports are in network order there, in host order here.
pub trait Family {
    /// # Safety
    /// `ctx` is the context that the kernel gave to a hook of this family.
    unsafe fn address(ctx: *mut bpf_sock_addr) -> Address;
    /// # Safety
    /// As above. `address` is of this family: for IPv4 its last four bytes are used.
    unsafe fn set_address(ctx: *mut bpf_sock_addr, address: &Address);
    /// The socket's peer.
    ///
    /// # Safety
    /// `sk` is the socket of a context of this family, not null.
    unsafe fn peer(sk: *mut bpf_sock) -> Address;
}

pub struct V4;
pub struct V6;

impl Family for V4 {
    #[inline(always)]
    unsafe fn address(ctx: *mut bpf_sock_addr) -> Address {
        mapped_ipv4(unsafe { (&raw const (*ctx).user_ip4).read_volatile() }.to_ne_bytes())
    }

    #[inline(always)]
    unsafe fn set_address(ctx: *mut bpf_sock_addr, address: &Address) {
        let octets = [address[12], address[13], address[14], address[15]];
        unsafe { (&raw mut (*ctx).user_ip4).write_volatile(u32::from_ne_bytes(octets)) };
    }

    #[inline(always)]
    unsafe fn peer(sk: *mut bpf_sock) -> Address {
        mapped_ipv4(unsafe { (&raw const (*sk).dst_ip4).read_volatile() }.to_ne_bytes())
    }
}

impl Family for V6 {
    #[inline(always)]
    unsafe fn address(ctx: *mut bpf_sock_addr) -> Address {
        unsafe { read((&raw const (*ctx).user_ip6).cast()) }
    }

    #[inline(always)]
    unsafe fn set_address(ctx: *mut bpf_sock_addr, address: &Address) {
        let words = unsafe { &raw mut (*ctx).user_ip6 }.cast::<u32>();
        let [a, b, c, d] = split(address);
        unsafe {
            words.write_volatile(a);
            words.add(1).write_volatile(b);
            words.add(2).write_volatile(c);
            words.add(3).write_volatile(d);
        }
    }

    #[inline(always)]
    unsafe fn peer(sk: *mut bpf_sock) -> Address {
        unsafe { read((&raw const (*sk).dst_ip6).cast()) }
    }
}

/// The port that the application gave, in host order.
///
/// # Safety
/// `ctx` is the context that the kernel gave to the hook.
#[inline(always)]
pub unsafe fn port(ctx: *mut bpf_sock_addr) -> u16 {
    u16::from_be(unsafe { (&raw const (*ctx).user_port).read_volatile() } as u16)
}

/// # Safety
/// `ctx` is the context that the kernel gave to the hook.
#[inline(always)]
pub unsafe fn set_port(ctx: *mut bpf_sock_addr, port: u16) {
    unsafe { (&raw mut (*ctx).user_port).write_volatile(u32::from(port.to_be())) };
}

/// The port of the socket's peer, in host order; zero while it has none.
///
/// # Safety
/// `sk` is a context's socket, not null.
#[inline(always)]
pub unsafe fn peer_port(sk: *mut bpf_sock) -> u16 {
    u16::from_be(unsafe { (&raw const (*sk).dst_port).read_volatile() })
}

/// Four words in network order, as an address.
#[inline(always)]
pub fn join(words: [u32; 4]) -> Address {
    // SAFETY: both are 16 bytes without padding, of which every pattern is valid. Byte by byte costs a hundred
    // instructions.
    unsafe { core::mem::transmute::<[u32; 4], Address>(words) }
}

#[inline(always)]
fn split(address: &Address) -> [u32; 4] {
    // SAFETY: as above.
    unsafe { core::mem::transmute::<Address, [u32; 4]>(*address) }
}

/// This connection as the socket that an operation's context speaks of sees it; reads the fields of `bpf_sock_ops` and of
/// `sk_msg_md`, which have the same names.
///
/// The IPv4 fields are read before the branch: read within it, the compiler would share one load between both families,
/// with a computed place, which the verifier refuses.
macro_rules! flow {
    ($ctx:expr, $netns:expr) => {{
        let ctx = $ctx;
        // SAFETY: the context that the kernel gave; each field is read by itself.
        unsafe {
            let local4 = (&raw const (*ctx).local_ip4).read_volatile();
            let remote4 = (&raw const (*ctx).remote_ip4).read_volatile();
            let (local, remote) = if (&raw const (*ctx).family).read_volatile() == $crate::family::AF_INET6 {
                let local = (&raw const (*ctx).local_ip6).cast::<u32>();
                let remote = (&raw const (*ctx).remote_ip6).cast::<u32>();
                ($crate::family::read(local), $crate::family::read(remote))
            } else {
                (
                    mapped_ipv4(local4.to_ne_bytes()),
                    mapped_ipv4(remote4.to_ne_bytes()),
                )
            };
            Flow {
                netns: $netns,
                local,
                remote,
                local_port: (&raw const (*ctx).local_port).read_volatile() as u16,
                // In network order, in the whole word.
                remote_port: u32::from_be((&raw const (*ctx).remote_port).read_volatile()) as u16,
                padding: 0,
            }
        }
    }};
}
pub(crate) use flow;

/// Four words of a context as an address.
///
/// # Safety
/// `words` points to four words of a context that the kernel gave.
#[inline(always)]
pub unsafe fn read(words: *const u32) -> Address {
    // SAFETY: the caller's promise.
    unsafe {
        join([
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ])
    }
}

/// Whether two addresses are the same, word by word: `==` on arrays would call memcmp, which the kernel has not.
#[inline(always)]
pub fn same(a: &Address, b: &Address) -> bool {
    let (a, b) = (split(a), split(b));
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
}

/// Whether this is an IPv4 address, mapped.
#[inline(always)]
pub fn is_ipv4(address: &Address) -> bool {
    let [a, b, c, _] = split(address);
    a == 0 && b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}

/// Whether this is `::1` or in `127.0.0.0/8`.
#[inline(always)]
pub fn is_loopback(address: &Address) -> bool {
    same(address, &grpclb_abi::LOOPBACK_V6) || (is_ipv4(address) && address[12] == 127)
}

/// Whether there is no address in this field.
#[inline(always)]
pub fn is_zero(address: &Address) -> bool {
    same(address, &[0; 16])
}
