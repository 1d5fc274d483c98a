//! What `/proc` says of a process that may be a pod's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::path;

/// A network namespace as the kernel tells it from others: device and inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl From<(u64, u64)> for Identity {
    fn from((device, inode): (u64, u64)) -> Self {
        Self(device, inode)
    }
}

impl Identity {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self(metadata.dev(), metadata.ino()))
    }

    pub(super) fn of_path(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self(metadata.dev(), metadata.ino()))
    }

    pub(super) fn of_process(pid: u32) -> io::Result<Self> {
        Self::of_path(&namespace_of(pid))
    }
}

/// The file that stands for a process's network namespace.
pub(super) fn namespace_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// Whether the process belongs to the pod, now.
pub(super) fn belongs_to(pid: u32, uid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| path::belongs_to(&text, uid))
}

/// Who started a process, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    /// In clock ticks since the machine's start.
    pub(super) at: u64,
    /// 0 where it cannot be seen from here.
    pub(super) parent: u32,
}

impl Birth {
    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `/proc/<pid>/stat` (proc(5)): the second field is a name in parentheses that may hold anything, so the rest is
    /// counted from the last one.
    fn parse(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let at = fields.nth(17)?.parse().ok()?;
        Some(Self { at, parent })
    }
}

/// Every process of this machine, as far as it can be seen.
pub(super) fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The processes of these pods, by a look at every process.
pub(super) fn of_pods(uids: &[Arc<str>]) -> BTreeMap<Arc<str>, Vec<u32>> {
    let mut found: BTreeMap<Arc<str>, Vec<u32>> = BTreeMap::new();
    for pid in all() {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
            continue;
        };
        for uid in uids.iter().filter(|uid| path::belongs_to(&text, uid)) {
            found.entry(Arc::clone(uid)).or_default().push(pid);
        }
    }
    found
}

/// Whether a process of another pod lives in this namespace.
pub(super) fn is_of_another_pod(namespace: Identity, uid: &str) -> bool {
    all().any(|pid| {
        Identity::of_process(pid).is_ok_and(|found| found == namespace)
            && fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| path::belongs_to_another(&text, uid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_nothing() {
        let stat = "4711 (a) b (c) S 42 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        let birth = Birth {
            at: 987_654,
            parent: 42,
        };
        assert_eq!(Birth::parse(stat), Some(birth));
        assert_eq!(Birth::parse("4711 (a"), None);
    }

    #[test]
    fn this_process_is_younger_than_the_one_that_started_it() {
        let own = Birth::of(std::process::id()).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(Birth::of(own.parent).unwrap().at <= own.at);
        assert!(all().any(|pid| pid == std::process::id()));
    }
}
