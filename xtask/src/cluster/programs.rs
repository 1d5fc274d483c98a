//! The programs of the cluster that Debian does not have, or not new enough: Kubernetes, its DNS, etcd and the pause
//! process, built from Go modules into `target/k8s`. What is there from the same sources is not built again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::command;
use crate::{progress, setup, workspace};

/// Which Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// The one that is developed against.
    Current,
    /// The oldest that its makers still support.
    Oldest,
}

impl Release {
    /// As the release's module file says.
    pub(super) fn version(self) -> &'static str {
        match self {
            Release::Current => "v1.36.3",
            Release::Oldest => "v1.35.4",
        }
    }

    fn module_file(self) -> &'static str {
        match self {
            Release::Current => "go.mod",
            Release::Oldest => "oldest.mod",
        }
    }
}

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
    release: Release,
}

impl Programs {
    /// Builds what is missing or older than its sources.
    pub(super) fn build(release: Release) -> Result<Self> {
        let programs = Self {
            folder: workspace::target().join("k8s"),
            release,
        };
        programs.build_kubernetes()?;
        programs.build_go(&Build {
            module: "coredns",
            module_file: "go.mod",
            program: programs.coredns(),
            label: "CoreDNS".to_owned(),
            link_flags: "-s -w".to_owned(),
        })?;
        programs.build_go(&Build {
            module: "etcd",
            module_file: "go.mod",
            program: programs.etcd(),
            label: "etcd".to_owned(),
            link_flags: "-s -w".to_owned(),
        })?;
        link(&programs.folder.join("etcdctl"), "etcd")?;
        programs.build_pause()?;
        Ok(programs)
    }

    /// A component of Kubernetes, or kubectl.
    pub(super) fn kubernetes(&self, component: &str) -> PathBuf {
        self.folder.join(self.release.version()).join(component)
    }

    pub(super) fn coredns(&self) -> PathBuf {
        self.folder.join("coredns")
    }

    pub(super) fn etcd(&self) -> PathBuf {
        self.folder.join("etcd")
    }

    pub(super) fn pause(&self) -> PathBuf {
        self.folder.join("pause")
    }

    /// One program under six names: it looks at the one that it was started by.
    fn build_kubernetes(&self) -> Result<()> {
        let version = self.release.version();
        let minor = version.split('.').nth(1).unwrap_or_default();
        // Without these it says v0.0.0, and its clients refuse it.
        let package = "k8s.io/component-base/version";
        let link_flags = format!(
            "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor=1 -X {package}.gitMinor={minor}"
        );
        self.build_go(&Build {
            module: "components",
            module_file: self.release.module_file(),
            program: self.kubernetes("kubernetes"),
            label: format!("Kubernetes {version}"),
            link_flags,
        })?;
        for component in COMPONENTS {
            link(&self.kubernetes(component), "kubernetes")?;
        }
        Ok(())
    }

    fn build_go(&self, build: &Build) -> Result<()> {
        let source = source(build.module);
        let stamp = build.program.with_extension("stamp");
        let sums = Path::new(build.module_file).with_extension("sum");
        let mut made_of = build.link_flags.clone();
        for file in [Path::new(build.module_file), &sums, Path::new("main.go")] {
            let path = source.join(file);
            made_of +=
                &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        if build.program.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == made_of) {
            return Ok(());
        }
        fs::create_dir_all(build.program.parent().unwrap_or(&self.folder))?;
        let fresh = build.program.with_extension("new");
        let mut go = Command::new(setup::recent_go()?);
        go.current_dir(&source)
            .env_remove("GOROOT")
            .env("CGO_ENABLED", "0")
            .args(["build", "-trimpath", "-modfile", build.module_file])
            .args(["-ldflags", &build.link_flags, "-o"])
            .arg(&fresh)
            .arg(".");
        progress::run(&format!("{} from its sources", build.label), &mut go)?;
        // Renamed and not written over: a cluster may run the old one.
        fs::rename(fresh, &build.program)?;
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
        let module = command::finish(&mut go, Stdio::null())?;
        let mut cc = Command::new("cc");
        cc.args(["-Os", "-static", "-DVERSION=3.10", "-o"])
            .arg(self.pause())
            .arg(Path::new(module.trim()).join("build/pause/linux/pause.c"));
        progress::run("the pause process", &mut cc)
    }
}

/// Another name for a program in the same folder.
fn link(name: &Path, program: &str) -> Result<()> {
    if !name.exists() {
        symlink(program, name).with_context(|| format!("cannot make {}", name.display()))?;
    }
    Ok(())
}

/// A program and the Go module `tests/k8s/<module>` that it is made of.
struct Build {
    module: &'static str,
    module_file: &'static str,
    program: PathBuf,
    label: String,
    link_flags: String,
}

/// Something of the cluster's committed sources.
pub(super) fn source(name: &str) -> PathBuf {
    workspace::root().join("tests/k8s").join(name)
}
