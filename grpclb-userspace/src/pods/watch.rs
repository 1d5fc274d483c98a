//! Notices at once when directories change (inotify): named namespaces that come and go in `/run/netns`, and, for
//! [`super::sandbox`], the pods' cgroups. Everything else, and what inotify misses, is found by the resync.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use crate::netns::NAMES;

/// Tells of changes in directories. Dropped, it watches no more.
#[derive(Debug)]
pub(super) struct Directories(AsyncFd<Events>);

#[derive(Debug)]
struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Directories {
    #[allow(deprecated)] // its successor is unsafe, to promise what holds here: `Events` owns its descriptor for life
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self(AsyncFd::new(Events(inotify))?))
    }

    /// Watches one more directory; the same descriptor again for one that is watched already.
    pub(super) fn add(&self, directory: &Path, changes: AddWatchFlags) -> io::Result<WatchDescriptor> {
        Ok(self.0.get_ref().0.add_watch(directory, changes)?)
    }

    pub(super) fn remove(&self, watch: WatchDescriptor) {
        // It fails where the kernel let go first.
        let _ = self.0.get_ref().0.rm_watch(watch);
    }

    /// Waits for the next changes. Safe to drop and call again.
    pub(super) async fn changed(&mut self) -> Vec<InotifyEvent> {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await;
            };
            match ready.get_inner().0.read_events() {
                Ok(events) => return events,
                Err(_) => ready.clear_ready(),
            }
        }
    }
}

/// Tells of changes in `/run/netns`.
#[derive(Debug)]
pub(super) struct NamesWatch {
    directories: Directories,
    watching: bool,
}

impl NamesWatch {
    pub(super) fn new() -> io::Result<Self> {
        let mut watch = Self {
            directories: Directories::new()?,
            watching: false,
        };
        watch.watch_again();
        Ok(watch)
    }

    /// The directory is made with the first namespace: until then there is nothing to watch. Called at each resync.
    pub(super) fn watch_again(&mut self) {
        if !self.watching {
            // Made by open(2), the mount over it follows: its end shows as a second change, or the retry finds it.
            let changes = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_ATTRIB
                | AddWatchFlags::IN_DELETE_SELF;
            self.watching = self.directories.add(Path::new(NAMES), changes).is_ok();
        }
    }

    /// Waits for the next changes. Safe to drop and call again.
    pub(super) async fn changed(&mut self) {
        let events = self.directories.changed().await;
        let ended = |event: &InotifyEvent| event.mask.contains(AddWatchFlags::IN_IGNORED);
        if events.iter().any(ended) {
            self.watching = false;
        }
    }
}
