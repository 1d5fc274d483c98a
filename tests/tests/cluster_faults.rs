//! What breaks in a cluster, under a steady load from an enabled pod: servers replaced and scaled, the API server away, agents
//! killed and frozen. Each test says which calls may fail, and counts them.
//!
//! `GRPCLB_LONG=1` makes the long forms: 20 updates instead of 3, 30 replicas instead of 12.
#![allow(clippy::unwrap_used)] // also in what the tests share

mod load_support;

use std::time::{Duration, Instant};

use grpclb_tests::agents::{snapshot_has, status_on};
use grpclb_tests::cluster::{Cluster, PATIENCE};
use grpclb_tests::install::calls_reach;
use grpclb_tests::load::ClientPod;
use grpclb_tests::long_form;
use grpclb_tests::peers::Outcome;
use grpclb_tests::process::wait_until;
use load_support::{CONCURRENCY, NODE, TARGET, end_unharmed, load_of, reaches, stage};

/// How long calls wait where they must not fail.
const PATIENT: Duration = Duration::from_mins(1);
/// How long calls wait where some are lost.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// May fail: none. The servers have no preStop hook: they are told to end at the moment when their endpoints begin to leave.
#[test]
fn rolling_updates_of_the_servers_fail_no_call() {
    let stage = stage("rolling", 3);
    let load = stage.load();
    let updates = if long_form() { 20 } else { 3 };
    for _ in 0..updates {
        stage
            .namespace
            .kubectl(&["rollout", "restart", "deployment/echo"])
            .unwrap();
        stage.rolled_out();
    }
    let outcome = end_unharmed(load);
    println!(
        "{updates} updates, {} calls, {} servers",
        outcome.calls,
        outcome.per_backend.len()
    );
    // All sets served, if not each server of a set that the next one replaced at once.
    assert!(
        outcome.per_backend.len() > 2 * (updates + 1),
        "{:?}",
        outcome.per_backend
    );
}

/// May fail: none. And those that are new get calls.
#[test]
fn servers_that_are_scaled_up_and_down_fail_no_call() {
    let stage = stage("scale", 3);
    // Its calls take turns with nobody's: they show when the agent knows a server.
    stage.namespace.start_client("other", Some(NODE)).unwrap();
    let mut load = stage.load();
    let most = if long_form() { 30 } else { 12 };
    // A client pod uses 20 of them at most.
    let called = most.min(20);
    let scale = |replicas: usize| {
        let replicas = format!("--replicas={replicas}");
        stage
            .namespace
            .kubectl(&["scale", "deployment/echo", &replicas])
            .unwrap();
        stage.rolled_out();
    };
    scale(most);
    // The last of them is ready for its Deployment before the agent hears of it.
    calls_reach(&stage.namespace, "other", TARGET, called, PATIENCE).unwrap();
    load.wait_for_more(1000).unwrap();
    scale(3);
    let outcome = end_unharmed(load);
    assert!(
        outcome.per_backend.len() >= called,
        "{} of {most} servers got calls",
        outcome.per_backend.len()
    );
}

/// May fail: none. What clients call before they have heard that the Service is left plain is served.
#[test]
fn a_service_that_is_switched_off_and_on_fails_no_call() {
    let stage = stage("service", 3);
    let label = |label: &str| {
        let command = ["label", "service", "echo", label];
        stage.namespace.kubectl(&command).unwrap();
    };
    for _ in 0..3 {
        // A new one each time: what has gone the plain way stays there.
        let mut load = stage.load();
        label("grpclb.io/enabled=false");
        calls_reach(&stage.namespace, "client", TARGET, 1, PATIENCE).unwrap();
        load.wait_for_more(1000).unwrap();
        end_unharmed(load);
        label("grpclb.io/enabled-");
        calls_reach(&stage.namespace, "client", TARGET, 3, PATIENCE).unwrap();
    }
}

/// May fail: what ran on the server that is killed, and what the killed agent relayed. The servers and the agent come back by
/// their kubelets alone, and the agent steers by what was known last.
#[test]
fn without_the_api_server_a_killed_server_and_a_killed_agent_come_back() {
    let begun = Instant::now();
    let stage = stage("away", 3);
    let client = ClientPod::find(&stage.cluster, &stage.namespace, "client").unwrap();
    let address = stage.address();
    let snapshot = stage
        .cluster
        .machine_folder(NODE)
        .join("run/grpclb/kubernetes.snapshot");
    // The client's address is in there once it is enabled, which the servers' need not wait for: other pods may be.
    let mut known = stage
        .servers()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    known.push(stage.client_address());
    let kept = wait_until(PATIENCE, || {
        let snapshot = std::fs::read(&snapshot).unwrap_or_default();
        known.iter().all(|text| snapshot_has(&snapshot, text))
    });
    assert!(kept, "the agent keeps a snapshot that knows {known:?}");

    let away = stage.cluster.stop("control", "kube-apiserver").unwrap();
    let load = load_of(&client, &address, GIVEN_UP);
    let all = |outcome: &Outcome| outcome.failed() == 0 && outcome.per_backend.len() == 3;
    let balanced = wait_until(PATIENCE, || {
        let outcome = client.call(&address, 60).unwrap();
        outcome.assert_none_failed();
        outcome.per_backend.len() == 3
    });
    assert!(balanced, "while the server is away");

    // The first server of this node; the other node has some, too.
    stage.on_node(&["pkill", "-KILL", "-o", "-f", "^/peer server"]);
    let back = wait_until(PATIENCE, || all(&client.call(&address, 60).unwrap()));
    assert!(back, "the killed server gets calls again");
    let outcome = load.finish().unwrap();
    assert!(
        outcome.failed() <= u64::from(CONCURRENCY),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );

    let load = load_of(&client, &address, GIVEN_UP);
    stage.on_node(&["pkill", "-KILL", "-x", "grpclb"]);
    let killed = Instant::now();
    let mut last = None;
    let steered = wait_until(PATIENCE, || {
        let outcome = client.call(&address, 60).unwrap();
        // Whichever way they go: new connections are never refused.
        outcome.assert_none_failed();
        let all = outcome.per_backend.len() == 3;
        last = Some(outcome.per_backend);
        all
    });
    assert!(
        steered,
        "the new agent steers by what was known last: {last:?}; it says {:?}",
        status_on(&stage.cluster, NODE)
    );
    let source = status_on(&stage.cluster, NODE).unwrap().source;
    assert!(source.name.starts_with("snapshot of "), "{source:?}");
    assert!(
        source.error.is_some(),
        "status says what is in the way: {source:?}"
    );
    // It knows this test's Service, and the agent that wrote it is dead.
    let ages = killed.elapsed().as_secs().saturating_sub(1)..=begun.elapsed().as_secs();
    assert!(
        ages.contains(&source.age_seconds),
        "status says how old it is: {source:?}, not of {ages:?} s"
    );
    let outcome = load.finish().unwrap();
    assert!(
        outcome.failed() <= u64::from(CONCURRENCY),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );

    drop(away);
    stage
        .namespace
        .kubectl(&["scale", "deployment/echo", "--replicas=4"])
        .unwrap();
    stage.rolled_out();
    // While the controllers have not heard from the nodes since the outage, they may take all endpoints away for a moment.
    reaches(&stage.namespace, TARGET, 4);
}

