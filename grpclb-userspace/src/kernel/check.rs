//! `grpclb check`: what this kernel and machine have and lack, line by line, and what follows from it.
//!
//! Lines are data ([`Report`]); how they are printed stands at the end. Nothing is loaded for good and nothing is attached.

use std::path::Path;

/// What the check found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    pub lines: Vec<Line>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Line {
    /// What: "BTF", "cgroup v2", "helper get_netns_cookie in connect".
    pub subject: String,
    pub verdict: Verdict,
    /// What was found: a path, a version, an error.
    pub found: String,
    /// What follows; empty when all is well.
    pub follows: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Something is off, steering works.
    Limited,
    /// grpclb stays off here.
    Missing,
}

impl Report {
    /// Whether steering is possible at all.
    pub fn usable(&self) -> bool {
        self.lines.iter().all(|line| line.verdict != Verdict::Missing)
    }
}

/// Looks at this machine. `cgroup` and `pin_root` as in [`super::Options`].
pub fn run(_cgroup: Option<&Path>, _pin_root: &Path) -> Report {
    Report { lines: Vec::new() }
}

/// The report as a table for people.
pub fn table(_report: &Report, _colour: bool) -> String {
    String::new()
}
