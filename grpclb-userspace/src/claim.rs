//! Files and directories that belong to one live process: the one that holds their lock.
//!
//! The lock is a `flock`, which goes with its process however that ends. What can be locked belongs to nobody any more, and
//! may be swept. What is in such a directory, and when to sweep, is their owners' to know.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A sweeper holds the lock of what it removes, for some microseconds: whoever finds a lock taken asks again for this long
/// before it believes in another live process.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Why something is not ours.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Another live process holds it.
    Alive,
    /// It could not be opened or locked.
    Io(io::Error),
}

/// Makes what belongs at `path`, and takes it for as long as the lock that is returned lives.
///
/// `make` opens it, after making it where it is not there. It is called again when a sweeper was faster.
///
/// # Errors
/// [`Refused::Alive`] after 200 ms at most.
#[expect(
    clippy::disallowed_methods,
    reason = "only a call that may block for good waits for a flock"
)]
pub(crate) fn claim(path: &Path, make: impl Fn() -> io::Result<File>) -> Result<Flock<File>, Refused> {
    let mut refused = Refused::Alive;
    for _ in 0..TRIES {
        let made = match make() {
            Ok(made) => made,
            // Swept between its making and its opening.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refused = Refused::Io(error);
                continue;
            }
            Err(error) => return Err(Refused::Io(error)),
        };
        match Flock::lock(made, FlockArg::LockExclusiveNonblock) {
            Ok(lock) if stands_at(&lock, path) => return Ok(lock),
            // Swept between its opening and our lock.
            Ok(_swept) => {}
            Err((_, Errno::EWOULDBLOCK)) => {
                refused = Refused::Alive;
                std::thread::sleep(PAUSE);
            }
            Err((_, errno)) => return Err(Refused::Io(errno.into())),
        }
    }
    Err(refused)
}

/// The lock of what a dead process left at `path`; nothing while its process lives.
pub(crate) fn of_the_dead(path: &Path) -> Option<Flock<File>> {
    let file = File::open(path).ok()?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
    stands_at(&lock, path).then_some(lock)
}

/// Whether a live process holds what is at `path`.
pub(crate) fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
}

/// Whether what is locked is still what stands at this path.
fn stands_at(lock: &File, path: &Path) -> bool {
    match (lock.metadata(), fs::metadata(path)) {
        (Ok(locked), Ok(there)) => (locked.dev(), locked.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::PathBuf;
    use std::sync::mpsc;

    use super::*;

    /// A file that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("grpclb-claim-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn open(&self) -> io::Result<File> {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).open(&self.0)
        }

        fn claim(&self) -> Result<Flock<File>, Refused> {
            claim(&self.0, || self.open())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _absent: io::Result<()> = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn what_is_held_is_nobody_elses_and_what_was_held_is_of_the_dead() {
        let file = Scratch::new("held");
        let held = file.claim().unwrap();
        assert!(matches!(file.claim(), Err(Refused::Alive)));
        assert!(is_held(&file.0) && of_the_dead(&file.0).is_none());
        // Children of other tests may have inherited the descriptor for a moment.
        held.unlock().unwrap();
        assert!(!is_held(&file.0));
        assert!(of_the_dead(&file.0).is_some());
    }

    #[test]
    fn a_sweeper_that_holds_the_lock_for_a_moment_is_not_taken_for_a_live_process() {
        let file = Scratch::new("swept");
        drop(file.claim().unwrap());
        let sweeper = of_the_dead(&file.0).unwrap();
        let (tell, asked) = mpsc::channel();
        std::thread::scope(|scope| {
            let ours = scope.spawn(|| {
                claim(&file.0, || {
                    tell.send(()).unwrap();
                    file.open()
                })
            });
            for _ in 0..2 {
                // The second time comes after a first one in vain.
                asked.recv().unwrap();
            }
            fs::remove_file(&file.0).unwrap();
            sweeper.unlock().unwrap();
            let ours = ours.join().unwrap().unwrap();
            assert!(stands_at(&ours, &file.0), "not the one that was swept");
        });
    }

    #[test]
    fn what_cannot_be_made_is_an_error_and_no_live_process() {
        let nowhere = std::env::temp_dir().join("grpclb-claim-nowhere/lock");
        assert!(matches!(
            claim(&nowhere, || File::open(&nowhere)),
            Err(Refused::Io(_))
        ));
    }
}
