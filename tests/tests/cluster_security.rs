//! What an enabled pod can not do by being enabled: reach what is not its own, be taken for another, or pass a network policy.
//! What the agent's own token can do, `cluster_deploy.rs` says.
#![allow(clippy::unwrap_used)] // also in what the tests share

use std::collections::BTreeSet;
use std::net::IpAddr;

use grpclb_tests::cluster::{Cluster, Namespace, PATIENCE};
use grpclb_tests::install::{Installed, calls_reach};
use grpclb_tests::peers::Outcome;
use grpclb_tests::process::wait_until;
use serde_json::Value;

const NODES: [&str; 2] = ["node1", "node2"];
/// Where agents listen in a pod (docs/configuration.md): one of these.
const LISTENERS: [u16; 8] = [28651, 28659, 28667, 28673, 28681, 28687, 28693, 28697];
/// Where an agent answers on its own loopback only, and where it gives its metrics to everybody.
const ADMIN: u16 = 28101;
const METRICS: u16 = 28102;

fn enable(cluster: &Cluster, namespace: &Namespace) {
    cluster
        .kubectl(&["label", "namespace", namespace.name(), "grpclb.io/enabled=true"])
        .unwrap();
}

#[test]
fn an_enabled_pod_reaches_neither_another_pods_listener_nor_an_agents_own_port() {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("reach").unwrap();
    namespace.start_servers("echo", 2).unwrap();
    enable(&cluster, &namespace);
    let clients = [("client", "node1"), ("neighbour", "node1"), ("other", "node2")];
    for (client, node) in clients {
        namespace.start_client(client, Some(node)).unwrap();
        calls_reach(&namespace, client, "echo:50051", 2, PATIENCE).unwrap();
    }

    for (other, _) in &clients[1..] {
        let port = listener(&namespace, other);
        // It is there: for the pod itself, whose connection names no Service.
        assert!(!refused(&namespace, other, "127.0.0.1", port));
        for address in addresses(&namespace, other) {
            assert!(
                refused(&namespace, "client", &address, port),
                "{other}'s listener at {address}, port {port}"
            );
        }
    }

    assert!(refused(&namespace, "client", "127.0.0.1", ADMIN));
    let agents = installed.kubectl(&["get", "pods", "--output", "json"]).unwrap();
    let agents: Value = serde_json::from_str(&agents).unwrap();
    let agents = agents["items"].as_array().unwrap();
    assert_eq!(agents.len(), NODES.len());
    for agent in agents {
        let address = agent["status"]["podIP"].as_str().unwrap();
        assert!(refused(&namespace, "client", address, ADMIN), "{agent}");
        let page = |path: &str| {
            let url = format!("http://{address}:{METRICS}{path}");
            namespace.exec("client", &["wget", "-q", "-O", "-", &url])
        };
        assert!(page("/metrics").unwrap().contains("grpclb_"), "it answers");
        for path in ["/status", "/explain", "/check"] {
            let answer = format!("{:#}", page(path).unwrap_err());
            assert!(answer.contains("404"), "{path}: {answer}");
        }
    }
}

/// The addresses behind which the listener tells Services apart are of no more use than the Services' own: the calls come
/// from the pod's address, to that Service's servers.
#[test]
fn a_pod_that_dials_its_listener_by_itself_gets_what_it_could_have_had_and_keeps_its_address() {
    let cluster = Cluster::find().unwrap();
    let _installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("forge").unwrap();
    for name in ["echo", "other"] {
        namespace.start_servers(name, 2).unwrap();
    }
    enable(&cluster, &namespace);
    namespace.start_client("client", None).unwrap();
    calls_reach(&namespace, "client", "echo:50051", 2, PATIENCE).unwrap();
    let own: BTreeSet<IpAddr> = addresses(&namespace, "client")
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();

    let port = listener(&namespace, "client");
    let mut served = BTreeSet::new();
    for slot in 0..40 {
        let outcome = try_calls(&namespace, &format!("127.1.0.{slot}:{port}"), 8);
        assert!(outcome.peers.is_subset(&own), "127.1.0.{slot}: {outcome:?}");
        let services: BTreeSet<&str> = outcome
            .per_backend
            .keys()
            .filter_map(|backend| backend.split('-').next())
            .collect();
        assert!(services.len() <= 1, "one Service an address: {outcome:?}");
        served.extend(services.into_iter().map(str::to_owned));
    }
    assert_eq!(served, ["echo", "other"].map(str::to_owned).into());

    // No more than the probe's own few bytes come from the probe's address.
    let probe = try_calls(&namespace, &format!("127.255.255.254:{port}"), 2);
    assert_eq!(probe.failed(), 2, "{probe:?}");
}

