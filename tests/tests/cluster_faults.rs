//! What breaks in a cluster, under a steady load from an enabled pod: servers replaced and scaled, the API server away, agents
//! killed and frozen, addresses that come back as another's. Each test says which calls may fail, and counts them.
//!
//! `GRPCLB_LONG=1` makes the long forms: 20 updates instead of 3, 30 replicas instead of 12.
#![allow(clippy::unwrap_used)] // also in what the tests share

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use grpclb_tests::cluster::{Cluster, Namespace, PATIENCE, TEST_IMAGE};
use grpclb_tests::install::{Installed, calls_reach};
use grpclb_tests::load::{ClientPod, ClusterLoad, NodeLoad};
use grpclb_tests::peers::Outcome;
use grpclb_tests::process::wait_until;

const TARGET: &str = "echo:50051";
const NODE: &str = "node1";
const CONNECTIONS: u32 = 8;
const CONCURRENCY: u32 = 32;

struct Stage {
    cluster: Cluster,
    installed: Installed,
    namespace: Namespace,
}

/// `replicas` servers, and a client on `NODE` whose calls are spread.
fn stage(about: &str, replicas: u32) -> Stage {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace(about).unwrap();
    namespace.start_servers("echo", replicas).unwrap();
    namespace.start_client("client", Some(NODE)).unwrap();
    cluster
        .kubectl(&["label", "namespace", namespace.name(), "grpclb.io/enabled=true"])
        .unwrap();
    calls_reach(&namespace, "client", TARGET, replicas as usize, PATIENCE).unwrap();
    Stage {
        cluster,
        installed,
        namespace,
    }
}

impl Stage {
    /// A load that runs.
    fn load(&self) -> ClusterLoad {
        self.load_of(TARGET)
    }

    fn load_of(&self, target: &str) -> ClusterLoad {
        let mut load =
            ClusterLoad::start(&self.namespace, "client", target, CONNECTIONS, CONCURRENCY).unwrap();
        load.wait_for(300).unwrap();
        load
    }

    fn rolled_out(&self) {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let status = ["rollout", "status", "deployment/echo", &timeout];
        self.namespace.kubectl(&status).unwrap();
    }

    /// The Service's IPv4 address with its port: names are not resolved while the API server is away.
    fn address(&self) -> String {
        let service = self.namespace.get(&["service", "echo"]).unwrap();
        let addresses = service["spec"]["clusterIPs"].as_array().unwrap().iter();
        let v4 = addresses.filter_map(|address| address.as_str());
        format!(
            "{}:50051",
            v4.clone().find(|address| !address.contains(':')).unwrap()
        )
    }

    /// Runs a command on the client's node.
    fn on_node(&self, command: &[&str]) -> String {
        self.cluster.exec_on(NODE, command).unwrap()
    }
}

/// Waits until the calls of one connection reach so many servers and none fails. At first names may have their old address,
/// addresses nobody behind them, and kubelets no ear for the client.
fn reaches(namespace: &Namespace, target: &str, servers: usize) {
    let mut last = None;
    let reached = wait_until(PATIENCE, || {
        let outcome = namespace.call("client", target, 60, 1);
        let reached = outcome
            .as_ref()
            .is_ok_and(|outcome| outcome.failed() == 0 && outcome.per_backend.len() == servers);
        last = Some(outcome);
        reached
    });
    assert!(reached, "{target} does not reach {servers} servers: {last:?}");
}

/// A load of the client that runs, without the API server's help.
fn load_of(client: &ClientPod, address: &str) -> NodeLoad {
    let mut load = client.load(address, CONNECTIONS, CONCURRENCY).unwrap();
    load.wait_for(300).unwrap();
    load
}

fn long() -> bool {
    std::env::var_os("GRPCLB_LONG").is_some()
}

fn assert_none_failed(outcome: &Outcome) {
    assert!(outcome.calls > 1000, "it is a load: {outcome:?}");
    assert_eq!(
        outcome.failed(),
        0,
        "of {} calls: {:?} {:?}",
        outcome.calls,
        outcome.errors,
        outcome.messages
    );
}

