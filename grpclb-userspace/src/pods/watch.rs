//! Notices at once when named namespaces come and go (inotify on `/run/netns`). Everything else, and what inotify misses,
//! is found by the resync.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::netns::NAMES;

/// Tells of changes in `/run/netns`.
#[derive(Debug)]
pub(super) struct NamesWatch {
    inotify: AsyncFd<Events>,
    watching: bool,
}

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

impl NamesWatch {
    #[allow(deprecated)] // its successor is unsafe, to promise what holds here: `Events` owns its descriptor for life
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut watch = Self {
            inotify: AsyncFd::new(Events(inotify))?,
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
            self.watching = self.inotify.get_ref().0.add_watch(NAMES, changes).is_ok();
        }
    }

    /// Waits for the next changes. Safe to drop and call again.
    pub(super) async fn changed(&mut self) {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else {
                return std::future::pending().await;
            };
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    if events
                        .iter()
                        .any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED))
                    {
                        self.watching = false;
                    }
                    return;
                }
                Err(_) => ready.clear_ready(),
            }
        }
    }
}
