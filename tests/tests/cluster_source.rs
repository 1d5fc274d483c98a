//! The Kubernetes API as a source, beside kube-proxy in the same cluster: for generated Services and slices, the endpoints that
//! may be picked on each node are those that kube-proxy has put into its rules there.
#![allow(clippy::unwrap_used)]

mod source_support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use grpclb_tests::cluster::{Cluster, Namespace, PATIENCE};
use grpclb_userspace::model::Desired;
use serde_json::{Value, json};
use source_support::{OnNode, Scratch};

/// Each makes another set of Services. One that finds a difference stays here.
const SEEDS: [u64; 4] = [1, 2, 3, 20_261_121];
/// How many Services a seed makes.
const SERVICES: usize = 16;
const NODES: [&str; 2] = ["node1", "node2"];
/// The last to be made. Its port and its endpoints tell of the seed, for Services and slices are watched apart: who has both has
/// all that was made before (kube-proxy: of that family).
const LAST: &str = "last";

/// What clients dial → who may answer.
type Backends = BTreeMap<SocketAddr, BTreeSet<SocketAddr>>;

#[tokio::test]
async fn the_endpoints_that_may_be_picked_are_those_of_kube_proxy() {
    let cluster = Cluster::find().unwrap();
    let namespace = cluster.namespace("source").unwrap();
    namespace
        .kubectl(&["label", "namespace", namespace.name(), "grpclb.io/enabled=true"])
        .unwrap();
    let mut sources = Vec::new();
    for node in NODES {
        // Services are followed where a pod is enabled.
        namespace
            .start_client(&format!("client-{node}"), Some(node))
            .unwrap();
        let directory = Scratch::new(node);
        sources.push((node, OnNode::new(&cluster, node, &directory), directory));
    }
    let (mut compared, mut fewer) = (0, 0);
    for seed in SEEDS {
        let mut random = Random(seed);
        // The same names for every seed: each changes what the one before has made.
        let made: Vec<Made> = (0..SERVICES).map(|number| service(&mut random, number)).collect();
        let items: Vec<&Value> = made.iter().flat_map(|made| &made.items).collect();
        namespace.apply(&list(&items)).unwrap();
        let port = u16::try_from(seed % 60_000 + 1).unwrap();
        let last =
            ["10.255.255.254", "fd00:255::ffff:1"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        make_last(&namespace, &last);
        let services = cluster_addresses(&namespace);
        for (node, source, _) in &mut sources {
            let ours = backends_with(source, &services, &last).await;
            let theirs = rules_with(&cluster, node, &services, &last).await;
            for (address, name) in &services {
                let (ours, theirs) = (ours.get(address), theirs.get(address));
                assert_eq!(ours, theirs, "seed {seed}, {node}, {name} at {address}");
                compared += 1;
                let eligible = ours.map_or(0, BTreeSet::len);
                let made = made.iter().find(|made| made.name == *name);
                fewer += usize::from(made.is_some_and(|made| eligible < made.of_family(address)));
            }
        }
    }
    println!("{compared} Service addresses compared, {fewer} of them with fewer backends than endpoints");
    assert!(compared > 100, "{compared}");
    assert!(
        fewer > compared / 4,
        "the rules must have something to decide: {fewer} of {compared}"
    );
}

/// Who may answer at each of these addresses, once `last` may.
async fn backends_with(
    source: &mut OnNode,
    services: &BTreeMap<SocketAddr, String>,
    last: &[SocketAddr],
) -> Backends {
    let has_last = |desired: &Desired| has(&backends(desired), last);
    let desired = source.wait(PATIENCE, has_last).await;
    let mut found = backends(&desired);
    found.retain(|address, backends| services.contains_key(address) && !backends.is_empty());
    found
}

/// Whether all of these are the backends of a Service on their own port.
fn has(found: &Backends, last: &[SocketAddr]) -> bool {
    last.iter().all(|last| {
        let mut services = found.iter();
        services.any(|(service, backends)| service.port() == last.port() && backends.contains(last))
    })
}

fn backends(desired: &Desired) -> Backends {
    let mut found = Backends::new();
    for port in desired.services.values() {
        for address in &port.addresses {
            let backends = port.endpoints.iter().map(|endpoint| endpoint.address);
            found.insert(SocketAddr::new(*address, port.port), backends.collect());
        }
    }
    found
}

/// What clients of the namespace's Services dial, and the Services' names.
fn cluster_addresses(namespace: &Namespace) -> BTreeMap<SocketAddr, String> {
    let services = namespace.get(&["services"]).unwrap();
    let mut addresses = BTreeMap::new();
    for service in services["items"].as_array().unwrap() {
        for address in service["spec"]["clusterIPs"].as_array().unwrap() {
            for port in service["spec"]["ports"].as_array().unwrap() {
                let ip = address.as_str().unwrap().parse().unwrap();
                let port = u16::try_from(port["port"].as_u64().unwrap()).unwrap();
                let name = service["metadata"]["name"].as_str().unwrap().to_owned();
                addresses.insert(SocketAddr::new(ip, port), name);
            }
        }
    }
    addresses
}

/// kube-proxy's rules on a node for these addresses, once they have `last`.
async fn rules_with(
    cluster: &Cluster,
    node: &str,
    services: &BTreeMap<SocketAddr, String>,
    last: &[SocketAddr],
) -> Backends {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut found = rules(cluster, node);
        if has(&found, last) {
            found.retain(|address, _| services.contains_key(address));
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "kube-proxy of {node} does not have {last:?}"
        );
        // nothing tells of a change of its rules
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Where kube-proxy sends connections to each TCP Service address. Since 1.36 a Service's chain has all its endpoints in one map;
/// before that, it goes to a chain for each of them.
fn rules(cluster: &Cluster, node: &str) -> Backends {
    let mut found = Backends::new();
    for family in ["ip", "ip6"] {
        let printed = cluster
            .exec_on(node, &["nft", "--json", "list", "table", family, "kube-proxy"])
            .unwrap();
        let rules: Value = serde_json::from_str(&printed).unwrap();
        let rules = rules["nftables"].as_array().unwrap();
        let mut chains: BTreeMap<&str, Chain<'_>> = BTreeMap::new();
        for rule in rules.iter().filter_map(|entry| entry.get("rule")) {
            let chain = chains.entry(rule["chain"].as_str().unwrap()).or_default();
            for target in find(rule, "dnat") {
                let choices = find(target, "set").flat_map(|set| set.as_array().into_iter().flatten());
                let choices = choices.map(|choice| address_and_port(&choice[1]["concat"], 1));
                chain.backends.extend(choices);
                if target["addr"].is_string() {
                    let only = [target["addr"].clone(), target["port"].clone()];
                    chain.backends.insert(address_and_port(&json!(only), 1));
                }
            }
            let next = find(rule, "vmap").flat_map(|choices| find(choices, "goto"));
            chain.next.extend(next.filter_map(|next| next["target"].as_str()));
        }
        let services = rules.iter().filter_map(|entry| entry.get("map"));
        let services = services.filter(|map| map["name"] == "service-ips");
        for element in services.flat_map(|map| map["elem"].as_array().into_iter().flatten()) {
            let key = &element[0]["concat"];
            if key[1] == "tcp"
                && let Some(chain) = element[1]["goto"]["target"].as_str()
            {
                let first = chains.get(chain).into_iter();
                let all = first.flat_map(|first| {
                    let next = first.next.iter().filter_map(|next| chains.get(next));
                    std::iter::once(first).chain(next)
                });
                let backends = all.flat_map(|chain| &chain.backends).copied();
                found.insert(address_and_port(key, 2), backends.collect());
            }
        }
    }
    found
}

/// What a chain of rules leads to.
#[derive(Default)]
struct Chain<'r> {
    backends: BTreeSet<SocketAddr>,
    /// Other chains.
    next: BTreeSet<&'r str>,
}

/// Every value of this key, at any depth.
fn find<'v>(value: &'v Value, key: &'v str) -> Box<dyn Iterator<Item = &'v Value> + 'v> {
    match value {
        Value::Object(map) => Box::new(
            map.get(key)
                .into_iter()
                .chain(map.values().flat_map(move |value| find(value, key))),
        ),
        Value::Array(list) => Box::new(list.iter().flat_map(move |value| find(value, key))),
        _ => Box::new(std::iter::empty()),
    }
}

