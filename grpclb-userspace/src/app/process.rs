//! What the process asks of the kernel for itself.

use std::hash::{BuildHasher, Hasher, RandomState};

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// No core dumps, also none piped to a handler: writing one would hold links and listeners for its duration, and it would
/// hold what pods send. And as many open files as are allowed: each relayed connection takes two.
pub(super) fn prepare() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| set_dumpable(false)) {
        tracing::warn!(%error, "core dumps cannot be turned off");
    }
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Gives back what only the start needed. The kernel's types, read while its programs are loaded, take 20 MB in small
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
