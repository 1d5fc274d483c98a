//! grpclb as people install it in a cluster by Helm: a release of `deploy/helm/grpclb`, upgraded, rolled back and uninstalled.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cluster::{Cluster, PATIENCE};
use crate::install::NAMESPACE;
use crate::manifests::{CHART, tool};

const RELEASE: &str = "grpclb";

/// A release. Dropping this uninstalls it, and takes its namespace away.
#[derive(Debug)]
pub struct Release {
    cluster: Cluster,
}

impl Release {
    /// Installs the chart, with values as `--set` takes them; returns when every node has an agent that is ready.
    pub fn install(cluster: &Cluster, values: &[&str]) -> Result<Self> {
        let release = Self {
            cluster: cluster.clone(),
        };
        release.helm(
            &["install", RELEASE, CHART, "--create-namespace", "--wait"],
            values,
        )?;
        Ok(release)
    }

    /// Another revision, with these values and the chart's own; returns when all agents are new and ready.
    pub fn upgrade(&self, values: &[&str]) -> Result<()> {
        self.helm(&["upgrade", RELEASE, CHART, "--reset-values", "--wait"], values)
    }

    /// Back to the revision before; returns as `upgrade` does.
    pub fn rollback(&self) -> Result<()> {
        self.helm(&["rollback", RELEASE, "--wait"], &[])
    }

    /// Takes the release away; returns when Helm takes it for gone: its last pods may still end.
    pub fn uninstall(&self) -> Result<()> {
        self.helm(&["uninstall", RELEASE, "--wait", "--cascade", "foreground"], &[])
    }

    fn helm(&self, arguments: &[&str], values: &[&str]) -> Result<()> {
        let mut helm = self.command()?;
        helm.args(arguments);
        helm.args(["--namespace", NAMESPACE, "--timeout"]);
        helm.arg(format!("{}s", PATIENCE.as_secs()));
        for value in values {
            helm.args(["--set", value]);
        }
        let output = helm.output().context("cannot run helm")?;
        if !output.status.success() {
            bail!(
                "helm {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Helm, with nothing of what the user has set up for it.
    fn command(&self) -> Result<Command> {
        let mut helm = tool("helm")?;
        let home = crate::peers::target().join("k8s/helm");
        for (variable, folder) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
        ] {
            helm.env(variable, home.join(folder));
        }
        helm.env("KUBECONFIG", self.cluster.kubeconfig());
        Ok(helm)
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        // Done already, where the test has come to its end.
        let _ = self.uninstall();
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let delete = ["delete", "namespace", NAMESPACE, "--ignore-not-found", &timeout];
        if let Err(error) = self.cluster.kubectl(&delete) {
            eprintln!("{error:#}");
        }
    }
}
