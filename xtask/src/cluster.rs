//! `cargo xtask cluster`: a real Kubernetes on this machine, without Docker and without a registry.
//!
//! etcd, the API server, the controller manager and the scheduler run on a machine `control`; containerd, kubelet and
//! kube-proxy on `node1`, `node2` and so on. A machine is a set of namespaces ([`machine`]) on a wire of its own
//! ([`network`]), and nothing that is in there reaches beyond this host. Clusters have names; two can run side by side.

mod certificates;
mod cgroups;
mod command;
mod control_plane;
mod images;
mod inotify;
mod kubectl;
mod leftovers;
mod machine;
mod network;
mod node;
mod programs;
mod state;
pub(crate) mod trial;
mod wait;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use crate::progress::step;
use crate::setup::{self, Need};
use programs::{Programs, Release};
use state::{Cluster, Families, Machine};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which cluster of this machine
    #[arg(long, default_value = "k8s", global = true)]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a cluster, or go on with the one that runs, and wait until it is ready
    Up(UpOptions),
    /// End the cluster and remove all that it made, also after a crash
    Down,
    /// Say what runs, and whether the nodes are ready
    Status,
    /// Load an image archive (docker's or OCI's) into all nodes
    Load {
        /// As `cargo xtask image` or `docker save` writes it
        archive: PathBuf,
    },
    /// Print where the administrator's kubeconfig is
    Kubeconfig,
    /// Run a command in a machine's namespaces, for example `exec node1 -- nft list ruleset`
    Exec {
        /// `control`, `node1` and so on
        machine: String,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// End one component of a machine, which stays down (for tests of its absence)
    Stop { machine: String, component: String },
    /// Start a component again that was stopped; returns when it runs, and of the API server when it answers
    Start { machine: String, component: String },
}

#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    /// How many nodes; those of the cluster that runs, or 2
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: Option<u8>,
    /// Which addresses pods and Services have; those of the cluster that runs, or both
    #[arg(long, value_enum)]
    families: Option<Families>,
    /// The oldest Kubernetes that its makers still support, instead of the one that is developed against
    #[arg(long)]
    oldest: bool,
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let name = &options.name;
    state::check_name(name)?;
    match &options.action {
        Action::Up(up_options) => {
            let cluster = up(name, up_options)?;
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
            Ok(())
        }
        Action::Down => down(name),
        Action::Status => status(&existing(name)?),
        Action::Load { archive } => load(&existing(name)?, archive),
        Action::Kubeconfig => {
            println!("{}", existing(name)?.kubeconfig().display());
            Ok(())
        }
        Action::Exec { machine, command } => exec(&existing(name)?, machine, command),
        Action::Stop { machine, component } => {
            let cluster = existing(name)?;
            machine::stop_component(&cluster, cluster.machine(machine)?, component)
        }
        Action::Start { machine, component } => {
            let cluster = existing(name)?;
            machine::start_component(&cluster, cluster.machine(machine)?, component)?;
            if component == "kube-apiserver" {
                // A process that runs is not yet a server that answers, and it is the answer that whoever asks for it wants.
                kubectl::Kubectl::new(&cluster).wait_for_api()?;
            }
            Ok(())
        }
    }
}

fn existing(name: &str) -> Result<Cluster> {
    setup::ensure(&[Need::Root], true)?;
    Cluster::find(name).with_context(|| format!("there is no cluster {name} (cargo xtask cluster up)"))
}

/// Makes the cluster of that name, unless it runs already, and waits until pods can be started.
fn up(name: &str, options: &UpOptions) -> Result<Cluster> {
    setup::ensure(&[Need::Root, Need::Namespaces, Need::Cluster], options.no_install)?;
    let _lock = state::lock()?;
    eprintln!("cluster {name}");
    let release = if options.oldest {
        Release::Oldest
    } else {
        Release::Current
    };
    let programs = Programs::build(release)?;
    let started = Instant::now();
    let cluster = if let Some(cluster) = Cluster::find(name).filter(runs) {
        check_that_it_is(&cluster, options, release)?;
        cluster
    } else {
        // Before the new one takes a number: its own is free then.
        leftovers::remove(name)?;
        let families = options.families.unwrap_or_default();
        let cluster = Cluster::new(name, options.nodes.unwrap_or(2), families, release.version());
        make(cluster?, &programs)?
    };
    wait_until_ready(&cluster)?;
    eprintln!(
        "  ready after {:.1} s; kubectl is {}",
        started.elapsed().as_secs_f64(),
        cluster.kubectl().display()
    );
    Ok(cluster)
}

