//! kubectl with the administrator's rights, and what the cluster's start waits for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::command::finish;
use super::state::Cluster;
use super::wait;

/// Each of the waits below; a machine under full load is several times slower than a quiet one.
const PATIENCE: Duration = Duration::from_mins(3);

pub(super) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self {
            program: cluster.kubectl(),
            kubeconfig: cluster.kubeconfig(),
        }
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .arg("--request-timeout=10s")
            .args(arguments);
        finish(&mut command, Stdio::null())
    }

    /// Applies a file of manifests.
    pub(super) fn apply(&self, manifests: &Path) -> Result<()> {
        let file = format!("--filename={}", manifests.display());
        self.run(&["apply", "--server-side", "--force-conflicts", &file])
            .map(drop)
    }

    pub(super) fn wait_for_api(&self) -> Result<()> {
        until("the API server is ready", || {
            self.run(&["get", "--raw", "/readyz"])
                .map(|answer| answer == "ok")
        })
    }

    pub(super) fn wait_for_nodes(&self, count: u8) -> Result<()> {
        until("all nodes are ready", || {
            let nodes = self.run(&["get", "nodes", "--output=name"])?;
            Ok(nodes.lines().count() == usize::from(count) && self.unready_nodes()?.is_empty())
        })
    }

    /// The nodes that do not say that they are ready.
    pub(super) fn unready_nodes(&self) -> Result<Vec<String>> {
        let template =
            r#"{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
        let nodes = self.run(&["get", "nodes", &format!("--output=jsonpath={template}")])?;
        Ok(nodes
            .lines()
            .filter(|line| !line.ends_with(" True"))
            .map(|line| line.split(' ').next().unwrap_or(line).to_owned())
            .collect())
    }

    /// DNS answers, and pods of the default namespace can be made: they ask for its service account.
    pub(super) fn wait_for_dns(&self) -> Result<()> {
        until("CoreDNS is ready", || {
            let replicas = "--output=jsonpath={.status.readyReplicas}";
            let ready = self.run(&["-n", "kube-system", "get", "deployment", "coredns", replicas])?;
            Ok(ready == "1"
                && self
                    .run(&["-n", "default", "get", "serviceaccount", "default"])
                    .is_ok())
        })
    }
}

fn until(what: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::until(what, PATIENCE, Duration::from_millis(200), holds)
}
