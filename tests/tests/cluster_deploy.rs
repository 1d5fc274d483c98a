//! The manifests of `deploy/`, as people apply them: balanced by a label, upgraded under load, taken away again.
#![allow(clippy::unwrap_used)] // also in what the tests share

use std::path::Path;
use std::time::Duration;

use grpclb_tests::cluster::Cluster;
use grpclb_tests::install::{Installed, NAMESPACE, NEXT_ABI_IMAGE, calls_reach, clean_up, holds_something};
use grpclb_tests::load::PodLoad;

/// For a label to take effect: a second, and what kubectl takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

const ON: &str = "grpclb.io/enabled=true";

#[test]
fn a_label_balances_the_calls_of_running_pods_and_its_removal_ends_that() {
    let cluster = Cluster::find().unwrap();
    let _installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("label").unwrap();
    namespace.start_servers("echo", 3).unwrap();
    namespace.start_client("client", None).unwrap();
    calls_reach(&namespace, "client", "echo:50051", 1, Duration::ZERO).unwrap();

    cluster
        .kubectl(&["label", "namespace", namespace.name(), ON])
        .unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();

    cluster
        .kubectl(&["label", "namespace", namespace.name(), "grpclb.io/enabled-"])
        .unwrap();
    calls_reach(&namespace, "client", "echo:50051", 1, SOON).unwrap();
}

/// May fail: none. The new agent takes over beside the old one, whose connections are told to go (GOAWAY in two steps).
#[test]
fn a_restart_of_the_agents_under_load_fails_no_call() {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("restart").unwrap();
    namespace.start_servers("echo", 3).unwrap();
    namespace.start_client("client", None).unwrap();
    cluster
        .kubectl(&["label", "namespace", namespace.name(), ON])
        .unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();

    let mut load = PodLoad::start(&namespace, "client", "echo:50051", 4, 16).unwrap();
    for _ in 0..2 {
        installed
            .kubectl(&["rollout", "restart", "daemonset/grpclb"])
            .unwrap();
        installed.wait_until_ready().unwrap();
        // The new agents do the work.
        calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();
    }
    load.wait_for(1000).unwrap();
    let outcome = load.finish().unwrap();
    outcome.assert_none_failed();
    assert_eq!(outcome.per_backend.len(), 3);
}

/// May fail: none. The other version's kernel tables have another layout: for a while both are attached to the same pods.
#[test]
fn an_upgrade_to_another_abi_and_the_way_back_fail_no_call() {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("abi").unwrap();
    namespace.start_servers("echo", 3).unwrap();
    namespace.start_client("client", None).unwrap();
    cluster
        .kubectl(&["label", "namespace", namespace.name(), ON])
        .unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();
    let versions = || ["node1", "node2"].map(|node| installed.abi_version(node).unwrap());
    let of_base = versions();

    let mut load = PodLoad::start(&namespace, "client", "echo:50051", 4, 16).unwrap();
    let image = format!("agent={NEXT_ABI_IMAGE}");
    installed
        .kubectl(&["set", "image", "daemonset/grpclb", &image])
        .unwrap();
    installed.wait_until_ready().unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();
    assert_eq!(versions(), of_base.map(|version| version + 1));
    installed
        .kubectl(&["rollout", "undo", "daemonset/grpclb"])
        .unwrap();
    installed.wait_until_ready().unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();
    assert_eq!(versions(), of_base);
    load.wait_for(1000).unwrap();
    let outcome = load.finish().unwrap();
    outcome.assert_none_failed();
    assert_eq!(outcome.per_backend.len(), 3);
}

