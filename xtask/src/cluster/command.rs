//! Runs short commands, and says on failure what was run and what it wrote.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program to its end and returns its standard output.
pub(super) fn run<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    finish(Command::new(program).args(arguments), Stdio::null())
}

/// Splits `line` at its spaces and runs it: for commands whose words hold none.
pub(super) fn run_line(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    run(words.next().context("an empty command")?, words)
}

/// Runs `command` with `input` and returns its standard output.
pub(super) fn finish(command: &mut Command, input: impl Into<Stdio>) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!(
            "{shown}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes a file and the folders above it.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
