//! `cargo xtask bench`: installs the peers, builds the agent and the benchmark in release, and runs the latter (a binary
//! of the tests crate).

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::setup::{self, Need};
use crate::{build, progress, workspace};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
    /// What the benchmark itself takes: --rounds N, --quick N, --only NAMES, --json, --markdown FILE
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(
        &[
            Need::Root,
            Need::Namespaces,
            Need::KernelToolchain,
            Need::BenchPeers,
        ],
        options.no_install,
    )?;
    let agent = build::agent()?;
    let mut build = workspace::cargo();
    build.args([
        "build",
        "--release",
        "-p",
        "grpclb-tests",
        "--bin",
        "grpclb-bench",
        "--bin",
        "relay",
    ]);
    progress::run("the benchmark and the relay", &mut build)?;

    let release = workspace::target().join("release");
    let mut bench = Command::new(release.join("grpclb-bench"));
    bench
        .arg("--agent")
        .arg(agent)
        .arg("--relay")
        .arg(release.join("relay"));
    bench.arg("--envoy").arg(setup::envoy());
    bench.args(&options.arguments);
    // The benchmark takes our place, so that Ctrl-C and the exit code are its own.
    bail!("cannot run the benchmark: {}", bench.exec());
}
