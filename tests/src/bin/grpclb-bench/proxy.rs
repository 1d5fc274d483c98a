//! A running proxy under measurement: a peer or grpclb, with the URL that the load is sent to.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use grpclb_tests::agent::{Agent, Configuration};
use grpclb_tests::node::{Node, Pod};
use grpclb_tests::process::Process;
use grpclb_tests::service::ECHO;
use grpclb_tests::usage;

use crate::PROXY_CORE;
use crate::peers::Peer;

/// Dropping it ends it.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) balances: bool,
    target: String,
    running: Running,
}

enum Running {
    Peer(Process),
    Grpclb(Agent),
}

impl Proxy {
    /// A peer, in the client's own namespace.
    pub(crate) fn start_peer(node: &Node, client: &Pod, peer: &Peer) -> Result<Self> {
        let command = peer.command();
        let mut arguments = vec!["-c".to_owned(), PROXY_CORE.to_owned()];
        arguments.push(command.get_program().to_string_lossy().into_owned());
        arguments.extend(
            command
                .get_args()
                .map(|argument| argument.to_string_lossy().into_owned()),
        );
        let process = Process::start(&node.place(client), peer.name, Path::new("taskset"), &arguments)?;
        Ok(Self {
            name: peer.name,
            version: peer.version.clone(),
            balances: peer.balances,
            target: peer.listen.to_string(),
            running: Running::Peer(process),
        })
    }

    /// The agent, which steers what the client sends to the Service address.
    pub(crate) fn start_grpclb(node: &Node, client: &Pod, backends: &[&Pod], program: &Path) -> Result<Self> {
        let configuration = Configuration::new(ECHO, backends, &[client]);
        let agent = Agent::start_with(node, "agent", program, &configuration, &["--workers", "1"])?;
        let pinned = Command::new("taskset")
            .args([
                "--all-tasks",
                "--cpu-list",
                "--pid",
                PROXY_CORE,
                &agent.process.pid().to_string(),
            ])
            .output()?;
        ensure!(
            pinned.status.success(),
            "taskset: {}",
            String::from_utf8_lossy(&pinned.stderr)
        );
        Ok(Self {
            name: "grpclb",
            version: format!("grpclb {}", env!("CARGO_PKG_VERSION")),
            balances: true,
            target: ECHO.ipv4().to_string(),
            running: Running::Grpclb(agent),
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.target)
    }

    /// All processes that do its work; nginx has two.
    pub(crate) fn pids(&self) -> Vec<u32> {
        usage::tree(match &self.running {
            Running::Peer(process) => process.pid(),
            Running::Grpclb(agent) => agent.process.pid(),
        })
    }

    pub(crate) fn resident_mib(&self) -> Result<f64> {
        Ok(usage::resident_kib(&self.pids())? as f64 / 1024.0)
    }
}
