//! Where things are: the workspace, the target directory and what is put into it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that holds the root `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_path_buf()
}

/// Cargo's target directory, as cargo itself will choose it.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where the gRPC peers in other languages are built and their packages kept; the tests look for them here.
pub(crate) fn peers() -> PathBuf {
    target().join("peers")
}

/// Tools that only the build needs (`bpf-linker`), installed apart from what the user has.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The cargo that runs us, in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}
