//! The handle that data workers beat with, and the clock that they share with the kernel programs.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{Array, MapData};
use nix::time::{ClockId, clock_gettime};

/// Writes heartbeats. Each data worker that has pods beats from its own loop every 100 ms ([`grpclb_abi::HEARTBEAT_INTERVAL_NS`]);
/// after 500 ms without, the connects of its pods go the plain way.
#[derive(Clone)]
pub struct Heartbeat {
    // aya wants `&mut` for a write that the kernel makes atomic; ten writes a second do not contend.
    map: Arc<Mutex<Array<MapData, u64>>>,
    warned: Arc<AtomicBool>,
}

impl Heartbeat {
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        Self {
            map: Arc::new(Mutex::new(map)),
            warned: Arc::default(),
        }
    }

    /// Worker `worker` (below [`grpclb_abi::MAX_WORKERS`]) lives. Failures are of no use to a worker: they are logged once,
    /// and what follows from them is what the heartbeat is for.
    pub fn beat(&self, worker: usize) {
        let Ok(index) = u32::try_from(worker) else { return };
        if let Err(error) = self.write(index, now())
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(worker, %error, "no heartbeat reaches the kernel: this worker's pods are not steered");
        }
    }

    pub(super) fn write(&self, index: u32, nanos: u64) -> Result<(), aya::maps::MapError> {
        self.map
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set(index, nanos, 0)
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeat").finish_non_exhaustive()
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: what `bpf_ktime_get_ns` reads too.
pub(super) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned()
    })
}
