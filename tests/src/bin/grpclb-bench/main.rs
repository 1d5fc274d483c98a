//! Measures what one call costs: grpclb, steered through its hooks, beside other proxies in the same run.
//!
//! Proxies run one worker on the first core; the load generator (h2load) and three echoing backends (nghttpd) share the
//! other. All of them take the same way from the client pod's namespace to the backends'. Spread and content of the
//! calls are checked before a figure counts. `cargo xtask bench` builds and starts this.

mod load;
mod peers;
mod proxy;
mod report;
mod scenario;

use std::fs;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use grpclb_tests::cleanup;
use grpclb_tests::node::{Node, Pod};
use grpclb_tests::process::{Process, wait_until};
use grpclb_tests::service::ECHO;
use grpclb_tests::usage;

use crate::proxy::Proxy;
use crate::report::Report;
use crate::scenario::{SCENARIOS, Sample, Scenario, Spread};

const PROXY_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const BACKENDS: usize = 3;
const LATENCY_RATE: u32 = 2000;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench",
    about = "CPU per call, latency and memory, beside other proxies"
)]
struct Options {
    /// The release build of the agent
    #[arg(long)]
    agent: PathBuf,
    /// The relay binary
    #[arg(long)]
    relay: PathBuf,
    /// Envoy's program; left out when not given
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Rounds; each figure is their median
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Divide the number of calls by this, for a quick look
    #[arg(long, default_value_t = 1)]
    quick: u32,
    /// Only proxies whose names are given
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only scenarios whose names contain this, for instance `1 MB`
    #[arg(long, default_value = "")]
    scenario: String,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Write the tables, as Markdown, to this file as well
    #[arg(long)]
    markdown: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    ensure!(
        options.rounds > 0 && options.quick > 0,
        "--rounds and --quick are at least 1"
    );
    let report = Bench::set_up(&options)?.run()?;
    let losses = report.losses();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.markdown());
    }
    if let Some(path) = &options.markdown {
        fs::write(path, report.markdown()).with_context(|| format!("writing {}", path.display()))?;
    }
    for loss in &losses {
        eprintln!("grpclb is not the cheapest: {loss}");
    }
    Ok(if losses.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The set-up that all proxies share. Fields drop in order: processes before their node.
struct Bench<'a> {
    options: &'a Options,
    _backends: Vec<Process>,
    addresses: Vec<SocketAddr>,
    client: Pod,
    backend_pods: Vec<Pod>,
    node: Node,
}

impl<'a> Bench<'a> {
    fn set_up(options: &'a Options) -> Result<Self> {
        let mut node = Node::new()?;
        let client = node.add_pod("client")?;
        let backend_pods = (0..BACKENDS)
            .map(|n| node.add_pod(&format!("backend-{n}")))
            .collect::<Result<Vec<_>>>()?;
        ECHO.publish(&node, &backend_pods.iter().collect::<Vec<_>>())?;
        let mut backends = Vec::new();
        for pod in &backend_pods {
            let documents = node.folder().join(&pod.name);
            fs::create_dir(&documents)?;
            fs::write(documents.join("who"), format!("{}\n", pod.name))?;
            let arguments = [
                "-c",
                LOAD_CORE,
                "nghttpd",
                "--no-tls",
                "-n",
                "1",
                "--echo-upload",
                "-W",
                "22",
                "-w",
                "22",
            ];
            let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            arguments.extend([
                "-d".to_owned(),
                documents.display().to_string(),
                ECHO.port.to_string(),
            ]);
            backends.push(Process::start(
                &node.place(pod),
                &pod.name,
                Path::new("taskset"),
                &arguments,
            )?);
        }
        let addresses: Vec<_> = backend_pods
            .iter()
            .map(|pod| SocketAddr::from((pod.ipv4, ECHO.port)))
            .collect();
        for size in SCENARIOS.iter().map(|scenario| scenario.body) {
            fs::write(body_path(node.folder(), size), content(size))?;
        }
        let bench = Self {
            options,
            _backends: backends,
            addresses,
            client,
            backend_pods,
            node,
        };
        for address in &bench.addresses {
            bench.wait_for(*address)?;
        }
        Ok(bench)
    }

