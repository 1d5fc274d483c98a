//! The handle by which data workers write heartbeats for the kernel programs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use aya::maps::{Array, MapData};

use super::clock::MachineClock;

/// Writes heartbeats. Each data worker that has pods beats from its own loop every 100 ms ([`grpclb_abi::HEARTBEAT_INTERVAL_NS`]);
/// after 500 ms without, the connects of its pods go the plain way.
#[derive(Clone)]
pub struct Heartbeat {
    // aya wants `&mut` for a write that the kernel makes atomic; ten writes a second do not contend.
    map: Arc<Mutex<Array<MapData, u64>>>,
    clock: MachineClock,
    warned: Arc<AtomicBool>,
}

impl Heartbeat {
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        Self {
            map: Arc::new(Mutex::new(map)),
            clock: MachineClock::new(),
            warned: Arc::default(),
        }
    }

    /// Worker `worker` (below [`grpclb_abi::MAX_WORKERS`]) lives. Failures are of no use to a worker: they are logged once,
    /// and what follows from them is what the heartbeat is for.
    pub fn beat(&self, worker: usize) {
        let Ok(index) = u32::try_from(worker) else { return };
        if let Err(error) = self.write(index)
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(worker, %error, "no heartbeat reaches the kernel: this worker's pods are not steered");
        }
    }

    /// Writes the heartbeat of an entry of the map, in the kernel's own clock.
    pub(super) fn write(&self, index: u32) -> io::Result<()> {
        let now = self.clock.monotonic()?;
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(index, now, 0).map_err(io::Error::other)
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeat").finish_non_exhaustive()
    }
}
