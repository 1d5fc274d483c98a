//! `cargo xtask demo`: sets up, builds the agent and the demo, and runs the latter (a binary of the tests crate).

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::cluster::trial;
use crate::setup::{self, Need};
use crate::{build, progress, workspace};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
    /// In a real Kubernetes cluster, made for it (see `cargo xtask cluster`)
    #[arg(long, conflicts_with = "keep")]
    cluster: bool,
    /// What the demo itself takes: --json, --calls N, --keep
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
struct Shown {
    /// Print the result as JSON, one object on standard output
    #[arg(long)]
    json: bool,
    /// How many calls each act makes over its one connection
    #[arg(long, default_value_t = 3000)]
    calls: u32,
    /// Leave everything up afterwards and say how to look around
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.cluster {
        return in_a_cluster(options);
    }
    setup::ensure(
        &[Need::Root, Need::Namespaces, Need::KernelToolchain],
        options.no_install,
    )?;
    let agent = build::agent()?;
    let mut build = workspace::cargo();
    progress::run(
        "the demo and its gRPC peers",
        build.args([
            "build",
            "-p",
            "grpclb-tests",
            "--bin",
            "grpclb-demo",
            "--bin",
            "grpclb-peer",
        ]),
    )?;

    let mut demo = Command::new(workspace::target().join("debug/grpclb-demo"));
    demo.arg("--agent")
        .arg(agent)
        .args(["--calls", &options.shown.calls.to_string()]);
    if options.shown.json {
        demo.arg("--json");
    }
    if options.shown.keep {
        demo.arg("--keep");
    }
    // The demo takes our place, so that Ctrl-C and the exit code are its own.
    bail!("cannot run the demo: {}", demo.exec());
}

/// Plays the demo in a cluster made for it.
fn in_a_cluster(options: &Options) -> Result<()> {
    let status = trial::run("demo", 2, options.no_install, || {
        let mut build = workspace::cargo();
        build.args(["build", "-p", "grpclb-tests", "--bin", "grpclb-demo"]);
        progress::run("the demo", &mut build)?;
        let mut demo = Command::new(workspace::target().join("debug/grpclb-demo"));
        demo.arg("--cluster")
            .args(["--calls", &options.shown.calls.to_string()]);
        if options.shown.json {
            demo.arg("--json");
        }
        Ok(demo)
    })?;
    if !status.success() {
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}
