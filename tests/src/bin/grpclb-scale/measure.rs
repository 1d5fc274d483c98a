//! The run: a cluster is filled, and what that costs grpclb and kube-proxy is read beside each other; then both start anew
//! with everything there; then many agents ask the API server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use grpclb_tests::cluster::{Cluster, Namespace, PATIENCE};
use grpclb_tests::install::{Installed, calls_reach};

use crate::crowd::Crowd;
use crate::fill;
use crate::processes::{Cost, Program, http_get, sample};
use crate::report::{self, Report, Side};

/// The node whose agent and kube-proxy are measured.
const NODE: &str = "node1";
const TARGET: &str = "echo:50051";
/// Calls whose CPU is read: the kernel counts it in steps of 10 ms.
const CALLS: u32 = 40_000;
/// Between two changed slices.
const PACE: Duration = Duration::from_millis(100);
const METRICS_OF_KUBE_PROXY: &str = "127.0.0.1:10249";
/// It tells of each family apart; all Services here are of this one.
const IPV4: &str = "{ip_family=\"IPv4\"}";

/// How much is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Plan {
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    #[arg(long, default_value_t = 10)]
    endpoints_each: u32,
    /// Slices that are changed one by one
    #[arg(long, default_value_t = 200)]
    changes: u32,
    /// Agents that ask the API server at once; 0: none
    #[arg(long, default_value_t = 200)]
    agents: u32,
}

/// What the run works with.
struct Run<'c> {
    plan: Plan,
    cluster: &'c Cluster,
    kubeconfig: PathBuf,
    client: kube::Client,
    namespace: Namespace,
    installed: Installed,
    agent: Program<'c>,
    kube_proxy: Program<'c>,
}

pub(crate) async fn run(plan: Plan, cluster: &Cluster) -> Result<Report> {
    say("grpclb is installed, a client is labelled");
    let installed = Installed::new(cluster)?;
    let namespace = cluster.namespace("scale")?;
    namespace.start_servers("echo", 2)?;
    namespace.start_client("client", Some(NODE))?;
    cluster.kubectl(&["label", "namespace", namespace.name(), "grpclb.io/enabled=true"])?;
    calls_reach(&namespace, "client", TARGET, 2, PATIENCE)?;
    let program = |name| Program {
        cluster,
        machine: NODE,
        name,
    };
    let kubeconfig = cluster.kubeconfig();
    let run = Run {
        plan,
        cluster,
        client: crate::client(&kubeconfig).await?,
        kubeconfig,
        namespace,
        installed,
        agent: program("grpclb"),
        kube_proxy: program("kube-proxy"),
    };
    let mut report = Report {
        services: plan.services,
        endpoints: plan.services * plan.endpoints_each,
        ..Report::default()
    };
    report.call_us_few = run.cost_of_a_call()?;
    run.fill(&mut report).await?;
    report.call_us_many = run.cost_of_a_call()?;
    run.change(&mut report).await?;
    run.start_anew(&mut report).await?;
    if plan.agents > 0 {
        report.crowd = Some(run.crowd().await?);
    }
    Ok(report)
}

