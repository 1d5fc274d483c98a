//! The cluster itself, without grpclb: what the other tests here rely on.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use grpclb_tests::cluster::{Cluster, PATIENCE, TEST_IMAGE};
use grpclb_tests::process::wait_until;
use serde_json::Value;

#[test]
fn two_nodes_are_ready_in_zones_of_their_own_with_addresses_of_both_families() {
    let cluster = Cluster::find().unwrap();
    let nodes = cluster.get(&["nodes"]).unwrap();
    let nodes = nodes["items"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    let mut zones = BTreeSet::new();
    for node in nodes {
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let ready = conditions
            .iter()
            .find(|condition| condition["type"] == "Ready")
            .unwrap();
        assert_eq!(ready["status"], "True", "{node}");
        let addresses: Vec<&str> = node["status"]["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|address| address["type"] == "InternalIP")
            .filter_map(|address| address["address"].as_str())
            .collect();
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        assert!(
            addresses.iter().any(|address| address.contains(':')),
            "{addresses:?}"
        );
        zones.insert(node["metadata"]["labels"]["topology.kubernetes.io/zone"].to_string());
    }
    assert_eq!(zones.len(), 2, "{zones:?}");
}

#[test]
fn servers_on_both_nodes_answer_through_both_addresses_of_their_service() {
    let cluster = Cluster::find().unwrap();
    let namespace = cluster.namespace("basics").unwrap();
    namespace.start_servers("echo", 3).unwrap();
    namespace.start_client("client", None).unwrap();
    let servers = namespace.pods("app=echo").unwrap();
    let nodes: BTreeSet<&String> = servers.values().collect();
    assert_eq!((servers.len(), nodes.len()), (3, 2), "{servers:?}");

    let service = namespace.get(&["service", "echo"]).unwrap();
    let addresses: Vec<&str> = service["spec"]["clusterIPs"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in addresses {
        let target = if address.contains(':') {
            format!("[{address}]:50051")
        } else {
            format!("{address}:50051")
        };
        // kube-proxy hears of servers a moment after their Deployment. It chooses at random: sixty connections miss one of three
        // servers once in ten thousand million runs.
        let mut last = None;
        let answered = wait_until(PATIENCE, || {
            let outcome = namespace.call("client", &target, 120, 60).unwrap();
            let all = outcome.failed() == 0 && outcome.per_backend.keys().eq(servers.keys());
            last = Some(outcome);
            all
        });
        assert!(answered, "{target}: {last:?}");
    }
    // Plain Kubernetes chooses for a connection: what this project is for.
    let outcome = namespace.call("client", "echo:50051", 60, 1).unwrap();
    assert_eq!(outcome.per_backend.len(), 1, "{outcome:?}");
}

#[test]
fn logs_exec_and_port_forward_reach_a_pod_through_its_kubelet() {
    let cluster = Cluster::find().unwrap();
    let namespace = cluster.namespace("kubelet").unwrap();
    for node in ["node1", "node2"] {
        namespace.start_client(node, Some(node)).unwrap();
        assert_eq!(namespace.kubectl(&["logs", node]).unwrap(), "started\n");
        assert_eq!(namespace.exec(node, &["hostname"]).unwrap(), format!("{node}\n"));
    }

    namespace.start_servers("echo", 2).unwrap();
    for pod in namespace.pods("app=echo").unwrap().keys() {
        let mut forward = cluster
            .kubectl_command()
            .args(["--namespace", namespace.name(), "port-forward", pod, ":8080"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Read to the end of the test: kubectl would end when it cannot write.
        let mut output = BufReader::new(forward.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let local = line
            .strip_prefix("Forwarding from ")
            .and_then(|rest| rest.split(' ').next())
            .unwrap_or_else(|| panic!("kubectl said {line}"));
        let called = Command::new(grpclb_tests::peers::target().join("peers/go/peer"))
            .args(["load", "--calls", "5", "--target", local])
            .output()
            .unwrap();
        forward.kill().unwrap();
        forward.wait().unwrap();
        let outcome: Value = serde_json::from_slice(&called.stdout).unwrap();
        assert_eq!(outcome["per_backend"][pod], 5, "{outcome}");
    }
}

#[test]
fn names_of_services_resolve_and_names_of_other_places_do_not() {
    let cluster = Cluster::find().unwrap();
    let namespace = cluster.namespace("names").unwrap();
    namespace.start_client("client", None).unwrap();
    let api = cluster.get(&["service", "kubernetes"]).unwrap();
    let address = api["spec"]["clusterIP"].as_str().unwrap();
    let found = namespace
        .exec("client", &["nslookup", "kubernetes.default.svc.cluster.local"])
        .unwrap();
    assert!(found.contains(address), "{found}");
    let unknown = namespace
        .exec("client", &["nslookup", "example.com"])
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("NXDOMAIN"), "{unknown}");
}

#[test]
fn nobody_is_served_who_does_not_say_who_they_are() {
    let cluster = Cluster::find().unwrap();
    let nodes = cluster.get(&["nodes"]).unwrap();
    let kubelets = nodes["items"].as_array().unwrap().iter().map(|node| {
        let address = node["status"]["addresses"][0]["address"].as_str().unwrap();
        (format!("{address}:10250"), "/pods")
    });
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(cluster.kubeconfig()).unwrap()).unwrap();
    let api = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let api = api.strip_prefix("https://").unwrap().to_owned();
    for (server, path) in kubelets.chain([(api, "/version")]) {
        let answer = get_as_nobody(&server, path);
        assert!(
            answer.starts_with("HTTP/1.0 401 ") || answer.starts_with("HTTP/1.1 401 "),
            "{server}: {answer}"
        );
    }
}

/// Asks without a certificate and without a token.
fn get_as_nobody(server: &str, path: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", server])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    write!(
        stdin,
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let output = client.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_service_address_that_nothing_translates_ends_on_its_node() {
    let cluster = Cluster::find().unwrap();
    for node in ["node1", "node2"] {
        for address in ["10.96.255.254", "fd00:10:96::fffe"] {
            let route = cluster.exec_on(node, &["ip", "route", "get", address]).unwrap();
            assert!(route.contains("dev nowhere"), "{node}: {route}");
            assert!(!route.contains("via"), "{node}: {route}");
        }
    }
    let ports = cluster
        .exec_on("node1", &["ip", "-o", "link", "show", "master", "nowhere"])
        .unwrap();
    assert_eq!(ports, "", "nothing is connected to it");
}

#[test]
fn a_component_that_is_stopped_stays_down_until_it_is_started() {
    let cluster = Cluster::find().unwrap();
    let namespace = cluster.namespace("stopped").unwrap();
    let runs = || {
        let components = cluster.machine_folder("control").join("run/components");
        components.join("kube-scheduler").exists()
    };
    assert!(runs());
    let scheduler = cluster.stop("control", "kube-scheduler").unwrap();
    assert!(!runs());
    namespace
        .kubectl(&[
            "run",
            "pod",
            "--image",
            TEST_IMAGE,
            "--image-pull-policy=Never",
            "--command",
            "sleep",
            "1000",
        ])
        .unwrap();
    let pod = namespace.get(&["pod", "pod"]).unwrap();
    assert_eq!(pod["spec"]["nodeName"], Value::Null, "nobody chose a node");
    drop(scheduler);
    namespace.wait_until_ready(&["pod/pod"]).unwrap();
    assert!(runs());
}
