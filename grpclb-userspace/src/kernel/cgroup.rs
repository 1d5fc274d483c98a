//! Where the cgroups are: the v2 hierarchy, the pods' cgroup in it, our own. Reads the file system, changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// How deep below the root a pods' cgroup is looked for (kind nests it: `/kubelet.slice/kubelet-kubepods.slice`).
const DEPTH: usize = 4;

/// The cgroup to attach to: the given one, else the pods' where there is one, else the root of the v2 hierarchy.
pub(super) fn target(given: Option<&Path>) -> Result<PathBuf> {
    let root = root()?;
    match given {
        Some(path) => canonical(path),
        None => Ok(pods(&root).unwrap_or(root)),
    }
}

/// Tells a cgroup from another one that has its path later. None while there is none.
pub(super) fn identity(cgroup: &Path) -> Option<u64> {
    fs::metadata(cgroup).ok().map(|metadata| metadata.ino())
}

/// Where the v2 hierarchy is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid machines.
pub(super) fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    root_in(&mounts).map(PathBuf::from).ok_or(Error::NoCgroup2)
}

/// The mount point of type cgroup2 in a table as `/proc/self/mounts` has it. Of several the shortest: containers may see
/// further ones below it.
fn root_in(mounts: &str) -> Option<&str> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let mut points: Vec<&str> = fields
        .by_ref()
        .filter_map(|mut line| Some((line.nth(1)?, line.next()?)))
        .filter(|(_, kind)| *kind == "cgroup2")
        .map(|(point, _)| point)
        .collect();
    points.sort_by_key(|point| point.len());
    points.first().copied()
}

/// The cgroup that the kubelet makes for pods, with either driver: the one that this process is in, if it is a pod's; else
/// the nearest to the root. Where several kubelets share a machine, that is the own one's.
pub(super) fn pods(root: &Path) -> Option<PathBuf> {
    let own = own(root);
    pods_around(own.as_deref()).or_else(|| nearest(root))
}

/// Of nested ones the innermost: its pods are the neighbours.
fn pods_around(own: Option<&Path>) -> Option<PathBuf> {
    own?.ancestors()
        .find(|cgroup| is_pods_cgroup(cgroup))
        .map(Path::to_path_buf)
}

fn nearest(root: &Path) -> Option<PathBuf> {
    let mut level = vec![root.to_path_buf()];
    for _ in 0..DEPTH {
        let mut below: Vec<PathBuf> = level.iter().flat_map(|cgroup| children(cgroup)).collect();
        below.sort();
        if let Some(found) = below.iter().find(|cgroup| is_pods_cgroup(cgroup)) {
            return Some(found.clone());
        }
        level = below;
    }
    None
}

/// `kubepods` (cgroupfs driver), `kubepods.slice` (systemd's), `…-kubepods.slice` (nested by systemd's rules).
fn is_pods_cgroup(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(cgroup) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// The cgroups above this one, the nearest first, the root last.
pub(super) fn ancestors(cgroup: &Path, root: &Path) -> Vec<PathBuf> {
    cgroup
        .ancestors()
        .skip(1)
        .take_while(|path| path.starts_with(root))
        .map(Path::to_path_buf)
        .collect()
}

/// The cgroup that this process is in; `None` if it cannot be seen from here (a cgroup namespace).
pub(super) fn own(root: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = root.join(path.trim_start_matches('/'));
    canonical(&own).ok()
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|source| Error::Cgroup {
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_hierarchy_is_found_on_plain_and_on_hybrid_machines() {
        let plain = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(root_in(plain), Some("/sys/fs/cgroup"));
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(root_in(hybrid), Some("/sys/fs/cgroup/unified"));
        assert_eq!(root_in("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"), None);
    }

    #[test]
    fn pods_cgroups_of_both_drivers_and_of_kind_are_known() {
        for name in [
            "/r/kubepods",
            "/r/kubepods.slice",
            "/r/kubelet.slice/kubelet-kubepods.slice",
        ] {
            assert!(is_pods_cgroup(Path::new(name)), "{name}");
        }
        for name in [
            "/r/kubepods-besteffort.slice",
            "/r/kubepods-pod1234.slice",
            "/r/system.slice",
            "/r/mykubepods",
        ] {
            assert!(!is_pods_cgroup(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn a_pods_own_kubelet_is_the_nearest_above_it() {
        for (own, expected) in [
            ("/r/node2/kubepods/besteffort/pod1/2", Some("/r/node2/kubepods")),
            (
                "/r/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/a.slice/b.scope",
                Some("/r/kubelet.slice/kubelet-kubepods.slice"),
            ),
            (
                "/r/kubepods/pod1/2/kubelet/kubepods/pod3/4",
                Some("/r/kubepods/pod1/2/kubelet/kubepods"),
            ),
            ("/r/system.slice/grpclb.service", None),
        ] {
            assert_eq!(
                pods_around(Some(Path::new(own))),
                expected.map(PathBuf::from),
                "{own}"
            );
        }
    }

    #[test]
    fn a_cgroup_that_was_replaced_is_another_one() {
        let path = root().unwrap().join(format!("glb-cgroup-{}", std::process::id()));
        assert_eq!(identity(&path), None);
        fs::create_dir(&path).unwrap();
        let first = identity(&path);
        fs::remove_dir(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let second = identity(&path);
        fs::remove_dir(&path).unwrap();
        assert!(first.is_some() && second.is_some() && first != second);
    }

    #[test]
    fn ancestors_end_at_the_root_of_the_hierarchy() {
        let found = ancestors(Path::new("/sys/fs/cgroup/a/b"), Path::new("/sys/fs/cgroup"));
        assert_eq!(
            found,
            [PathBuf::from("/sys/fs/cgroup/a"), PathBuf::from("/sys/fs/cgroup")]
        );
    }
}
