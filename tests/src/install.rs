//! grpclb as people install it in a cluster: the manifests of `deploy/`, applied and deleted again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::{Cluster, Namespace, PATIENCE};

/// What `kubectl apply -k` is given.
const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kustomize/base");

/// For nodes whose agents were killed.
const CLEANUP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kustomize/cleanup");

/// The agent of the next version of the ABI, as `cargo xtask image --next-abi` makes it.
pub const NEXT_ABI_IMAGE: &str = concat!("docker.io/grpclb/grpclb:", env!("CARGO_PKG_VERSION"), "-next-abi");

/// The namespace that the manifests make.
pub const NAMESPACE: &str = "grpclb-system";

/// An installed grpclb. Dropping this uninstalls it and waits until it is gone.
#[derive(Debug)]
pub struct Installed {
    cluster: Cluster,
}

impl Installed {
    /// Applies the manifests; returns when every node has an agent that is ready.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        let installed = Self {
            cluster: cluster.clone(),
        };
        cluster.kubectl(&["apply", "-k", BASE])?;
        installed.wait_until_ready()?;
        Ok(installed)
    }

    /// Waits until every node has an agent of the newest kind, ready, and no other.
    pub fn wait_until_ready(&self) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["rollout", "status", "daemonset/grpclb", &timeout])
            .map(drop)
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut words = vec!["--namespace", NAMESPACE];
        words.extend(arguments);
        self.cluster.kubectl(&words)
    }

    /// The version of the ABI that a node's newest agent has written into its maps.
    pub fn abi_version(&self, node: &str) -> Result<u64> {
        let map = "/sys/fs/bpf/grpclb/current/instance";
        let printed = self
            .cluster
            .exec_on(node, &["bpftool", "--json", "map", "dump", "pinned", map])?;
        let dump: Value = serde_json::from_str(&printed).context("bpftool printed no JSON")?;
        let version = &dump[0]["formatted"]["value"]["abi_version"];
        version.as_u64().with_context(|| format!("no version in {dump}"))
    }

    /// What the agent of its node says of a pod (`namespace/name`); nothing if no agent knows it.
    pub fn pod(&self, name: &str) -> Result<Option<Value>> {
        let agents = self.kubectl(&[
            "get",
            "pods",
            "--output",
            "name",
            "--field-selector",
            "status.phase=Running",
        ])?;
        for agent in agents.lines() {
            let printed = self.kubectl(&["exec", agent, "--", "/grpclb", "status", "--json"])?;
            let status: Value = serde_json::from_str(&printed).context("grpclb status")?;
            let mut pods = status["pods"].as_array().into_iter().flatten();
            if let Some(pod) = pods.find(|pod| pod["name"] == name) {
                return Ok(Some(pod.clone()));
            }
        }
        Ok(None)
    }

    /// Takes it away and waits until nothing of it is left in the API.
    pub fn uninstall(self) -> Result<()> {
        let deleted = self.delete();
        std::mem::forget(self);
        deleted
    }

    fn delete(&self) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.cluster
            .kubectl(&["delete", "-k", BASE, "--ignore-not-found", "--wait", &timeout])
            .map(drop)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Err(error) = self.delete() {
            eprintln!("{error:#}");
        }
    }
}

/// Runs the cleanup on every node, waits until it has found nothing more, and takes it away again.
pub fn clean_up(cluster: &Cluster) -> Result<()> {
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    cluster.kubectl(&["apply", "-k", CLEANUP])?;
    let namespaced = ["--namespace", "grpclb-cleanup", "rollout", "status"];
    let done = cluster.kubectl(&[&namespaced[..], &["daemonset/grpclb-cleanup", &timeout]].concat());
    cluster.kubectl(&["delete", "-k", CLEANUP, "--wait", &timeout])?;
    done.map(drop)
}

/// Calls over one connection, a new one for each try, until the calls reach `backends` backends, `within` this time from when
/// the target's name is known. From then on no call may fail.
pub fn calls_reach(
    namespace: &Namespace,
    client: &str,
    target: &str,
    backends: usize,
    within: Duration,
) -> Result<Duration> {
    let begun = Instant::now();
    let mut named = begun;
    loop {
        let outcome = namespace.call(client, target, 60, 1)?;
        // CoreDNS learns of a Service by a watch of its own, and after an outage of the API server it takes its time.
        let no_name_yet = outcome.failed() > 0
            && outcome
                .messages
                .iter()
                .all(|message| message.contains("no such host"));
        if no_name_yet && begun.elapsed() < PATIENCE {
            named = Instant::now();
            continue;
        }
        if outcome.failed() > 0 {
            bail!("{outcome:?}");
        }
        if outcome.per_backend.len() == backends {
            return Ok(begun.elapsed());
        }
        if named.elapsed() > within {
            bail!(
                "the calls of one connection reach {} backends, not {backends}: {outcome:?}",
                outcome.per_backend.len()
            );
        }
    }
}

/// Whether a folder of a node is there and has something in it.
pub fn holds_something(cluster: &Cluster, node: &str, folder: &Path) -> Result<bool> {
    let folder = folder.display().to_string();
    let script = format!("test -d {folder} && ls -A {folder} || true");
    Ok(!cluster.exec_on(node, &["sh", "-c", &script])?.trim().is_empty())
}
