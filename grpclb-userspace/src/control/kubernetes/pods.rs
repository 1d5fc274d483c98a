//! Which pods of this node are steered, and for the others why not. Pure.
//!
//! docs/kubernetes.md has the reasons as a table; `tests` has a test for each of its rows.

use std::net::IpAddr;
use std::sync::Arc;

use super::annotations::{self, BadValue, ENABLED, PodSettings};
use super::names::Names;
use super::services::WAYPOINT;
use super::wire;
use super::wire::Resource;
use crate::model::{EnabledBy, NetnsRef, PodId, PodSpec};

/// On the mirror of a static pod: what the kubelet names its cgroup with.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// On the mirror of a static pod. Others have the hash too, in theory: it counts on a mirror only.
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// Containers that are a mesh's proxy, and which mesh.
const SIDECARS: [(&str, &str); 5] = [
    ("istio-proxy", "Istio"),
    ("linkerd-proxy", "Linkerd"),
    ("kuma-sidecar", "Kuma"),
    ("consul-dataplane", "Consul"),
    ("envoy-sidecar", "Consul"),
];
/// Istio's ambient mode: the label that asks for it, the value, and the annotation that says that it is so.
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const AMBIENT: &str = "ambient";
const REDIRECTION: &str = "ambient.istio.io/redirection";

/// Parts of runtime classes' names that mean a kernel of the pod's own.
const OWN_KERNELS: [&str; 4] = ["gvisor", "runsc", "kata", "firecracker"];

/// A pod of this node, with what is needed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) id: PodId,
    /// `namespace/name`.
    pub(super) name: Arc<str>,
    pub(super) namespace: Arc<str>,
    settings: PodSettings,
    /// What the kubelet calls its cgroup.
    sandbox: Arc<str>,
    finished: bool,
    host_network: bool,
    sidecar: Option<&'static str>,
    dataplane_mode: Option<Arc<str>>,
    redirected: bool,
    /// The runtime class, if it hides the pod's sockets from this kernel.
    own_kernel: Option<Arc<str>>,
    ports: Arc<[u16]>,
    addresses: Arc<[IpAddr]>,
}

/// A namespace, with what is needed of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Namespace {
    settings: PodSettings,
    dataplane_mode: Option<Arc<str>>,
    /// Its label [`WAYPOINT`].
    pub(super) waypoint: Option<Arc<str>>,
}

impl Namespace {
    pub(super) fn new(metadata: &wire::ObjectMeta, names: &mut Names, bad: &mut Vec<BadValue>) -> Self {
        Self {
            settings: annotations::pod(metadata, bad),
            dataplane_mode: metadata.label(DATAPLANE_MODE).map(|mode| names.get(mode)),
            waypoint: metadata.label(WAYPOINT).map(|waypoint| names.get(waypoint)),
        }
    }
}

impl Pod {
    pub(super) fn new(wire: &wire::Pod, names: &mut Names, bad: &mut Vec<BadValue>) -> Self {
        let metadata = wire.metadata();
        let (no_spec, no_status) = (wire::PodSpec::default(), wire::PodStatus::default());
        let spec = wire.spec.as_ref().unwrap_or(&no_spec);
        let status = wire.status.as_ref().unwrap_or(&no_status);
        let id: PodId = metadata.uid.as_str().into();
        let hash = metadata.annotation(CONFIG_HASH);
        let sandbox = match hash.filter(|_| metadata.annotation(CONFIG_MIRROR).is_some()) {
            Some(hash) => hash.into(),
            None => Arc::clone(&id),
        };
        let runtime = spec.runtime_class.to_ascii_lowercase();
        let own_kernel = OWN_KERNELS.iter().any(|kernel| runtime.contains(kernel));
        let containers = || spec.init_containers.iter().chain(&spec.containers);
        Self {
            id,
            name: format!("{}/{}", metadata.namespace, metadata.name).into(),
            namespace: names.get(&metadata.namespace),
            settings: annotations::pod(metadata, bad),
            sandbox,
            finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            host_network: spec.host_network,
            sidecar: containers().find_map(|container| sidecar(&container.name)),
            dataplane_mode: metadata.label(DATAPLANE_MODE).map(|mode| names.get(mode)),
            redirected: metadata.annotation(REDIRECTION) == Some("enabled"),
            own_kernel: own_kernel.then(|| names.get(&spec.runtime_class)),
            ports: tcp_ports(containers()),
            addresses: status.ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect(),
        }
    }

