//! `cargo xtask test`: sets up and runs the tiers of tests, cheapest first, and ends with a table.
//!
//! Every tier is a few commands; a tier's counts are read from what `cargo test` prints. The last line is
//! `N passed, N failed` over all tiers.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::progress::{self, Finished};
use crate::setup::{self, Need};
use crate::{build, build_ebpf, workspace};

/// GiB that all tiers fill, from an empty target directory: 7.5 in it, and a cluster's disks and logs.
const ROOM: u64 = 10;
/// All tiers are to end within an hour. Another Kubernetes takes up to ten minutes where it has to be built first: it is left out
/// where the others took longer than this.
const TIME_FOR_THE_OLDEST: Duration = Duration::from_mins(42);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which tiers to run; all of them without a name
    tiers: Vec<Tier>,
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
}

/// The tiers in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Formatting, lints, and the rules of the tree
    Lint,
    /// The pure engine and the ABI: no root, seconds
    Engine,
    /// The agent's rooms, each alone
    Agent,
    /// The manifests and the chart of `deploy/`, as Helm and kustomize make them
    Deploy,
    /// The kernel programs, loaded and attached
    Kernel,
    /// Real gRPC stacks in four languages through the built agent
    Wire,
    /// Backends and agents killed, frozen, restarted and replaced under load
    Faults,
    /// In a real Kubernetes cluster of two nodes, made for it
    Cluster,
    /// The Kubernetes API as a source, in the oldest Kubernetes that its makers still support
    Oldest,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Tier::Lint => "lint",
            Tier::Engine => "engine",
            Tier::Agent => "agent",
            Tier::Deploy => "deploy",
            Tier::Kernel => "kernel",
            Tier::Wire => "wire",
            Tier::Faults => "faults",
            Tier::Cluster => "cluster",
            Tier::Oldest => "oldest",
        }
    }

    fn needs(self) -> &'static [Need] {
        match self {
            Tier::Lint | Tier::Engine => &[],
            Tier::Agent => &[Need::Root, Need::Namespaces],
            Tier::Deploy => &[Need::DeployTools],
            Tier::Kernel => &[Need::Root, Need::Namespaces, Need::Bpftool, Need::KernelToolchain],
            Tier::Wire | Tier::Faults => &[
                Need::Root,
                Need::Namespaces,
                Need::KernelToolchain,
                Need::Python,
                Need::Node,
                Need::Go,
            ],
            Tier::Cluster => &[
                Need::Root,
                Need::Namespaces,
                Need::Bpftool,
                Need::KernelToolchain,
                Need::Go,
                Need::Busybox,
                Need::Cluster,
                Need::DeployTools,
            ],
            Tier::Oldest => setup::A_CLUSTER_WITH_IMAGES,
        }
    }

    fn steps(self) -> Vec<Step> {
        match self {
            Tier::Lint => vec![
                Step::Check("cargo fmt", cargo(&["fmt", "--all", "--check"])),
                Step::Check("tidy", cargo(&["xtask", "tidy"])),
                Step::Check(
                    "cargo clippy",
                    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
                ),
                Step::Check("cargo doc", documentation()),
            ],
            Tier::Engine => {
                vec![Step::Tests(
                    "engine tests",
                    cargo(&[
                        "test",
                        "--no-fail-fast",
                        "-p",
                        "grpclb-abi",
                        "-p",
                        "grpclb-engine",
                    ]),
                )]
            }
            Tier::Agent => vec![
                Step::Tests(
                    "agent tests",
                    cargo(&["test", "--no-fail-fast", "-p", "grpclb-userspace"]),
                ),
                Step::Tests("xtask tests", cargo(&["test", "-p", "xtask"])),
            ],
            Tier::Deploy => vec![outside("deploy tests", &["deploy_*"], "2")],
            Tier::Kernel => vec![outside("kernel tests", &["kernel_*"], "1")],
            // Each makes a node of its own, so two can run side by side.
            Tier::Wire => vec![outside("wire tests", &["wire_*"], "2")],
            // One at a time: they kill and freeze, and some say how long something may take.
            Tier::Faults => vec![outside("fault tests", &["faults_*"], "1")],
            Tier::Cluster => in_a_cluster(),
            Tier::Oldest => in_the_oldest_kubernetes(),
        }
    }

    /// Whether the release build of the agent is run.
    fn runs_agent(self) -> bool {
        matches!(self, Tier::Wire | Tier::Faults)
    }
}