    fn run(&self) -> Result<Report> {
        let folder = self.node.folder();
        let (peers, missing) = peers::all(
            folder,
            &self.addresses,
            &self.options.relay,
            self.options.envoy.as_deref(),
        )?;
        let wanted = |name: &str| {
            self.options.only.is_empty()
                || self
                    .options
                    .only
                    .iter()
                    .any(|only| only.eq_ignore_ascii_case(name))
        };
        let mut proxies = Vec::new();
        for peer in peers.iter().filter(|peer| wanted(peer.name)) {
            proxies.push(Proxy::start_peer(&self.node, &self.client, peer)?);
            self.wait_for(peer.listen)?;
        }
        if wanted("grpclb") {
            let pods: Vec<&Pod> = self.backend_pods.iter().collect();
            proxies.push(Proxy::start_grpclb(
                &self.node,
                &self.client,
                &pods,
                &self.options.agent,
            )?);
        }
        for proxy in &proxies {
            self.check_spread(proxy)?;
            self.check_content(proxy)?;
        }
        // Idle comes before any load; one round after the other over all proxies, so that what disturbs the machine
        // for a while disturbs all of them.
        let idle = proxies
            .iter()
            .map(Proxy::resident_mib)
            .collect::<Result<Vec<_>>>()?;
        let scenarios: Vec<&Scenario> = SCENARIOS
            .iter()
            .filter(|scenario| scenario.name.contains(&self.options.scenario))
            .collect();
        ensure!(
            !scenarios.is_empty(),
            "no scenario is named {:?}",
            self.options.scenario
        );
        let mut samples: Vec<Vec<Vec<Sample>>> = vec![vec![Vec::new(); scenarios.len()]; proxies.len()];
        for round in 1..=self.options.rounds {
            for (s, scenario) in scenarios.iter().enumerate() {
                for (p, proxy) in proxies.iter().enumerate() {
                    Self::progress(&format!(
                        "round {round}/{}: {}, {}",
                        self.options.rounds, scenario.name, proxy.name
                    ));
                    samples[p][s].push(self.measure(proxy, scenario)?);
                }
            }
        }
        let mut figures = Vec::new();
        for ((proxy, samples), idle) in proxies.iter().zip(&samples).zip(idle) {
            Self::progress(&format!("latency and memory: {}", proxy.name));
            figures.push(self.figures(proxy, samples, idle)?);
        }
        Self::progress("");
        Ok(Report {
            machine: machine()?,
            rounds: self.options.rounds,
            scenarios: scenarios.iter().map(|scenario| scenario.name).collect(),
            proxies: figures,
            missing,
        })
    }

    fn measure(&self, proxy: &Proxy, scenario: &Scenario) -> Result<Sample> {
        let body = body_path(self.node.folder(), scenario.body);
        let calls = (scenario.calls / self.options.quick).max(scenario.connections * scenario.streams);
        let pids = proxy.pids();
        let before = usage::cpu(&pids)?;
        let rate = load::run(
            &|program| self.on_load_core(program),
            &proxy.url("/"),
            scenario,
            calls,
            &body,
        )
        .with_context(|| format!("{}, {}", proxy.name, scenario.name))?;
        let spent = usage::cpu(&pids)? - before;
        let per_call = |seconds: f64| seconds * 1e6 / f64::from(calls);
        Ok(Sample {
            user_us: per_call(spent.user),
            system_us: per_call(spent.system),
            calls_per_second: rate,
        })
    }

    fn figures(&self, proxy: &Proxy, samples: &[Vec<Sample>], idle: f64) -> Result<report::Proxy> {
        let spreads = |value: fn(&Sample) -> f64| -> Result<Vec<Spread>> {
            samples
                .iter()
                .map(|rounds| Spread::of(rounds.iter().map(value)).context("no rounds"))
                .collect()
        };
        let folder = self.node.folder();
        let launch = |program: &str| self.on_load_core(program);
        let seconds = (10 / self.options.quick).max(1);
        let latency = load::at_fixed_rate(
            &launch,
            &proxy.url("/"),
            LATENCY_RATE,
            seconds,
            &body_path(folder, 100),
            &folder.join("latency.log"),
        )?;
        Ok(report::Proxy {
            name: proxy.name.to_owned(),
            version: proxy.version.clone(),
            balances: proxy.balances,
            cpu_us: spreads(Sample::total_us)?,
            user_us: spreads(|sample| sample.user_us)?,
            calls_per_second: spreads(|sample| sample.calls_per_second)?,
            latency,
            resident_idle_mib: idle,
            resident_1000_connections_mib: self.with_1000_connections(proxy)?,
        })
    }

