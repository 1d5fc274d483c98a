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

/// A number that differs from start to start, for picks and jitter; not for secrets.
pub(super) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
