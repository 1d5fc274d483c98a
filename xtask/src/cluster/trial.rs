//! A cluster for one program: made, given both images, and taken away when the program has ended.

use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::SIGINT;

use crate::{progress, setup, workspace};

/// Makes a cluster `name` of `nodes` nodes, builds the program, and runs it with `GRPCLB_CLUSTER` set. The
/// cluster is taken away in any case.
///
/// # Errors
/// Something could not be installed, built or started. That the program fails is told by its exit status.
pub(crate) fn run(
    name: &str,
    nodes: u8,
    no_install: bool,
    build: impl FnOnce() -> Result<Command>,
) -> Result<ExitStatus> {
    setup::ensure(setup::A_CLUSTER_WITH_IMAGES, no_install)?;
    let xtask = |label: &str, words: &[&str]| {
        let mut command = Command::new(std::env::current_exe()?);
        progress::run(label, command.args(words))
    };
    let cluster = |label: &str, words: &[&str]| xtask(label, &[&["cluster", "--name", name], words].concat());
    xtask("the tests' image", &["image", "--test"])?;
    xtask("the agent's image", &["image"])?;
    let mut program = build()?;
    // Ctrl-C ends the step that runs, and this goes on to take the cluster away.
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, Arc::clone(&interrupted)).context("cannot listen for Ctrl-C")?;
    let mut used = || -> Result<ExitStatus> {
        cluster("what an earlier run left, if it was killed", &["down"])?;
        cluster("a cluster", &["up", "--nodes", &nodes.to_string()])?;
        for image in ["test", concat!("grpclb-", env!("CARGO_PKG_VERSION"))] {
            let archive = workspace::target().join(format!("images/{image}.tar"));
            cluster(
                "an image, loaded into the nodes",
                &["load", &archive.display().to_string()],
            )?;
        }
        Ok(program.env("GRPCLB_CLUSTER", name).status()?)
    };
    let outcome = used();
    cluster("the cluster's end", &["down"])?;
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    outcome
}
