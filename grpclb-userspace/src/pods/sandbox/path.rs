//! How the kubelet and the runtimes name a pod's cgroups. Pure: text in, names out.
//!
//! | driver   | a pod's cgroup below `kubepods`                                | a container's below it             |
//! |----------|----------------------------------------------------------------|------------------------------------|
//! | cgroupfs | `[besteffort/\|burstable/]pod<uid>`                            | `<id>`                             |
//! | systemd  | `[<root>-besteffort.slice/\|…]<root>-[besteffort-\|…]pod<uid with _>.slice` | `cri-containerd-<id>.scope`, `crio-<id>.scope` |
//!
//! The root is `kubepods`, `kubepods.slice` or, nested by systemd's rules, `kubelet-kubepods.slice`; what stands before it
//! (kind's `/kubelet`, a node that is a container itself) does not matter. The UID of a static pod is its
//! `kubernetes.io/config.hash`: 32 digits without dashes.

use std::borrow::Cow;

/// The quality-of-service classes that have a cgroup of their own.
const CLASSES: [&str; 2] = ["besteffort", "burstable"];

/// Whether `/proc/<pid>/cgroup` says that the process belongs to the pod. All hierarchies are looked at: on a hybrid machine
/// a process may be the pod's in some and at the root of others.
pub(super) fn belongs_to(cgroups: &str, uid: &str) -> bool {
    cgroups
        .lines()
        .filter_map(path_of_line)
        .any(|path| pod_uids(path).any(|found| found == uid))
}

/// Whether `/proc/<pid>/cgroup` says that the process belongs to any pod but this one.
pub(super) fn belongs_to_another(cgroups: &str, uid: &str) -> bool {
    cgroups
        .lines()
        .filter_map(path_of_line)
        .any(|path| pod_uids(path).next().is_some() && pod_uids(path).all(|found| found != uid))
}

/// The path of one line: `0::/path`, `4:memory:/path`, `9:name=systemd:/path`. A path may have colons.
fn path_of_line(line: &str) -> Option<&str> {
    line.splitn(3, ':').nth(2)
}

/// Every pod that a cgroup lies in: more than one where a pod runs a kubelet of its own. Relative forms (`/../pod…`), which a
/// reader in a cgroup namespace is shown, have the same names in them. A containerd that does not know of the kubelet's
/// systemd driver writes `<slice>:cri-containerd:<id>` as one name.
fn pod_uids(path: &str) -> impl Iterator<Item = Cow<'_, str>> {
    path.split(['/', ':']).filter_map(pod_uid)
}

/// The pod whose cgroup has this name.
pub(super) fn pod_uid(name: &str) -> Option<Cow<'_, str>> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => {
            let (_, uid) = slice.rsplit_once("-pod")?;
            // systemd reads `-` in a slice's name as a step downwards: the kubelet writes `_` instead.
            if uid.contains('_') {
                Cow::Owned(uid.replace('_', "-"))
            } else {
                Cow::Borrowed(uid)
            }
        }
        None => Cow::Borrowed(name.strip_prefix("pod")?),
    };
    is_uid(&uid).then_some(uid)
}

/// A UUID, or the hash of a static pod's manifest.
fn is_uid(text: &str) -> bool {
    let dashes = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    match text.len() {
        36 => text.bytes().enumerate().all(|(at, byte)| {
            if dashes(at) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        }),
        32 => text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        _ => false,
    }
}

