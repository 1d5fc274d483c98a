//! `cargo xtask build-ebpf`: the kernel programs, with Debian's toolchain or with rustup's nightly, whichever is there.
//!
//! The programs are built for a target that has no ready-made `core`, so either toolchain needs the library's source.
//! The object goes to `target/bpf/grpclb.bpf.o` of the workspace, where the agent's build script takes it from.

mod text;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{self, Need};
use crate::{progress, workspace};
use toolchain::Toolchain;
pub(crate) use toolchain::nightly_is_usable;

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
