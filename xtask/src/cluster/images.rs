//! Images for the nodes: those that the cluster itself needs, and loading of any other.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::command::finish;
use super::machine;
use super::node::PAUSE_IMAGE;
use super::programs::Programs;
use super::state::{Cluster, Machine};
use super::wait;
use crate::image::{Entry, Image};
use crate::workspace;

pub(super) const COREDNS_IMAGE: &str = "docker.io/grpclb-cluster/coredns:1";

/// Makes the cluster's own images from its programs and loads them into `node`.
pub(super) fn load_own(cluster: &Cluster, node: Machine, programs: &Programs) -> Result<()> {
    wait_for_containerd(cluster, node)?;
    for (reference, program, path) in [
        (PAUSE_IMAGE, programs.pause(), "pause"),
        (COREDNS_IMAGE, programs.coredns(), "coredns"),
    ] {
        let archive = workspace::target().join(format!("k8s/{path}.tar"));
        if !is_newer(&archive, &program) {
            one_program(reference, &program, path).write(&archive)?;
        }
        load(cluster, node, &archive)?;
    }
    Ok(())
}

fn one_program(reference: &str, program: &Path, path: &'static str) -> Image {
    Image {
        reference: reference.to_owned(),
        files: vec![Entry::File {
            path,
            from: program.to_owned(),
            mode: 0o755,
        }],
        entrypoint: vec![format!("/{path}")],
        labels: Vec::new(),
        environment: Vec::new(),
    }
}

fn is_newer(archive: &Path, program: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    matches!((changed(archive), changed(program)), (Ok(archive), Ok(program)) if archive >= program)
}

/// It was only just started.
fn wait_for_containerd(cluster: &Cluster, node: Machine) -> Result<()> {
    let (patience, interval) = (Duration::from_mins(1), Duration::from_millis(100));
    wait::until("containerd answers", patience, interval, || {
        finish(
            ctr(cluster, node)?.args(["--connect-timeout", "2s", "version"]),
            Stdio::null(),
        )
        .map(|_| true)
    })
}

/// Loads an archive (docker's or OCI's) into one node.
pub(super) fn load(cluster: &Cluster, node: Machine, archive: &Path) -> Result<()> {
    let file = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    finish(ctr(cluster, node)?.args(["images", "import", "-"]), file).map(drop)
}

/// containerd's own client, where the kubelet's images are. It runs inside, so that it ends with the node, and reads its
/// input from outside: the node has other folders.
fn ctr(cluster: &Cluster, node: Machine) -> Result<Command> {
    let mut command = machine::inside(cluster, node)?;
    command.args(["ctr", "--namespace", "k8s.io"]);
    Ok(command)
}
