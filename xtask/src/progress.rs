//! Runs a long step and shows that it lives: one line with the elapsed time. The step's own output goes to a log file
//! and is shown only when the step fails.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// How much of a failed step's output is shown; the rest is in its log file.
const SHOWN_LINES: usize = 80;
/// How often a line is printed where there is no terminal to redraw.
const QUIET_INTERVAL: Duration = Duration::from_secs(30);
/// What takes longer hangs: it is ended, and counts as failed.
const LIMIT: Duration = Duration::from_mins(40);

/// What a step did.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) log: PathBuf,
}

/// Runs `command` as the step `label`; an unsuccessful exit is an error that shows the end of its output.
pub(crate) fn run(label: &str, command: &mut Command) -> Result<()> {
    let finished = run_to_end(label, command)?;
    if !finished.status.success() {
        show_failure(&finished);
        bail!(
            "{label}: {} (whole output: {})",
            finished.status,
            finished.log.display()
        );
    }
    Ok(())
}

/// Does `work` as the step `label`: for steps of many short commands.
pub(crate) fn step<T>(label: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let line = Line::new(label);
    let result = work();
    line.finish(started.elapsed(), result.is_ok());
    result.with_context(|| label.to_owned())
}

/// Prints the end of what a failed step wrote.
pub(crate) fn show_failure(finished: &Finished) {
    let lines: Vec<&str> = finished.output.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        eprintln!("    {line}");
    }
}

/// Runs `command` as the step `label` and hands back how it ended, whatever that was.
pub(crate) fn run_to_end(label: &str, command: &mut Command) -> Result<Finished> {
    let log = log_file(label)?;
    let started = Instant::now();
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;

    let pid = child.id();
    let (ended, end) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let status = child.wait();
        let _ = ended.send(());
        status
    });
    let mut line = Line::new(label);
    while end.recv_timeout(Duration::from_secs(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
        line.update(started.elapsed(), &log);
        if started.elapsed() > LIMIT {
            eprintln!("\n  {label}: ended after {} minutes", LIMIT.as_secs() / 60);
            kill_with_descendants(pid);
        }
    }
    let status = waiter
        .join()
        .map_err(|_| anyhow::anyhow!("waiting for {label} failed"))??;
    line.finish(started.elapsed(), status.success());
    let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    Ok(Finished { status, output, log })
}

/// Ends a process and all that it has started: cargo alone would leave its test programs running.
fn kill_with_descendants(pid: u32) {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .for_each(kill_with_descendants);
}

fn log_file(label: &str) -> Result<PathBuf> {
    let folder = workspace::target().join("logs");
    fs::create_dir_all(&folder)?;
    let name: String = label
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    Ok(folder.join(format!("{name}.log")))
}

/// The step's line: redrawn on a terminal, repeated now and then elsewhere.
struct Line<'a> {
    label: &'a str,
    terminal: bool,
    printed: Instant,
}

impl<'a> Line<'a> {
    fn new(label: &'a str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        if !terminal {
            eprintln!("  … {label}");
        }
        Line {
            label,
            terminal,
            printed: Instant::now(),
        }
    }

    fn update(&mut self, elapsed: Duration, log: &Path) {
        if self.terminal {
            eprint!(
                "\r\x1b[K  … {} {} s  \x1b[2m{}\x1b[0m",
                self.label,
                elapsed.as_secs(),
                last_line(log)
            );
            let _ = std::io::stderr().flush();
        } else if self.printed.elapsed() >= QUIET_INTERVAL {
            eprintln!("  … {} {} s  {}", self.label, elapsed.as_secs(), last_line(log));
            self.printed = Instant::now();
        }
    }

    fn finish(&self, elapsed: Duration, success: bool) {
        let back = if self.terminal { "\r\x1b[K" } else { "" };
        let mark = if success { "✓" } else { "✗" };
        eprintln!("{back}  {mark} {} ({:.1} s)", self.label, elapsed.as_secs_f64());
    }
}

/// The last full line that the step wrote, cut to fit beside the label.
fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(2000)..];
    let text = String::from_utf8_lossy(tail);
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("")
        .chars()
        .take(60)
        .collect()
}
