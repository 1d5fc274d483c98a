//! Tells when a file may have changed, from inotify events alone: no polling, no waiting for quiet.
//!
//! The *directories* on the way to the file are watched, not the file: editors write another file and rename it over,
//! and Kubernetes swaps the symlink `..data` beside it. For each symlink on the way, the directory that holds it and the
//! way behind it are followed as well. A file that is written in place counts when its writer closes it, so that it is not
//! read half written.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Component, Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Symlinks that are followed before they count as a circle (the kernel's own limit is 40).
const MAX_LINKS: u32 = 40;

/// Follows one path.
#[derive(Debug)]
pub(super) struct Watcher {
    path: PathBuf,
    inotify: AsyncFd<Fd>,
    /// Directory → its watch and the names in it that lie on the way.
    watched: BTreeMap<PathBuf, (WatchDescriptor, BTreeSet<OsString>)>,
}

impl Watcher {
    /// Starts watching. Must be called within a tokio runtime.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: `Fd` owns its descriptor and never exchanges it: `as_raw_fd` tells the same one until both are dropped.
        #[allow(unsafe_code)]
        let inotify = unsafe { AsyncFd::register_with_interest(Fd(inotify), Interest::READABLE) }?;
        let mut watcher = Self {
            path: std::path::absolute(path)?,
            inotify,
            watched: BTreeMap::new(),
        };
        watcher.follow()?;
        Ok(watcher)
    }

    /// Waits until the file may have changed. What changes after this returned is told by the next call.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.inotify.readable().await?;
            let events = match guard.get_inner().0.read_events() {
                Ok(events) => events,
                Err(nix::Error::EAGAIN) => {
                    guard.clear_ready();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            drop(guard);
            let mut relevant = false;
            for event in &events {
                relevant |= self.is_relevant(event);
                if event.name.is_none() {
                    self.forget(event.wd);
                }
            }
            if relevant {
                self.follow()?;
                return Ok(());
            }
        }
    }

    /// Lets go of a directory that went or was renamed: another one may come in its place.
    fn forget(&mut self, gone: WatchDescriptor) {
        self.watched.retain(|_, (watch, _)| *watch != gone);
        // It fails where the kernel let go first.
        let _ = self.inotify.get_ref().0.rm_watch(gone);
    }

    fn is_relevant(&self, event: &InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return true;
        }
        let Some((directory, (_, names))) = self.watched.iter().find(|(_, (watch, _))| *watch == event.wd)
        else {
            return false; // of a watch that was let go
        };
        let Some(name) = &event.name else {
            return true; // the directory itself went, or was renamed
        };
        if !names.contains(name) {
            return false;
        }
        // A new plain file is empty yet; its writer's close follows. A new symlink or directory is complete.
        !event.mask.contains(AddWatchFlags::IN_CREATE) || !is_plain_file(&directory.join(name))
    }

    /// Watches exactly the directories that lie on the way now.
    fn follow(&mut self) -> io::Result<()> {
        // Once more after a change: a link may have been swapped between looking and watching.
        for _ in 0..MAX_LINKS {
            let wanted = way(&self.path);
            if wanted.iter().eq(self.watched.iter().map(|(d, (_, n))| (d, n))) {
                break;
            }
            self.rewatch(wanted)?;
        }
        Ok(())
    }

    fn rewatch(&mut self, wanted: BTreeMap<PathBuf, BTreeSet<OsString>>) -> io::Result<()> {
        let inotify = &self.inotify.get_ref().0;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let mut watched = BTreeMap::new();
        for (directory, names) in wanted {
            match inotify.add_watch(&directory, flags) {
                Ok(watch) => {
                    watched.insert(directory, (watch, names));
                }
                // Gone since we looked: the next look finds another way.
                Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for (old, _) in self.watched.values() {
            if !watched.values().any(|(watch, _)| watch == old) {
                // It fails where the directory is gone, and its watch with it.
                let _ = inotify.rm_watch(*old);
            }
        }
        self.watched = watched;
        Ok(())
    }
}

/// inotify's descriptor, in the form in which tokio takes it.
#[derive(Debug)]
struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn is_plain_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The directories that hold a step on the way to `path` which could change what it means (the file itself, each symlink,
/// and what is missing), with the names of those steps.
fn way(path: &Path) -> BTreeMap<PathBuf, BTreeSet<OsString>> {
    let mut steps: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    let mut links = 0;
    let mut at = PathBuf::from("/");
    // What lies ahead, the next step last.
    let mut ahead: Vec<OsString> = names(path).rev().map(OsStr::to_owned).collect();
    while let Some(name) = ahead.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let here = at.join(&name);
        let metadata = here.symlink_metadata();
        let is_link = metadata.as_ref().is_ok_and(std::fs::Metadata::is_symlink);
        let is_last = ahead.is_empty();
        if is_link || is_last || metadata.is_err() {
            steps.entry(at.clone()).or_default().insert(name);
        }
        if metadata.is_err() {
            break; // what is missing may appear here
        }
        if is_link && links < MAX_LINKS {
            links += 1;
            let Ok(target) = here.read_link() else { break };
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            ahead.extend(names(&target).rev().map(OsStr::to_owned));
        } else {
            at = here;
        }
    }
    steps
}

/// The steps of a path: names and `..`.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}
