//! The handle that tells which Service an accepted connection is for.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::Arc;

use aya::maps::{MapData, SkStorage};
use grpclb_abi::{self as abi, Slot};

use super::pod::Plain;

/// Tells which Service an accepted IPv6 connection is for.
#[derive(Clone, Debug)]
pub struct Identify {
    map: Arc<SkStorage<MapData, Plain<abi::Accepted>>>,
}

impl Identify {
    pub(super) fn new(map: SkStorage<MapData, Plain<abi::Accepted>>) -> Self {
        Self { map: Arc::new(map) }
    }

    /// The Service's slot of an accepted IPv6 connection; `None` if nothing steered it here (then close it).
    /// IPv4 connections carry it in their local address: [`Slot::from_ipv4`].
    pub fn service_of(&self, socket: BorrowedFd<'_>) -> Option<Slot> {
        let Plain(accepted) = self.map.get(&socket.as_raw_fd(), 0).ok()?;
        // By way of the address, since the reserved slots are no Service's but arrive here too.
        let [_, a, b, c] = accepted.slot.to_be_bytes();
        Slot::from_ipv4([127, a, b, c].into())
    }
}
