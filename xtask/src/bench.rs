//! `cargo xtask bench`: installs the peers, builds the agent and the benchmark in release, and runs the latter (a binary
//! of the tests crate). `cargo xtask bench scale` does the same for the other question: what ten thousand Services cost.
//! [`instructions`] counts those of the engine alone.

mod instructions;

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::cluster::trial;
use crate::setup::{self, Need};
use crate::{build, progress, workspace};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    other: Option<Other>,
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
    /// What the benchmark itself takes: --rounds N, --quick N, --only PROXIES, --scenario WORDS, --json, --markdown FILE
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Without root: the splitter's instructions per call under callgrind, beside the kept figures of an earlier commit
    Instructions(instructions::Options),
    /// In a cluster made for it: ten thousand Services, beside kube-proxy
    Scale {
        /// Only report what is missing on this machine, install nothing
        #[arg(long)]
        no_install: bool,
        /// What the measurement itself takes: --services N, --endpoints-each N, --changes N, --agents N, --json, --markdown FILE
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.other {
        Some(Other::Instructions(options)) => return instructions::run(options),
        Some(Other::Scale {
            no_install,
            arguments,
        }) => return scale(*no_install, arguments),
        None => {}
    }
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

fn scale(no_install: bool, arguments: &[String]) -> Result<()> {
    let status = trial::run("scale", 1, no_install, || {
        let mut build = workspace::cargo();
        build.args([
            "build",
            "--release",
            "-p",
            "grpclb-tests",
            "--bin",
            "grpclb-scale",
        ]);
        progress::run("the measurement", &mut build)?;
        let mut measure = Command::new(workspace::target().join("release/grpclb-scale"));
        measure.arg("measure").args(arguments);
        Ok(measure)
    })?;
    if !status.success() {
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}