/// nft rules such as implementations of NetworkPolicy make: on the nodes, for what is forwarded from and to pods. What may
/// fail is what the policy denies, before and after the label. (kube-network-policies has nft hand packets to it, which
/// the kernel that these tests were written on cannot: `CONFIG_NFT_QUEUE` is not set.)
#[test]
fn network_policies_hold_before_and_after_the_label() {
    let cluster = Cluster::find().unwrap();
    let _installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("policy").unwrap();
    for name in ["open", "guarded", "mixed"] {
        namespace.start_servers(name, 2).unwrap();
    }
    for client in ["client", "friend"] {
        namespace.start_client(client, Some("node1")).unwrap();
    }
    let servers = |service: &str| -> Vec<String> {
        let selector = format!("app={service}");
        namespace.pods(&selector).unwrap().into_keys().collect()
    };
    let list = |pods: &[String]| {
        let v4 = pods.iter().flat_map(|pod| addresses(&namespace, pod));
        let v4: Vec<String> = v4.filter(|address| !address.contains(':')).collect();
        v4.join(", ")
    };
    let (client, friend) = (list(&["client".to_owned()]), list(&["friend".to_owned()]));
    let mixed = servers("mixed");
    let _rules = Rules::new(
        &cluster,
        &[
            // Ingress: who is guarded hears only the friend.
            format!(
                "ip daddr {{ {} }} ip saddr != {friend} tcp dport 8080 reject with tcp reset",
                list(&servers("guarded"))
            ),
            // Egress: the client must not talk to the first of these two.
            format!(
                "ip saddr {client} ip daddr {} reject with tcp reset",
                list(&mixed[..1])
            ),
        ],
    );
    let target = |service: &str| format!("{}:50051", service_address(&namespace, service));
    let own: BTreeSet<IpAddr> = [client.parse().unwrap()].into();
    let holds = |when: &str| {
        let open = namespace.call("client", &target("open"), 40, 20).unwrap();
        assert_eq!((open.failed(), &open.peers), (0, &own), "{when}: {open:?}");
        let denied = try_calls(&namespace, &target("guarded"), 6);
        assert_eq!(
            (denied.failed(), denied.per_backend.len()),
            (6, 0),
            "{when}: {denied:?}"
        );
        let allowed = namespace.call("friend", &target("guarded"), 40, 20).unwrap();
        assert_eq!(
            (allowed.failed(), allowed.per_backend.len()),
            (0, 2),
            "{when}: {allowed:?}"
        );
        let mixed_calls = namespace.call("client", &target("mixed"), 40, 20).unwrap();
        assert!(
            !mixed_calls.per_backend.contains_key(&mixed[0]),
            "{when}: {mixed_calls:?}"
        );
        assert!(
            mixed_calls.per_backend.contains_key(&mixed[1]),
            "{when}: {mixed_calls:?}"
        );
    };
    holds("before the label");
    enable(&cluster, &namespace);
    for (client, service) in [("client", "open"), ("friend", "guarded")] {
        calls_reach(&namespace, client, &target(service), 2, PATIENCE).unwrap();
    }
    holds("after the label");
}

/// Rules on all nodes. Dropping this takes them away.
struct Rules(Cluster);

impl Rules {
    fn new(cluster: &Cluster, rules: &[String]) -> Self {
        let rules = rules.join("\n");
        let table = format!(
            "table inet guards {{ chain forward {{ type filter hook forward priority 0; policy accept;\n{rules}\n}}\n}}\n"
        );
        let made = Self(cluster.clone());
        for node in NODES {
            cluster.exec_on(node, &["nft", &table]).unwrap();
        }
        made
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        for node in NODES {
            if let Err(error) = self.0.exec_on(node, &["nft", "delete table inet guards"]) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// The addresses of a pod.
fn addresses(namespace: &Namespace, pod: &str) -> Vec<String> {
    let pod = namespace.get(&["pod", pod]).unwrap();
    let addresses = pod["status"]["podIPs"].as_array().unwrap();
    let addresses = addresses.iter().filter_map(|address| address["ip"].as_str());
    addresses.map(str::to_owned).collect()
}

/// A Service's IPv4 address.
fn service_address(namespace: &Namespace, service: &str) -> String {
    let service = namespace.get(&["service", service]).unwrap();
    let addresses = service["spec"]["clusterIPs"].as_array().unwrap();
    let mut addresses = addresses.iter().filter_map(Value::as_str);
    addresses
        .find(|address| !address.contains(':'))
        .unwrap()
        .to_owned()
}

/// The port on which an agent listens in a pod, by what its kernel says. While agents take over from each other there are two.
fn listener(namespace: &Namespace, pod: &str) -> u16 {
    let table = namespace.exec(pod, &["cat", "/proc/net/tcp"]).unwrap();
    let listening = |line: &str| {
        let mut fields = line.split_whitespace();
        let (_, port) = fields.nth(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        // The state TCP_LISTEN.
        (fields.nth(1) == Some("0A") && LISTENERS.contains(&port)).then_some(port)
    };
    let port = table.lines().find_map(listening);
    port.unwrap_or_else(|| panic!("no agent listens in {pod}: {table}"))
}

/// Whether nobody listens there, as far as this client can see.
fn refused(namespace: &Namespace, client: &str, address: &str, port: u16) -> bool {
    let (port, address) = (port.to_string(), address);
    let dial = format!("nc -w 2 {address} {port} </dev/null");
    match namespace.exec(client, &["sh", "-c", &dial]) {
        Ok(_) => false,
        Err(error) => format!("{error:#}").contains("onnection refused"),
    }
}

/// Calls that may fail, over one connection.
fn try_calls(namespace: &Namespace, target: &str, calls: u32) -> Outcome {
    let mut last = None;
    // Only kubectl's own trouble is a reason to try again.
    let asked = wait_until(PATIENCE, || {
        last = namespace.call("client", target, calls, 1).ok();
        last.is_some()
    });
    assert!(asked, "{target}");
    last.unwrap()
}
