//! The stage and the four acts, and what each must show.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use grpclb_tests::agent::{Agent, Configuration};
use grpclb_tests::node::{Node, Pod};
use grpclb_tests::peers::{Language, Load, LoadPlan, Outcome, Server};
use grpclb_tests::process::wait_until;
use grpclb_tests::service::ECHO;
use serde::Serialize;

/// Longer than anyone looks around.
const FOREVER: Duration = Duration::from_hours(365 * 24);

/// Namespaces, servers and the Service. The node is last: it goes when all that runs on it has gone.
#[derive(Debug)]
pub(crate) struct Stage {
    agent: Option<Agent>,
    program: std::path::PathBuf,
    calls: u32,
    client: Pod,
    servers: Vec<Server>,
    node: Node,
}

/// What one act showed.
#[derive(Debug, Serialize)]
pub(crate) struct Act {
    pub(crate) name: &'static str,
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) per_backend: BTreeMap<String, u64>,
    #[serde(skip)]
    expected: Expected,
    /// The first error, for people.
    #[serde(skip)]
    error: Option<String>,
}

/// Where the calls of one connection must have gone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    OneBackend,
    /// Every backend within a tenth of its fair share.
    AllBackends,
    /// So many backends or more, in whatever shares; so many calls may have failed.
    AtLeast {
        backends: usize,
        errors: u64,
    },
}

impl Act {
    /// What a load showed; `backends` are those that there are, also without a call.
    pub(crate) fn new(
        name: &'static str,
        outcome: &Outcome,
        backends: &[String],
        expected: Expected,
    ) -> Self {
        let mut per_backend: BTreeMap<String, u64> = backends.iter().map(|name| (name.clone(), 0)).collect();
        per_backend.extend(outcome.per_backend.clone());
        Self {
            name,
            calls: outcome.calls,
            errors: outcome.failed(),
            per_backend,
            expected,
            error: outcome.messages.first().cloned(),
        }
    }

    /// What it showed, or what it should have shown and did not.
    pub(crate) fn verdict(&self) -> Result<String, String> {
        let allowed = match self.expected {
            Expected::AtLeast { errors, .. } => errors,
            Expected::OneBackend | Expected::AllBackends => 0,
        };
        if self.errors > allowed {
            let error = self.error.as_deref().unwrap_or("no message");
            return Err(format!("{} calls failed ({error})", self.errors));
        }
        let used = self.per_backend.values().filter(|calls| **calls > 0).count();
        let fair = self.calls as f64 / self.per_backend.len() as f64;
        let even = self
            .per_backend
            .values()
            .all(|calls| (*calls as f64 - fair).abs() <= fair / 10.0 + 1.0);
        match self.expected {
            Expected::OneBackend if used == 1 => Ok("one backend has all of them".to_owned()),
            Expected::OneBackend => Err(format!("one connection reached {used} backends")),
            Expected::AllBackends if even => Ok(format!("spread evenly over all {used}")),
            Expected::AllBackends => Err(format!("not spread evenly: {:?}", self.per_backend)),
            Expected::AtLeast { backends, .. } if used < backends => {
                Err(format!("{used} backends reached, not {backends}"))
            }
            Expected::AtLeast { errors: 0, .. } => Ok(format!("{used} backends had calls, and none failed")),
            Expected::AtLeast { .. } => Ok(format!(
                "{used} backends had calls; {} failed with the connection that was reset",
                self.errors
            )),
        }
    }
}

impl Stage {
    /// A client pod and three backends behind a Service address; no agent yet.
    pub(crate) fn set_up(program: &Path, calls: u32) -> Result<Self> {
        let mut node = Node::new()?;
        let client = node.add_pod("client")?;
        let backends = ["backend-a", "backend-b", "backend-c"]
            .into_iter()
            .map(|name| node.add_pod(name))
            .collect::<Result<Vec<Pod>>>()?;
        let servers = backends
            .iter()
            .map(|pod| Server::start(&node, pod, Language::Rust, ECHO.port))
            .collect::<Result<Vec<Server>>>()?;
        ECHO.publish(&node, &backends.iter().collect::<Vec<_>>())?;
        Ok(Self {
            agent: None,
            program: program.to_path_buf(),
            calls,
            client,
            servers,
            node,
        })
    }

