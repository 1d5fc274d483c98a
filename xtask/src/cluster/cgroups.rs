//! The nodes' cgroups, one in each hierarchy of this machine (v1, v2 or both): a node sees its own as the root. And the
//! kernel settings that a kubelet changes for the whole machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::state::{Cluster, Machine, cgroup_prefix};
use super::wait;

/// A kubelet insists on these, and sets them.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// One mounted tree of cgroups: all of v2, or some controllers of v1.
struct Hierarchy {
    place: PathBuf,
    /// As mount(8) takes it: `cgroup` or `cgroup2`.
    kind: String,
    /// What tells this tree of v1 from the others: controllers, or `name=…`.
    distinction: Vec<String>,
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let is_distinction = |option: &str| {
        let mut names = controllers.lines().filter_map(|line| line.split('\t').next());
        option.starts_with("name=") || names.any(|name| name == option)
    };
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| Hierarchy {
                place: place.into(),
                kind: kind.to_owned(),
                distinction: options
                    .split(',')
                    .filter(|option| is_distinction(option))
                    .map(str::to_owned)
                    .collect(),
            })
        })
        .collect())
}

pub(super) fn make(cluster: &Cluster) -> Result<()> {
    for hierarchy in hierarchies()? {
        enable_controllers(&hierarchy.place);
        for node in cluster.node_machines() {
            let folder = hierarchy.place.join(cluster.cgroup(node));
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            if hierarchy.distinction.iter().any(|name| name == "cpuset") {
                // Nothing may come into one that does not say which.
                for key in ["cpuset.cpus", "cpuset.mems"] {
                    fs::copy(hierarchy.place.join(key), folder.join(key))?;
                }
            }
        }
    }
    Ok(())
}

/// Shell commands by which a process joins the node's cgroups, to be the root of what it sees.
pub(super) fn joining(cluster: &Cluster, node: Machine) -> Result<String> {
    let cgroup = cluster.cgroup(node);
    Ok(hierarchies()?
        .iter()
        .map(|hierarchy| format!("echo 0 >{}/{cgroup}/cgroup.procs && ", hierarchy.place.display()))
        .collect::<Vec<_>>()
        .concat())
}

/// Shell commands by which a process in a cgroup namespace of its own sees only what is below that, at the usual places.
pub(super) fn mounting() -> Result<String> {
    let mut commands = String::new();
    for Hierarchy {
        place,
        kind,
        distinction,
    } in hierarchies()?
    {
        let place = place.display();
        let options = match distinction.as_slice() {
            [] => String::new(),
            [name] if name.starts_with("name=") => format!("-o none,{name}"),
            controllers => format!("-o {}", controllers.join(",")),
        };
        let _ = writeln!(
            commands,
            "umount --lazy {place} && mount -t {kind} {options} cgroup {place}"
        );
        if kind == "cgroup2" {
            // In v2 a cgroup that has children with controllers can hold no process.
            let _ = writeln!(
                commands,
                "mkdir {place}/machine && echo 0 >{place}/machine/cgroup.procs"
            );
        }
    }
    Ok(commands)
}

/// In v2 a kubelet asks for all controllers, and a cgroup has only those that its parent lets it have. Where v1 has the
/// controllers, nothing is to be done.
fn enable_controllers(hierarchy: &Path) {
    let controllers = fs::read_to_string(hierarchy.join("cgroup.controllers")).unwrap_or_default();
    let controllers: Vec<&str> = controllers.split_whitespace().collect();
    if !controllers.contains(&"memory") {
        return;
    }
    for controller in controllers {
        // What cannot be had the kubelet names better than we could.
        let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// The cgroups of the cluster of that name that are there.
pub(super) fn present(name: &str) -> Result<Vec<PathBuf>> {
    let prefix = cgroup_prefix(name);
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        for entry in fs::read_dir(hierarchy.place)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Removes the cgroups of the cluster of that name; their processes have ended, but the kernel may still be counting.
pub(super) fn remove(name: &str) -> Result<()> {
    let nothing_left = || {
        let left = present(name)?;
        for cgroup in &left {
            remove_tree(cgroup);
        }
        Ok(left.is_empty())
    };
    let (patience, interval) = (Duration::from_secs(10), Duration::from_millis(20));
    wait::until("the cgroups are removed", patience, interval, nothing_left)
        .with_context(|| format!("something runs in {:?}", present(name).unwrap_or_default()))
}

/// The folders only: a cgroup's files go with it.
fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // Busy until its last process is gone: tried again by `remove`.
    let _ = fs::remove_dir(folder);
}

/// The settings as they are now, for [`restore_settings`].
pub(super) fn settings() -> BTreeMap<String, String> {
    SETTINGS
        .into_iter()
        .filter_map(|key| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(key)).ok()?;
            Some((key.to_owned(), value.trim().to_owned()))
        })
        .collect()
}

pub(super) fn restore_settings(settings: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in settings {
        let path = Path::new("/proc/sys").join(key);
        if fs::read_to_string(&path)?.trim() != value {
            fs::write(&path, value).with_context(|| format!("cannot set {}", path.display()))?;
        }
    }
    Ok(())
}