/// May fail: none. New connections go the plain way while the agent stands still; what it relays waits.
#[test]
fn a_frozen_agent_is_passed_by_and_a_thawed_one_goes_on() {
    let stage = stage("frozen", 3);
    let client = ClientPod::find(&stage.cluster, &stage.namespace, "client").unwrap();
    let address = stage.address();
    let load = load_of(&client, &address, PATIENT);
    stage.on_node(&["pkill", "-STOP", "-x", "grpclb"]);
    // Its heartbeat is stale after half a second. What connects before that waits for it, and is given up.
    let passed_by = wait_until(Duration::from_secs(10), || {
        client.call(&address, 1).unwrap().failed() == 0
    });
    let plain = client.call(&address, 30).unwrap();
    stage.on_node(&["pkill", "-CONT", "-x", "grpclb"]);
    assert!(passed_by, "new connections are answered");
    assert_eq!(
        (plain.failed(), plain.per_backend.len()),
        (0, 1),
        "they go the plain way: {plain:?}"
    );
    // Balanced again, and what waited goes on: each waiting call has a minute, and the freeze was shorter.
    reaches(&stage.namespace, TARGET, 3);
    end_unharmed(load);
    assert!(stage.installed.wait_until_ready().is_ok());
}

/// May fail: none.
#[test]
fn a_kubelet_that_starts_anew_disturbs_no_call() {
    let stage = stage("kubelet", 3);
    let client = ClientPod::find(&stage.cluster, &stage.namespace, "client").unwrap();
    let load = load_of(&client, &stage.address(), PATIENT);
    drop(stage.cluster.stop(NODE, "kubelet").unwrap());
    // kubectl exec is answered by the kubelet.
    reaches(&stage.namespace, TARGET, 3);
    end_unharmed(load);
}

/// May fail: the calls that were given to the servers of the node that vanishes, until its silence is noticed; each by its own
/// deadline. Long before the API server gives the node up, no call goes there any more.
#[test]
fn a_node_that_vanishes_holds_up_only_the_calls_that_were_given_to_it() {
    let stage = stage("vanish", 4);
    let client = ClientPod::find(&stage.cluster, &stage.namespace, "client").unwrap();
    let address = stage.address();
    let there = stage.namespace.pods("app=echo").unwrap();
    let there: Vec<String> = there
        .into_iter()
        .filter_map(|(pod, node)| (node == "node2").then_some(pod))
        .collect();
    assert_eq!(there.len(), 2, "half of the servers are on the other node");
    let load = load_of(&client, &address, GIVEN_UP);
    let vanished = Vanished::new(&stage.cluster, "node2");
    let begun = Instant::now();
    let avoided = wait_until(Duration::from_secs(35), || {
        let outcome = client.call(&address, 60).unwrap();
        outcome.failed() == 0 && there.iter().all(|pod| !outcome.per_backend.contains_key(pod))
    });
    let avoided_after = begun.elapsed();
    let outcome = load.finish().unwrap();
    println!(
        "avoided after {avoided_after:.1?}; {} of {} calls failed: {:?}",
        outcome.failed(),
        outcome.calls,
        outcome.errors
    );
    assert!(avoided, "calls still go to the node that has vanished");
    let codes = ["DeadlineExceeded", "Unavailable"];
    assert!(
        outcome.errors.keys().all(|code| codes.contains(&code.as_str())),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
    drop(vanished);
    reaches(&stage.namespace, TARGET, 4);
}

/// A node that hears nothing any more. Dropping this brings it back.
struct Vanished {
    cluster: Cluster,
    node: &'static str,
}

impl Vanished {
    fn new(cluster: &Cluster, node: &'static str) -> Self {
        let chain = "add table inet vanished; \
                     add chain inet vanished input { type filter hook prerouting priority -400; policy drop; }";
        cluster.exec_on(node, &["nft", chain]).unwrap();
        Self {
            cluster: cluster.clone(),
            node,
        }
    }
}

impl Drop for Vanished {
    fn drop(&mut self) {
        if let Err(error) = self
            .cluster
            .exec_on(self.node, &["nft", "delete table inet vanished"])
        {
            eprintln!("{error:#}");
        }
    }
}