/// May fail: none. The servers have no preStop hook: they are told to end at the moment when their endpoints begin to leave.
#[test]
fn rolling_updates_of_the_servers_fail_no_call() {
    let stage = stage("rolling", 3);
    let load = stage.load();
    let updates = if long() { 20 } else { 3 };
    for _ in 0..updates {
        stage
            .namespace
            .kubectl(&["rollout", "restart", "deployment/echo"])
            .unwrap();
        stage.rolled_out();
    }
    let outcome = load.finish().unwrap();
    println!(
        "{updates} updates, {} calls, {} servers",
        outcome.calls,
        outcome.per_backend.len()
    );
    assert_none_failed(&outcome);
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
    let load = stage.load();
    let most = if long() { 30 } else { 12 };
    for replicas in [most, 3] {
        let replicas = format!("--replicas={replicas}");
        stage
            .namespace
            .kubectl(&["scale", "deployment/echo", &replicas])
            .unwrap();
        stage.rolled_out();
    }
    let outcome = load.finish().unwrap();
    assert_none_failed(&outcome);
    // A client pod uses 20 of them at most.
    assert!(
        outcome.per_backend.len() >= most.min(20),
        "{} of {most} servers got calls",
        outcome.per_backend.len()
    );
}

/// May fail: what ran on the server that is killed, and what the killed agent relayed. The servers and the agent come back by
/// their kubelets alone, and the agent steers by what was known last.
#[test]
fn without_the_api_server_a_killed_server_and_a_killed_agent_come_back() {
    let stage = stage("away", 3);
    let client = ClientPod::find(&stage.cluster, &stage.namespace, "client").unwrap();
    let address = stage.address();
    let snapshot = stage
        .cluster
        .machine_folder(NODE)
        .join("run/grpclb/kubernetes.snapshot");
    let own = stage.namespace.name().as_bytes().to_vec();
    let kept = wait_until(PATIENCE, || {
        let bytes = std::fs::read(&snapshot).unwrap_or_default();
        bytes.windows(own.len()).any(|window| window == own)
    });
    assert!(kept, "the agent keeps a snapshot that knows the Service");

    let away = stage.cluster.stop("control", "kube-apiserver").unwrap();
    let load = load_of(&client, &address);
    let all = |outcome: &Outcome| outcome.failed() == 0 && outcome.per_backend.len() == 3;
    assert!(
        all(&client.call(&address, 60).unwrap()),
        "balanced while the server is away"
    );

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

    let load = load_of(&client, &address);
    stage.on_node(&["pkill", "-KILL", "-x", "grpclb"]);
    let steered = wait_until(PATIENCE, || {
        let outcome = client.call(&address, 60).unwrap();
        // Whichever way they go: new connections are never refused.
        assert_eq!(outcome.failed(), 0, "{:?} {:?}", outcome.errors, outcome.messages);
        outcome.per_backend.len() == 3
    });
    assert!(steered, "the new agent steers by what was known last");
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
    calls_reach(&stage.namespace, "client", TARGET, 4, PATIENCE).unwrap();
}

/// May fail: none. New connections go the plain way while the agent stands still; what it relays waits.
#[test]
fn a_frozen_agent_is_passed_by_and_a_thawed_one_goes_on() {
    let stage = stage("frozen", 3);
    let client = ClientPod::find(&stage.cluster, &stage.namespace, "client").unwrap();
    let address = stage.address();
    let load = load_of(&client, &address);
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
    // Balanced again, and what waited goes on: each waiting call has 5 s, and the freeze was shorter.
    reaches(&stage.namespace, TARGET, 3);
    assert_none_failed(&load.finish().unwrap());
    assert!(stage.installed.wait_until_ready().is_ok());
}

/// May fail: none.
#[test]
fn a_kubelet_that_starts_anew_disturbs_no_call() {
    let stage = stage("kubelet", 3);
    let client = ClientPod::find(&stage.cluster, &stage.namespace, "client").unwrap();
    let load = load_of(&client, &stage.address());
    drop(stage.cluster.stop(NODE, "kubelet").unwrap());
    // kubectl exec is answered by the kubelet.
    reaches(&stage.namespace, TARGET, 3);
    assert_none_failed(&load.finish().unwrap());
}

