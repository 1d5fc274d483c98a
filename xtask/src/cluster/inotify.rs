//! Whether root may have as many inotify instances as a cluster is about to ask for. Where they run out, kubelets and agents
//! end soon after their start, with "too many open files", which nobody takes for a setting of the kernel.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::state::Cluster;

/// How many one user may have, in all processes together; 128 where nobody has set it.
const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";
/// Seen: 6 in the API server and 5 in the controller manager.
const OF_CONTROL: usize = 12;
/// Seen: 6 in a kubelet, one each in kube-proxy and containerd, 2 in an agent (twice that in an upgrade); the rest is for
/// pods, of which containerd watches each where there is cgroup v2 alone.
const OF_A_NODE: usize = 24;

/// An error with the setting and the value that it needs, unless `cluster` can have what it will ask for.
pub(super) fn check(cluster: &Cluster) -> Result<()> {
    let limit = fs::read_to_string(LIMIT).with_context(|| format!("cannot read {LIMIT}"))?;
    let limit = limit
        .trim()
        .parse()
        .with_context(|| format!("{LIMIT}: {limit}"))?;
    compare(limit, in_use(), needed(cluster.nodes), cluster.nodes)
}

fn needed(nodes: u8) -> usize {
    OF_CONTROL + OF_A_NODE * usize::from(nodes)
}

fn compare(limit: usize, in_use: usize, needed: usize, nodes: u8) -> Result<()> {
    let sum = in_use + needed;
    ensure!(
        sum <= limit,
        "fs.inotify.max_user_instances is {limit}: root has {in_use} inotify instances already, and a cluster of {nodes} \
         node{s} takes up to {needed} more; do: sysctl -w fs.inotify.max_user_instances={wanted}",
        s = if nodes == 1 { "" } else { "s" },
        // With room for the next cluster.
        wanted = sum.next_power_of_two().max(512),
    );
    Ok(())
}

/// How many the processes of root hold.
fn in_use() -> usize {
    entries(Path::new("/proc"))
        .filter(|process| fs::metadata(process).is_ok_and(|metadata| metadata.uid() == 0))
        .map(|process| held_by(&process))
        .sum()
}

/// How many a process holds, which is named by its folder in `/proc`; none if it has ended.
fn held_by(process: &Path) -> usize {
    entries(&process.join("fd"))
        .filter(|descriptor| {
            fs::read_link(descriptor).is_ok_and(|target| target.as_os_str() == "anon_inode:inotify")
        })
        .count()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::super::wait;
    use super::*;

    #[test]
    fn the_default_of_debian_is_enough_for_one_cluster_of_two_nodes_and_not_for_two() {
        assert!(compare(128, 20, needed(2), 2).is_ok());
        let refused = compare(128, 80, needed(2), 2).unwrap_err().to_string();
        assert_eq!(
            refused,
            "fs.inotify.max_user_instances is 128: root has 80 inotify instances already, and a cluster of 2 nodes takes up \
             to 60 more; do: sysctl -w fs.inotify.max_user_instances=512"
        );
    }

    #[test]
    fn the_value_to_set_is_enough_for_what_is_asked() {
        let refused = compare(512, 500, needed(9), 9).unwrap_err().to_string();
        assert!(
            refused.ends_with("fs.inotify.max_user_instances=1024"),
            "{refused}"
        );
    }

    #[test]
    fn what_a_process_holds_is_counted() {
        let mut follower = Command::new("tail")
            .args(["--follow", "Cargo.toml"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Path::new("/proc").join(follower.id().to_string());
        let counted = wait::until(
            "tail holds one",
            Duration::from_secs(10),
            Duration::from_millis(10),
            || Ok(held_by(&process) == 1),
        );
        follower.kill().unwrap();
        follower.wait().unwrap();
        counted.unwrap();
        assert_eq!(held_by(&process), 0, "it has ended");
    }
}
