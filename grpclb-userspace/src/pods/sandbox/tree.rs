//! The pods' cgroups: which directories they are, and which processes are in them. Reads the file system, changes nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::path;

/// How deep below a hierarchy's root the pods' cgroup is looked for: `/system.slice/docker-….scope/kubelet/kubepods`.
const DEPTH: usize = 4;
/// How deep below a pod's cgroup its processes may be: a container may divide its own cgroup.
const POD_DEPTH: usize = 6;
/// Hierarchies of cgroup v1 by what one may look for pods in, the first that has them.
const V1: [&str; 4] = ["memory", "pids", "cpu", "name=systemd"];

/// The cgroups that the kubelet keeps pods in: one, or one for each hierarchy and each kubelet of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    roots: Vec<PathBuf>,
}

impl Tree {
    /// Looks for them in every hierarchy that is mounted.
    pub(super) fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let (two, one) = hierarchies(&mounts);
        let below = |hierarchies: Vec<PathBuf>| {
            let found = hierarchies.into_iter().map(|hierarchy| roots_below(&hierarchy));
            found.collect::<Vec<_>>()
        };
        let mut roots: Vec<PathBuf> = below(two).into_iter().flatten().collect();
        // On a hybrid machine the kubelet makes a pod's cgroup in v1 first. One of these hierarchies is as good as all.
        let one = below(one).into_iter().find(|roots| !roots.is_empty());
        roots.extend(one.into_iter().flatten());
        roots.sort();
        roots.dedup();
        Self { roots }
    }

    #[cfg(test)]
    pub(super) fn of(hierarchy: &Path) -> Self {
        let roots = roots_below(hierarchy);
        Self { roots }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The directories in which pods' cgroups are made, those of the classes that exist included.
    pub(super) fn parents(&self) -> impl Iterator<Item = PathBuf> {
        self.roots.iter().flat_map(|root| {
            let classes = path::classes(name_of(root)).map(|class| root.join(class));
            std::iter::once(root.clone()).chain(classes.into_iter().filter(|class| class.is_dir()))
        })
    }

    /// The pod's own cgroups, as far as they exist.
    pub(super) fn pod(&self, uid: &str) -> Vec<PathBuf> {
        self.parents()
            .map(|parent| parent.join(path::pod(name_of(&parent), uid)))
            .filter(|pod| pod.is_dir())
            .collect()
    }
}

/// Whether a container's cgroup (or any other) is there below the pod's.
pub(super) fn has_containers(pod: &Path) -> bool {
    children(pod).next().is_some()
}

/// The processes of a cgroup and all below it. What vanishes meanwhile has none.
pub(super) fn processes(cgroup: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut level = vec![cgroup.to_path_buf()];
    for _ in 0..POD_DEPTH {
        for cgroup in &level {
            let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        level = level.iter().flat_map(|cgroup| children(cgroup)).collect();
        if level.is_empty() {
            break;
        }
    }
    found
}

/// Where the hierarchies are mounted, by a table as `/proc/self/mounts` has it: those of v2, and of v1 those in [`V1`]'s order.
fn hierarchies(mounts: &str) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut two, mut one) = (Vec::new(), Vec::new());
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(point), Some(kind), Some(options)) = (fields.nth(1), fields.next(), fields.next()) else {
            continue;
        };
        match kind {
            "cgroup2" => two.push(PathBuf::from(point)),
            "cgroup" => {
                let rank = V1
                    .iter()
                    .position(|wanted| options.split(',').any(|option| option == *wanted));
                one.extend(rank.map(|rank| (rank, PathBuf::from(point))));
            }
            _ => {}
        }
    }
    one.sort();
    // What is mounted twice at one place is seen once.
    two.dedup();
    (two, one.into_iter().map(|(_, point)| point).collect())
}

