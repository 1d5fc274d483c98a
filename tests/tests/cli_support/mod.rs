//! What the tests of the command line share: the program, kubeconfigs, and something to ask about.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use grpclb_tests::cluster::{Cluster, Namespace};
use grpclb_tests::install::calls_reach;
use serde_json::Value;

pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const SERVER: &str = "echo:50051";

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn new(output: &Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// It failed with this status, and said so in one line with these words.
    #[track_caller]
    pub(crate) fn assert_failed(&self, status: i32, words: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.err.trim_end().lines().count(), 1, "one line: {self:?}");
        assert!(self.err.contains(words), "{words:?} is not in {self:?}");
    }
}

/// The agent's own program, as its image has it.
pub(crate) fn program() -> PathBuf {
    if let Some(given) = std::env::var_os("GRPCLB_AGENT") {
        return given.into();
    }
    let target = grpclb_tests::peers::target();
    let of_image = target.join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    let places = [
        of_image.join("release"),
        target.join("release"),
        of_image.join("debug"),
    ];
    let mut programs = places.iter().map(|place| place.join("grpclb"));
    programs
        .find(|program| program.exists())
        .expect("cargo xtask image makes it")
}

pub(crate) fn grpclb(kubeconfig: &Path, arguments: &[&str]) -> Said {
    let output = Command::new(program())
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("NO_COLOR", "1")
        .output();
    Said::new(&output.unwrap())
}

/// A file of the test's own.
pub(crate) struct File(pub(crate) PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("grpclb-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A kubeconfig with a change.
pub(crate) fn kubeconfig(cluster: &Cluster, name: &str, change: impl FnOnce(&mut Value)) -> File {
    let printed = cluster
        .kubectl(&["config", "view", "--raw", "--flatten", "--output", "json"])
        .unwrap();
    let mut config: Value = serde_json::from_str(&printed).unwrap();
    change(&mut config);
    File::new(name, &config.to_string())
}

/// A namespace with three servers and a client on node1, balanced.
pub(crate) fn shop(cluster: &Cluster, about: &str) -> Namespace {
    let namespace = cluster.namespace(about).unwrap();
    namespace.start_servers("echo", 3).unwrap();
    namespace.start_client("client", Some("node1")).unwrap();
    enable(cluster, &namespace);
    calls_reach(&namespace, "client", SERVER, 3, SOON).unwrap();
    namespace
}

pub(crate) fn enable(cluster: &Cluster, namespace: &Namespace) {
    cluster
        .kubectl(&["label", "namespace", namespace.name(), "grpclb.io/enabled=true"])
        .unwrap();
}

pub(crate) fn read_all(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, files);
        } else {
            let content = std::fs::read(&path).unwrap();
            files.push((path, String::from_utf8_lossy(&content).into_owned()));
        }
    }
}
