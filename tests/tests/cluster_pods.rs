//! Pods of a real cluster: labels that come and go while they run, sandboxes that come and go, and what is left behind. What is
//! claimed is seen by the calls of unchanged clients; the agents' own words are asked only for what calls cannot show.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use grpclb_tests::agents::Agents;
use grpclb_tests::cluster::{Cluster, Namespace, PATIENCE, TEST_IMAGE};
use grpclb_tests::long_form;

const SERVER: &str = "echo:50051";
/// A label takes effect within this time.
const PROMPT: Duration = Duration::from_secs(1);
/// Pods that connect with their first instruction, and how many there are in the long form (`GRPCLB_LONG=1`).
const FIRST: usize = 30;
const LONG_FIRST: usize = 100;
/// Waves of jobs that come and go, and how many there are in each; the long form has 500 (`GRPCLB_LONG=1`).
const WAVES: (usize, usize) = (6, 10);
const LONG_WAVES: (usize, usize) = (10, 50);

/// A client that holds three connections and calls on, for as long as its input is open.
const HOLDER: &str =
    "[sh, -c, 'sleep 1000000 | /peer load --target echo:50051 --connections 3 --concurrency 3']";

/// Over how many backends the calls of one connection go.
fn spread(namespace: &Namespace, client: &str) -> usize {
    let outcome = namespace.call(client, SERVER, 200, 1).unwrap();
    assert!(outcome.ok, "{outcome:?}");
    outcome.per_backend.len()
}

/// Calls until they are spread over so many backends; when the last client started whose calls were not. How long `kubectl
/// exec` takes does not count.
fn until_spread(namespace: &Namespace, client: &str, backends: usize) -> Duration {
    let (begun, mut otherwise) = (Instant::now(), Duration::ZERO);
    loop {
        let started = begun.elapsed();
        let found = spread(namespace, client);
        if found == backends {
            return otherwise;
        }
        assert!(
            started < PATIENCE,
            "{client}: still {found} instead of {backends}"
        );
        otherwise = started;
    }
}

fn label(namespace: &Namespace, object: &[&str], label: &str) {
    let arguments = [&["label", "--overwrite"], object, &[label]].concat();
    namespace.kubectl(&arguments).unwrap();
}

