//! `cargo xtask build-ebpf`: the kernel programs, with Debian's toolchain or with rustup's nightly, whichever is there.
//!
//! The programs are built for a target that has no ready-made `core`, so either toolchain needs the library's source.
//! The object goes to `target/bpf/grpclb.bpf.o` of the workspace, where the agent's build script takes it from.

mod text;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{self, Need};
use crate::{progress, workspace};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Need::KernelToolchain], options.no_install)?;
    println!("{}", object(Abi::Current)?.display());
    Ok(())
}

/// Which version of the bytes that the kernel programs and the agent share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abi {
    Current,
    /// The one after it, which only tests of upgrades want.
    Next,
}

impl Abi {
    /// What the crates are told.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Abi::Current => &[],
            Abi::Next => &["--features", "next-abi"],
        }
    }

    fn file_name(self) -> &'static str {
        match self {
            Abi::Current => "grpclb.bpf.o",
            Abi::Next => "grpclb-next-abi.bpf.o",
        }
    }
}

/// Builds the object and returns its path.
pub(crate) fn object(abi: Abi) -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    let target = workspace::target().join("ebpf");
    progress::run(
        &format!("the kernel programs, with {}", toolchain.name()),
        toolchain.build(&target)?.args(abi.features()),
    )?;

    let built = target.join("bpfel-unknown-none/release/grpclb-bpf");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let finished = target.join(abi.file_name());
    fs::write(
        &finished,
        text::show_as_text(bytes).context("the kernel programs' BTF")?,
    )?;
    strip(&finished)?;

    let folder = workspace::root().join("target/bpf");
    fs::create_dir_all(&folder)?;
    let object = folder.join(abi.file_name());
    let bytes = fs::read(&finished)?;
    // The agent is rebuilt when this file changes, so it is written only when its contents do.
    if fs::read(&object).ok().as_deref() != Some(&bytes) {
        fs::write(&object, bytes)?;
    }
    Ok(object)
}

/// What builds for the BPF target here.
#[derive(Debug)]
enum Toolchain {
    /// rustup's nightly with `rust-src`.
    Nightly,
    /// Debian's `rustc-web`, `cargo-web` and `rust-web-src`: a stable compiler that must be told to allow what is unstable.
    Debian,
}

impl Toolchain {
    fn find() -> Result<Self> {
        if has_source(Command::new("rustc").arg("+nightly")) {
            return Ok(Self::Nightly);
        }
        if has_source(&mut Command::new("/usr/bin/rustc")) {
            return Ok(Self::Debian);
        }
        bail!(
            "no toolchain with the library's source for the BPF target: \
             apt-get install rustc-web cargo-web rust-web-src, \
             or rustup toolchain install nightly --component rust-src"
        )
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Nightly => "rustup's nightly",
            Self::Debian => "Debian's toolchain",
        }
    }

    fn build(&self, target: &Path) -> Result<Command> {
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

/// Takes the debuginfo out of the object, a sixth of which is left: the kernel and bpftool read BTF. Without the tool it
/// stays in; it costs only size.
fn strip(object: &Path) -> Result<()> {
    let strip = Path::new("/usr/lib/llvm-22/bin/llvm-strip");
    if strip.exists() {
        let status = Command::new(strip).arg("-g").arg(object).status()?;
        if !status.success() {
            bail!("{} {}: {status}", strip.display(), object.display());
        }
    }
    Ok(())
}
