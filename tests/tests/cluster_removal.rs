//! `cargo xtask cluster down` leaves nothing on the machine, whatever state the cluster was in.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use grpclb_tests::cluster::xtask;
use grpclb_tests::process::wait_until;

/// The cluster of these tests alone.
const NAME: &str = "gone";
const FOLDER: &str = "/var/lib/grpclb-cluster/gone";
/// In the names of all that it makes outside its folder.
const PREFIX: &str = "glb-gone";

fn cluster(arguments: &[&str]) -> Command {
    let mut command = xtask().expect("xtask is built");
    command.args(["cluster", "--name", NAME]).args(arguments);
    command
}

fn must(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What is on the machine of this cluster, by kind.
fn traces() -> BTreeMap<&'static str, Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let hierarchies = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        kind.starts_with("cgroup").then(|| place.to_owned())
    });
    let ours = |names: Vec<String>| -> Vec<String> {
        names
            .into_iter()
            .filter(|name| name.contains(PREFIX) || name.contains(FOLDER))
            .collect()
    };
    BTreeMap::from([
        ("processes", processes()),
        ("namespaces", ours(names_in("/run/netns"))),
        ("links", ours(names_in("/sys/class/net"))),
        (
            "cgroups",
            hierarchies.flat_map(|place| ours(names_in(&place))).collect(),
        ),
        ("mounts", ours(mounts.lines().map(str::to_owned).collect())),
        (
            "folder",
            ours(vec![FOLDER.to_owned()])
                .into_iter()
                .filter(|folder| Path::new(folder).exists())
                .collect(),
        ),
    ])
}

/// Processes in its cgroups or with its folder in their arguments.
fn processes() -> Vec<String> {
    let read = |path: String| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\0', " ");
    names_in("/proc")
        .into_iter()
        .filter(|name| name.parse::<u32>().is_ok())
        .map(|pid| {
            (
                read(format!("/proc/{pid}/cgroup")),
                read(format!("/proc/{pid}/cmdline")),
            )
        })
        .filter(|(cgroup, command)| cgroup.contains(PREFIX) || command.contains(FOLDER))
        .map(|(_, command)| command)
        .collect()
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// What a cluster could change of what belongs to nobody in particular.
fn machine() -> BTreeMap<String, String> {
    let run = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut seen = BTreeMap::new();
    for words in [
        &["nft", "list", "tables"][..],
        &["ip", "route"],
        &["ip", "-6", "rule"],
    ] {
        seen.insert(words.join(" "), run(words));
    }
    for folder in [
        "/sys/fs/bpf",
        "/var/log",
        "/etc/cni",
        "/opt",
        "/opt/cni",
        "/var/lib/kubelet",
        "/var/lib/cni",
    ] {
        let mut names = names_in(folder);
        names.sort();
        seen.insert(folder.to_owned(), names.join(" "));
    }
    for setting in [
        "vm/overcommit_memory",
        "vm/panic_on_oom",
        "kernel/panic",
        "kernel/panic_on_oops",
        "net/ipv4/ip_forward",
    ] {
        let value = fs::read_to_string(Path::new("/proc/sys").join(setting)).unwrap();
        seen.insert(setting.to_owned(), value);
    }
    seen
}

fn assert_nothing_is_left() {
    for (kind, left) in traces() {
        assert_eq!(left, Vec::<String>::new(), "{kind}");
    }
}

#[test]
fn down_leaves_nothing_of_a_cluster_whether_it_ran_or_its_start_was_killed() {
    must(cluster(&["down"]));
    assert_nothing_is_left();
    let before = machine();

    // One that runs, with a pod.
    must(cluster(&["up", "--nodes", "1"]));
    let there = traces();
    for kind in ["processes", "namespaces", "links", "cgroups", "folder"] {
        assert!(!there[kind].is_empty(), "a cluster that runs has {kind}");
    }
    assert!(
        there["processes"]
            .iter()
            .any(|command| command.contains("/coredns")),
        "{there:?}"
    );
    must(cluster(&["down"]));
    assert_nothing_is_left();
    assert_eq!(machine(), before);

    // One whose start ended half-way, as by a power cut.
    let mut start = cluster(&["up", "--nodes", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = wait_until(Duration::from_mins(1), || !traces()["processes"].is_empty());
    start.kill().unwrap();
    start.wait().unwrap();
    assert!(begun, "machines were started");
    must(cluster(&["down"]));
    assert_nothing_is_left();
    assert_eq!(machine(), before);
}
