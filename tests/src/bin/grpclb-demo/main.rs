//! The demo: a client pod, three backend pods and a Service address; the calls of one connection without grpclb, with
//! it, with the pod's toggle off again, and after the agent was killed. `cargo xtask demo` builds and runs it.

mod acts;
mod picture;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

#[derive(Debug, Parser)]
struct Options {
    /// The grpclb binary
    #[arg(long)]
    agent: PathBuf,
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
    let mut stage = acts::Stage::set_up(&options.agent, options.calls)?;
    let acts = stage.play(|name| eprintln!("  … {name}"))?;
    let missed: Vec<String> = acts.iter().filter_map(acts::Act::missed).collect();

    if options.json {
        println!("{}", serde_json::json!({ "acts": acts }));
    } else {
        print!("{}", picture::table(&acts, std::io::stdout().is_terminal()));
        println!("{}", picture::conclusion(&acts, &missed));
    }
    for reason in &missed {
        eprintln!("not shown: {reason}");
    }
    if options.keep {
        stage.look_around()?;
    }
    Ok(if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