#[test]
fn labels_of_namespace_and_pod_are_taken_up_within_a_second_without_a_restart() {
    let cluster = Cluster::find().unwrap();
    let _agents = Agents::start(&cluster).unwrap();
    let namespace = cluster.namespace("labels").unwrap();
    let name = namespace.name().to_owned();
    namespace.start_servers("echo", 3).unwrap();
    for (client, node) in [("client", "node1"), ("other", "node2")] {
        namespace.start_client(client, Some(node)).unwrap();
        assert_eq!(spread(&namespace, client), 1, "without a label");
    }

    // One pod of a plain namespace.
    label(&namespace, &["pod", "client"], "grpclb.io/enabled=true");
    assert!(until_spread(&namespace, "client", 3) < PROMPT);
    assert_eq!(spread(&namespace, "other"), 1, "its neighbours are plain");
    label(&namespace, &["pod", "client"], "grpclb.io/enabled-");
    assert!(until_spread(&namespace, "client", 1) < PROMPT);

    // The whole namespace, but for one.
    label(&namespace, &["pod", "other"], "grpclb.io/enabled=false");
    label(&namespace, &["namespace", &name], "grpclb.io/enabled=true");
    assert!(until_spread(&namespace, "client", 3) < PROMPT);
    assert_eq!(spread(&namespace, "other"), 1, "its own label counts");
    label(&namespace, &["pod", "other"], "grpclb.io/enabled-");
    assert!(until_spread(&namespace, "other", 3) < PROMPT);

    label(&namespace, &["namespace", &name], "grpclb.io/enabled-");
    for client in ["client", "other"] {
        assert!(until_spread(&namespace, client, 1) < PROMPT);
        let pod = namespace.get(&["pod", client]).unwrap();
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
}

#[test]
fn a_connection_made_by_the_first_instruction_of_a_container_is_steered() {
    let cluster = Cluster::find().unwrap();
    let agents = Agents::start(&cluster).unwrap();
    let namespace = cluster.namespace("first").unwrap();
    label(
        &namespace,
        &["namespace", namespace.name()],
        "grpclb.io/enabled=true",
    );
    namespace.start_servers("echo", 3).unwrap();
    // Enabled pods of both nodes, so that both agents follow Services before the others start.
    for (client, node) in [("client", "node1"), ("other", "node2")] {
        namespace.start_client(client, Some(node)).unwrap();
        until_spread(&namespace, client, 3);
    }
    // The address and not the name: looking it up would give us time.
    let service = namespace.get(&["service", "echo"]).unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    // A plain connection has one backend however many calls it makes; a steered one has several as soon as they are connected.
    let command = format!(
        "[/peer, load, --target, '{address}:50051', --calls, '100', --delay-ms, '2', --connections, '1']"
    );
    let starts = if long_form() { LONG_FIRST } else { FIRST };
    let names: Vec<String> = (0..starts).map(|number| format!("first-{number}")).collect();
    let manifests: Vec<String> = names.iter().map(|name| pod(name, &command)).collect();
    namespace.apply(&manifests.join("---\n")).unwrap();
    wait_until_ended(&namespace, "app=job", starts);

    let backends = |name: &String| {
        let printed = namespace.kubectl(&["logs", name]).unwrap();
        let outcome: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
        assert_eq!(outcome["ok"], true, "{printed}");
        outcome["per_backend"].as_object().unwrap().len()
    };
    let steered = names.iter().filter(|name| backends(name) > 1).count();
    println!("steered from their first instruction on: {steered} of {starts}");
    for node in agents.nodes() {
        let status = agents.status(node).unwrap();
        let took: Vec<_> = status.pods.iter().filter_map(|pod| pod.ready_after_ms).collect();
        let early = status.early_connections;
        println!(
            "{node}: {early} connections came too early; from sandbox to steered, of the pods still there: {took:?} ms"
        );
    }
    // All of them, on a machine with a CPU to spare: being late fails open.
    assert!(steered * 4 >= starts * 3, "{steered} of {starts}");
}

#[test]
fn jobs_that_come_and_go_leave_nothing_in_the_agents_and_nothing_on_the_nodes() {
    let cluster = Cluster::find().unwrap();
    let agents = Agents::start(&cluster).unwrap();
    let namespace = cluster.namespace("jobs").unwrap();
    label(
        &namespace,
        &["namespace", namespace.name()],
        "grpclb.io/enabled=true",
    );
    namespace.start_servers("echo", 3).unwrap();
    namespace.start_client("client", None).unwrap();
    until_spread(&namespace, "client", 3);
    let servers = namespace.pods("app=echo").unwrap();
    let held = || -> usize {
        let held = servers.keys().map(|server| open_connections(&namespace, server));
        held.sum()
    };
    namespace.apply(&pod("holder", HOLDER)).unwrap();
    wait_until("the backends hold connections of a client", || held() > 0);
    namespace.kubectl(&["delete", "pod", "holder"]).unwrap();
    let links = |node: &str| {
        let links = cluster
            .exec_on(node, &["ip", "-o", "link", "show", "type", "veth"])
            .unwrap();
        let namespaces = cluster.exec_on(node, &["ls", "/run/netns"]).unwrap();
        (links.lines().count(), namespaces.lines().count())
    };
    // Pods of earlier tests have links, too.
    wait_until("no namespace of an earlier test ends any more", || {
        let phases = "jsonpath={.items[*].status.phase}";
        let phases = cluster
            .kubectl(&["get", "namespaces", "--output", phases])
            .unwrap();
        !phases.contains("Terminating")
    });
    let process = |node: &str| agents.status(node).unwrap().process;
    let nodes: Vec<&str> = agents.nodes().collect();
    let command = format!("[/peer, load, --target, '{SERVER}', --calls, '10', --connections, '2']");
    let mut before = None;
    let (waves, jobs) = if long_form() { LONG_WAVES } else { WAVES };
    for wave in 0..waves {
        let manifests: Vec<String> = (0..jobs)
            .map(|number| pod(&format!("job-{wave}-{number}"), &command))
            .collect();
        namespace.apply(&manifests.join("---\n")).unwrap();
        wait_until_ended(&namespace, "app=job", jobs);
        namespace
            .kubectl(&["delete", "pods", "--selector", "app=job"])
            .unwrap();
        // The first wave brings what stays: the connections of name servers and the like.
        if before.is_none() {
            wait_until_quiet(&agents, namespace.name());
            before = Some(
                nodes
                    .iter()
                    .map(|node| (links(node), process(node)))
                    .collect::<Vec<_>>(),
            );
        }
    }
    wait_until_quiet(&agents, namespace.name());
    wait_until("the backends hold no connection any more", || held() == 0);
    for (node, (links_before, before)) in nodes.iter().zip(before.unwrap()) {
        wait_until("no veth pair and no namespace is left", || {
            links(node) == links_before
        });
        let after = process(node);
        println!("{node}: after a wave {before:?}, after {waves} of {jobs} {after:?}");
        assert!(after.open_files <= before.open_files + 8, "{node}");
        assert!(
            after.resident_bytes <= before.resident_bytes + (8 << 20),
            "{node}"
        );
    }
}

/// The pod keeps its UID and its name; its namespace and its address are others.
#[test]
fn a_sandbox_that_is_made_anew_is_steered_again() {
    let cluster = Cluster::find().unwrap();
    let agents = Agents::start(&cluster).unwrap();
    let namespace = cluster.namespace("anew").unwrap();
    label(
        &namespace,
        &["namespace", namespace.name()],
        "grpclb.io/enabled=true",
    );
    namespace.start_servers("echo", 3).unwrap();
    namespace.start_client("client", Some("node1")).unwrap();
    until_spread(&namespace, "client", 3);
    let name = format!("{}/client", namespace.name());
    let before = agents.pod(&name).unwrap().unwrap();

    namespace.kill_sandbox("client").unwrap();
    let is_another = |cookie: Option<u64>| cookie.is_some() && cookie != before.cookie;
    agents
        .wait_for_pod(&name, |pod| {
            pod.is_some_and(|pod| is_another(pod.cookie) && pod.ready_after_ms.is_some())
        })
        .unwrap();
    let restarted = || {
        let pod = namespace.get(&["pod", "client"]).unwrap();
        let container = &pod["status"]["containerStatuses"][0];
        container["restartCount"] == 1 && container["ready"] == true
    };
    wait_until("the client runs again", restarted);
    until_spread(&namespace, "client", 3);
}

#[test]
fn connections_made_before_the_label_are_shown_and_come_over_when_adopted() {
    let cluster = Cluster::find().unwrap();
    let agents = Agents::start(&cluster).unwrap();
    let namespace = cluster.namespace("adopt").unwrap();
    namespace.start_servers("echo", 3).unwrap();
    let manifest = pod("holder", HOLDER);
    namespace.apply(&manifest).unwrap();
    namespace.wait_until_ready(&["pod/holder"]).unwrap();
    namespace.wait_until_connected("holder", 3).unwrap();
    let name = format!("{}/holder", namespace.name());
    label(
        &namespace,
        &["namespace", namespace.name()],
        "grpclb.io/enabled=true",
    );
    let bypassing = agents
        .wait_for_pod(&name, |pod| pod.is_some_and(|pod| pod.bypassing > 0))
        .unwrap()
        .unwrap();
    assert_eq!(
        (bypassing.bypassing, bypassing.connections),
        (3, 0),
        "{bypassing:?}"
    );
    let early = || -> u64 {
        let early = agents
            .nodes()
            .map(|node| agents.status(node).unwrap().early_connections);
        early.sum()
    };
    wait_until("they are counted also for when they will have ended", || {
        early() >= 3
    });

    namespace
        .kubectl(&["annotate", "pod", "holder", "grpclb.io/adopt=test-1"])
        .unwrap();
    let adopted = agents
        .wait_for_pod(&name, |pod| {
            pod.is_some_and(|pod| pod.connections == 3 && pod.bypassing == 0)
        })
        .unwrap()
        .unwrap();
    assert_eq!(adopted.adopted, 3, "{adopted:?}");
}

fn pod(name: &str, command: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: job}}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: job, image: '{TEST_IMAGE}', imagePullPolicy: Never, command: {command}}}
"
    )
}

