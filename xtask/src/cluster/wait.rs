//! Waits for what tells nobody that it has happened: processes of others, cgroups, the API server's first answers.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Asks every `interval` until the answer is yes. What does not answer yet is a no, and is told when `patience` ends.
pub(super) fn until(
    what: &str,
    patience: Duration,
    interval: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    loop {
        let answer = holds();
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if started.elapsed() > patience {
            answer.with_context(|| format!("not within {patience:?}: {what}"))?;
            bail!("not within {patience:?}: {what}");
        }
        #[expect(clippy::disallowed_methods, reason = "there is no event to wait for")]
        sleep(interval);
    }
}
