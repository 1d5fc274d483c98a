//! The memory limits of the agent's cgroup and of those above it, cgroup v1 and v2, as far up as the mounts show them.
//!
//! In a container with a cgroup namespace of its own, its cgroup is the root of the mount; the limits above it (the pod's) are not
//! to be seen there. A hybrid machine has both versions, and the memory controller in one of them: all that are found count.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// A limit in bytes, and the file that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) bytes: u64,
    pub(super) file: PathBuf,
}

/// Version 1 has no word for "unlimited", only the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// Where limits of one hierarchy are, from the agent's own cgroup up to the root of the mount.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    own: PathBuf,
    root: PathBuf,
    files: &'static [&'static str],
}

/// Beyond `memory.high` a cgroup is slowed down until it stands still: a limit, too.
const FILES_V2: &[&str] = &["memory.max", "memory.high"];
const FILES_V1: &[&str] = &["memory.limit_in_bytes"];

/// The hierarchies that limit this process.
#[derive(Debug, Default)]
pub(super) struct Limits(Vec<Hierarchy>);

impl Limits {
    /// Finds out where the limits of this process are. What cannot be read is no limit.
    pub(super) fn find() -> Self {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self(hierarchies(&cgroups, &mounts))
    }

    /// Returns the smallest limit now; nothing where there is none.
    pub(super) fn smallest(&self) -> Option<Limit> {
        let limits = self.0.iter().filter_map(Hierarchy::smallest);
        limits.min_by_key(|limit| limit.bytes)
    }
}

impl Hierarchy {
    fn smallest(&self) -> Option<Limit> {
        let up_to_root = self
            .own
            .ancestors()
            .take_while(|directory| directory.starts_with(&self.root));
        let files = up_to_root.flat_map(|directory| self.files.iter().map(|file| directory.join(file)));
        let limit = |file: PathBuf| {
            let bytes = parse_limit(&fs::read_to_string(&file).ok()?)?;
            Some(Limit { bytes, file })
        };
        files.filter_map(limit).min_by_key(|limit| limit.bytes)
    }
}

/// Parses a file's limit: bytes, or `max`.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < UNLIMITED)
}

/// Parses `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn hierarchies(cgroups: &str, mounts: &str) -> Vec<Hierarchy> {
    let (mut v1, mut v2) = (None, None);
    for line in cgroups.lines() {
        // `4:memory:/path`, and `0::/path` of version 2.
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
            if controllers.is_empty() {
                v2 = Some(Path::new(path));
            } else if controllers.split(',').any(|name| name == "memory") {
                v1 = Some(Path::new(path));
            }
        }
    }
    let hierarchy = |mount: Mount| {
        let (path, files) = if mount.version_2 {
            (v2?, FILES_V2)
        } else {
            (v1?, FILES_V1)
        };
        // What is mounted may be a part of the hierarchy, or be seen from a namespace that does not hold all of it.
        let below = path.strip_prefix(&mount.root).ok()?;
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if !below.components().all(is_plain) {
            return None;
        }
        Some(Hierarchy {
            own: mount.point.components().chain(below.components()).collect(),
            root: mount.point,
            files,
        })
    };
    mounts
        .lines()
        .filter_map(Mount::parse)
        .filter_map(hierarchy)
        .collect()
}

/// A mount of a cgroup hierarchy that may have the memory controller.
struct Mount {
    /// The directory of the hierarchy that is mounted.
    root: PathBuf,
    point: PathBuf,
    version_2: bool,
}

impl Mount {
    /// Parses a line of proc(5)'s mountinfo: `32 31 0:29 /root /point options [tags] - type source options`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (unescape(mount.next()?), unescape(mount.next()?));
        let mut kind = kind.split(' ');
        let version_2 = match kind.next()? {
            "cgroup2" => true,
            "cgroup" if kind.nth(1)?.split(',').any(|option| option == "memory") => false,
            _ => return None,
        };
        Some(Self {
            root,
            point,
            version_2,
        })
    }
}