/// The tests in a cluster of their own, apart from one that people may have. Each command is seen and counted, so that a
/// cluster that does not start or does not end fails the tier.
fn in_a_cluster() -> Vec<Step> {
    const NAME: &str = "test";
    let version = env!("CARGO_PKG_VERSION");
    let cluster = |words: &[&str]| cluster(NAME, words);
    vec![
        Step::Check("the tests' image", cargo(&["xtask", "image", "--test"])),
        Step::Check("the agent's image", cargo(&["xtask", "image"])),
        Step::Check(
            "the image of another ABI",
            cargo(&["xtask", "image", "--next-abi"]),
        ),
        Step::Check("a cluster", cluster(&["up", "--nodes", "2"])),
        Step::Check("the tests' image loaded", cluster(&["load", &image("test")])),
        Step::Check(
            "the agent's image loaded",
            cluster(&["load", &image(&format!("grpclb-{version}"))]),
        ),
        Step::Check(
            "the image of another ABI loaded",
            cluster(&["load", &image(&format!("grpclb-{version}-next-abi"))]),
        ),
        outside_in("cluster tests", NAME, &["cluster_*"]),
        Step::Check("the cluster's end", cluster(&["down"])),
    ]
}

/// What follows from the API alone: the agent is none the wiser of which Kubernetes it is in.
fn in_the_oldest_kubernetes() -> Vec<Step> {
    const NAME: &str = "oldest";
    let cluster = |words: &[&str]| cluster(NAME, words);
    vec![
        Step::Check("the tests' image", cargo(&["xtask", "image", "--test"])),
        Step::Check("a cluster", cluster(&["up", "--nodes", "2", "--oldest"])),
        Step::Check("the tests' image loaded", cluster(&["load", &image("test")])),
        outside_in(
            "its API as a source",
            NAME,
            &["cluster_basics", "cluster_source", "cluster_watch"],
        ),
        Step::Check("its end", cluster(&["down"])),
    ]
}

fn cluster(name: &str, words: &[&str]) -> Command {
    cargo(&[&["xtask", "cluster", "--name", name], words].concat())
}

/// The archive that `cargo xtask image` makes.
fn image(kind: &str) -> String {
    let archive = workspace::target().join(format!("images/{kind}.tar"));
    archive.display().to_string()
}

/// As [`outside`], in a cluster.
fn outside_in(label: &'static str, cluster: &str, files: &[&str]) -> Step {
    let mut step = outside(label, files, "1");
    if let Step::Tests(_, command) = &mut step {
        command.env("GRPCLB_CLUSTER", cluster);
    }
    step
}

