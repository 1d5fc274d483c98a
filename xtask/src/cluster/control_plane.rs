//! etcd, the API server, the controller manager and the scheduler: their arguments.

use anyhow::Result;

use super::certificates::write_kubeconfig;
use super::machine::Component;
use super::programs::Programs;
use super::state::{API_PORT, Cluster, Machine};

const ETCD: &str = "http://127.0.0.1:2379";

/// Writes what they read, and says how they are started.
pub(super) fn components(cluster: &Cluster, programs: &Programs) -> Result<Vec<Component>> {
    for name in ["kube-controller-manager", "kube-scheduler"] {
        write_kubeconfig(cluster, name, &files(cluster).join(format!("{name}.kubeconfig")))?;
    }
    for entry in std::fs::read_dir(cluster.certificates())? {
        let entry = entry?;
        std::fs::copy(entry.path(), files(cluster).join(entry.file_name()))?;
    }
    let kubernetes = |name: &'static str, arguments: Vec<String>| Component {
        name,
        command: std::iter::once(programs.kubernetes(name).display().to_string())
            .chain(arguments)
            .collect(),
    };
    Ok(vec![
        etcd(programs),
        kubernetes("kube-apiserver", api_server(cluster)),
        kubernetes("kube-controller-manager", controller_manager(cluster)),
        kubernetes("kube-scheduler", scheduler()),
    ])
}

/// Where the control plane's files are for us; for itself they are in [`INSIDE`].
fn files(cluster: &Cluster) -> std::path::PathBuf {
    cluster
        .machine_folder(Machine::Control)
        .join("var/lib/kubernetes")
}

const INSIDE: &str = "/var/lib/kubernetes";

fn etcd(programs: &Programs) -> Component {
    let arguments = [
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--log-level=warn",
        "--quota-backend-bytes=4294967296",
        // As kubeadm has it: how fresh the API server's own copy is.
        "--watch-progress-notify-interval=5s",
        // Nothing in here is to outlive the machine's power.
        "--unsafe-no-fsync",
    ];
    Component {
        name: "etcd",
        command: std::iter::once(programs.etcd().display().to_string())
            .chain(arguments.map(str::to_owned))
            .collect(),
    }
}

fn api_server(cluster: &Cluster) -> Vec<String> {
    vec![
        format!("--advertise-address={}", cluster.addresses(Machine::Control)[0]),
        format!("--secure-port={API_PORT}"),
        format!("--etcd-servers={ETCD}"),
        format!("--service-cluster-ip-range={}", cluster.service_ranges()),
        "--allow-privileged=true".to_owned(),
        "--anonymous-auth=false".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--client-ca-file={INSIDE}/ca.crt"),
        format!("--tls-cert-file={INSIDE}/kube-apiserver.crt"),
        format!("--tls-private-key-file={INSIDE}/kube-apiserver.key"),
        // To the kubelets: logs, exec, port-forward.
        format!("--kubelet-certificate-authority={INSIDE}/ca.crt"),
        format!("--kubelet-client-certificate={INSIDE}/kube-apiserver-kubelet-client.crt"),
        format!("--kubelet-client-key={INSIDE}/kube-apiserver-kubelet-client.key"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // To aggregated APIs, by their pods' addresses: there is no kube-proxy here.
        "--enable-aggregator-routing=true".to_owned(),
        format!("--requestheader-client-ca-file={INSIDE}/front-proxy-ca.crt"),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        format!("--proxy-client-cert-file={INSIDE}/front-proxy-client.crt"),
        format!("--proxy-client-key-file={INSIDE}/front-proxy-client.key"),
        // The tokens of service accounts.
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={INSIDE}/service-accounts.pub"),
        format!("--service-account-signing-key-file={INSIDE}/service-accounts.key"),
    ]
}

fn controller_manager(cluster: &Cluster) -> Vec<String> {
    let kubeconfig = format!("{INSIDE}/kube-controller-manager.kubeconfig");
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        format!("--service-cluster-ip-range={}", cluster.service_ranges()),
        format!("--cluster-cidr={}", cluster.pod_ranges()),
        // Each node has its range by its number; see node.rs.
        "--allocate-node-cidrs=false".to_owned(),
        format!("--root-ca-file={INSIDE}/ca.crt"),
        format!("--cluster-signing-cert-file={INSIDE}/ca.crt"),
        format!("--cluster-signing-key-file={INSIDE}/ca.key"),
        format!("--service-account-private-key-file={INSIDE}/service-accounts.key"),
        "--use-service-account-credentials=true".to_owned(),
        "--leader-elect=false".to_owned(),
    ]
}

fn scheduler() -> Vec<String> {
    let kubeconfig = format!("{INSIDE}/kube-scheduler.kubeconfig");
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
    ]
}
