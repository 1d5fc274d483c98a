//! Which Rust toolchain builds the kernel programs, and how it is called.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::workspace;

/// The LLVM that `bpf-linker` is built with ([`crate::setup`]).
const LINKER_LLVM: u32 = 22;

/// What builds for the BPF target here.
#[derive(Debug)]
pub(super) enum Toolchain {
    /// rustup's nightly with `rust-src`, as [`nightly_is_usable`] says.
    Nightly,
    /// Debian's `rustc-web`, `cargo-web` and `rust-web-src`: a stable compiler that must be told to allow what is unstable.
    Debian,
}

impl Toolchain {
    pub(super) fn find() -> Result<Self> {
        if nightly_is_usable() {
            return Ok(Self::Nightly);
        }
        if has_source(&mut Command::new("/usr/bin/rustc")) {
            return Ok(Self::Debian);
        }
        bail!(
            "no toolchain with the library's source for the BPF target: \
             apt-get install rustc-web cargo-web rust-web-src, \
             or rustup toolchain install nightly --component rust-src (one of LLVM {LINKER_LLVM} or older)"
        )
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Nightly => "rustup's nightly",
            Self::Debian => "Debian's toolchain",
        }
    }

    pub(super) fn build(&self, target: &Path) -> Result<Command> {
        let mut command = match self {
            Self::Nightly => {
                let mut cargo = Command::new("cargo");
                cargo.arg("+nightly");
                cargo
            }
            Self::Debian => {
                let mut cargo = Command::new("/usr/bin/cargo");
                cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        };
        command
            .current_dir(workspace::root().join("grpclb-ebpf"))
            // Set by the cargo that runs us, for another toolchain than this one.
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("PATH", path_with_linker()?)
            .env("CARGO_TARGET_DIR", target)
            // bpftool shows fields by name where the object has BTF, which takes the linker's flag and full debuginfo.
            .env("RUSTFLAGS", "-Clink-arg=--btf -Cdebuginfo=2")
            .args([
                "build",
                "--release",
                "--locked",
                "-Zbuild-std=core",
                "--target=bpfel-unknown-none",
            ]);
        Ok(command)
    }
}

/// Whether rustup's nightly has the library's source, and an LLVM whose bitcode the linker can read: its own or an older one.
pub(crate) fn nightly_is_usable() -> bool {
    let nightly = || {
        let mut rustc = Command::new("rustc");
        rustc.arg("+nightly");
        rustc
    };
    has_source(&mut nightly()) && llvm_of(&mut nightly()).is_some_and(|llvm| llvm <= LINKER_LLVM)
}

/// The major version of a compiler's LLVM.
fn llvm_of(rustc: &mut Command) -> Option<u32> {
    let output = rustc
        .arg("-vV")
        .env_remove("RUSTUP_TOOLCHAIN")
        .stderr(Stdio::null())
        .output();
    llvm_in(&String::from_utf8_lossy(&output.ok()?.stdout))
}

fn llvm_in(version: &str) -> Option<u32> {
    let mut lines = version.lines();
    let llvm = lines.find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

/// Whether this compiler has the source of the standard library beside it.
fn has_source(rustc: &mut Command) -> bool {
    let output = rustc
        .args(["--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .exists()
}

/// rustc finds `bpf-linker` by the PATH.
fn path_with_linker() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let ours = workspace::tools().join("bin");
    Ok(env::join_paths(
        std::iter::once(ours).chain(env::split_paths(&path)),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_llvm_is_read() {
        let version = "rustc 1.101.0-nightly (92b5b8c87 2026-10-29)\nhost: x86_64-unknown-linux-gnu\n\
                       release: 1.101.0-nightly\nLLVM version: 23.1.4\n";
        assert_eq!(llvm_in(version), Some(23));
        assert_eq!(llvm_in("rustc 1.0.0\n"), None);
    }
}
