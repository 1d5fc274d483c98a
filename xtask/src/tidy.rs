//! `cargo xtask tidy`: the rules of the tree that no compiler knows. They are written in ARCHITECTURE.md, in tables that this
//! reads; so the page cannot become untrue.
//!
//! - [`source`]: Rust as tokens: comments, strings and tests taken away.
//! - [`rules`]: what holds for each Rust file: its opening, its length, `unsafe`, `aya`, `unwrap`, the engine's purity.
//! - [`edges`]: which crate and which room may use which.
//! - [`documents`]: links that lead somewhere, pages that can be found.

mod documents;
mod edges;
mod rules;
mod source;
mod tables;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The page that holds the rules' tables.
const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// Checks everything and prints all that is wrong.
pub(crate) fn run() -> Result<()> {
    let tree = Tree::open()?;
    let architecture = tree.read(ARCHITECTURE)?;
    let mut problems = Vec::new();
    rules::check(&tree, &architecture, &mut problems)?;
    edges::check(&tree, &architecture, &mut problems)?;
    documents::check(&tree, &mut problems)?;
    problems.sort();
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        println!("tidy: {} files, nothing to say", tree.files.len());
        return Ok(());
    }
    bail!("{} things are not tidy", problems.len())
}

/// Something that is wrong in one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    file: String,
    /// From 1.
    line: usize,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// The files of the project: what git knows, and what it would take.
struct Tree {
    root: PathBuf,
    /// Relative to the root, with `/`.
    files: Vec<String>,
}

impl Tree {
    fn open() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in the workspace")?
            .to_owned();
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .context("cannot run git")?;
        if !listed.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim());
        }
        let mut files: Vec<String> = String::from_utf8(listed.stdout)?
            .lines()
            .map(str::to_owned)
            .collect();
        // Deleted, and not yet told to git.
        files.retain(|file| root.join(file).is_file());
        files.sort();
        files.dedup();
        Ok(Self { root, files })
    }

    fn read(&self, file: &str) -> Result<String> {
        std::fs::read_to_string(self.root.join(file)).with_context(|| format!("cannot read {file}"))
    }

    /// The files with this ending.
    fn with_ending<'t>(&'t self, ending: &'t str) -> impl Iterator<Item = &'t str> {
        self.files
            .iter()
            .map(String::as_str)
            .filter(move |file| file.ends_with(ending))
    }
}