    /// Plays all acts; `announce` is told of each before it begins.
    pub(crate) fn play(&mut self, announce: impl Fn(&str)) -> Result<Vec<Act>> {
        let mut acts = Vec::new();
        for (name, prepare, expected) in [
            (
                "without grpclb",
                Self::no_agent as fn(&mut Self) -> Result<()>,
                Expected::OneBackend,
            ),
            ("with grpclb", Self::start_agent, Expected::AllBackends),
            ("toggled off", Self::toggle_off, Expected::OneBackend),
            ("after kill -9", Self::kill_agent, Expected::OneBackend),
        ] {
            announce(name);
            prepare(self)?;
            acts.push(self.call(name, expected)?);
        }
        Ok(acts)
    }

    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "an act like the others"
    )]
    fn no_agent(&mut self) -> Result<()> {
        Ok(())
    }

    fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(Agent::start_with(
            &self.node,
            "agent",
            &self.program,
            &self.configuration(true),
            &[],
        )?);
        // A first connection takes as long as its backend takes for it, and calls go to the others meanwhile: what is shown is
        // how they are spread once the connections stand. Where they never do, the act says so.
        for _ in 0..10 {
            let warm_up = self.call("connecting", Expected::AllBackends)?;
            if warm_up.per_backend.values().all(|calls| *calls > 0) {
                break;
            }
        }
        Ok(())
    }

    fn toggle_off(&mut self) -> Result<()> {
        self.agent
            .as_ref()
            .context("no agent runs")?
            .reconfigure(&self.configuration(false))
    }

    /// Kills the agent while it steers the pod, so that there is something to fall back from.
    fn kill_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.reconfigure(&self.configuration(true))?;
        agent.process.kill()
    }

    fn configuration(&self, enabled: bool) -> Configuration {
        let backends: Vec<&Pod> = self.servers.iter().map(|server| &server.pod).collect();
        let clients = if enabled { vec![&self.client] } else { vec![] };
        Configuration::new(ECHO, &backends, &clients)
    }

    /// A new client makes one connection to the Service address and all calls over it.
    fn call(&self, name: &'static str, expected: Expected) -> Result<Act> {
        let plan = LoadPlan {
            calls: Some(self.calls.into()),
            concurrency: 16,
            connections: 1,
            ..LoadPlan::default()
        };
        let outcome = Load::start(&self.node, &self.client, Language::Rust, ECHO.ipv4(), &plan)?.finish()?;
        let backends: Vec<String> = self.servers.iter().map(|server| server.name.clone()).collect();
        Ok(Act::new(name, &outcome, &backends, expected))
    }

    /// Says how to look around, with the agent running and the pod enabled, until Ctrl-C removes everything.
    pub(crate) fn look_around(&mut self) -> Result<()> {
        self.start_agent()?;
        let agent = self.agent.as_ref().context("no agent runs")?;
        let (node, client) = (self.node.name(), &self.client.namespace);
        let (program, admin, vip) = (self.program.display(), agent.admin(), ECHO.ipv4());
        let peer = std::env::current_exe()?.with_file_name("grpclb-peer");
        eprintln!(
            "\nEverything is up again, with the agent (pid {pid}) and the client pod enabled. Ctrl-C removes it all.\n\n\
             what the agent does   nsenter --net=/run/netns/{node} {program} status --admin {admin}\n\
             call from the client  sh -c 'echo 0 > {cgroup}/cgroup.procs && exec nsenter --net=/run/netns/{client} \
             {peer} client --target {vip} --scenarios unary'\n\
             kube-proxy's part     nsenter --net=/run/netns/{node} nft list ruleset\n\
             attached programs     bpftool cgroup show {cgroup}\n\
             pinned maps           ls /sys/fs/bpf/{node}/current/\n\
             enabled pods          bpftool map dump pinned /sys/fs/bpf/{node}/current/pods\n\
             known Services        bpftool map dump pinned /sys/fs/bpf/{node}/current/services\n\
             what was counted      bpftool map dump pinned /sys/fs/bpf/{node}/current/counters\n",
            pid = agent.process.pid(),
            cgroup = self.node.cgroup().display(),
            peer = peer.display(),
        );
        // Ctrl-C ends this process from within the harness, which removes everything first.
        if wait_until(FOREVER, || agent.process.has_ended()) {
            bail!("the agent ended by itself\n{}", agent.process.errors());
        }
        Ok(())
    }
}
