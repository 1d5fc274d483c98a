//! Starts the built agent on a node, with a file that the test writes and changes.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::node::{Node, Pod};
use crate::process::{Process, wait_until};
use crate::service::Service;

/// What the agent's file says: one Service, its endpoints and the enabled pods.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub service: Service,
    pub policy: &'static str,
    /// What the Service's port says: `http2`, `detect` or `plain`.
    pub protocol: &'static str,
    pub endpoints: Vec<Endpoint>,
    /// Further Services, with the pods of their endpoints; otherwise like the first.
    pub others: Vec<(Service, Vec<Pod>)>,
    pub pods: Vec<Pod>,
    /// Hand the pods' sockets to `sk_msg`.
    pub accelerate: bool,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub pod: Pod,
    pub draining: bool,
}

impl Endpoint {
    pub fn ready(pod: Pod) -> Self {
        Self { pod, draining: false }
    }
}

impl Configuration {
    /// All `backends` ready, `clients` enabled, the default policy.
    pub fn new(service: Service, backends: &[&Pod], clients: &[&Pod]) -> Self {
        Self {
            service,
            policy: "round_robin",
            protocol: "http2",
            endpoints: backends
                .iter()
                .map(|pod| Endpoint::ready((*pod).clone()))
                .collect(),
            others: Vec::new(),
            pods: clients.iter().map(|pod| (*pod).clone()).collect(),
            accelerate: false,
        }
    }

    fn to_yaml(&self) -> Result<String> {
        let mut yaml = String::from("services:\n");
        self.write_service(&mut yaml, "echo", self.service, &self.endpoints)?;
        for (service, backends) in &self.others {
            let endpoints: Vec<Endpoint> = backends.iter().cloned().map(Endpoint::ready).collect();
            self.write_service(&mut yaml, &format!("port-{}", service.port), *service, &endpoints)?;
        }
        writeln!(yaml, "pods:{}", if self.pods.is_empty() { " []" } else { "" })?;
        for pod in &self.pods {
            let accelerate = self.accelerate;
            writeln!(
                yaml,
                "  - {{name: {}, netns: {}, accelerate: {accelerate}}}",
                pod.name, pod.namespace
            )?;
        }
        Ok(yaml)
    }

    /// One Service a family: the endpoints of a Service are of its addresses' family, as in an EndpointSlice.
    fn write_service(
        &self,
        yaml: &mut String,
        name: &str,
        service: Service,
        endpoints: &[Endpoint],
    ) -> Result<()> {
        for (family, address) in [("v4", service.ipv4()), ("v6", service.ipv6())] {
            writeln!(
                yaml,
                "  - name: {name}-{family}\n    addresses: [\"{}\"]",
                address.ip()
            )?;
            writeln!(yaml, "    policy: {}", self.policy)?;
            writeln!(
                yaml,
                "    ports:\n      - {{port: {}, protocol: {}}}",
                address.port(),
                self.protocol
            )?;
            writeln!(
                yaml,
                "    endpoints:{}",
                if endpoints.is_empty() { " []" } else { "" }
            )?;
            for Endpoint { pod, draining } in endpoints {
                let state = if *draining { "draining" } else { "ready" };
                let backend = pod.address(address.ip());
                writeln!(
                    yaml,
                    "      - {{id: {}, address: \"{backend}\", state: {state}}}",
                    pod.name
                )?;
            }
        }
        Ok(())
    }
}

/// A running agent. Dropping it kills it, as `kill -9` does.
#[derive(Debug)]
pub struct Agent {
    pub process: Process,
    program: PathBuf,
    namespace: String,
    folder: PathBuf,
    admin: SocketAddr,
}

/// How long an agent may take to be ready, or to take up a file.
const PATIENCE: Duration = Duration::from_secs(30);

/// The built agent: `GRPCLB_AGENT`, else the release build in the target directory.
pub fn program() -> Result<PathBuf> {
    let program = std::env::var_os("GRPCLB_AGENT")
        .map_or_else(|| crate::peers::target().join("release/grpclb"), PathBuf::from);
    if !program.exists() {
        bail!(
            "{} is missing: cargo xtask build makes the agent",
            program.display()
        );
    }
    Ok(program)
}

