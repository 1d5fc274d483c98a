//! containerd, kubelet and kube-proxy on a node: their configuration and arguments.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::certificates::write_kubeconfig;
use super::command::write;
use super::machine::Component;
use super::programs::Programs;
use super::state::{Cluster, Machine};

/// The image of the process that holds a pod's namespaces.
pub(super) const PAUSE_IMAGE: &str = "docker.io/grpclb-cluster/pause:1";
const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Writes what they read, and says how they are started.
pub(super) fn components(cluster: &Cluster, node: Machine, programs: &Programs) -> Result<Vec<Component>> {
    let library = cluster.machine_folder(node).join("var/lib");
    write(&library.join("containerd/config.toml"), &containerd())?;
    write(
        &library.join("cni/net.d/10-pods.conflist"),
        &pod_network(cluster, node)?,
    )?;
    write_kubelet_files(cluster, node, &library.join("kubelet"))?;
    write_kube_proxy_files(cluster, node, &library.join("kube-proxy"))?;
    let kubernetes = |name: &'static str, arguments: Vec<String>| Component {
        name,
        command: std::iter::once(programs.kubernetes(name).display().to_string())
            .chain(arguments)
            .collect(),
    };
    Ok(vec![
        Component {
            name: "containerd",
            command: ["containerd", "--config", "/var/lib/containerd/config.toml"]
                .map(str::to_owned)
                .to_vec(),
        },
        kubernetes("kubelet", kubelet_arguments(cluster, node)),
        kubernetes(
            "kube-proxy",
            vec!["--config=/var/lib/kube-proxy/config.json".to_owned()],
        ),
    ])
}

fn containerd() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
# What needs other disks, and what would make folders on the host.
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]

[grpc]
address = "{CONTAINERD}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE nobody may lower the score, and runc ends with "can't get final child's PID from pipe".
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/var/lib/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

/// A veth for each pod, routed by the node: no bridge whose traffic nftables would have to be told to see.
fn pod_network(cluster: &Cluster, node: Machine) -> Result<String> {
    let ranges = cluster.families.of(node.pods());
    let ranges = ranges.iter().map(|range| json!([{"subnet": range}]));
    let routes = cluster.families.of(["0.0.0.0/0", "::/0"]);
    let routes = routes.iter().map(|everywhere| json!({"dst": everywhere}));
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "mtu": 1500,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-addresses",
                "ranges": ranges.collect::<Vec<_>>(),
                "routes": routes.collect::<Vec<_>>(),
            },
        }],
    });
    Ok(serde_json::to_string_pretty(&config)?)
}

fn kubelet_arguments(cluster: &Cluster, node: Machine) -> Vec<String> {
    vec![
        "--config=/var/lib/kubelet/config.json".to_owned(),
        "--kubeconfig=/var/lib/kubelet/kubeconfig".to_owned(),
        format!("--hostname-override={}", node.name()),
        format!("--node-ip={}", cluster.addresses(node).join(",")),
        format!("--node-labels=topology.kubernetes.io/zone={}", zone(node)),
    ]
}

/// Each node is in a zone of its own.
fn zone(node: Machine) -> String {
    node.name().replace("node", "zone")
}

fn write_kubelet_files(cluster: &Cluster, node: Machine, folder: &Path) -> Result<()> {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/var/lib/kubelet/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": "/var/lib/kubelet/kubelet.crt",
        "tlsPrivateKeyFile": "/var/lib/kubelet/kubelet.key",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "clusterDNS": [cluster.dns_service()],
        "clusterDomain": "cluster.local",
        "resolvConf": "/var/lib/kubelet/resolv.conf",
        "maxPods": 200,
        // The machine's disk and memory are not this cluster's to manage.
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    });
    write(
        &folder.join("config.json"),
        &serde_json::to_string_pretty(&config)?,
    )?;
    // Names of other places are not for this cluster.
    write(&folder.join("resolv.conf"), "")?;
    write_kubeconfig(cluster, &node.name(), &folder.join("kubeconfig"))?;
    copy(cluster, "ca.crt", &folder.join("ca.crt"))?;
    copy(
        cluster,
        &format!("{}.crt", node.name()),
        &folder.join("kubelet.crt"),
    )?;
    copy(
        cluster,
        &format!("{}.key", node.name()),
        &folder.join("kubelet.key"),
    )
}

fn write_kube_proxy_files(cluster: &Cluster, node: Machine, folder: &Path) -> Result<()> {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name(),
        "clientConnection": {"kubeconfig": "/var/lib/kube-proxy/kubeconfig"},
        "clusterCIDR": cluster.pod_ranges(),
        "detectLocalMode": "ClusterCIDR",
        // These belong to the whole machine and cannot be set from here.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    });
    write(
        &folder.join("config.json"),
        &serde_json::to_string_pretty(&config)?,
    )?;
    write_kubeconfig(cluster, "kube-proxy", &folder.join("kubeconfig"))
}

fn copy(cluster: &Cluster, file: &str, target: &Path) -> Result<()> {
    let source = cluster.certificates().join(file);
    fs::copy(&source, target).with_context(|| format!("cannot copy {}", source.display()))?;
    Ok(())
}
