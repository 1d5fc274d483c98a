//! What a cluster is on this machine: its name, its machines, their addresses, and the folder that remembers it.
//!
//! Nothing is done here but reading and writing that folder. Everything that a cluster makes carries its prefix, so that
//! what a crash left can be found without the folder too.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// All clusters' folders.
const CLUSTERS: &str = "/var/lib/grpclb-cluster";

/// The Service ranges, the same in each cluster: they never leave its namespaces.
const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// The pod ranges of all nodes together.
const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
/// The first address of each Service range is the API's own.
pub(super) const API_SERVICE: [&str; 2] = ["10.96.0.1", "fd00:10:96::1"];
const DNS_SERVICE: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
pub(super) const API_PORT: u16 = 6443;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cluster {
    pub(super) name: String,
    /// Sets the clusters of one machine apart where the host sees them: 198.18.NUMBER.0/24.
    pub(super) number: u8,
    pub(super) nodes: u8,
    #[serde(default)]
    pub(super) families: Families,
    /// Of Kubernetes.
    pub(super) version: String,
    /// Whether all of it was made; else `up` begins anew.
    pub(super) complete: bool,
    /// The boot in which it runs; after another one only its folder is left.
    boot: String,
    /// Kernel settings that kubelets change for the whole machine, as they were before.
    pub(super) settings: BTreeMap<String, String>,
}

/// Which addresses nodes, pods and Services have. The machines themselves have both: the host reaches them by IPv4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub(super) enum Families {
    #[default]
    Dual,
    Ipv4,
    Ipv6,
}

impl fmt::Display for Families {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Families::Dual => "both families",
            Families::Ipv4 => "IPv4",
            Families::Ipv6 => "IPv6",
        })
    }
}

impl Families {
    /// Of one of each family, those that are wanted; never none.
    pub(super) fn of<T>(self, [ipv4, ipv6]: [T; 2]) -> Vec<T> {
        match self {
            Families::Dual => vec![ipv4, ipv6],
            Families::Ipv4 => vec![ipv4],
            Families::Ipv6 => vec![ipv6],
        }
    }

    /// The first of them is the one that a cluster prefers.
    pub(super) fn first_of<T>(self, both: [T; 2]) -> T {
        self.of(both).swap_remove(0)
    }
}

/// A machine of the cluster: the control plane's, or a node. Each has namespaces of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    Control,
    /// From 1.
    Node(u8),
}

impl Cluster {
    /// A cluster that is not there yet, with a free number.
    pub(super) fn new(name: &str, nodes: u8, families: Families, version: &str) -> Result<Self> {
        let taken: Vec<u8> = Self::all().iter().map(|cluster| cluster.number).collect();
        let number = (1..=250)
            .find(|number| !taken.contains(number))
            .context("250 clusters are enough")?;
        Ok(Self {
            name: name.to_owned(),
            number,
            nodes,
            families,
            version: version.to_owned(),
            complete: false,
            boot: current_boot()?,
            settings: BTreeMap::new(),
        })
    }

