//! The image of the cluster's tests: the grpc-go peer as `/peer`, and Debian's static busybox for a shell.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Entry, Image};
use crate::setup::{self, Need};
use crate::workspace;

/// What manifests call it.
pub(crate) const REFERENCE: &str = "docker.io/grpclb/test:1";

const BUSYBOX: &str = "/bin/busybox";
/// Under which names busybox is there.
const TOOLS: [&str; 14] = [
    "cat", "env", "hostname", "ip", "kill", "ls", "nc", "netstat", "nslookup", "ps", "sh", "sleep", "true",
    "wget",
];

/// Writes the archive and returns where it is.
pub(crate) fn build(no_install: bool) -> Result<PathBuf> {
    setup::ensure(&[Need::Go, Need::Busybox], no_install)?;
    check_static(Path::new(BUSYBOX))?;
    let links = TOOLS.iter().map(|tool| Entry::Link {
        path: format!("bin/{tool}"),
        to: "busybox",
    });
    let mut files = vec![
        Entry::Folder {
            path: "tmp",
            mode: 0o1777,
        },
        Entry::File {
            path: "bin/busybox",
            from: BUSYBOX.into(),
            mode: 0o755,
        },
        Entry::File {
            path: "peer",
            from: workspace::peers().join("go/peer"),
            mode: 0o755,
        },
    ];
    files.extend(links);
    let archive = workspace::target().join("images/test.tar");
    Image {
        reference: REFERENCE.to_owned(),
        files,
        entrypoint: vec!["/peer".to_owned()],
        labels: Vec::new(),
        environment: vec!["PATH=/bin:/".to_owned()],
    }
    .write(&archive)?;
    Ok(archive)
}

/// Debian has two packages with a busybox; only one of them runs without libraries.
fn check_static(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let head = &bytes[..bytes.len().min(4096)];
    if head.windows(7).any(|window| window == b"/ld-lin") {
        bail!(
            "{} is not static: install Debian's busybox-static",
            program.display()
        );
    }
    Ok(())
}
