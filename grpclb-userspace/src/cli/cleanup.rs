//! `grpclb cleanup`: removes what dead agents left on this machine, and says what. Nothing of a live agent is touched.
//!
//! An agent does the same when it starts and removes its own when it ends; this is for the machine that shall have no
//! agent any more.

use std::fs;
use std::path::{Path, PathBuf};

use super::Exit;
use crate::{app, kernel};

/// Remove what dead agents left: pinned maps and run files. Live agents are left alone
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Where maps are pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/grpclb")]
    bpffs: PathBuf,
    /// Where the agents of this node find each other
    #[arg(long, value_name = "DIR", default_value = "/run/grpclb")]
    run_dir: PathBuf,
}

pub(super) fn run(options: &Options) -> Exit {
    let mut report = Vec::new();
    let mut exit = Exit::Success;
    for (what, directory, sweep) in [
        ("pins", &options.bpffs, kernel::sweep as fn(&Path) -> Vec<String>),
        ("run files", &options.run_dir, app::sweep),
    ] {
        for instance in sweep(directory) {
            report.push(format!(
                "removed the {what} of {instance}, which is dead, from {}",
                directory.display()
            ));
        }
        match rest(directory) {
            Ok(rest) if rest.is_empty() => {
                // Gone already, or in use by an agent that starts right now: both are fine.
                if fs::remove_dir(directory).is_ok() {
                    report.push(format!("removed {}", directory.display()));
                }
            }
            Ok(rest) => report.push(format!(
                "left alone in {}: {}",
                directory.display(),
                rest.join(", ")
            )),
            Err(error) => {
                super::complain(&format!("cannot look into {}: {error}", directory.display()));
                exit = Exit::Failed;
            }
        }
    }
    if report.is_empty() && exit == Exit::Success {
        report.push("nothing to remove".to_owned());
    }
    let mut text = report.join("\n");
    text.push('\n');
    super::print(if report.is_empty() { "" } else { &text }, exit)
}

/// What is still there; nothing where the directory is not.
fn rest(directory: &Path) -> std::io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
