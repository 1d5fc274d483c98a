//! The directory of an instance on bpffs: made and locked, swept of the dead, removed at the end; and the link `current`.
//!
//! The lock is on the directory itself. A live instance's directory is never touched.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Error, Result};
use crate::claim::{Refused, claim, of_the_dead};

/// Where bpffs is mounted on every distribution.
const BPFFS: &str = "/sys/fs/bpf";
const CURRENT: &str = "current";

/// Our directory, locked for as long as this lives; dropping it removes it.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    root: PathBuf,
    instance: String,
    _lock: Flock<File>,
}

impl Pins {
    /// Makes this instance's directory, after removing those of instances that are dead.
    pub(super) fn create(root: &Path, instance: &str) -> Result<Self> {
        check_name(instance)?;
        mount_bpffs(root)?;
        sweep(root);
        let directory = root.join(instance);
        // With the root, which goes with the last instance.
        let made = || {
            fs::create_dir_all(&directory)?;
            File::open(&directory)
        };
        let lock = claim(&directory, made).map_err(|refused| match refused {
            Refused::Alive => Error::InstanceAlive(instance.into(), directory.clone()),
            Refused::Io(source) => failed(&directory, "make and lock the directory")(source),
        })?;
        remove_files(&directory);
        Ok(Self {
            root: root.to_path_buf(),
            instance: instance.to_owned(),
            directory,
            _lock: lock,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Points `current` here, in one step: who looks sees the old one or this one.
    pub(super) fn make_current(&self) -> Result<()> {
        let current = self.root.join(CURRENT);
        let next = self.root.join(format!("{CURRENT}-{}", self.instance));
        let _: io::Result<()> = fs::remove_file(&next);
        symlink(&self.instance, &next).map_err(failed(&next, "make the link"))?;
        fs::rename(&next, &current).map_err(failed(&current, "replace the link"))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let current = self.root.join(CURRENT);
        if fs::read_link(&current).is_ok_and(|target| target == Path::new(&self.instance)) {
            let _: io::Result<()> = fs::remove_file(&current);
        }
        remove_directory(&self.directory);
        // The root goes with the last instance; it stays while another is there.
        let _: io::Result<()> = fs::remove_dir(&self.root);
    }
}

/// Removes what dead instances left, `current` included when it leads nowhere. What cannot be removed stays: it does no
/// harm, and the next start tries again.
pub fn sweep(root: &Path) -> Vec<String> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(_lock) = of_the_dead(&path)
        {
            remove_directory(&path);
            removed.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) && !path.exists() {
            let _: io::Result<()> = fs::remove_file(&path);
        }
    }
    removed
}

fn remove_directory(directory: &Path) {
    remove_files(directory);
    let _: io::Result<()> = fs::remove_dir(directory);
}

fn remove_files(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let _: io::Result<()> = fs::remove_file(entry.path());
    }
}

/// bpffs reserves dots; slashes would leave the directory.
fn check_name(instance: &str) -> Result<()> {
    let fits = (1..=40).contains(&instance.len())
        && instance
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !instance.starts_with(CURRENT);
    if fits {
        Ok(())
    } else {
        Err(Error::InstanceName(instance.into()))
    }
}

/// Mounts bpffs at its usual place if nothing did; another place is its owner's to mount.
fn mount_bpffs(root: &Path) -> Result<()> {
    if is_on_bpffs(root) {
        return Ok(());
    }
    if !can_mount(root) {
        let source = io::Error::other("not on a bpffs: mount one there (mount -t bpf bpf DIRECTORY)");
        return Err(failed(root, "use the directory")(source));
    }
    // Two agents that start at once must not mount two, of which the second hides the first.
    let parent = File::open("/sys/fs").map_err(failed(root, "open /sys/fs"))?;
    let _lock = Flock::lock(parent, FlockArg::LockExclusive)
        .map_err(|(_, errno)| failed(root, "lock /sys/fs")(errno.into()))?;
    if is_on_bpffs(root) {
        return Ok(());
    }
    match mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    ) {
        Ok(()) => {
            tracing::info!(path = BPFFS, "mounted bpffs");
            Ok(())
        }
        Err(Errno::EPERM | Errno::EACCES) => Err(Error::NotPermitted {
            what: format!("mount bpffs at {BPFFS}"),
        }),
        Err(errno) => Err(failed(Path::new(BPFFS), "mount bpffs")(errno.into())),
    }
}

/// Whether we would mount a bpffs for this path: at its usual place only.
pub(super) fn can_mount(root: &Path) -> bool {
    root.starts_with(BPFFS) && Path::new(BPFFS).is_dir()
}

/// Whether this path, or the nearest directory above it that exists, lies on a bpffs.
pub(super) fn is_on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find_map(|path| statfs(path).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn failed(path: &Path, what: &'static str) -> impl Fn(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => Error::NotPermitted {
            what: format!("{what} {}", path.display()),
        },
        _ => Error::Pins {
            path: path.clone(),
            what,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_bpffs_or_the_link_would_not_bear_is_refused() {
        for name in ["", "a.b", "a/b", "current", "current-1", &"x".repeat(41)] {
            assert!(
                matches!(check_name(name), Err(Error::InstanceName(_))),
                "{name:?}"
            );
        }
        assert!(check_name("node-1_7f3a").is_ok());
    }

    #[test]
    fn a_path_that_does_not_exist_yet_is_on_the_file_system_above_it() {
        assert!(!is_on_bpffs(Path::new("/proc/self/nothing/here")));
    }
}
