//! The programs of the cluster that Debian does not have: Kubernetes, its DNS and the pause process, built from Go modules
//! into `target/k8s`. What is there from the same sources is not built again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::command;
use crate::{progress, setup, workspace};

/// As in tests/k8s/components/go.mod.
pub(super) const KUBERNETES: &str = "v1.36.3";

const COMPONENTS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

pub(super) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds what is missing or older than its sources.
    pub(super) fn build() -> Result<Self> {
        let programs = Self {
            folder: workspace::target().join("k8s"),
        };
        programs.build_kubernetes()?;
        programs.build_go("coredns", "CoreDNS", "-s -w")?;
        programs.build_pause()?;
        Ok(programs)
    }

    /// A component of Kubernetes, or kubectl.
    pub(super) fn kubernetes(&self, component: &str) -> PathBuf {
        self.folder.join("bin").join(component)
    }

    pub(super) fn coredns(&self) -> PathBuf {
        self.folder.join("coredns")
    }

    pub(super) fn pause(&self) -> PathBuf {
        self.folder.join("pause")
    }

    /// One program under six names: it looks at the one that it was started by.
    fn build_kubernetes(&self) -> Result<()> {
        // Without these it says v0.0.0, and its clients refuse it.
        let version = "k8s.io/component-base/version";
        let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
        let flags = format!(
            "-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
        );
        self.build_go("components", &format!("Kubernetes {KUBERNETES}"), &flags)?;
        let names = self.folder.join("bin");
        fs::create_dir_all(&names)?;
        for component in COMPONENTS {
            let link = names.join(component);
            if !link.exists() {
                // A link that leads nowhere may be in the way.
                let _ = fs::remove_file(&link);
                symlink("../components", &link)?;
            }
        }
        Ok(())
    }

    /// Builds the Go module `tests/k8s/<module>` into a program of that name.
    fn build_go(&self, module: &str, label: &str, link_flags: &str) -> Result<()> {
        let source = source(module);
        let program = self.folder.join(module);
        let stamp = self.folder.join(format!("{module}.stamp"));
        let mut made_of = link_flags.to_owned();
        for file in ["go.mod", "go.sum", "main.go"] {
            let path = source.join(file);
            made_of +=
                &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        if program.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == made_of) {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let fresh = self.folder.join(format!("{module}.new"));
        let mut go = Command::new(setup::recent_go()?);
        go.current_dir(&source)
            .env_remove("GOROOT")
            .env("CGO_ENABLED", "0")
            .args(["build", "-trimpath", "-ldflags", link_flags, "-o"])
            .arg(&fresh)
            .arg(".");
        progress::run(&format!("{label} (minutes, the first time)"), &mut go)?;
        // Renamed and not written over: a cluster may run the old one.
        fs::rename(fresh, program)?;
        fs::write(stamp, made_of)?;
        Ok(())
    }

    /// Kubernetes' own, a page of C that lies in its Go module.
    fn build_pause(&self) -> Result<()> {
        if self.pause().exists() {
            return Ok(());
        }
        let mut go = Command::new(setup::recent_go()?);
        go.current_dir(source("components")).env_remove("GOROOT").args([
            "list",
            "-m",
            "-f",
            "{{.Dir}}",
            "k8s.io/kubernetes",
        ]);
        let module = command::finish(&mut go, "")?;
        let mut cc = Command::new("cc");
        cc.args(["-Os", "-static", "-DVERSION=3.10", "-o"])
            .arg(self.pause())
            .arg(Path::new(module.trim()).join("build/pause/linux/pause.c"));
        progress::run("the pause process", &mut cc)
    }
}

/// The committed sources of one of the cluster's programs.
pub(super) fn source(name: &str) -> PathBuf {
    workspace::root().join("tests/k8s").join(name)
}
