//! The kernel side of grpclb: one file for each hook, one source for IPv4 and IPv6.
//!
//! Entry points map a named result to a verdict and do nothing else; every verdict lets the system call go on, since
//! whatever goes wrong here must leave the connection as it would have been (ARCHITECTURE.md: fail open). Every outcome is
//! counted. The agent fills `PODS`, `SERVICES` and `HEARTBEATS`; nothing here is decided that the agent could decide.

#![no_std]
#![no_main]

mod connect;
mod count;
mod family;
mod getpeername;
mod getsockname;
mod maps;
mod sk_msg;
mod sock_ops;
mod storage;
mod verdict;

/// The agent refuses an object of another version.
#[unsafe(link_section = "grpclb_abi")]
#[used]
static ABI: [u8; 4] = grpclb_abi::ABI_VERSION.to_le_bytes();

/// The kernel's word for GPL-compatible; the programs are Apache-2.0 or GPL-2.0, at your choice.
#[unsafe(link_section = "license")]
#[used]
static LICENSE: [u8; 4] = *b"GPL\0";

/// The verifier proves that nothing here panics; the language wants a handler all the same.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
