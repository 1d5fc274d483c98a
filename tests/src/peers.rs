//! gRPC servers and clients in four languages, all speaking `proto/probe.proto` and taking the same arguments
//! (`peers/README.md`). What a client found is one JSON line a scenario, read here into [`Outcome`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::node::{Node, Pod};
use crate::process::Process;

/// How long a server or a scenario may take to say something; far above what is needed on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Language {
    /// tonic
    Rust,
    /// grpcio
    Python,
    /// @grpc/grpc-js
    Js,
    /// grpc-go
    Go,
}

impl Language {
    pub const ALL: [Language; 4] = [Language::Rust, Language::Python, Language::Js, Language::Go];

    /// How this language's peer is started.
    fn launch(self) -> Result<Launch> {
        let installed = target().join("peers");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let proto = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("proto")
            .display()
            .to_string();
        let script = |name: &str| sources.join(name).display().to_string();
        let (program, arguments, environment) = match self {
            Language::Rust => (profile().join("grpclb-peer"), vec![], vec![]),
            Language::Python => (
                installed.join("python/bin/python"),
                vec![script("python/peer.py")],
                vec![("PROBE_PROTO", proto)],
            ),
            Language::Js => {
                let modules = installed.join("js/node_modules").display().to_string();
                (
                    PathBuf::from("node"),
                    vec![script("js/peer.js")],
                    vec![("NODE_PATH", modules), ("PROBE_PROTO", proto)],
                )
            }
            Language::Go => (installed.join("go/peer"), vec![], vec![]),
        };
        if program.is_absolute() && !program.exists() {
            bail!(
                "{} is missing: cargo xtask setup makes the peers",
                program.display()
            );
        }
        Ok((program, arguments, environment))
    }
}

/// Program, first arguments and environment.
type Launch = (PathBuf, Vec<String>, Vec<(&'static str, String)>);

/// Cargo's target directory, found from where this program lies.
pub fn target() -> PathBuf {
    profile()
        .parent()
        .map_or_else(|| "target".into(), Path::to_path_buf)
}

/// The folder of this build's programs: `target/debug`.
fn profile() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(Path::new(".")).to_path_buf();
    if folder.ends_with("deps") {
        folder.parent().map_or(folder.clone(), Path::to_path_buf)
    } else {
        folder
    }
}

/// Another program of this build.
pub(crate) fn program_beside(name: &str) -> PathBuf {
    profile().join(name)
}

/// Connects from a pod over and over, thousands of times a second, and says nothing on the connections.
#[derive(Debug)]
pub struct Dialler(Process);

/// What became of a [`Dialler`]'s connects.
#[derive(Clone, Debug, Deserialize)]
pub struct Dialled {
    pub connected: u64,
    /// By the kind of the error, in words.
    pub errors: BTreeMap<String, u64>,
}

impl Dialler {
    pub fn start(node: &Node, client: &Pod, target: SocketAddr) -> Result<Self> {
        let arguments = ["dial".into(), "--target".into(), target.to_string()];
        let program = profile().join("grpclb-peer");
        Process::start(&node.place(client), "dialler", &program, &arguments).map(Self)
    }

    /// Waits until it tells of a hundred connects more, which may have begun before this.
    pub fn goes_on(&self) -> Result<()> {
        self.0.line(PATIENCE).map(drop)
    }

    /// Ends it.
    pub fn finish(mut self) -> Result<Dialled> {
        self.0.close_stdin();
        loop {
            let line = self.0.line(PATIENCE)?;
            if let Ok(dialled) = serde_json::from_str(&line) {
                return Ok(dialled);
            }
        }
    }
}

/// A running server on a pod.
#[derive(Debug)]
pub struct Server {
    pub name: String,
    pub pod: Pod,
    pub process: Process,
    executions: PathBuf,
}

impl Server {
    /// Starts a server named as its pod and waits until it listens.
    pub fn start(node: &Node, pod: &Pod, language: Language, port: u16) -> Result<Self> {
        Self::start_with(node, pod, language, port, &[])
    }

    /// As [`Server::start`], with further arguments of the peer.
    pub fn start_with(node: &Node, pod: &Pod, language: Language, port: u16, extra: &[&str]) -> Result<Self> {
        let (program, mut arguments, environment) = language.launch()?;
        let executions = node.folder().join(format!("{}.executions", pod.name));
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        arguments.extend(["server".into(), "--listen".into(), listen.to_string()]);
        arguments.extend(["--name".into(), pod.name.clone()]);
        arguments.extend(["--executions".into(), executions.display().to_string()]);
        arguments.extend(extra.iter().map(|argument| (*argument).to_owned()));
        let name = format!("server-{}", pod.name);
        let process = Process::start_with(&node.place(pod), &name, &program, &arguments, &environment)?;
        process
            .line(PATIENCE)
            .with_context(|| format!("the {language:?} server on {} does not listen", pod.name))?;
        Ok(Self {
            name: pod.name.clone(),
            pod: pod.clone(),
            process,
            executions,
        })
    }

    /// The ids of the calls that began to run here, in order, a line each run.
    pub fn executions(&self) -> Vec<String> {
        self.events("started ")
    }

    /// The ids of the calls that this server saw cancelled.
    pub fn cancellations(&self) -> Vec<String> {
        self.events("cancelled ")
    }

    fn events(&self, kind: &str) -> Vec<String> {
        let text = fs::read_to_string(&self.executions).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.strip_prefix(kind))
            .map(str::to_owned)
            .collect()
    }
}

/// Ids that were begun more than once, on any of `servers`.
pub fn run_twice<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = servers.into_iter().flat_map(Server::executions);
    all.filter(|id| !seen.insert(id.clone())).collect()
}

