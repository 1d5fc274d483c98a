//! The agent on every node of a cluster, for as long as a test wants it. From this workspace's image, which `cargo xtask image`
//! makes and `cargo xtask cluster load` brings to the nodes.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::cluster::{Cluster, Namespace, PATIENCE};

const IMAGE: &str = concat!("docker.io/grpclb/grpclb:", env!("CARGO_PKG_VERSION"));

/// Of what an agent says of itself (`grpclb status --json`), that which tests ask for.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub pods: Vec<Pod>,
    pub process: Process,
    pub source: Source,
    pub early_connections: u64,
}

/// Where what an agent steers by comes from.
#[derive(Clone, Debug, Deserialize)]
pub struct Source {
    pub name: String,
    pub age_seconds: u64,
    pub error: Option<String>,
}

/// An enabled pod.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    /// `namespace/name`.
    pub name: String,
    /// Its network namespace's; none while that is not found.
    pub cookie: Option<u64>,
    pub connections: u64,
    pub bypassing: u64,
    pub adopted: u64,
    pub ready_after_ms: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    pub open_files: u64,
    pub resident_bytes: u64,
}

/// What the only agent of a node says of itself, asked on the node: neither the API server nor the kubelet has to answer.
pub fn status_on(cluster: &Cluster, node: &str) -> Result<Status> {
    let script = "exec nsenter --target $(pgrep -x grpclb) --net --mount -- /grpclb status --json";
    let printed = cluster.exec_on(node, &["bash", "-c", script])?;
    serde_json::from_str(&printed).context("status printed something else")
}

/// Whether an agent's snapshot has this as a whole text: protobuf writes its length before it.
pub fn snapshot_has(snapshot: &[u8], text: &str) -> bool {
    let Ok(length) = u8::try_from(text.len()) else {
        return false;
    };
    let written = [&[length], text.as_bytes()].concat();
    snapshot.windows(written.len()).any(|window| window == written)
}

/// The agents of a cluster; they go with the guard.
#[derive(Debug)]
pub struct Agents {
    cluster: Cluster,
    namespace: Namespace,
    /// Node → the agent's pod.
    pods: BTreeMap<String, String>,
}

impl Agents {
    /// Starts one on each node; returns when all are ready.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let namespace = cluster.namespace("agents")?;
        let mut agents = Self {
            cluster: cluster.clone(),
            namespace,
            pods: BTreeMap::new(),
        };
        let manifests = include_str!("../k8s/manifests/agents.yaml")
            .replace("NAMESPACE", agents.namespace.name())
            .replace("AGENT_IMAGE", IMAGE)
            .replace("ARGUMENTS", "[agent, --kubernetes]");
        agents.namespace.apply(&manifests)?;
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        agents
            .namespace
            .kubectl(&["rollout", "status", "daemonset/agent", &timeout])?;
        let pods = agents.namespace.pods("app=agent")?;
        agents.pods = pods.into_iter().map(|(pod, node)| (node, pod)).collect();
        Ok(agents)
    }

    /// What the agent of a node says of itself.
    pub fn status(&self, node: &str) -> Result<Status> {
        let pod = self
            .pods
            .get(node)
            .with_context(|| format!("no agent on {node}"))?;
        let printed = self.namespace.exec(pod, &["/grpclb", "status", "--json"])?;
        serde_json::from_str(&printed).context("status printed something else")
    }

    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.pods.keys().map(String::as_str)
    }

    /// What the agents know of a pod (`namespace/name`); nothing if it is not enabled.
    pub fn pod(&self, name: &str) -> Result<Option<Pod>> {
        for node in self.pods.keys() {
            let found = self.status(node)?.pods.into_iter().find(|pod| pod.name == name);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Asks until `done` says so of the pod. Each time a process is started in the agent's pod: no pause is needed.
    pub fn wait_for_pod(&self, name: &str, done: impl Fn(Option<&Pod>) -> bool) -> Result<Option<Pod>> {
        let begun = Instant::now();
        loop {
            let pod = self.pod(name)?;
            if done(pod.as_ref()) {
                return Ok(pod);
            }
            if begun.elapsed() > PATIENCE {
                bail!("{name} never came so far: {pod:?}");
            }
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        for kind in ["clusterrolebinding", "clusterrole"] {
            let _ = self.cluster.kubectl(&["delete", kind, self.namespace.name()]);
        }
    }
}
