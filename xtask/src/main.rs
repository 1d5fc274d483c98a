//! What people and CI run: `cargo xtask demo`, `test`, `build` and the rest.
//!
//! Each subcommand is a module of its own name. This crate stays quick to build: whatever needs an async runtime or a
//! gRPC stack is a binary of another crate, which xtask builds and runs.

mod bench;
mod build;
mod build_ebpf;
mod cluster;
mod demo;
mod image;
mod progress;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, shows and tests grpclb",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the difference: one client, one connection, three backends; without grpclb, with it, toggled off, and after its death
    Demo(demo::Options),
    /// Set up what the tests need and run them: all tiers, or those that are named
    Test(test::Options),
    /// Measure CPU a call, latency and memory beside other proxies, in one run
    Bench(bench::Options),
    /// Build the agent for use: the kernel programs, then the release binary that embeds them
    Build(build::Options),
    /// Build the kernel programs alone, with Debian's toolchain or rustup's nightly, whichever is there
    BuildEbpf(build_ebpf::Options),
    /// Make and keep a real Kubernetes cluster on this machine: up, load, status, stop, down
    Cluster(cluster::Options),
    /// Build a container image, the agent's or the tests', as an archive
    Image(image::Options),
    /// Check the rules that no compiler knows: edges, unsafe, file lengths, links (the tables of ARCHITECTURE.md)
    Tidy,
    /// Install what building and testing need, and say each step
    Setup(setup::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line for people, with its causes: a stack says nothing to who named a cluster that is not there.
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Build(options) => build::run(&options),
        Command::BuildEbpf(options) => build_ebpf::run(&options),
        Command::Cluster(options) => cluster::run(&options),
        Command::Image(options) => image::run(&options),
        Command::Tidy => tidy::run(),
        Command::Setup(options) => setup::run(&options),
    }
}
