//! The demo: a client pod, three backend pods and a Service address; the calls of one connection without grpclb, with
//! it, with the pod's toggle off again, and after the agent was killed. `cargo xtask demo` builds and runs it. With
//! `--cluster` the same question is asked in a real Kubernetes: [`cluster`].

mod acts;
mod cluster;
mod picture;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

#[derive(Debug, Parser)]
struct Options {
    /// The grpclb binary
    #[arg(long, required_unless_present = "cluster")]
    agent: Option<PathBuf>,
    /// In a real cluster, which `GRPCLB_CLUSTER` names, with the images loaded
    #[arg(long, conflicts_with_all = ["agent", "keep"])]
    cluster: bool,
    /// How many calls each act makes over its one connection
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(30..=10_000_000))]
    calls: u32,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Leave everything up until Ctrl-C, and say how to look around
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<ExitCode> {
    let result = run(&Options::parse());
    grpclb_tests::cleanup::wait_if_interrupted();
    result
}

fn run(options: &Options) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo needs root: it makes network namespaces and loads BPF programs"
    );
    let announce = |name: &str| eprintln!("  … {name}");
    let mut stage = None;
    let acts = if let Some(agent) = &options.agent {
        stage
            .insert(acts::Stage::set_up(agent, options.calls)?)
            .play(announce)?
    } else {
        cluster::play(options.calls, announce)?
    };
    let missed: Vec<String> = acts
        .iter()
        .filter_map(|act| Some(format!("{}: {}", act.name, act.verdict().err()?)))
        .collect();

    if options.json {
        println!("{}", serde_json::json!({ "acts": acts }));
    } else {
        print!("{}", picture::table(&acts, std::io::stdout().is_terminal()));
        let conclusion = if options.cluster {
            cluster::conclusion(&acts)
        } else {
            picture::conclusion(&acts)
        };
        println!("{conclusion}");
    }
    for reason in &missed {
        eprintln!("not shown: {reason}");
    }
    if options.keep
        && let Some(stage) = &mut stage
    {
        stage.look_around()?;
    }
    Ok(if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
