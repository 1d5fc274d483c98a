//! When workers show that their loops turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use grpclb_userspace::data::Config;

use crate::rig::{Rig, config};

/// Without pods it takes its time; with the first one, the kernel must see at once that it is there.
#[tokio::test]
async fn a_worker_that_gets_its_first_pod_beats_at_once() {
    let beats = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&beats);
    let rig = Rig::with(&Config {
        heartbeat: Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        }),
        ..config(1)
    });
    // Answered after the pod was taken up, and long before the next regular beat.
    rig.status().await;
    let beats = beats.load(Ordering::Relaxed);
    assert!(beats >= 2, "one at the start, one for the pod: {beats}");
}