/// What a client found in one scenario.
#[derive(Clone, Debug, Deserialize)]
pub struct Outcome {
    pub scenario: String,
    /// Whether everything was as the scenario demands; `error` says what was not.
    pub ok: bool,
    #[serde(default)]
    pub error: Option<String>,
    pub calls: u64,
    /// Calls by the backend that answered.
    pub per_backend: BTreeMap<String, u64>,
    /// The client addresses that the backends saw.
    #[serde(default)]
    pub peers: BTreeSet<IpAddr>,
    /// Load only: failed calls by status name.
    #[serde(default)]
    pub errors: BTreeMap<String, u64>,
    /// Load only: the first few different error messages.
    #[serde(default)]
    pub messages: Vec<String>,
    /// Load only: the slowest call, in milliseconds.
    #[serde(default)]
    pub max_ms: f64,
    /// Load in Rust only: the 99th percentile, in milliseconds.
    #[serde(default)]
    pub p99_ms: f64,
}

impl Outcome {
    /// Failed calls of all kinds.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// # Panics
    /// A call has failed.
    #[track_caller]
    pub fn assert_none_failed(&self) {
        let (errors, messages) = (&self.errors, &self.messages);
        assert_eq!(
            self.failed(),
            0,
            "of {} calls: {errors:?} {messages:?}",
            self.calls
        );
    }
}

/// Runs `scenarios` in one process of `language` in `pod`, against `target`.
pub fn run_scenarios(
    node: &Node,
    pod: &Pod,
    language: Language,
    target: SocketAddr,
    scenarios: &[&str],
) -> Result<Vec<Outcome>> {
    let (program, mut arguments, environment) = language.launch()?;
    arguments.extend(["client".into(), "--target".into(), target.to_string()]);
    arguments.extend(["--scenarios".into(), scenarios.join(",")]);
    let name = format!("client-{language:?}");
    let process = Process::start_with(&node.place(pod), &name, &program, &arguments, &environment)?;
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        let line = process
            .line(PATIENCE)
            .with_context(|| format!("{language:?} client, scenario {scenario}"))?;
        outcomes.push(
            serde_json::from_str(&line).with_context(|| format!("{language:?} client printed {line}"))?,
        );
    }
    Ok(outcomes)
}

/// How a load is made.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// How many calls; `None` until [`Load::finish`].
    pub calls: Option<u64>,
    /// Calls in flight at a time, over all connections; with a rate, the most of them.
    pub concurrency: u32,
    /// Calls begun a second, whether or not others have ended; Rust only.
    pub rate: Option<u32>,
    pub connections: u32,
    pub deadline: Duration,
    /// Milliseconds that the server takes for each call.
    pub delay_ms: u32,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self {
            calls: None,
            concurrency: 16,
            rate: None,
            connections: 1,
            deadline: Duration::from_secs(20),
            delay_ms: 0,
        }
    }
}

/// A steady load of unary calls that runs while the test does something.
#[derive(Debug)]
pub struct Load {
    process: Process,
    outcome: Option<Outcome>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LoadLine {
    Progress { progress: u64 },
    End(Outcome),
}

impl Load {
    pub fn start(
        node: &Node,
        pod: &Pod,
        language: Language,
        target: SocketAddr,
        plan: &LoadPlan,
    ) -> Result<Self> {
        let (program, mut arguments, environment) = language.launch()?;
        arguments.extend(["load".into(), "--target".into(), target.to_string()]);
        for (key, value) in [
            ("--calls", plan.calls.unwrap_or(0)),
            ("--concurrency", plan.concurrency.into()),
            ("--connections", plan.connections.into()),
            ("--deadline-ms", u64::try_from(plan.deadline.as_millis())?),
            ("--delay-ms", plan.delay_ms.into()),
        ] {
            arguments.extend([key.to_owned(), value.to_string()]);
        }
        if let Some(rate) = plan.rate {
            arguments.extend(["--rate".to_owned(), rate.to_string()]);
        }
        let name = format!("load-{language:?}-{}", pod.name);
        let process = Process::start_with(&node.place(pod), &name, &program, &arguments, &environment)?;
        Ok(Self {
            process,
            outcome: None,
        })
    }

    /// Waits until `count` calls have ended since the start, well or not.
    pub fn wait_for(&mut self, count: u64) -> Result<()> {
        while self.outcome.is_none() {
            if self.read()?.is_some_and(|progress| progress >= count) {
                return Ok(());
            }
        }
        bail!("the load ended before {count} calls: {:?}", self.outcome)
    }

    /// Waits until `count` more calls than now have ended.
    pub fn wait_for_more(&mut self, count: u64) -> Result<()> {
        // What was printed before this moment is old; the first line read from now on may be as well, so two are read.
        while let Ok(line) = self.process.line(Duration::ZERO) {
            self.take(&line)?;
        }
        let now = self.read()?.context("the load has ended")?;
        self.wait_for(now + count)
    }

    /// Starts no more calls, waits for those in flight and tells what became of all.
    pub fn finish(mut self) -> Result<Outcome> {
        self.process.close_stdin();
        while self.outcome.is_none() {
            self.read()?;
        }
        self.outcome.context("no outcome")
    }

    fn read(&mut self) -> Result<Option<u64>> {
        let line = self.process.line(PATIENCE)?;
        self.take(&line)
    }

    fn take(&mut self, line: &str) -> Result<Option<u64>> {
        match serde_json::from_str(line).with_context(|| format!("the load printed {line}"))? {
            LoadLine::Progress { progress } => Ok(Some(progress)),
            LoadLine::End(outcome) => {
                self.outcome = Some(outcome);
                Ok(None)
            }
        }
    }
}