impl Run<'_> {
    /// The agent's CPU a call, in µs.
    fn cost_of_a_call(&self) -> Result<f64> {
        say("calls through grpclb");
        let before = self.agent.cost()?.cpu_seconds;
        let outcome = self.namespace.call("client", TARGET, CALLS, 10)?;
        if outcome.failed() > 0 || outcome.per_backend.len() < 2 {
            bail!("calls failed, or were not spread: {outcome:?}");
        }
        Ok((self.agent.cost()?.cpu_seconds - before) / f64::from(CALLS) * 1e6)
    }

    async fn fill(&self, report: &mut Report) -> Result<()> {
        let size = fill::Size {
            services: self.plan.services,
            endpoints_each: self.plan.endpoints_each,
        };
        let before = (self.agent.cost()?, self.kube_proxy.cost()?);
        let took = fill::fill(&self.client, size, |done| {
            if done.is_multiple_of(500) {
                say(&format!("{done} Services are made"));
            }
        })
        .await?;
        self.agent.settle().await?;
        self.kube_proxy.settle().await?;
        report.fill_seconds = took.as_secs_f64();
        // A Service, and then its slice.
        report.fill_events = 2 * size.services;
        let of = |side: &mut Side, before: Cost, after: Cost| {
            side.fill_cpu_seconds = after.cpu_seconds - before.cpu_seconds;
            side.filled_mib = after.resident_mib;
        };
        of(&mut report.grpclb, before.0, self.agent.cost()?);
        of(&mut report.kube_proxy, before.1, self.kube_proxy.cost()?);
        Ok(())
    }

    /// Changes slices one by one.
    async fn change(&self, report: &mut Report) -> Result<()> {
        const IN_FORCE: &str = "grpclb_source_in_force_seconds";
        const SYNC: &str = "kubeproxy_sync_proxy_rules_duration_seconds";
        say("slices are changed one by one");
        let (ours, theirs) = (self.metrics()?, self.metrics_of_kube_proxy()?);
        for number in 0..self.plan.changes {
            let endpoints = self.plan.endpoints_each;
            fill::change(&self.client, number % self.plan.services, endpoints, 1).await?;
            tokio::time::sleep(PACE).await;
        }
        self.kube_proxy.settle().await?;
        let (ours_after, theirs_after) = (self.metrics()?, self.metrics_of_kube_proxy()?);
        let grown = |before: &str, after: &str, name: &str| -> Result<f64> {
            let of = |text| sample(text, name).with_context(|| format!("no metric {name}"));
            Ok(of(after)? - of(before)?)
        };
        let ours = |part: &str| grown(&ours, &ours_after, &format!("{IN_FORCE}_{part}"));
        let theirs = |part: &str| grown(&theirs, &theirs_after, &format!("{SYNC}_{part}{IPV4}"));
        report.changes = self.plan.changes;
        report.change_ms = ours("sum")? / ours("count")? * 1e3;
        report.within_10_ms = ours("bucket{le=\"0.01\"}")? / ours("count")?;
        report.kube_proxy_sync_ms = theirs("sum")? / theirs("count")? * 1e3;
        Ok(())
    }

    /// Both start with everything there.
    async fn start_anew(&self, report: &mut Report) -> Result<()> {
        say("the agent starts anew");
        // Nothing is to be known from before.
        let snapshot = Path::new("run/grpclb/kubernetes.snapshot");
        std::fs::remove_file(self.cluster.machine_folder(NODE).join(snapshot))
            .context("the agent's snapshot")?;
        let old = self.agent_pod("{.metadata.name}")?;
        self.installed.kubectl(&["delete", "pod", &old, "--wait"])?;
        self.installed.wait_until_ready()?;
        let new = self.agent_pod("{.metadata.name}")?;
        let cost = self.agent.cost()?;
        let logs = self.installed.kubectl(&["logs", "--timestamps", &new])?;
        let at = |what: &str| {
            let line = logs.lines().find(|line| line.contains(what));
            line.and_then(time_of_day)
                .with_context(|| format!("the agent has not said: {what}"))
        };
        report.grpclb.cold_seconds = (at("attached: steering")? - at("starting")?).rem_euclid(86_400.0);
        (report.grpclb.cold_cpu_seconds, report.grpclb.cold_mib) = (cost.cpu_seconds, cost.resident_mib);
        calls_reach(&self.namespace, "client", TARGET, 2, PATIENCE)?;

        say("kube-proxy starts anew");
        drop(self.cluster.stop(NODE, "kube-proxy")?);
        let begun = Instant::now();
        let metrics = loop {
            let metrics = self.metrics_of_kube_proxy().unwrap_or_default();
            if sample(
                &metrics,
                &format!("kubeproxy_sync_proxy_rules_duration_seconds_count{IPV4}"),
            )
            .is_some_and(|count| count >= 1.0)
            {
                break metrics;
            }
            if begun.elapsed() > PATIENCE {
                bail!("kube-proxy has not synced in {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let cost = self.kube_proxy.cost()?;
        let of =
            |name: &str| sample(&metrics, name).with_context(|| format!("kube-proxy has no metric {name}"));
        report.kube_proxy.cold_seconds = of(&format!(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{IPV4}"
        ))? - self.kube_proxy.started()?;
        (report.kube_proxy.cold_cpu_seconds, report.kube_proxy.cold_mib) =
            (cost.cpu_seconds, cost.resident_mib);
        Ok(())
    }

    /// Many agents ask the API server for all of it, and hear of changes.
    async fn crowd(&self) -> Result<report::Crowd> {
        let (agents, changes) = (self.plan.agents, self.plan.changes.min(50));
        say(&format!("{agents} agents ask the API server"));
        let server = Program {
            machine: "control",
            name: "kube-apiserver",
            ..self.agent
        };
        let idle_for = Duration::from_secs(5);
        let before = server.cost()?.cpu_seconds;
        tokio::time::sleep(idle_for).await;
        let idle = (server.cost()?.cpu_seconds - before) / idle_for.as_secs_f64();
        // What it uses beyond what it uses anyhow.
        let spent = |before: f64, since: Instant| -> Result<f64> {
            Ok((server.cost()?.cpu_seconds - before - idle * since.elapsed().as_secs_f64()).max(0.0))
        };

        let (before, begun) = (server.cost()?.cpu_seconds, Instant::now());
        let mut crowd = Crowd::connect(&self.kubeconfig, agents).await?;
        let (listed, lists) = (crowd.bytes(), spent(before, begun)?);
        let (before, begun) = (server.cost()?.cpu_seconds, Instant::now());
        for number in 0..changes {
            fill::change(
                &self.client,
                number % self.plan.services,
                self.plan.endpoints_each,
                2,
            )
            .await?;
        }
        crowd.quiet().await?;
        let (told, telling) = (crowd.bytes() - listed, spent(before, begun)?);
        let each = |sum: f64| sum / f64::from(agents);
        let change = |sum: f64| each(sum) / f64::from(changes);
        Ok(report::Crowd {
            agents,
            list_mib_each: each(listed as f64) / f64::from(1 << 20),
            list_cpu_ms_each: each(lists) * 1e3,
            change_bytes_each: change(told as f64),
            change_cpu_us_each: change(telling) * 1e6,
            watches: crowd.watches(),
            watches_ended: crowd.ended(),
            listed_anew: crowd.listed_anew(),
        })
    }

    /// Something of the pod of the node's agent.
    fn agent_pod(&self, what: &str) -> Result<String> {
        let node = format!("spec.nodeName={NODE}");
        let what = format!("jsonpath={{.items[0]{}", what.trim_start_matches('{'));
        let labels = "app.kubernetes.io/name=grpclb";
        self.installed.kubectl(&[
            "get",
            "pods",
            "-l",
            labels,
            "--field-selector",
            &node,
            "-o",
            &what,
        ])
    }

    fn metrics(&self) -> Result<String> {
        let address = self.agent_pod("{.status.podIP}")?;
        http_get(self.cluster, NODE, &format!("{address}:28102"), "/metrics")
    }

    fn metrics_of_kube_proxy(&self) -> Result<String> {
        http_get(self.cluster, NODE, METRICS_OF_KUBE_PROXY, "/metrics")
    }
}

/// The seconds since midnight of a line that begins with a time such as `2026-11-21T04:00:10.123Z`.
fn time_of_day(line: &str) -> Option<f64> {
    let (_, time) = line.split_whitespace().next()?.split_once('T')?;
    let mut parts = time.trim_end_matches('Z').splitn(3, ':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some(next()? * 3600.0 + next()? * 60.0 + next()?)
}

fn say(what: &str) {
    eprintln!("  … {what}");
}