impl Agent {
    /// Starts an agent on `node` and waits until it steers the pods of `configuration`.
    pub fn start(node: &Node, configuration: &Configuration) -> Result<Self> {
        Self::start_with(node, "agent", &program()?, configuration, &[])
    }

    /// As [`Agent::start`]: `name` tells it from other agents of this node, `extra` are further arguments.
    pub fn start_with(
        node: &Node,
        name: &str,
        program: &Path,
        configuration: &Configuration,
        extra: &[&str],
    ) -> Result<Self> {
        let agent = Self::launch(node, name, program, configuration, extra)?;
        agent.wait_until_it_steers(configuration)?;
        Ok(agent)
    }

    /// Waits until the agent is ready and steers all pods of `configuration`.
    pub fn wait_until_it_steers(&self, configuration: &Configuration) -> Result<()> {
        self.wait_for("to be ready and to steer its pods", |status| {
            status["readiness"]["ready"] == true && steered(status) == configuration.pods.len()
        })
    }

    /// As [`Agent::start_with`], without waiting for anything.
    pub fn launch(
        node: &Node,
        name: &str,
        program: &Path,
        configuration: &Configuration,
        extra: &[&str],
    ) -> Result<Self> {
        static NEXT_PORT: AtomicU16 = AtomicU16::new(19_000);
        let admin = SocketAddr::from(([127, 0, 0, 1], NEXT_PORT.fetch_add(1, Ordering::Relaxed)));
        let file = node.folder().join("agent.yaml");
        write_whole(&file, &configuration.to_yaml()?)?;
        let mut arguments: Vec<String> = [
            ("--config", file.display().to_string()),
            ("--cgroup", node.cgroup().display().to_string()),
            ("--bpffs", format!("/sys/fs/bpf/{}", node.name())),
            ("--run-dir", node.folder().join("run").display().to_string()),
            ("--node", "node-1".to_owned()),
            ("--admin", admin.to_string()),
            ("--metrics", "off".to_owned()),
        ]
        .into_iter()
        .flat_map(|(key, value)| [key.to_owned(), value])
        .collect();
        arguments.insert(0, "agent".into());
        arguments.extend(extra.iter().map(|argument| (*argument).to_owned()));
        let process = Process::start(&node.own_place(), name, program, &arguments)?;
        Ok(Self {
            process,
            program: program.to_path_buf(),
            namespace: node.name().to_owned(),
            folder: node.folder().to_path_buf(),
            admin,
        })
    }

    /// Changes the file and waits until the agent has taken it up.
    pub fn reconfigure(&self, configuration: &Configuration) -> Result<()> {
        let generation = |status: &Value| status["source"]["generation"].as_u64();
        let before = generation(&self.status()?);
        write_whole(&self.folder.join("agent.yaml"), &configuration.to_yaml()?)?;
        self.wait_for("to take up the file", |status| {
            generation(status) > before && steered(status) == configuration.pods.len()
        })
    }

    /// What `grpclb status --json` prints.
    pub fn status(&self) -> Result<Value> {
        let output = Command::new("nsenter")
            .arg(format!("--net={}/{}", crate::cleanup::NAMESPACES, self.namespace))
            .arg("--")
            .arg(&self.program)
            .args(["status", "--json", "--admin", &self.admin.to_string()])
            .output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("grpclb status: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Where `grpclb status` of this agent is answered, within the node's namespace.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until the agent's status is as `condition` wants it; `what` says that for people.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<()> {
        let mut last = Value::Null;
        let happened = wait_until(PATIENCE, || {
            last = self.status().unwrap_or_default();
            condition(&last)
        });
        if !happened {
            bail!(
                "waited {PATIENCE:?} for the agent {what}; its status: {last:#}\n{}",
                self.process.errors()
            );
        }
        Ok(())
    }
}

/// How many pods are steered.
fn steered(status: &Value) -> usize {
    let pods = status["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
    pods.iter().filter(|pod| pod["state"] == "steered").count()
}

/// Replaces a file at once, so that nobody reads half of it.
fn write_whole(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}
