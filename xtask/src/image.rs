//! `cargo xtask image`: container images, made without Docker: the agent's, and one for tests.

mod agent;
mod archive;
mod sbom;
mod test;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::build_ebpf::Abi;

pub(crate) use archive::{Entry, Image};

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
pub(crate) struct Options {
    /// The image of the cluster's tests (a gRPC server and client, and a shell) instead of the agent's
    #[arg(long)]
    test: bool,
    /// The version in the image's labels and in its tag; the workspace's own without it
    #[arg(long)]
    tag: Option<String>,
    /// Write the agent's files into this folder instead of an archive, as deploy/Dockerfile does
    #[arg(long, conflicts_with = "test")]
    files: Option<PathBuf>,
    /// The agent built without optimisation: in half a minute, for trying things out
    #[arg(long, conflicts_with = "test")]
    debug: bool,
    /// An agent whose kernel tables have another layout, as after a change of the ABI: for tests of upgrades. Its tag ends in
    /// -next-abi
    #[arg(long, conflicts_with_all = ["test", "tag", "files"])]
    next_abi: bool,
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let written = if options.test {
        test::build(options.no_install)?
    } else {
        let version = env!("CARGO_PKG_VERSION");
        let (abi, version) = if options.next_abi {
            (Abi::Next, format!("{version}-next-abi"))
        } else {
            (Abi::Current, options.tag.as_deref().unwrap_or(version).to_owned())
        };
        agent::build(
            &version,
            abi,
            options.debug,
            options.files.as_deref(),
            options.no_install,
        )?
    };
    println!("{}", written.display());
    Ok(())
}
