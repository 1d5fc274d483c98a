//! Tells when a wanted pod's cgroups change: at once, by inotify. A cgroup's directory is made before a process can be in
//! it; that a process then joins a namespace shows nowhere, so [`super::Sandboxes`] looks often for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};

use super::super::watch::Directories;
use super::path;
use super::tree::{self, Tree};

/// Watches the directories in which pods' cgroups are made, and those of the wanted pods.
#[derive(Debug)]
pub(super) struct Watch {
    directories: Directories,
    watched: BTreeMap<WatchDescriptor, Watched>,
    wanted: BTreeSet<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Watched {
    /// Pods' cgroups are made in it.
    Parent(PathBuf),
    Pod(Arc<str>),
}

/// What happened to a wanted pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A container's cgroup was made.
    Appeared,
    /// Something went, or it is not known what happened.
    Other,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            directories: Directories::new()?,
            watched: BTreeMap::new(),
            wanted: BTreeSet::new(),
        })
    }

    /// Follows the directories in which pods' cgroups are made.
    pub(super) fn follow(&mut self, tree: &Tree) {
        for parent in tree.parents() {
            self.add(&parent.clone(), Watched::Parent(parent));
        }
    }

    /// Follows one more pod.
    pub(super) fn want(&mut self, uid: &Arc<str>, tree: &Tree) {
        self.wanted.insert(Arc::clone(uid));
        for cgroup in tree.pod(uid) {
            self.add(&cgroup, Watched::Pod(Arc::clone(uid)));
        }
    }

    /// Follows a pod no more.
    pub(super) fn forget(&mut self, uid: &Arc<str>) {
        self.wanted.remove(uid);
        let of_it = |watched: &Watched| matches!(watched, Watched::Pod(of) if of == uid);
        for (watch, _) in self.watched.extract_if(.., |_, watched| of_it(watched)) {
            self.directories.remove(watch);
        }
    }

    /// Waits until something happens to wanted pods. Safe to drop and call again.
    pub(super) async fn changed(&mut self) -> Vec<(Arc<str>, Change)> {
        loop {
            let events = self.directories.changed().await;
            let changes: Vec<_> = events.iter().flat_map(|event| self.take(event)).collect();
            if !changes.is_empty() {
                return changes;
            }
        }
    }

    fn take(&mut self, event: &InotifyEvent) -> Vec<(Arc<str>, Change)> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return self
                .wanted
                .iter()
                .map(|uid| (Arc::clone(uid), Change::Other))
                .collect();
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            let gone = self.watched.remove(&event.wd);
            return match gone {
                Some(Watched::Pod(uid)) => vec![(uid, Change::Other)],
                _ => Vec::new(),
            };
        }
        let made = event.mask.contains(AddWatchFlags::IN_CREATE);
        let name = event.name.as_deref().and_then(|name| name.to_str());
        match (self.watched.get(&event.wd).cloned(), name) {
            (Some(Watched::Pod(uid)), _) => {
                vec![(uid, if made { Change::Appeared } else { Change::Other })]
            }
            (Some(Watched::Parent(parent)), Some(name)) if made => self.made(&parent.join(name), name),
            _ => Vec::new(),
        }
    }

    /// A directory was made where pods' cgroups are made: a class's, a pod's, or something else.
    fn made(&mut self, directory: &Path, name: &str) -> Vec<(Arc<str>, Change)> {
        let Some(uid) = path::pod_uid(name) else {
            let parent = directory
                .parent()
                .and_then(Path::file_name)
                .and_then(|name| name.to_str());
            if parent.is_some_and(|parent| path::classes(parent).iter().any(|class| class == name)) {
                self.add(directory, Watched::Parent(directory.to_path_buf()));
                // Whatever was made in it before it was watched.
                let pods = tree::children(directory);
                return pods
                    .filter_map(|pod| Some((pod.file_name()?.to_str()?.to_owned(), pod.clone())))
                    .flat_map(|(name, pod)| self.made(&pod, &name))
                    .collect();
            }
            return Vec::new();
        };
        let Some(uid) = self.wanted.get(&*uid).cloned() else {
            return Vec::new();
        };
        self.add(directory, Watched::Pod(Arc::clone(&uid)));
        // The runtime may have been faster.
        let change = if tree::has_containers(directory) {
            Change::Appeared
        } else {
            Change::Other
        };
        vec![(uid, change)]
    }

    fn add(&mut self, directory: &Path, as_what: Watched) {
        let changes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        match self.directories.add(directory, changes) {
            Ok(watch) => {
                self.watched.insert(watch, as_what);
            }
            // It went meanwhile; or the limit of watches is reached, and the resync finds what happens.
            Err(error) => tracing::debug!(%error, directory = %directory.display(), "cannot watch a cgroup"),
        }
    }
}