/// All pods' cgroups below a hierarchy's root: several where several kubelets share a machine.
fn roots_below(hierarchy: &Path) -> Vec<PathBuf> {
    let (mut found, mut level) = (Vec::new(), vec![hierarchy.to_path_buf()]);
    for _ in 0..DEPTH {
        let below = level.iter().flat_map(|cgroup| children(cgroup));
        let (roots, others): (Vec<_>, Vec<_>) = below.partition(|cgroup| path::is_root(name_of(cgroup)));
        found.extend(roots);
        level = others;
    }
    found
}

pub(super) fn children(cgroup: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten();
    entries
        .filter_map(io::Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

fn name_of(cgroup: &Path) -> &str {
    cgroup
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b5c9d7e-3b1f-4f6c-9a56-2f6f3f2c7a10";

    /// A directory that is removed at the end.
    struct Place(PathBuf);

    impl Place {
        fn with(name: &str, directories: &[&str]) -> Self {
            let root = std::env::temp_dir().join(format!("grpclb-tree-{}-{name}", std::process::id()));
            for directory in directories {
                fs::create_dir_all(root.join(directory)).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn hierarchies_are_found_on_plain_hybrid_and_old_machines_and_inside_of_containers() {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let plain = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(hierarchies(plain), (paths(&["/sys/fs/cgroup"]), vec![]));
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/blkio cgroup rw,blkio 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let expected = [
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/systemd",
        ];
        assert_eq!(
            hierarchies(hybrid),
            (paths(&["/sys/fs/cgroup/unified"]), paths(&expected))
        );
        let container = "cgroup /sys/fs/cgroup cgroup2 ro 0 0\ncgroup2 /sys/fs/cgroup cgroup2 ro 0 0\n\
                         cgroup2 /host/sys/fs/cgroup cgroup2 ro 0 0\n";
        assert_eq!(
            hierarchies(container).0,
            paths(&["/sys/fs/cgroup", "/host/sys/fs/cgroup"])
        );
    }

    #[test]
    fn pods_are_found_under_each_driver_each_class_and_nested_roots() {
        let underscored = UID.replace('-', "_");
        for (name, pod) in [
            ("plain", format!("kubepods/besteffort/pod{UID}")),
            ("guaranteed", format!("kubepods/pod{UID}")),
            ("kind", format!("kubelet/kubepods/burstable/pod{UID}")),
            (
                "docker",
                format!("system.slice/docker-1.scope/kubelet/kubepods/pod{UID}"),
            ),
            (
                "systemd",
                format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice"),
            ),
            (
                "nested",
                format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{underscored}.slice"),
            ),
        ] {
            let place = Place::with(name, &[&pod, "kubepods/burstable", "system.slice/sshd.service"]);
            let tree = Tree::of(&place.0);
            assert_eq!(tree.pod(UID), [place.0.join(pod)], "{name}");
            assert!(tree.pod("00000000-0000-0000-0000-000000000000").is_empty());
        }
    }

    #[test]
    fn two_kubelets_on_one_machine_are_both_looked_at() {
        let (one, two) = (format!("node1/kubepods/pod{UID}"), "node2/kubepods/besteffort");
        let place = Place::with("two", &[&one, two]);
        let tree = Tree::of(&place.0);
        assert_eq!(tree.parents().count(), 3);
        assert_eq!(tree.pod(UID).len(), 1);
    }

    #[test]
    fn processes_of_a_cgroup_are_those_of_its_containers_too() {
        let place = Place::with("processes", &["pod/a", "pod/b/init.scope"]);
        for (cgroup, text) in [("pod", ""), ("pod/a", "1\n2\n"), ("pod/b/init.scope", "3\n")] {
            fs::write(place.0.join(cgroup).join("cgroup.procs"), text).unwrap();
        }
        let mut found = processes(&place.0.join("pod"));
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3]);
        assert!(has_containers(&place.0.join("pod")));
        assert!(!has_containers(&place.0.join("pod/a")));
    }
}
