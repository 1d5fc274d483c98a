//! `grpclb cleanup`: removes what dead agents left on this machine, and says what. Nothing of a live agent is touched.
//!
//! An agent does the same when it starts and removes its own when it ends; this is for the machine that shall have no
//! agent any more. In a cluster a pod on each node stays and does it until nothing is left (deploy/kustomize/cleanup).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use crate::{app, control, kernel};

/// Remove what dead agents left: pinned maps and run files. Live agents are left alone
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Where maps are pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/grpclb")]
    bpffs: PathBuf,
    /// Where the agents of this node find each other
    #[arg(long, value_name = "DIR", default_value = "/run/grpclb")]
    run_dir: PathBuf,
    /// Remove nothing; exit status 1 if something of an agent is there, dead or alive
    #[arg(long)]
    check: bool,
    /// Stay until told to end, and remove what agents leave meanwhile
    #[arg(long, conflicts_with = "check")]
    stay: bool,
}

/// How often `--stay` looks: nothing tells that an agent has died.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(options: &Options) -> Exit {
    let found = if options.check {
        look(options)
    } else {
        sweep(options)
    };
    let mut found = match found {
        Ok(found) => found,
        Err(failure) => return failure.complain(),
    };
    let exit = if options.check && !found.left.is_empty() {
        Exit::No
    } else {
        Exit::Success
    };
    found.removed.append(&mut found.left);
    if found.removed.is_empty() {
        found.removed.push("nothing to remove".to_owned());
    }
    let exit = super::print(&lines(&found.removed), exit);
    if options.stay {
        return stay(options).unwrap_or_else(|failure| failure.complain());
    }
    exit
}

/// What was done, a sentence each.
#[derive(Debug, Default)]
struct Found {
    removed: Vec<String>,
    left: Vec<String>,
}

/// A directory that is there and cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", directory.display())]
struct Failure {
    what: &'static str,
    directory: PathBuf,
    source: io::Error,
}

impl Failure {
    fn complain(&self) -> Exit {
        super::complain(&self.to_string());
        Exit::Failed
    }
}

fn look(options: &Options) -> Result<Found, Failure> {
    let mut found = Found::default();
    for directory in [&options.bpffs, &options.run_dir] {
        let rest = rest(directory)?;
        if !rest.is_empty() {
            found
                .left
                .push(format!("in {}: {}", directory.display(), rest.join(", ")));
        }
    }
    Ok(found)
}

fn sweep(options: &Options) -> Result<Found, Failure> {
    let mut found = Found::default();
    for (what, directory, sweep) in [
        ("pins", &options.bpffs, kernel::sweep as fn(&Path) -> Vec<String>),
        ("run files", &options.run_dir, app::sweep),
    ] {
        for instance in sweep(directory) {
            found.removed.push(format!(
                "removed the {what} of {instance}, which is dead, from {}",
                directory.display()
            ));
        }
        let mut rest = rest(directory)?;
        // Of nobody any more, once it lies there alone: a live agent has files of its own beside it.
        if rest.iter().all(|name| control::kubernetes::is_snapshot(name)) {
            for name in rest.drain(..) {
                let path = directory.join(name);
                if fs::remove_file(&path).is_ok() {
                    found.removed.push(format!("removed {}", path.display()));
                }
            }
            // Gone already, or in use by an agent that starts right now: both are fine.
            if fs::remove_dir(directory).is_ok() {
                found.removed.push(format!("removed {}", directory.display()));
            }
        } else {
            found.left.push(format!(
                "left alone in {}: {}",
                directory.display(),
                rest.join(", ")
            ));
        }
    }
    Ok(found)
}

/// Sweeps again and again, and says what it removed, until it is told to end.
fn stay(options: &Options) -> Result<Exit, Failure> {
    let failed = |what| {
        move |source| Failure {
            what,
            directory: options.run_dir.clone(),
            source,
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("cannot stay beside"))?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed("cannot stay beside"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("cannot stay beside"))?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(Exit::Success),
                _ = interrupt.recv() => return Ok(Exit::Success),
                () = tokio::time::sleep(INTERVAL) => {}
            }
            super::print(&lines(&sweep(options)?.removed), Exit::Success);
        }
    })
}

fn lines(sentences: &[String]) -> String {
    let sentences: String = sentences.iter().flat_map(|sentence| [sentence, "\n"]).collect();
    super::render::escaped_lines(&sentences)
}

/// What is still there; nothing where the directory is not.
fn rest(directory: &Path) -> Result<Vec<String>, Failure> {
    let failed = |source| Failure {
        what: "cannot look into",
        directory: directory.to_owned(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