#[test]
fn values_that_the_agent_would_not_understand_are_refused_when_they_are_written() {
    let cluster = Cluster::find().unwrap();
    let _installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("policy").unwrap();
    namespace
        .kubectl(&["create", "service", "clusterip", "echo", "--tcp=50051"])
        .unwrap();
    let label = ["label", "namespace", namespace.name(), "grpclb.io/enabled=yes"];
    let annotate = |value: &str| namespace.kubectl(&["annotate", "--overwrite", "service", "echo", value]);
    // A policy takes a moment to be in force.
    let mut refused = String::new();
    let in_force = grpclb_tests::process::wait_until(SOON, || {
        let Err(error) = cluster.kubectl(&label) else {
            let undo = ["label", "namespace", namespace.name(), "grpclb.io/enabled-"];
            cluster.kubectl(&undo).unwrap();
            return false;
        };
        refused = format!("{error:#}");
        true
    });
    assert!(
        in_force && refused.contains("expected true or false, not yes"),
        "{refused}"
    );
    for (value, expected) in [
        (
            "grpclb.io/policy=fastest",
            "expected round_robin, random, least_request or peak_ewma, not fastest",
        ),
        ("grpclb.io/subset=0", "expected a number from 1 to 10000, not 0"),
        (
            "grpclb.io/upstream=mine",
            "expected shared or per-connection, not mine",
        ),
    ] {
        let refused = format!("{:#}", annotate(value).unwrap_err());
        assert!(refused.contains(expected), "{refused}");
    }
    for value in [
        "grpclb.io/policy=peak_ewma",
        "grpclb.io/subset=10000",
        "grpclb.io/upstream=per-connection",
    ] {
        annotate(value).unwrap();
    }
}

#[test]
fn the_agents_token_can_do_what_is_listed_and_nothing_else() {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let agent = format!("--as=system:serviceaccount:{NAMESPACE}:grpclb");
    let list = |who: &[&str]| {
        let words = [&["auth", "can-i", "--list", "--no-headers"], who].concat();
        let printed = installed.kubectl(&words).unwrap();
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        printed.lines().map(line).collect::<Vec<String>>()
    };
    // What everybody may who is authenticated, or a service account, is not ours.
    let everybody = list(&[
        "--as=somebody",
        "--as-group=system:authenticated",
        "--as-group=system:serviceaccounts",
    ]);
    let mut own = list(&[&agent]);
    own.retain(|line| !everybody.contains(line));
    own.sort();
    assert_eq!(
        own,
        [
            "endpointslices.discovery.k8s.io [] [] [get list watch]",
            "events [] [] [create]",
            "grpcroutes.gateway.networking.k8s.io [] [] [get list watch]",
            "httproutes.gateway.networking.k8s.io [] [] [get list watch]",
            "namespaces [] [] [get list watch]",
            "nodes [] [] [get list watch]",
            "pods [] [] [get list watch]",
            "services [] [] [get list watch]",
        ]
    );
}

#[test]
fn after_the_uninstall_the_plain_way_works_and_no_pin_is_left_on_any_node() {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("uninstall").unwrap();
    namespace.start_servers("echo", 3).unwrap();
    namespace.start_client("client", None).unwrap();
    cluster
        .kubectl(&["label", "namespace", namespace.name(), ON])
        .unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();
    let pins = Path::new("/sys/fs/bpf/grpclb");
    assert!(holds_something(&cluster, "node1", pins).unwrap());
    installed.uninstall().unwrap();
    calls_reach(&namespace, "client", "echo:50051", 1, Duration::ZERO).unwrap();
    for node in ["node1", "node2"] {
        assert!(!holds_something(&cluster, node, pins).unwrap(), "{node}");
    }
}

/// Killed, and never started again: the kubelets are down meanwhile, and the pods are gone when they come back.
#[test]
fn what_killed_agents_left_is_gone_from_every_node_after_the_cleanup() {
    const NODES: [&str; 2] = ["node1", "node2"];
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let kubelets = NODES.map(|node| cluster.stop(node, "kubelet").unwrap());
    for node in NODES {
        cluster
            .exec_on(node, &["pkill", "-KILL", "-x", "grpclb"])
            .unwrap();
    }
    installed
        .kubectl(&["delete", "daemonset", "grpclb", "--cascade=orphan"])
        .unwrap();
    installed
        .kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0"])
        .unwrap();
    installed.uninstall().unwrap();
    drop(kubelets);
    let left = |folder: &str| NODES.map(|node| holds_something(&cluster, node, Path::new(folder)).unwrap());
    assert_eq!(left("/sys/fs/bpf/grpclb"), [true, true]);
    assert_eq!(left("/run/grpclb"), [true, true]);

    clean_up(&cluster).unwrap();
    assert_eq!(left("/sys/fs/bpf/grpclb"), [false, false]);
    assert_eq!(left("/run/grpclb"), [false, false]);
}
