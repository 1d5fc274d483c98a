//! Helm, kustomize, kubeconform and Prometheus' parser for what is in `deploy/`: built from Go modules, in the versions of
//! `tests/k8s/tools/go.mod`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::recent_go;
use crate::{progress, workspace};

/// The names of the programs; `go.mod` lists their packages as its tools.
const PROGRAMS: [&str; 4] = ["helm", "kubeconform", "kustomize", "promql"];

/// Whether they are there, made from the same module file as there is now.
pub(super) fn are_installed() -> bool {
    let stamp = fs::read_to_string(folder().join("stamp")).unwrap_or_default();
    PROGRAMS.iter().all(|name| folder().join(name).exists()) && made_of().is_ok_and(|now| now == stamp)
}

pub(super) fn install() -> Result<()> {
    fs::create_dir_all(folder())?;
    let mut go = Command::new(recent_go()?);
    go.current_dir(source())
        .env_remove("GOROOT")
        .env("CGO_ENABLED", "0")
        .env("GOBIN", folder())
        .args(["install", "-trimpath", "-ldflags", "-s -w", "tool"]);
    progress::run("Helm, kustomize and kubeconform from their sources", &mut go)?;
    Ok(fs::write(folder().join("stamp"), made_of()?)?)
}

/// The tests look for them here.
fn folder() -> PathBuf {
    workspace::target().join("k8s/tools")
}

fn source() -> PathBuf {
    workspace::root().join("tests/k8s/tools")
}

fn made_of() -> Result<String> {
    let mut all = String::new();
    for file in ["go.mod", "go.sum", "promql/main.go"] {
        let path = source().join(file);
        all += &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(all)
}
