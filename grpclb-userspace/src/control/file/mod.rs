//! Services and pods from a YAML file, read again whenever it changes.
//!
//! - [`schema`]: the keys as written; [`validate`]: their meaning, with [`check`] for single values;
//! - [`problem`]: what is wrong, with file, line, column and key;
//! - [`watcher`]: tells when the file may have changed.
//!
//! docs/configuration.md describes the file.

mod check;
mod problem;
mod schema;
mod validate;
mod watcher;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::{Health, Watch};
use crate::model::Desired;
use problem::Collector;
pub use problem::{Problem, Problems};
use watcher::Watcher;

/// The largest file that is read. The YAML reader has limits of its own (250,000 values, bounded aliases): a file holds
/// about 20,000 endpoints.
const MAX_BYTES: u64 = 16 << 20;

/// Why a file is not taken up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Reads and checks a file, as `grpclb agent --config FILE --check` does.
pub fn load(path: &Path) -> Result<Desired, Error> {
    let text = read(path).map_err(|cause| Error::Unreadable {
        path: path.to_owned(),
        cause,
    })?;
    Ok(parse(path, &text)?)
}

fn read(path: &Path) -> io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_BYTES {
        return Err(io::Error::other(format!(
            "it has {size} bytes; at most {MAX_BYTES} are read"
        )));
    }
    std::fs::read_to_string(path)
}

/// Checks a file's contents; `path` is for messages only.
pub fn parse(path: &Path, text: &str) -> Result<Desired, Problems> {
    let mut problems = Collector::default();
    let mut desired = Desired::default();
    match serde_saphyr::from_str::<Option<schema::File>>(text) {
        Ok(Some(file)) => desired = validate::desired(&file, &mut problems),
        Ok(None) => {
            // Also what a file looks like between truncation and the first write: never "nothing is wanted".
            let message = "the file is empty: expected `services:` or `pods:` (`services: []` for none)";
            problems.add_whole(message);
        }
        Err(error) => problems.add_syntax(&error),
    }
    problems.finish(path)?;
    Ok(desired)
}

/// Takes up the file and keeps following it.
pub(super) fn watch(path: &Path) -> Result<Watch, super::Error> {
    // The watcher first: what changes between the two is then seen.
    let watcher = Watcher::new(path).map_err(|cause| super::Error::Watch {
        source_name: format!("file {}", path.display()),
        cause,
    })?;
    let first = Arc::new(load(path)?);
    let health = Health {
        origin: format!("file {}", path.display()).into(),
        synced: true,
        read_at: Instant::now(),
        generation: 1,
        error: None,
        switched_off: None,
        bad_values: 0,
        undecodable_objects: 0,
    };
    let (desired_sender, desired) = watch::channel(first);
    let (health_sender, health) = watch::channel(health);
    let task = tokio::spawn(follow(path.to_owned(), watcher, desired_sender, health_sender));
    Ok(Watch {
        desired,
        health,
        explainer: None,
        events: None,
        task,
    })
}

/// Reads the file after each change until nobody listens.
async fn follow(
    path: PathBuf,
    mut watcher: Watcher,
    desired: watch::Sender<Arc<Desired>>,
    health: watch::Sender<Health>,
) {
    loop {
        let changed = tokio::select! {
            changed = watcher.changed() => changed,
            () = desired.closed() => return,
        };
        if let Err(cause) = changed {
            let message = format!("cannot watch {} for changes any more: {cause}", path.display());
            tracing::error!("{message}; restart the agent to read the file again");
            health.send_modify(|health| health.error = Some(message));
            return;
        }
        take_up(&path, &desired, &health);
    }
}

/// Reads the file once more; a broken one changes nothing and is logged once.
fn take_up(path: &Path, desired: &watch::Sender<Arc<Desired>>, health: &watch::Sender<Health>) {
    match load(path) {
        Ok(new) => {
            let changed = desired.send_if_modified(|current| {
                let changed = **current != new;
                if changed {
                    *current = Arc::new(new);
                }
                changed
            });
            let recovered = health.borrow().error.is_some();
            if changed || recovered {
                tracing::info!(path = %path.display(), changed, "configuration taken up");
            }
            health.send_modify(|health| {
                health.read_at = Instant::now();
                health.generation += u64::from(changed);
                health.error = None;
            });
        }
        Err(error) => {
            let message = error.to_string();
            health.send_if_modified(|health| {
                if health.error.as_ref() == Some(&message) {
                    return false;
                }
                tracing::error!(
                    "the configuration is not taken up, the last good one stays in use:\n{message}"
                );
                health.error = Some(message);
                true
            });
        }
    }
}

#[cfg(test)]
mod tests;
