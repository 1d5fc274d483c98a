//! `cargo xtask build`: the agent as people run it, `target/release/grpclb`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::setup::{self, Need};
use crate::{build_ebpf, progress, workspace};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Need::KernelToolchain], options.no_install)?;
    println!("{}", agent()?.display());
    Ok(())
}

/// Builds the kernel programs and the agent that embeds them, and returns the path of its binary.
pub(crate) fn agent() -> Result<PathBuf> {
    build_ebpf::object(build_ebpf::Abi::Current)?;
    let mut command = workspace::cargo();
    progress::run(
        "the agent",
        command.args(["build", "--release", "-p", "grpclb-userspace", "--bin", "grpclb"]),
    )?;
    Ok(workspace::target().join("release/grpclb"))
}
