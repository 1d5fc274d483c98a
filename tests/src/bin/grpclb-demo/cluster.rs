//! The demo in a real Kubernetes: an unmodified gRPC server with three pods over two nodes, a client with one connection, and
//! the manifests of `deploy/`. No pod of theirs is ever restarted for grpclb.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use grpclb_tests::cluster::{Cluster, Namespace, PATIENCE};
use grpclb_tests::install::{Installed, calls_reach};
use grpclb_tests::load::PodLoad;
use grpclb_tests::peers::Outcome;
use grpclb_tests::process::wait_until;

use crate::acts::{Act, Expected};

const TARGET: &str = "echo:50051";
const CLIENT: &str = "client";
/// Calls under way at once in the acts under load: all that may fail when their connection is reset.
const CONCURRENCY: u32 = 8;
/// How soon a label and a new pod must count.
const SOON: Duration = Duration::from_secs(10);

/// Plays all acts; `announce` is told of each before it begins.
pub(crate) fn play(calls: u32, announce: impl Fn(&str)) -> Result<Vec<Act>> {
    let cluster = Cluster::find()?;
    announce("a server with three pods, and a client");
    let stage = Stage {
        namespace: cluster.namespace("demo")?,
        cluster,
        calls,
    };
    stage.namespace.start_servers("echo", 3)?;
    stage.namespace.start_client(CLIENT, None)?;

    announce("plain Kubernetes");
    let mut acts = vec![stage.call("plain", Expected::OneBackend)?];
    let old = stage.load(1)?;

    announce("grpclb installed, the namespace labelled, no pod restarted");
    let installed = Installed::new(&stage.cluster)?;
    stage.label("grpclb.io/enabled=true")?;
    stage.reaches(3)?;
    acts.push(stage.call("labelled", Expected::AllBackends)?);

    announce("the connection from before the label is adopted");
    stage.adopt(&installed)?;
    let reset = u64::from(CONCURRENCY);
    let expected = Expected::AtLeast {
        backends: 3,
        errors: reset,
    };
    acts.push(stage.act("adopted", &old.finish()?, expected)?);

    announce("scaled to five");
    stage
        .namespace
        .kubectl(&["scale", "deployment/echo", "--replicas=5"])?;
    stage.rolled_out()?;
    let took = stage.reaches(5)?.as_secs_f64();
    announce(&format!(
        "both new pods had calls {took:.1} s after the last was ready"
    ));
    acts.push(stage.call("scaled to 5", Expected::AllBackends)?);

    announce("the server rolled out anew under load");
    let mut load = stage.load(2)?;
    // So that each of the old pods has had calls before the first of them goes.
    load.wait_for(100)?;
    stage
        .namespace
        .kubectl(&["rollout", "restart", "deployment/echo"])?;
    stage.rolled_out()?;
    stage.reaches(5)?;
    let expected = Expected::AtLeast {
        backends: 10,
        errors: 0,
    };
    acts.push(stage.act("rolled out", &load.finish()?, expected)?);

    announce("the label removed");
    stage.label("grpclb.io/enabled-")?;
    stage.reaches(1)?;
    acts.push(stage.call("label removed", Expected::OneBackend)?);
    Ok(acts)
}

/// What all acts together proved, or that they did not.
pub(crate) fn conclusion(acts: &[Act]) -> String {
    if acts.iter().any(|act| act.verdict().is_err()) {
        return "✗ Not every act showed what it should.".to_owned();
    }
    let calls: u64 = acts.iter().map(|act| act.calls).sum();
    format!(
        "✓ {calls} calls of unchanged clients and servers: one pod for each connection without grpclb, all pods with it, none lost in a \
         rolling update, and plain Kubernetes again without the label."
    )
}

struct Stage {
    namespace: Namespace,
    cluster: Cluster,
    calls: u32,
}

impl Stage {
    /// A new client makes one connection and all calls over it.
    fn call(&self, name: &'static str, expected: Expected) -> Result<Act> {
        self.act(
            name,
            &self.namespace.call(CLIENT, TARGET, self.calls, 1)?,
            expected,
        )
    }

    fn load(&self, connections: u32) -> Result<PodLoad> {
        PodLoad::start(&self.namespace, CLIENT, TARGET, connections, CONCURRENCY)
    }

    /// Backends by the end of their pods' names: all begin alike.
    fn act(&self, name: &'static str, outcome: &Outcome, expected: Expected) -> Result<Act> {
        let short = |pod: &String| pod.rsplit('-').next().unwrap_or(pod).to_owned();
        let pods = self.namespace.pods("app=echo")?;
        let outcome = Outcome {
            per_backend: outcome
                .per_backend
                .iter()
                .map(|(pod, calls)| (short(pod), *calls))
                .collect(),
            ..outcome.clone()
        };
        let ready: Vec<String> = pods.keys().map(short).collect();
        Ok(Act::new(name, &outcome, &ready, expected))
    }

    fn label(&self, label: &str) -> Result<()> {
        self.cluster
            .kubectl(&["label", "namespace", self.namespace.name(), label])
            .map(drop)
    }

    /// Waits until the calls of one connection reach so many; how long that took.
    fn reaches(&self, backends: usize) -> Result<Duration> {
        calls_reach(&self.namespace, CLIENT, TARGET, backends, SOON)
    }

    fn rolled_out(&self) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.namespace
            .kubectl(&["rollout", "status", "deployment/echo", &timeout])
            .map(drop)
    }

    /// Asks the agents to reset what bypasses them, and waits until the client's old connection was reset and is back.
    fn adopt(&self, installed: &Installed) -> Result<()> {
        let request = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock")?
            .as_secs();
        let wish = format!("grpclb.io/adopt={request}");
        self.namespace
            .kubectl(&["annotate", "pod", CLIENT, "--overwrite", &wish])?;
        let client = format!("{}/{CLIENT}", self.namespace.name());
        let adopted = || {
            let pod = installed.pod(&client).ok().flatten();
            pod.is_some_and(|pod| pod["adopted"] != 0 && pod["connections"] != 0)
        };
        ensure!(
            wait_until(PATIENCE, adopted),
            "the client's old connection was not adopted"
        );
        Ok(())
    }
}
