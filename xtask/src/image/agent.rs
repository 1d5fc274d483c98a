//! The agent's image: one static program on nothing, with its licence and the list of what it was made of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Entry, Image, sbom};
use crate::build_ebpf::{self, Abi};
use crate::setup::{self, Need};
use crate::{progress, workspace};

/// What manifests call it, without the tag.
const REPOSITORY: &str = "docker.io/grpclb/grpclb";

/// Builds the program and the bill of materials, writes the archive, or the files alone into `folder`, and returns where
/// that is.
pub(crate) fn build(
    version: &str,
    abi: Abi,
    debug: bool,
    folder: Option<&Path>,
    no_install: bool,
) -> Result<PathBuf> {
    setup::ensure(&[Need::KernelToolchain], no_install)?;
    let images = workspace::target().join("images");
    fs::create_dir_all(&images)?;
    let program = images.join("grpclb");
    strip(&static_program(abi, debug)?, &program)?;
    let materials = images.join(format!("grpclb-{version}.cdx.json"));
    fs::write(&materials, sbom::of_agent(target()?, version)?)?;

    let file = |path, from: PathBuf, mode| Entry::File { path, from, mode };
    let image = Image {
        reference: format!("{REPOSITORY}:{version}"),
        files: vec![
            file("grpclb", program, 0o755),
            file("LICENSE", workspace::root().join("LICENSE"), 0o644),
            file("sbom.cdx.json", materials, 0o644),
            // For a root file system that may be written to only here.
            Entry::Folder {
                path: "tmp",
                mode: 0o1777,
            },
        ],
        entrypoint: vec!["/grpclb".to_owned()],
        labels: labels(version)?,
        environment: Vec::new(),
    };
    if let Some(folder) = folder {
        image.write_files(folder)?;
        return Ok(folder.to_owned());
    }
    let archive = images.join(format!("grpclb-{version}.tar"));
    image.write(&archive)?;
    Ok(archive)
}

/// As <https://specs.opencontainers.org/image-spec/annotations/> names them.
fn labels(version: &str) -> Result<Vec<(String, String)>> {
    let label = |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
    Ok(vec![
        label("title", "grpclb"),
        label(
            "description",
            "Balances each gRPC call of a Kubernetes node's pods",
        ),
        label("version", version),
        label("revision", &revision()?),
        label("licenses", "Apache-2.0 AND (Apache-2.0 OR GPL-2.0-only)"),
    ])
}

/// The commit, marked when the tree differs from it.
fn revision() -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(workspace::root()).args([
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]);
    let output = git.output().context("cannot run git")?;
    if !output.status.success() {
        // An archive of the sources, without their history.
        return Ok("unknown".to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Three quarters of the program tell lines of source to debuggers. Names of functions, for stacks in the log, stay.
fn strip(program: &Path, target: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").args([target, program]);
    progress::run("stripped", &mut strip)
}

fn static_program(abi: Abi, debug: bool) -> Result<PathBuf> {
    let object = build_ebpf::object(abi)?;
    let target = target()?;
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.to_uppercase().replace('-', "_")
    );
    let mut command = workspace::cargo();
    command
        .env(flags, "-C target-feature=+crt-static")
        .envs((abi == Abi::Next).then_some(("GRPCLB_EBPF_OBJECT", object)))
        .args(["build", "-p", "grpclb-userspace", "--bin", "grpclb"])
        .args(["--target", target])
        .args(abi.features())
        .args((!debug).then_some("--release"));
    progress::run("the agent, static", &mut command)?;
    let profile = if debug { "debug" } else { "release" };
    Ok(workspace::target().join(target).join(profile).join("grpclb"))
}

/// Named, although it is the host's own: flags for a named target leave build scripts and macros alone.
fn target() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("x86_64-unknown-linux-gnu"),
        "aarch64" => Ok("aarch64-unknown-linux-gnu"),
        other => bail!("no image is made for {other}"),
    }
}
