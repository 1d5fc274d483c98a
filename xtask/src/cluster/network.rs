//! The cluster's wires: one network namespace for each machine, all on a bridge in the control plane's, and a link from
//! the host to that bridge.
//!
//! Nothing leaves the machine: a node's default route leads to a bridge without ports, so that a Service address which
//! nothing translates ends there; and the host is nobody's gateway.

use anyhow::Result;

use super::command::run_line;
use super::state::{Cluster, Machine, netns_prefix};

/// The bridge that joins all machines.
const WIRE: &str = "wire0";

pub(super) fn make(cluster: &Cluster) -> Result<()> {
    for machine in cluster.machines() {
        make_namespace(cluster, machine)?;
    }
    let control = cluster.netns(Machine::Control);
    run_line(&format!("ip -n {control} link add {WIRE} type bridge"))?;
    bring_up(cluster, Machine::Control, WIRE)?;
    join_host(cluster)?;
    for node in cluster.node_machines() {
        join_node(cluster, node)?;
    }
    for machine in cluster.machines() {
        route_to_pods(cluster, machine)?;
    }
    Ok(())
}

fn make_namespace(cluster: &Cluster, machine: Machine) -> Result<()> {
    let netns = cluster.netns(machine);
    run_line(&format!("ip netns add {netns}"))?;
    run_line(&format!("ip -n {netns} link set lo up"))?;
    // Nobody else has these addresses, and waiting for an answer to that question takes a second for each.
    let mut settings = vec![
        "net.ipv6.conf.all.accept_dad=0",
        "net.ipv6.conf.default.accept_dad=0",
    ];
    if machine != Machine::Control {
        settings.extend(["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
    }
    // Not `ip netns exec`, which mounts another /sys.
    run_line(&format!(
        "nsenter --net=/run/netns/{netns} sysctl -q -w {}",
        settings.join(" ")
    ))?;
    Ok(())
}

/// The host's link: for kubectl and the tests. IPv4 is enough for that.
fn join_host(cluster: &Cluster) -> Result<()> {
    let (link, control) = (cluster.host_link(), cluster.netns(Machine::Control));
    run_line(&format!(
        "ip link add {link} type veth peer name host netns {control}"
    ))?;
    run_line(&format!("ip -n {control} link set host master {WIRE} up"))?;
    run_line(&format!(
        "ip address add {}/24 dev {link}",
        cluster.host_address()
    ))?;
    run_line(&format!("ip link set {link} up"))?;
    Ok(())
}

fn join_node(cluster: &Cluster, node: Machine) -> Result<()> {
    let (netns, control) = (cluster.netns(node), cluster.netns(Machine::Control));
    let name = node.name();
    run_line(&format!(
        "ip -n {netns} link add eth0 type veth peer name {name} netns {control}"
    ))?;
    run_line(&format!("ip -n {control} link set {name} master {WIRE} up"))?;
    bring_up(cluster, node, "eth0")?;
    run_line(&format!("ip -n {netns} link add nowhere type bridge"))?;
    run_line(&format!("ip -n {netns} link set nowhere up"))?;
    for family in ["-4", "-6"] {
        run_line(&format!("ip {family} -n {netns} route add default dev nowhere"))?;
    }
    Ok(())
}

fn bring_up(cluster: &Cluster, machine: Machine, link: &str) -> Result<()> {
    let netns = cluster.netns(machine);
    run_line(&format!("ip -n {netns} link set {link} up"))?;
    let (ipv4, ipv6) = (cluster.ipv4(machine), cluster.ipv6(machine));
    run_line(&format!("ip -n {netns} address add {ipv4}/24 dev {link}"))?;
    run_line(&format!("ip -n {netns} address add {ipv6}/64 dev {link} nodad"))?;
    Ok(())
}

/// From `machine` to the pods of all other nodes. The control plane needs it too: the API server dials webhooks and
/// aggregated APIs by their pods' addresses.
fn route_to_pods(cluster: &Cluster, machine: Machine) -> Result<()> {
    let netns = cluster.netns(machine);
    for node in cluster.node_machines().filter(|node| *node != machine) {
        let [ipv4, ipv6] = node.pods();
        run_line(&format!(
            "ip -4 -n {netns} route add {ipv4} via {}",
            cluster.ipv4(node)
        ))?;
        run_line(&format!(
            "ip -6 -n {netns} route add {ipv6} via {}",
            cluster.ipv6(node)
        ))?;
    }
    Ok(())
}

/// The network namespaces of the cluster of that name, also of one that a crash left half made.
pub(super) fn namespaces(name: &str) -> Vec<String> {
    let prefix = netns_prefix(name);
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|netns| netns.starts_with(&prefix))
        .collect()
}

/// Removes namespaces and the host's link; what is not there is not missed.
pub(super) fn remove(name: &str) -> Result<()> {
    let link = format!("glb-{name}");
    if std::path::Path::new("/sys/class/net").join(&link).exists() {
        run_line(&format!("ip link del {link}"))?;
    }
    for netns in namespaces(name) {
        run_line(&format!("ip netns del {netns}"))?;
    }
    Ok(())
}
