//! Images for the nodes: those that the cluster itself needs, and loading of any other.

use std::path::Path;

use anyhow::Result;

use super::command::run;
use super::node::{PAUSE_IMAGE, containerd_socket};
use super::programs::Programs;
use super::state::{Cluster, Machine};
use crate::image::{Entry, Image};
use crate::workspace;

pub(super) const COREDNS_IMAGE: &str = "docker.io/grpclb-cluster/coredns:1";

/// Makes the cluster's own images from its programs and loads them into `node`.
pub(super) fn load_own(cluster: &Cluster, node: Machine, programs: &Programs) -> Result<()> {
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

/// Loads an archive (docker's or OCI's) into one node.
pub(super) fn load(cluster: &Cluster, node: Machine, archive: &Path) -> Result<()> {
    let socket = containerd_socket(cluster, node).into_os_string();
    let arguments = [
        "--address".into(),
        socket,
        "--namespace".into(),
        "k8s.io".into(),
        "images".into(),
        "import".into(),
        archive.as_os_str().to_owned(),
    ];
    run("ctr", arguments).map(drop)
}