/// May fail: calls of the pod that is killed without grace. None may reach the pod that has its address next: that one
/// serves another Service.
#[test]
fn an_address_that_another_services_pod_gets_brings_it_no_calls() {
    let stage = stage("reuse", 2);
    stage.namespace.start_servers("other", 2).unwrap();
    let start = |name: &str, of: &str| {
        stage.namespace.apply(&server_pod(name, of)).unwrap();
        stage
            .namespace
            .wait_until_ready(&[&format!("pod/{name}")])
            .unwrap();
        let pod = stage.namespace.get(&["pod", name]).unwrap();
        let address = pod["status"]["podIP"].as_str().unwrap();
        address.parse::<Ipv4Addr>().unwrap()
    };
    let address = start("victim", "echo");
    reaches(&stage.namespace, TARGET, 3);
    let load = stage.load();
    let delete = ["delete", "pod", "victim", "--grace-period=0", "--force", "--wait"];
    stage.namespace.kubectl(&delete).unwrap();
    let held = format!("ls /run/cni-addresses/pods/{address} 2>/dev/null || true");
    let free = wait_until(PATIENCE, || {
        stage.on_node(&["bash", "-c", &held]).trim().is_empty()
    });
    assert!(free, "{address} is given back");
    // The CNI plugin gives addresses in turn: it is told that the one before was the last.
    let before = Ipv4Addr::from(u32::from(address) - 1);
    let script = format!("printf {before} >/run/cni-addresses/pods/last_reserved_ip.0");
    stage.on_node(&["bash", "-c", &script]);
    assert_eq!(
        start("heir", "other"),
        address,
        "the other Service's pod has the address now"
    );

    reaches(&stage.namespace, "other:50051", 3);
    let outcome = load.finish().unwrap();
    let stray = outcome.per_backend.get("heir");
    assert_eq!(stray, None, "calls to echo that another Service's pod answered");
    assert!(outcome.per_backend.contains_key("victim"));
    assert!(
        outcome.failed() <= u64::from(CONCURRENCY),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
}

/// A server on `NODE` that no controller replaces, behind the Service `of`.
fn server_pod(name: &str, of: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {of}}}}}, spec: {{ \
          nodeSelector: {{kubernetes.io/hostname: {NODE}}}, terminationGracePeriodSeconds: 0, containers: [{{ \
          name: server, image: '{TEST_IMAGE}', imagePullPolicy: Never, \
          args: [server, --listen, '[::]:8080', --name, {name}, --executions, /tmp/executions], \
          ports: [{{name: grpc, containerPort: 8080}}], readinessProbe: {{tcpSocket: {{port: grpc}}, periodSeconds: 1}}}}]}}}}"
    )
}

/// May fail: none. One of two endpoints turns unready and ready again, as a readiness probe that flaps makes it.
#[test]
fn a_slice_that_flaps_fails_no_call() {
    let stage = stage("flaps", 2);
    let pods = stage.namespace.get(&["pods", "--selector=app=echo"]).unwrap();
    let addresses: Vec<&str> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|pod| pod["status"]["podIP"].as_str())
        .collect();
    let slice = |ready: bool| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
              metadata: {{name: flaps, labels: {{kubernetes.io/service-name: flaps}}}}, ports: [{{name: grpc, port: 8080}}], \
              endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}, {{addresses: [{}], conditions: {{ready: {ready}}}}}]}}",
            addresses[0], addresses[1]
        )
    };
    let service = "{apiVersion: v1, kind: Service, metadata: {name: flaps}, spec: {ports: [{name: grpc, port: 50051}]}}";
    stage.namespace.apply(service).unwrap();
    stage.namespace.apply(&slice(true)).unwrap();
    reaches(&stage.namespace, "flaps:50051", 2);
    let load = stage.load_of("flaps:50051");
    let times = if long() { 50 } else { 10 };
    for _ in 0..times {
        stage.namespace.apply(&slice(false)).unwrap();
        stage.namespace.apply(&slice(true)).unwrap();
    }
    assert_none_failed(&load.finish().unwrap());
}

/// May fail: none before the Service is deleted. Afterwards its name has another address, and that one is balanced.
#[test]
fn a_service_made_again_with_another_address_is_balanced_there() {
    let stage = stage("again", 3);
    let old = stage.address();
    let before = stage.namespace.call("client", &old, 60, 1).unwrap();
    assert_eq!((before.failed(), before.per_backend.len()), (0, 3), "{before:?}");
    stage.namespace.kubectl(&["delete", "service", "echo"]).unwrap();
    let manifest = |name: &str, address: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{address} selector: {{app: {name}}}, ports: [{{name: grpc, port: 50051, targetPort: grpc}}]}}}}"
        )
    };
    // Another Service has the old address before the first one is back.
    stage.namespace.start_servers("taker", 2).unwrap();
    stage.namespace.kubectl(&["delete", "service", "taker"]).unwrap();
    let (ip, _) = old.rsplit_once(':').unwrap();
    stage
        .namespace
        .apply(&manifest("taker", &format!("clusterIP: {ip},")))
        .unwrap();
    stage.namespace.apply(&manifest("echo", "")).unwrap();
    assert_ne!(stage.address(), old);
    reaches(&stage.namespace, TARGET, 3);
    reaches(&stage.namespace, &old, 2);
    let taken = stage.namespace.call("client", &old, 60, 1).unwrap();
    assert!(
        taken
            .per_backend
            .keys()
            .all(|backend| backend.starts_with("taker")),
        "the old address is the other Service's: {:?}",
        taken.per_backend
    );
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
    let load = load_of(&client, &address);
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