/// An address first, and its port at this place.
fn address_and_port(parts: &Value, port: usize) -> SocketAddr {
    let ip = parts[0].as_str().unwrap().parse().unwrap();
    SocketAddr::new(ip, u16::try_from(parts[port].as_u64().unwrap()).unwrap())
}

/// A Service and its slices.
struct Made {
    name: String,
    items: Vec<Value>,
    /// How many endpoints the slices have: IPv4, IPv6.
    endpoints: [usize; 2],
}

impl Made {
    fn of_family(&self, address: &SocketAddr) -> usize {
        self.endpoints[usize::from(address.is_ipv6())]
    }
}

/// A Service without a selector, and slices of our own making.
fn service(random: &mut Random, number: usize) -> Made {
    let name = format!("s{number}");
    // What cannot be changed later follows from the number.
    let families: &[&str] = match number % 3 {
        0 => &["IPv4", "IPv6"],
        1 => &["IPv4"],
        _ => &["IPv6"],
    };
    let named = number.is_multiple_of(2);
    let mut ports = vec![json!({"port": 80, "protocol": "TCP", "targetPort": 8080})];
    if named {
        ports[0]["name"] = json!("grpc");
        ports.push(json!({"name": "h2c-admin", "port": 81, "protocol": "TCP"}));
        ports.push(json!({"name": "grpc-u", "port": 80, "protocol": "UDP"}));
    }
    let spec = json!({
        "ipFamilies": families,
        "ipFamilyPolicy": if families.len() == 2 { "RequireDualStack" } else { "SingleStack" },
        "internalTrafficPolicy": if random.one_in(4) { "Local" } else { "Cluster" },
        "ports": ports,
    });
    let mut items = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec,
    })];
    let mut made = [0, 0];
    for (family, made) in ["IPv4", "IPv6"].into_iter().zip(&mut made) {
        // Who has hints: nobody, everybody, or some.
        let hints = random.below(3);
        let doubled = random.one_in(3);
        for slice in 0..2 {
            let mut endpoints = Vec::new();
            for _ in 0..random.below(5) {
                endpoints.push(endpoint(
                    random,
                    &address(family, number, slice, endpoints.len()),
                    hints,
                ));
            }
            if doubled {
                // One address in both slices: a pod that ends, and the next one that was given its address.
                let mut pod = endpoint(random, &address(family, number, 9, 9), hints);
                pod["conditions"]["terminating"] = json!(slice == 0);
                endpoints.push(pod);
            }
            *made += endpoints.len();
            items.push(json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-{}-{slice}", family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": family,
                "endpoints": endpoints,
                "ports": slice_ports(random, named, slice),
            }));
        }
    }
    Made {
        name,
        items,
        endpoints: made,
    }
}

