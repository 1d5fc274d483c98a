//! What the process asks of the kernel for itself.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::time::Duration;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// Open files of an agent without pods and workers (51, measured): maps, programs, links, watches, the admin. A few more
/// are open for a moment while it starts.
const BASE_FILES: u64 = 56;
/// Open files of a data worker (5, measured): its runtime's and its timer.
const WORKER_FILES: u64 = 8;

/// The limit of open files is too low to begin with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the limit of open files (RLIMIT_NOFILE) is {limit}, and an agent with {workers} data workers opens up to {least} before \
     its first connection: raise it (ulimit -n, systemd's LimitNOFILE, the container runtime's default); each relayed \
     connection takes two"
)]
pub(super) struct TooFewFiles {
    limit: u64,
    workers: usize,
    least: u64,
}

/// No core dumps, also none piped to a handler: writing one would hold links and listeners for its duration, and it would
/// hold what pods send. And as many open files as are allowed: each relayed connection takes two.
///
/// # Errors
/// So few are allowed that the start would fail half way, here or in a library that panics.
pub(super) fn prepare(workers: usize) -> Result<(), TooFewFiles> {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| set_dumpable(false)) {
        tracing::warn!(%error, "core dumps cannot be turned off");
    }
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    // Where it cannot be read, the start tells.
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(limit, _)| limit);
    check_files(limit, workers)
}

fn check_files(limit: u64, workers: usize) -> Result<(), TooFewFiles> {
    let least = (workers as u64)
        .saturating_mul(WORKER_FILES)
        .saturating_add(BASE_FILES);
    if limit < least {
        return Err(TooFewFiles {
            limit,
            workers,
            least,
        });
    }
    Ok(())
}

/// The main thread's runtime, with a thread for what blocks that stays for good: without any, tokio panics where none can be
/// made.
pub(super) fn runtime() -> io::Result<Runtime> {
    const FOREVER: Duration = Duration::from_hours(100 * 365 * 24);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(FOREVER)
        .build()?;
    let trial = std::thread::Builder::new().spawn(|| {})?;
    let _ended = trial.join();
    drop(runtime.spawn_blocking(|| {}));
    Ok(runtime)
}

/// Gives memory back that is free: what only the start needed, and what an attack has left. The kernel's types, read while its programs are loaded, take 20 MB in small
/// pieces; when they are gone, a few that stay behind them keep the allocator from letting go of what lies between
/// (measured: 2.5 MB of heap, of which 0.7 MB are in use).
pub(super) fn give_back_memory() {
    // SAFETY: it takes no pointer, and locks each arena that it looks at.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// A number that differs from start to start, for picks and jitter; not for secrets.
pub(super) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_of_open_files_must_suffice_for_the_workers() {
        assert_eq!(check_files(72, 2), Ok(()));
        let least = 72;
        assert_eq!(
            check_files(71, 2),
            Err(TooFewFiles {
                limit: 71,
                workers: 2,
                least
            })
        );
        assert!(check_files(72, 64).is_err());
        assert_eq!(check_files(1024, 64), Ok(()));
        assert!(check_files(1024, usize::MAX).is_err());
        let said = check_files(32, 2).unwrap_err().to_string();
        assert!(
            said.contains("is 32") && said.contains("up to 72") && !said.contains('\n'),
            "{said}"
        );
    }
}