    /// Resident memory at its highest while 1000 connections each make a call a second.
    fn with_1000_connections(&self, proxy: &Proxy) -> Result<f64> {
        let mut load = self
            .on_load_core("h2load")
            .args(["-t", "1", "-c", "1000", "-m", "1", "--rps", "1", "-D", "6"])
            .arg(proxy.url("/who"))
            .stdout(std::process::Stdio::null())
            .spawn()?;
        let mut highest: f64 = 0.0;
        let ended = wait_until(Duration::from_mins(1), || {
            highest = highest.max(proxy.resident_mib().unwrap_or(0.0));
            load.try_wait().ok().flatten().is_some()
        });
        ensure!(ended, "h2load with 1000 connections did not end");
        ensure!(
            load.wait()?.success(),
            "h2load with 1000 connections failed for {}",
            proxy.name
        );
        Ok(highest)
    }

    /// A balancing proxy must spread the calls of one connection over all backends; the relay must not.
    fn check_spread(&self, proxy: &Proxy) -> Result<()> {
        const CALLS: usize = 300;
        let output = self
            .on_load_core("nghttp")
            .args(["-m", &CALLS.to_string()])
            .arg(proxy.url("/who"))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let counts: Vec<usize> = self
            .backend_pods
            .iter()
            .map(|pod| text.lines().filter(|line| *line == pod.name).count())
            .collect();
        ensure!(
            counts.iter().sum::<usize>() == CALLS,
            "{}: of {CALLS} calls came back {counts:?}",
            proxy.name
        );
        let reached = counts.iter().filter(|count| **count >= CALLS / 5).count();
        let expected = if proxy.balances { BACKENDS } else { 1 };
        ensure!(
            reached == expected,
            "{}: calls per backend {counts:?}, expected {expected} of them busy",
            proxy.name
        );
        Ok(())
    }

    fn check_content(&self, proxy: &Proxy) -> Result<()> {
        for scenario in &SCENARIOS {
            let body = body_path(self.node.folder(), scenario.body);
            let output = self
                .on_load_core("nghttp")
                .arg("-d")
                .arg(&body)
                .arg(proxy.url("/"))
                .output()?;
            ensure!(
                output.stdout == fs::read(&body)?,
                "{}: an echo of {} bytes came back as {} bytes, or changed",
                proxy.name,
                scenario.body,
                output.stdout.len()
            );
        }
        Ok(())
    }

    /// A command in the client's namespace and the node's cgroup (where connects are steered), on the load's core.
    fn on_load_core(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo 0 > \"$1\" && shift && exec \"$@\"", "sh"])
            .arg(self.node.cgroup().join("cgroup.procs"))
            .args(["setpriv", "--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net={}/{}", cleanup::NAMESPACES, self.client.namespace))
            .args(["--", "taskset", "-c", LOAD_CORE, program]);
        command
    }

    /// Until an HTTP/2 server answers there.
    fn wait_for(&self, address: SocketAddr) -> Result<()> {
        let up = wait_until(Duration::from_secs(20), || {
            let answer = self
                .on_load_core("nghttp")
                .arg(format!("http://{address}/who"))
                .output();
            answer.is_ok_and(|output| output.stdout.starts_with(b"backend-"))
        });
        ensure!(up, "nothing answers at {address}");
        Ok(())
    }

    fn progress(what: &str) {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        let elapsed = START.get_or_init(Instant::now).elapsed().as_secs();
        if std::io::stderr().is_terminal() {
            eprint!(
                "\r\x1b[K{}",
                if what.is_empty() {
                    String::new()
                } else {
                    format!("{elapsed:4} s  {what}")
                }
            );
        } else if !what.is_empty() {
            eprintln!("{elapsed:4} s  {what}");
        }
    }
}

fn body_path(folder: &Path, size: usize) -> PathBuf {
    folder.join(format!("body-{size}"))
}

/// Bytes that do not repeat within a frame, so that a swapped or lost piece shows.
fn content(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(size)
    .collect()
}

/// The machine in one line: kernel, processor, cores.
fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("kernel release")?;
    let cpus = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([':', ' ', '\t'])
        });
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!(
        "Linux {}, {model}, {cores} cores (shared virtual machine).",
        kernel.trim()
    ))
}