/// The documentation of what is private, too, which is most of it: no link in it leads nowhere.
fn documentation() -> Command {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// The tests of the tests crate whose files are named like `files`.
fn outside(label: &'static str, files: &[&str], threads: &str) -> Step {
    let mut command = cargo(&["test", "--no-fail-fast", "-p", "grpclb-tests"]);
    command.args(files.iter().flat_map(|files| ["--test", files]));
    command.args(["--", &format!("--test-threads={threads}")]);
    Step::Tests(label, command)
}

/// One command of a tier.
enum Step {
    /// Counts as one passed or failed check.
    Check(&'static str, Command),
    /// A run of `cargo test`, which says itself how many passed.
    Tests(&'static str, Command),
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let tiers: Vec<Tier> = Tier::value_variants()
        .iter()
        .copied()
        .filter(|tier| options.tiers.is_empty() || options.tiers.contains(tier))
        .collect();
    let needs: Vec<Need> = tiers.iter().flat_map(|tier| tier.needs()).copied().collect();
    if options.tiers.is_empty() {
        warn_of_little_room();
    }
    setup::ensure(&needs, options.no_install)?;

    let started = Instant::now();
    if needs.contains(&Need::KernelToolchain) {
        // First of all, since the agent embeds the object: every later build then finds it.
        build_ebpf::object(build_ebpf::Abi::Current)?;
    }
    let mut results = Vec::new();
    for tier in tiers {
        if tier == Tier::Oldest && options.tiers.is_empty() && started.elapsed() > TIME_FOR_THE_OLDEST {
            eprintln!("oldest\n  left out, since the others took so long: cargo xtask test oldest");
            continue;
        }
        results.push((tier, run_tier(tier)?));
    }
    summarize(&results, started.elapsed());
    if results.iter().any(|(_, counts)| counts.failed > 0) {
        // The summary has said it all, and its last line stays the last.
        std::process::exit(1);
    }
    Ok(())
}

/// What a full disk breaks says so in many ways, none of them clear.
fn warn_of_little_room() {
    const GIB: u64 = 1 << 30;
    let target = workspace::target();
    let mut df = Command::new("df");
    df.args(["--block-size=1", "--output=avail"]).arg(&target);
    let printed = df.output().map(|output| output.stdout).unwrap_or_default();
    let printed = String::from_utf8_lossy(&printed);
    let free = printed
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse::<u64>().ok());
    if let Some(free) = free.filter(|free| *free < ROOM * GIB) {
        eprintln!(
            "only {:.1} GiB are free for {}, and all tiers take about {ROOM} GiB from nothing",
            free as f64 / GIB as f64,
            target.display()
        );
    }
}

/// How a tier went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    elapsed: Duration,
}

fn run_tier(tier: Tier) -> Result<Counts> {
    eprintln!("{}", tier.name());
    let started = Instant::now();
    let mut counts = Counts::default();
    if tier.runs_agent() {
        build::agent()?;
    }
    for step in tier.steps() {
        let (finished, of_step) = match step {
            Step::Check(label, mut command) => {
                let finished = progress::run_to_end(label, &mut command)?;
                let passed = u64::from(finished.status.success());
                (
                    finished,
                    Counts {
                        passed,
                        failed: 1 - passed,
                        ..Counts::default()
                    },
                )
            }
            Step::Tests(label, mut command) => {
                let finished = progress::run_to_end(label, &mut command)?;
                let counts = count_tests(&finished);
                (finished, counts)
            }
        };
        if of_step.failed > 0 {
            progress::show_failure(&finished);
        }
        counts.passed += of_step.passed;
        counts.failed += of_step.failed;
        counts.ignored += of_step.ignored;
    }
    counts.elapsed = started.elapsed();
    Ok(counts)
}

/// Adds up the `test result:` lines; a run that failed without a failed test (it did not build, or crashed) counts as
/// one failure, and so does a run that ran nothing.
fn count_tests(finished: &Finished) -> Counts {
    let mut counts = Counts::default();
    for line in finished
        .output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("test result: "))
    {
        for part in line.split([';', '.']).map(str::trim) {
            let mut words = part.split(' ');
            let (Some(Ok(number)), Some(word)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match word {
                "passed" => counts.passed += number,
                "failed" => counts.failed += number,
                "ignored" => counts.ignored += number,
                _ => {}
            }
        }
    }
    if counts.failed == 0 && (!finished.status.success() || counts.passed == 0) {
        counts.failed = 1;
    }
    counts
}

fn summarize(results: &[(Tier, Counts)], elapsed: Duration) {
    let mut total = Counts::default();
    println!(
        "\n{:<10} {:>8} {:>8} {:>8} {:>9}",
        "tier", "passed", "failed", "ignored", "time"
    );
    for (tier, counts) in results {
        println!(
            "{:<10} {:>8} {:>8} {:>8} {:>7} s",
            tier.name(),
            counts.passed,
            counts.failed,
            counts.ignored,
            counts.elapsed.as_secs()
        );
        total.passed += counts.passed;
        total.failed += counts.failed;
    }
    println!("in {} min {} s\n", elapsed.as_secs() / 60, elapsed.as_secs() % 60);
    if total.failed > 0 {
        println!(
            "The output of each step is in {}\n",
            workspace::target().join("logs").display()
        );
    }
    println!("{} passed, {} failed", total.passed, total.failed);
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = workspace::cargo();
    command.args(arguments);
    command
}