fn wait_until_ended(namespace: &Namespace, selector: &str, count: usize) {
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    let ended = "--for=jsonpath={.status.phase}=Succeeded";
    let waited = namespace
        .kubectl(&["wait", ended, "pod", "--selector", selector, &timeout])
        .unwrap();
    assert_eq!(waited.lines().count(), count, "{waited}");
}

/// Open connections of a server, by what its kernel says.
fn open_connections(namespace: &Namespace, server: &str) -> usize {
    let tables = namespace
        .exec(server, &["cat", "/proc/net/tcp", "/proc/net/tcp6"])
        .unwrap();
    let is_open = |line: &&str| {
        let mut fields = line.split_whitespace();
        // Port 8080, and the state TCP_ESTABLISHED.
        fields.nth(1).is_some_and(|local| local.ends_with(":1F90")) && fields.nth(1) == Some("01")
    };
    tables.lines().filter(is_open).count()
}

/// Waits until the agents have nothing of pods that are gone: only those of the servers and the client.
fn wait_until_quiet(agents: &Agents, namespace: &str) {
    let job = format!("{namespace}/job-");
    let left = || {
        let of = |node| agents.status(node).unwrap().pods;
        let pods = agents.nodes().flat_map(of);
        pods.filter(|pod| pod.name.starts_with(&job)).count()
    };
    wait_until("the agents forget the pods that are gone", || left() == 0);
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
    }
}