/// Undoes mountinfo's octal escapes (`\040` is a space).
fn unescape(text: &str) -> PathBuf {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        match after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) if byte.is_ascii() => {
                plain.push(char::from(byte));
                rest = &after[3..];
            }
            _ => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cgroups: &str, mounts: &str) -> Vec<(String, String, bool)> {
        let shown = |found: Hierarchy| {
            let path = |path: PathBuf| path.display().to_string();
            (path(found.own), path(found.root), found.files == FILES_V2)
        };
        hierarchies(cgroups, mounts).into_iter().map(shown).collect()
    }

    fn one(own: &str, root: &str, version_2: bool) -> Vec<(String, String, bool)> {
        vec![(own.into(), root.into(), version_2)]
    }

    #[test]
    fn unified_hierarchy_is_found() {
        assert_eq!(
            found(
                "0::/kubepods.slice/pod1/c1\n",
                "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
            ),
            one("/sys/fs/cgroup/kubepods.slice/pod1/c1", "/sys/fs/cgroup", true)
        );
    }

    #[test]
    fn container_with_a_cgroup_namespace_is_at_the_root_of_its_mount() {
        assert_eq!(
            found("0::/\n", "41 31 0:38 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
            one("/sys/fs/cgroup", "/sys/fs/cgroup", true)
        );
    }

    #[test]
    fn container_without_one_has_its_own_part_mounted() {
        assert_eq!(
            found(
                "4:cpu,memory:/docker/c1\n1:name=systemd:/docker/c1\n",
                "35 31 0:32 /docker/c1 /sys/fs/cgroup/memory ro master:3 - cgroup cgroup rw,memory\n\
                 36 31 0:33 /docker/c1 /sys/fs/cgroup/devices ro - cgroup cgroup rw,devices\n"
            ),
            one("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory", false)
        );
    }

    #[test]
    fn hybrid_machine_has_both() {
        let found = found(
            "4:memory:/a/b\n0::/c\n",
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        let own: Vec<_> = found.iter().map(|(own, ..)| own.as_str()).collect();
        assert_eq!(own, ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/unified/c"]);
    }

    #[test]
    fn mount_that_does_not_hold_the_cgroup_is_left_out() {
        let mount = "41 31 0:38 /other /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found("0::/here\n", mount), []);
        let mount = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found("0::/../../outside\n", mount), []);
        let mount = "41 31 0:38 /../.. /host/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found("0::/\n", mount), []);
    }

    #[test]
    fn garbage_is_no_hierarchy() {
        for text in [
            "",
            "\n",
            ":::",
            " - ",
            "1 2 3 4 5 - cgroup",
            "- cgroup2",
            "\\\\ - cgroup2",
        ] {
            assert_eq!(found(text, text), []);
            assert_eq!(found("0::/\n", text), []);
        }
    }

    #[test]
    fn limits_are_bytes_or_none() {
        assert_eq!(parse_limit("134217728\n"), Some(134_217_728));
        assert_eq!(parse_limit("0\n"), Some(0));
        for unlimited in [
            "max\n",
            "9223372036854771712\n",
            "18446744073709551615\n",
            "",
            "-1\n",
        ] {
            assert_eq!(parse_limit(unlimited), None, "{unlimited:?}");
        }
    }

    #[test]
    fn escaped_mount_points_are_read() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(r"/a\9\0"), Path::new(r"/a\9\0"));
    }

    #[test]
    fn smallest_limit_of_the_ancestors_counts() {
        let base = std::env::temp_dir().join(format!("grpclb-limits-{}", std::process::id()));
        let own = base.join("root/pod/container");
        fs::create_dir_all(&own).unwrap();
        let write = |path: &str, text: &str| fs::write(base.join(path), text).unwrap();
        write("memory.max", "1\n"); // above the root of the mount
        write("root/pod/memory.max", "1000\n");
        write("root/pod/container/memory.max", "max\n");
        write("root/pod/container/memory.high", "2000\n");
        let hierarchy = Hierarchy {
            own,
            root: base.join("root"),
            files: FILES_V2,
        };
        let limit = hierarchy.smallest().unwrap();
        assert_eq!(
            (limit.bytes, limit.file),
            (1000, base.join("root/pod/memory.max"))
        );
        write("root/pod/container/memory.high", "999\n");
        assert_eq!(hierarchy.smallest().unwrap().bytes, 999);
        fs::remove_dir_all(base).unwrap();
    }
}
