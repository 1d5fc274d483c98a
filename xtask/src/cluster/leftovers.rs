//! Removes a cluster, whole or half made: everything is found by its name, and what is missing is not missed.

use std::fs;

use anyhow::{Context, Result, bail};

use super::state::{Cluster, folder_of};
use super::{cgroups, machine, network};

/// Ends and removes everything of the cluster of that name, and fails if anything is left.
pub(super) fn remove(name: &str) -> Result<()> {
    let folder = folder_of(name);
    let cluster = Cluster::find(name);
    // First of all: with a machine's first process go all its processes, mounts and pins.
    machine::kill_all(&folder)?;
    network::remove(name)?;
    cgroups::remove(name)?;
    if let Some(cluster) = cluster.filter(Cluster::is_of_this_boot) {
        cgroups::restore_settings(&cluster.settings)?;
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let left = found(name)?;
    if !left.is_empty() {
        bail!("left over: {}", left.join(", "));
    }
    Ok(())
}

/// What is there of the cluster of that name, for people.
pub(super) fn found(name: &str) -> Result<Vec<String>> {
    let folder = folder_of(name);
    let mut found: Vec<String> = network::namespaces(name)
        .into_iter()
        .map(|netns| format!("network namespace {netns}"))
        .collect();
    for cgroup in cgroups::present(name)? {
        found.push(format!("cgroup {}", cgroup.display()));
    }
    if machine::any_runs(&folder) {
        found.push("processes".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let prefix = format!("{}/", folder.display());
    found.extend(
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|place| place.starts_with(&prefix))
            .map(|place| format!("mount {place}")),
    );
    if folder.exists() {
        found.push(format!("folder {}", folder.display()));
    }
    Ok(found)
}