fn list(items: &[impl serde::Serialize]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// The ports of a slice: other numbers in each slice, now and then one that is missing or that nobody asks for.
fn slice_ports(random: &mut Random, named: bool, slice: usize) -> Value {
    let number = 8080 + slice;
    if !named {
        return json!([{"name": "", "port": number, "protocol": "TCP"}]);
    }
    let mut ports = vec![
        json!({"name": "grpc", "port": number, "protocol": "TCP"}),
        json!({"name": "grpc-u", "port": 1000 + slice, "protocol": "UDP"}),
        json!({"name": "nobodys", "port": 2000 + slice, "protocol": "TCP"}),
    ];
    if !random.one_in(4) {
        ports.push(json!({"name": "h2c-admin", "port": number + 1000, "protocol": "TCP"}));
    }
    json!(ports)
}

fn endpoint(random: &mut Random, address: &str, hints: usize) -> Value {
    let mut conditions = json!({});
    for (condition, one_in) in [("ready", 3), ("serving", 3), ("terminating", 2)] {
        if !random.one_in(5) {
            // Mostly ready, serving, and not terminating.
            conditions[condition] = json!(random.one_in(one_in) == (condition == "terminating"));
        }
    }
    let mut endpoint = json!({"addresses": [address], "conditions": conditions});
    if let Some(node) = [Some("node1"), Some("node2"), Some("elsewhere"), None][random.below(4)] {
        endpoint["nodeName"] = json!(node);
    }
    if hints == 1 || (hints == 2 && !random.one_in(4)) {
        let zone = ["zone1", "zone2", "zone3"][random.below(3)];
        endpoint["hints"] = json!({"forZones": [{"name": zone}]});
        if random.one_in(2) || address.ends_with('1') {
            let node = ["node1", "node2", "elsewhere"][random.below(3)];
            endpoint["hints"]["forNodes"] = json!([{"name": node}]);
        }
    }
    endpoint
}

/// An address that no pod has.
fn address(family: &str, service: usize, slice: usize, endpoint: usize) -> String {
    match family {
        "IPv4" => format!("10.255.{service}.{}", slice * 20 + endpoint + 1),
        // Never zero in the middle, so that this is how such an address is written.
        _ => format!("fd00:255::{:x}:{:x}", service + 1, slice * 20 + endpoint + 1),
    }
}

/// A Service whose endpoints are `last`, one in each family, on their port.
fn make_last(namespace: &Namespace, last: &[SocketAddr; 2]) {
    let mut items = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": LAST},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": last[0].port()}]},
    })];
    for last in last {
        let family = if last.is_ipv4() { "IPv4" } else { "IPv6" };
        items.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "name": format!("{LAST}-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": LAST},
            },
            "endpoints": [{"addresses": [last.ip().to_string()]}],
            "ports": [{"name": "", "port": last.port(), "protocol": "TCP"}],
        }));
    }
    namespace.apply(&list(&items)).unwrap();
}

/// Numbers that follow from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % limit
    }

    fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}
