//! When a snapshot is written: a moment after what is wanted has changed, one at a time, and never for much of the time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;

use super::Place;
use crate::model::Desired;

/// From a change to the snapshot that has it, at least.
const DEBOUNCE: Duration = Duration::from_secs(2);
/// Writing takes at most one part in so many of the time, for all is written anew: where ten thousand Services change all the
/// time, the snapshot is a minute behind.
const SHARE: u32 = 1000;

/// Keeps a snapshot that follows what is wanted.
#[derive(Debug)]
pub(in super::super) struct Keeper {
    place: Place,
    /// Since when the snapshot is behind.
    behind: Option<Instant>,
    /// Not before.
    next: Instant,
    writing: Option<JoinHandle<(Duration, std::io::Result<()>)>>,
    failed: bool,
}

impl Keeper {
    pub(in super::super) fn new(place: Place) -> Self {
        Self {
            place,
            behind: None,
            next: Instant::now(),
            writing: None,
            failed: false,
        }
    }

    pub(in super::super) fn place(&self) -> &Place {
        &self.place
    }

    /// What is wanted has changed.
    pub(in super::super) fn changed(&mut self) {
        self.behind.get_or_insert_with(Instant::now);
    }

    /// Called about once a second: writes what is wanted, if it is time.
    pub(in super::super) async fn look(&mut self, desired: &Arc<Desired>) {
        if let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) {
            let outcome = match writing.await {
                Ok((took, outcome)) => {
                    self.next = Instant::now() + took * SHARE;
                    outcome
                }
                Err(panic) => Err(std::io::Error::other(panic)),
            };
            self.note(&outcome);
        }
        let due = |since: &mut Instant| since.elapsed() >= DEBOUNCE;
        if self.writing.is_some() || Instant::now() < self.next || self.behind.take_if(due).is_none() {
            return;
        }
        let (place, desired) = (self.place.clone(), Arc::clone(desired));
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let outcome = place.write(&desired, SystemTime::now());
            (began.elapsed(), outcome)
        }));
    }

    /// Says once that the snapshot is not kept, and tries on.
    fn note(&mut self, outcome: &std::io::Result<()>) {
        let path = self.place.path().display();
        match outcome {
            Ok(()) if self.failed => tracing::info!(%path, "the snapshot is kept again"),
            Err(error) if !self.failed => {
                tracing::warn!(%path, %error, "no snapshot is kept: a start without the API server would find nothing");
            }
            _ => {}
        }
        self.failed = outcome.is_err();
        if self.failed {
            self.changed();
        }
    }
}