/// Whether the cluster that runs is the one that is asked for.
fn check_that_it_is(cluster: &Cluster, options: &UpOptions, release: Release) -> Result<()> {
    let Cluster {
        name,
        nodes,
        families,
        version,
        ..
    } = cluster;
    let same = options.nodes.is_none_or(|wanted| wanted == *nodes)
        && options.families.is_none_or(|wanted| wanted == *families)
        && release.version() == version;
    ensure!(
        same,
        "cluster {name} runs with {nodes} nodes, addresses of {families}, and Kubernetes {version}; \
         end it first (cargo xtask cluster down)"
    );
    Ok(())
}

fn runs(cluster: &Cluster) -> bool {
    cluster.complete
        && cluster.is_of_this_boot()
        && cluster
            .machines()
            .into_iter()
            .all(|machine| machine::first_process_of(cluster, machine).is_some())
}

fn make(mut cluster: Cluster, programs: &Programs) -> Result<Cluster> {
    inotify::check(&cluster)?;
    cluster.settings = cgroups::settings();
    // Saved before anything is made, so that `down` knows of it whatever happens next.
    cluster.save()?;
    std::os::unix::fs::symlink(programs.kubernetes("kubectl"), cluster.kubectl())?;
    step("certificates", || {
        certificates::make(&cluster)?;
        certificates::write_kubeconfig(&cluster, "admin", &cluster.kubeconfig())?;
        give_to_caller(&cluster.kubeconfig())
    })?;
    step("networks", || network::make(&cluster))?;
    step("machines", || start_machines(&cluster, programs))?;
    step("images", || {
        cluster
            .node_machines()
            .try_for_each(|node| images::load_own(&cluster, node, programs))
    })?;
    cluster.complete = true;
    cluster.save()?;
    Ok(cluster)
}

/// The administrator's kubeconfig belongs to the one who ran sudo.
fn give_to_caller(kubeconfig: &Path) -> Result<()> {
    fs::set_permissions(kubeconfig, fs::Permissions::from_mode(0o600))?;
    let id = |key: &str| std::env::var(key).ok()?.parse().ok();
    if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
        chown(kubeconfig, Some(user), Some(group))?;
    }
    Ok(())
}

fn start_machines(cluster: &Cluster, programs: &Programs) -> Result<()> {
    cgroups::make(cluster)?;
    machine::start(
        cluster,
        Machine::Control,
        &control_plane::components(cluster, programs)?,
    )?;
    for node in cluster.node_machines() {
        machine::start(cluster, node, &node::components(cluster, node, programs)?)?;
    }
    Ok(())
}

fn wait_until_ready(cluster: &Cluster) -> Result<()> {
    let kubectl = kubectl::Kubectl::new(cluster);
    step("the API server", || kubectl.wait_for_api())?;
    step("cluster services", || kubectl.apply(&cluster_services(cluster)?))?;
    step("nodes", || kubectl.wait_for_nodes(cluster.nodes))?;
    step("CoreDNS", || kubectl.wait_for_dns())
}

/// Writes the manifests of what every cluster needs, with the address of this one's DNS.
fn cluster_services(cluster: &Cluster) -> Result<PathBuf> {
    let manifests = fs::read_to_string(programs::source("manifests/cluster.yaml"))?;
    let own = cluster.folder().join("services.yaml");
    fs::write(&own, manifests.replace("DNS-ADDRESS", cluster.dns_service()))?;
    Ok(own)
}

fn down(name: &str) -> Result<()> {
    setup::ensure(&[Need::Root], true)?;
    let _lock = state::lock()?;
    step(&format!("cluster {name} removed"), || leftovers::remove(name))?;
    state::remove_folder_of_all();
    Ok(())
}

fn load(cluster: &Cluster, archive: &Path) -> Result<()> {
    for node in cluster.node_machines() {
        images::load(cluster, node, archive)?;
        println!("{} has {}", node.name(), archive.display());
    }
    Ok(())
}

fn exec(cluster: &Cluster, machine: &str, command: &[String]) -> Result<()> {
    let status = machine::inside(cluster, cluster.machine(machine)?)?
        .args(command)
        .status()?;
    std::process::exit(status.code().unwrap_or(1));
}

fn status(cluster: &Cluster) -> Result<()> {
    for machine in cluster.machines() {
        let state = match machine::first_process_of(cluster, machine) {
            Some(_) => machine::running_components(cluster, machine).join(", "),
            None => "does not run".to_owned(),
        };
        println!("{:<8} {:<12} {state}", machine.name(), cluster.ipv4(machine));
    }
    let kubectl = kubectl::Kubectl::new(cluster);
    print!("\n{}", kubectl.run(&["get", "nodes", "--output=wide"])?);
    let unready = kubectl.unready_nodes()?;
    if !unready.is_empty() {
        bail!("not ready: {}", unready.join(", "));
    }
    Ok(())
}