    /// The cluster of that name, if its folder is there and readable.
    pub(super) fn find(name: &str) -> Option<Self> {
        let text = fs::read_to_string(folder_of(name).join("cluster.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn all() -> Vec<Self> {
        let Ok(folders) = fs::read_dir(CLUSTERS) else {
            return Vec::new();
        };
        folders
            .filter_map(|folder| Self::find(folder.ok()?.file_name().to_str()?))
            .collect()
    }

    pub(super) fn save(&self) -> Result<()> {
        for folder in [self.folder(), self.certificates()] {
            fs::create_dir_all(folder)?;
        }
        // Keys are in there.
        fs::set_permissions(self.certificates(), fs::Permissions::from_mode(0o700))?;
        fs::write(
            self.folder().join("cluster.json"),
            serde_json::to_string_pretty(self)?,
        )?;
        Ok(())
    }

    /// Whether it was made since the machine started.
    pub(super) fn is_of_this_boot(&self) -> bool {
        current_boot().is_ok_and(|boot| boot == self.boot)
    }

    pub(super) fn folder(&self) -> PathBuf {
        folder_of(&self.name)
    }

    pub(super) fn certificates(&self) -> PathBuf {
        self.folder().join("certificates")
    }

    /// The administrator's.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    /// kubectl of the cluster's version.
    pub(super) fn kubectl(&self) -> PathBuf {
        self.folder().join("kubectl")
    }

    /// The control plane first, then the nodes.
    pub(super) fn machines(&self) -> Vec<Machine> {
        std::iter::once(Machine::Control)
            .chain(self.node_machines())
            .collect()
    }

    pub(super) fn node_machines(&self) -> impl Iterator<Item = Machine> + use<> {
        (1..=self.nodes).map(Machine::Node)
    }

    /// The machine of that name.
    pub(super) fn machine(&self, name: &str) -> Result<Machine> {
        let machines = self.machines();
        let found = machines.iter().find(|machine| machine.name() == name);
        found.copied().with_context(|| {
            let names: Vec<String> = machines.iter().map(|machine| machine.name()).collect();
            format!("no machine is called {name}; there are {}", names.join(", "))
        })
    }

    /// What the machine sees as its own disk, in part: see [`super::machine`].
    pub(super) fn machine_folder(&self, machine: Machine) -> PathBuf {
        self.folder().join(machine.name())
    }

    /// The name of the machine's network namespace.
    pub(super) fn netns(&self, machine: Machine) -> String {
        format!("{}{}", netns_prefix(&self.name), machine.name())
    }

    /// The nodes' cgroup, in every hierarchy; it holds all their pods.
    pub(super) fn cgroup(&self, machine: Machine) -> String {
        format!("{}{}", cgroup_prefix(&self.name), machine.name())
    }

    /// The host's end of the link into the cluster.
    pub(super) fn host_link(&self) -> String {
        format!("glb-{}", self.name)
    }

    pub(super) fn host_address(&self) -> String {
        format!("198.18.{}.1", self.number)
    }

    pub(super) fn ipv4(&self, machine: Machine) -> String {
        format!("198.18.{}.{}", self.number, machine.last_octet())
    }

    pub(super) fn ipv6(&self, machine: Machine) -> String {
        format!("fd00:198:18:{}::{}", self.number, machine.last_octet())
    }

    /// The addresses by which Kubernetes knows the machine.
    pub(super) fn addresses(&self, machine: Machine) -> Vec<String> {
        self.families.of([self.ipv4(machine), self.ipv6(machine)])
    }

    pub(super) fn service_ranges(&self) -> String {
        self.families.of(SERVICES).join(",")
    }

    pub(super) fn pod_ranges(&self) -> String {
        self.families.of(PODS).join(",")
    }

    pub(super) fn dns_service(&self) -> &'static str {
        self.families.first_of(DNS_SERVICE)
    }

    pub(super) fn api(&self) -> String {
        format!("https://{}:{API_PORT}", self.ipv4(Machine::Control))
    }
}

impl Machine {
    pub(super) fn name(self) -> String {
        match self {
            Machine::Control => "control".to_owned(),
            Machine::Node(number) => format!("node{number}"),
        }
    }

    fn last_octet(self) -> u8 {
        match self {
            Machine::Control => 2,
            Machine::Node(number) => 10 + number,
        }
    }

    /// The addresses of a node's pods.
    pub(super) fn pods(self) -> [String; 2] {
        let number = match self {
            Machine::Control => 0,
            Machine::Node(number) => number,
        };
        [
            format!("10.244.{number}.0/24"),
            format!("fd00:10:244:{number}::/64"),
        ]
    }
}

pub(super) fn folder_of(name: &str) -> PathBuf {
    Path::new(CLUSTERS).join(name)
}

pub(super) fn netns_prefix(name: &str) -> String {
    format!("glb-{name}-")
}

pub(super) fn cgroup_prefix(name: &str) -> String {
    format!("glb-{name}-")
}

/// Names become parts of interface names, which have at most 15 characters.
pub(super) fn check_name(name: &str) -> Result<()> {
    let fits = (1..=8).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !fits {
        bail!("{name}: a cluster's name has one to eight lower-case letters or digits");
    }
    Ok(())
}

/// Held while a cluster is made or removed: two at a time would take the same number, or each other's halves.
pub(super) fn lock() -> Result<File> {
    fs::create_dir_all(CLUSTERS)?;
    let file = File::create(Path::new(CLUSTERS).join(".lock"))?;
    file.lock().context("cannot lock the clusters' folder")?;
    Ok(file)
}

/// Takes the folder of all clusters away when the last one is gone.
pub(super) fn remove_folder_of_all() {
    let _ = fs::remove_file(Path::new(CLUSTERS).join(".lock"));
    if fs::remove_dir(CLUSTERS).is_err() {
        // Another cluster is there, and wants its lock back.
        let _ = File::create(Path::new(CLUSTERS).join(".lock"));
    }
}

fn current_boot() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot tell this boot")?;
    Ok(id.trim().to_owned())
}