    /// How the pod is to be steered, or why it is not.
    ///
    /// `node` is the node's label: `false` stops steering there.
    pub(super) fn decide(&self, namespace: &Namespace, node: Option<bool>) -> Result<PodSpec, String> {
        let enabled_by = self.wanted(namespace, node)?;
        self.can_be_steered(namespace)?;
        let settings = (&self.settings, &namespace.settings);
        Ok(PodSpec {
            name: Arc::clone(&self.name),
            enabled_by,
            accelerate: settings.0.accelerate.or(settings.1.accelerate).unwrap_or(false),
            ports: Arc::clone(&self.ports),
            addresses: Arc::clone(&self.addresses),
            adopt: settings.0.adopt.clone().or_else(|| settings.1.adopt.clone()),
            ..PodSpec::new(Arc::clone(&self.id), NetnsRef::Sandbox(Arc::clone(&self.sandbox)))
        })
    }

    /// Which label asks for it.
    fn wanted(&self, namespace: &Namespace, node: Option<bool>) -> Result<EnabledBy, String> {
        if self.finished {
            return Err("it has ended".to_owned());
        }
        if node == Some(false) {
            return Err(format!("its node's label {ENABLED} is false"));
        }
        match (self.settings.enabled, namespace.settings.enabled) {
            (Some(true), _) => Ok(EnabledBy::OwnLabel),
            (None, Some(true)) => Ok(EnabledBy::NamespaceLabel),
            (Some(false), _) => Err(format!("its label {ENABLED} is false")),
            (None, Some(false)) => Err(format!(
                "its namespace's label {ENABLED} is false, and it has none of its own"
            )),
            (None, None) => Err(format!(
                "neither it nor its namespace {} has the label {ENABLED}=true",
                self.namespace
            )),
        }
    }

    /// Whether it is a pod whose connections can be steered, and whose nobody else steers.
    fn can_be_steered(&self, namespace: &Namespace) -> Result<(), String> {
        if self.host_network {
            return Err(
                "it uses the host's network: what would steer it would steer the whole node".to_owned(),
            );
        }
        if let Some(mesh) = self.sidecar {
            return Err(format!("a sidecar of {mesh} balances its calls"));
        }
        let mode = self.dataplane_mode.as_ref().or(namespace.dataplane_mode.as_ref());
        if self.redirected || mode.is_some_and(|mode| **mode == *AMBIENT) {
            return Err("Istio's ambient mesh carries its connections".to_owned());
        }
        if let Some(class) = &self.own_kernel {
            return Err(format!(
                "its runtime class {class} gives it a kernel of its own: its sockets are not seen here"
            ));
        }
        Ok(())
    }
}

fn sidecar(container: &str) -> Option<&'static str> {
    let found = SIDECARS.iter().find(|(name, _)| *name == container);
    found.map(|(_, mesh)| *mesh)
}

/// The TCP ports that its containers declare, each once.
fn tcp_ports<'a>(containers: impl Iterator<Item = &'a wire::Container>) -> Arc<[u16]> {
    let mut ports: Vec<u16> = containers
        .flat_map(|container| &container.ports)
        .filter(|port| matches!(port.protocol.as_str(), "TCP" | ""))
        .filter_map(|port| u16::try_from(port.port).ok().filter(|&number| number != 0))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports.into()
}

#[cfg(test)]
mod tests;