/// Whether the kubelet keeps pods in a cgroup of this name.
pub(super) fn is_root(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// The names of the classes' cgroups below the root.
pub(super) fn classes(root: &str) -> [String; 2] {
    CLASSES.map(|class| match root.strip_suffix(".slice") {
        Some(slice) => format!("{slice}-{class}.slice"),
        None => class.to_owned(),
    })
}

/// The name of a pod's cgroup below the root or a class.
pub(super) fn pod(parent: &str, uid: &str) -> String {
    match parent.strip_suffix(".slice") {
        Some(slice) => format!("{slice}-pod{}.slice", uid.replace('-', "_")),
        None => format!("pod{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b5c9d7e-3b1f-4f6c-9a56-2f6f3f2c7a10";
    const HASH: &str = "6ac84f4a7ad5b2c5f1c0f7f8a1d2e3f4";

    /// Paths as `/proc/<pid>/cgroup` has them. Those marked *seen* come from the cluster that the tests bring up; the rest are
    /// fixtures after the runtimes' sources and cannot run here.
    #[test]
    fn every_known_layout_names_its_pod() {
        let id = "4f6f0d8b2b0c4f1b9a1e";
        let underscored = UID.replace('-', "_");
        let layouts = [
            // cgroupfs driver, hybrid machine, a kubelet with a cgroup root of its own: seen
            format!("0::/glb-k8s-node1/kubepods/besteffort/pod{UID}/{id}"),
            format!("4:memory:/glb-k8s-node1/kubepods/besteffort/pod{UID}/{id}"),
            // cgroupfs driver: each class, v2 and v1
            format!("0::/kubepods/besteffort/pod{UID}/{id}"),
            format!("0::/kubepods/burstable/pod{UID}/{id}"),
            format!("0::/kubepods/pod{UID}/{id}"),
            format!("9:name=systemd:/kubepods/burstable/pod{UID}/{id}"),
            format!("11:cpu,cpuacct:/kubepods/pod{UID}/{id}"),
            // systemd driver: containerd, CRI-O, cri-dockerd; each class
            format!(
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{underscored}.slice/cri-containerd-{id}.scope"
            ),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice/crio-{id}.scope"
            ),
            format!("0::/kubepods.slice/kubepods-pod{underscored}.slice/docker-{id}.scope"),
            // CRI-O puts the container's process into a cgroup below its scope
            format!("0::/kubepods.slice/kubepods-pod{underscored}.slice/crio-{id}.scope/container"),
            // a containerd that was not told of the kubelet's systemd driver
            format!(
                "0::/system.slice/containerd.service/kubepods-burstable-pod{underscored}.slice:cri-containerd:{id}"
            ),
            // kind: nested roots, seen from inside and from outside of the node
            format!("0::/kubelet/kubepods/besteffort/pod{UID}/{id}"),
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{underscored}.slice/cri-containerd-{id}.scope"
            ),
            format!("0::/system.slice/docker-{id}.scope/kubelet/kubepods/pod{UID}/{id}"),
            // seen by a reader in a cgroup namespace
            format!("0::/../../burstable/pod{UID}/{id}"),
            format!("0::/../../kubepods-besteffort-pod{underscored}.slice/cri-containerd-{id}.scope"),
            // a systemd inside of the container
            format!("0::/kubepods/pod{UID}/{id}/init.scope"),
            // a kubelet inside of a pod: its pods lie in that pod too
            format!("0::/kubepods/pod{UID}/{id}/kubelet/kubepods/pod{HASH}/{id}"),
        ];
        for line in layouts {
            assert!(belongs_to(&line, UID), "{line}");
            assert!(
                !belongs_to(&line, "00000000-0000-0000-0000-000000000000"),
                "{line}"
            );
            assert!(!belongs_to_another(&line, UID), "{line}");
        }
    }

    #[test]
    fn a_static_pod_is_known_by_the_hash_of_its_manifest() {
        for line in [
            format!("0::/kubepods/burstable/pod{HASH}/1234"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-1.scope"
            ),
        ] {
            assert!(belongs_to(&line, HASH), "{line}");
        }
    }

    #[test]
    fn a_process_is_the_pods_if_any_hierarchy_says_so() {
        let hybrid = format!("9:name=systemd:/\n4:memory:/kubepods/pod{UID}/1\n0::/\n");
        assert!(belongs_to(&hybrid, UID));
        assert!(belongs_to_another(&hybrid, HASH));
        assert!(!belongs_to_another("0::/system.slice/sshd.service\n", UID));
    }

    #[test]
    fn what_only_looks_like_a_pod_is_none() {
        for name in [
            "podman",
            "pod",
            "pods",
            "kubepods-besteffort.slice",
            "machine-pod12.slice",
            "pod0b5c9d7e_3b1f_4f6c_9a56_2f6f3f2c7a10",
            "pod0b5c9d7e-3b1f-4f6c-9a56-2f6f3f2c7a1g",
        ] {
            assert_eq!(pod_uid(name), None, "{name}");
        }
    }

    #[test]
    fn the_names_that_are_looked_for_are_the_ones_that_are_understood() {
        for (root, expected) in [
            ("kubepods", [format!("pod{UID}"), format!("pod{UID}")]),
            (
                "kubelet-kubepods.slice",
                [
                    format!("kubelet-kubepods-pod{}.slice", UID.replace('-', "_")),
                    format!("kubelet-kubepods-besteffort-pod{}.slice", UID.replace('-', "_")),
                ],
            ),
        ] {
            assert!(is_root(root));
            let [besteffort, _] = classes(root);
            let names = [pod(root, UID), pod(&besteffort, UID)];
            assert_eq!(names, expected);
            for name in names {
                assert_eq!(pod_uid(&name).as_deref(), Some(UID));
            }
        }
    }
}
