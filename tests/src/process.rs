//! A child process in a namespace and a cgroup, with its lines, that never outlives its guard or this process.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How much of what a process wrote to standard error goes into messages.
const SHOWN_LINES: usize = 40;

/// Where a process is to run.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The name of a network namespace.
    pub namespace: &'a str,
    pub cgroup: &'a Path,
    /// A folder for what it writes to standard error.
    pub folder: &'a Path,
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: PathBuf,
}

impl Process {
    /// Starts `program` at `place`. It dies with the thread that calls this (`PR_SET_PDEATHSIG`).
    pub fn start(place: &Place<'_>, name: &str, program: &Path, arguments: &[String]) -> Result<Self> {
        Self::start_with(place, name, program, arguments, &[])
    }

    /// As [`Process::start`], with additional environment variables.
    pub fn start_with(
        place: &Place<'_>,
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let stderr = place.folder.join(format!("{name}.stderr"));
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo 0 > \"$1\" && shift && exec \"$@\"", "sh"])
            .arg(place.cgroup.join("cgroup.procs"))
            .args(["setpriv", "--pdeathsig", "KILL", "nsenter"])
            .arg(format!(
                "--net={}/{}",
                crate::cleanup::NAMESPACES,
                place.namespace
            ))
            .arg("--")
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&stderr)?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            stdin,
            lines,
            stderr,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints; an error when none comes within `limit` or its output ended.
    pub fn line(&self, limit: Duration) -> Result<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{}: no output for {limit:?}\n{}", self.name, self.errors())
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("{}: ended without the line\n{}", self.name, self.errors())
            }
        }
    }

    /// What it wrote to standard error, the end of it.
    pub fn errors(&self) -> String {
        let text = fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let mut shown = String::new();
        for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
            let _ = writeln!(shown, "    {}: {line}", self.name);
        }
        shown
    }

    /// Whether it has ended, without reaping it.
    pub fn has_ended(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        state
            .rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// Ends its standard input, which peers take as "enough".
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(limit, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status.with_context(|| format!("{} still runs after {limit:?}", self.name))
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint!("{}", self.errors());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks `condition` every few milliseconds until it holds; false when it never did within `limit`. For what the system
/// gives no event for.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
