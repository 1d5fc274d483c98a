//! The kept figures of a commit, and the toolchain that they were taken with.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::workspace;

/// Instructions per call of each scenario at one commit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) commit: String,
    pub(super) toolchain: Toolchain,
    instructions_per_call: BTreeMap<String, f64>,
}

/// Everything outside of the repository that decides how many instructions a call takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Toolchain {
    pub(super) rustc: String,
    pub(super) target: String,
    /// Allocates, and copies memory.
    pub(super) libc: String,
}

impl Reference {
    pub(super) fn new(commit: &str, toolchain: Toolchain, figures: &[(String, f64)]) -> Self {
        let rounded = |(name, value): &(String, f64)| (name.clone(), (value * 10.0).round() / 10.0);
        Self {
            commit: commit.to_owned(),
            toolchain,
            instructions_per_call: figures.iter().map(rounded).collect(),
        }
    }

    pub(super) fn load() -> Result<Self> {
        let path = path();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))
    }

    pub(super) fn save(&self) -> Result<()> {
        let path = path();
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn instructions(&self, scenario: &str) -> Option<f64> {
        self.instructions_per_call.get(scenario).copied()
    }
}

fn path() -> PathBuf {
    workspace::root().join("grpclb-engine/benches/calls/reference.json")
}

impl Toolchain {
    pub(super) fn of_this_machine() -> Result<Self> {
        let rustc = output(Command::new("rustc").arg("-vV").current_dir(workspace::root()))?;
        let field = |name: &str| {
            let value = rustc.lines().find_map(|line| line.strip_prefix(name));
            value
                .map(str::to_owned)
                .with_context(|| format!("rustc -vV prints no `{name}`"))
        };
        Ok(Self {
            rustc: field("rustc ")?,
            target: field("host: ")?,
            libc: output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?,
        })
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {} for {} and {}", self.rustc, self.target, self.libc)
    }
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_figures_can_be_loaded() {
        let kept = Reference::load().expect("reference.json is valid");
        assert!(
            kept.instructions("100 B, 1 x 100")
                .is_some_and(|value| value > 0.0)
        );
    }
}
