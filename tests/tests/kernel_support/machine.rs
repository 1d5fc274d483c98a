//! The test's part of the machine: a cgroup of its own with this process in it, and a place for pins. One test at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use grpclb_userspace::kernel::{Kernel, Options};

const PREFIX: &str = "glb-kernel-test-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One test at a time is in its cgroup, since a process is in one only.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The test's part of the machine. Dropping it takes the process out of the cgroup again and removes all.
pub struct Machine {
    pub cgroup: PathBuf,
    pub pin_root: PathBuf,
    home: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    pub fn new() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(nix::unistd::Uid::effective().is_root(), "kernel tests need root");
        let root = cgroup_root();
        sweep(&root);
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let cgroup = root.join(&name);
        let home = own_cgroup(&root);
        fs::create_dir(&cgroup).expect("a cgroup for the test");
        enter(&cgroup);
        Self {
            cgroup,
            pin_root: Path::new("/sys/fs/bpf").join(name),
            home,
            _turn: turn,
        }
    }

    pub fn options(&self, instance: &str) -> Options {
        Options {
            instance: instance.into(),
            pin_root: self.pin_root.clone(),
            cgroup: Some(self.cgroup.clone()),
            log_level: 0,
        }
    }

    pub fn options_for(&self, cgroup: &Path, instance: &str) -> Options {
        Options {
            cgroup: Some(cgroup.to_path_buf()),
            ..self.options(instance)
        }
    }

    /// A cgroup below the test's own.
    pub fn child(&self, name: &str) -> PathBuf {
        let child = self.cgroup.join(name);
        fs::create_dir(&child).expect("a cgroup below the test's");
        child
    }

    /// `sk_msg`'s table of the instance that attached last.
    pub fn sockets_pin(&self) -> PathBuf {
        self.pin_root.join("current/sockets")
    }

    /// What bpftool shows of a pinned map of the instance that attached last.
    pub fn dump(&self, file: &str) -> String {
        let pin = self.pin_root.join("current").join(file);
        let output = Command::new("bpftool")
            .args(["map", "dump", "pinned", pin.to_str().unwrap()])
            .output();
        String::from_utf8(output.expect("bpftool").stdout).unwrap()
    }

    /// Writes a worker's heartbeat (nanoseconds) into the map of the instance that attached last.
    pub fn write_heartbeat(&self, worker: u32, nanos: u64) {
        let pin = self.pin_root.join("current/heartbeats");
        let bytes = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>();
        let status = Command::new("bpftool")
            .args(["map", "update", "pinned", pin.to_str().unwrap(), "key"])
            .args(bytes(&worker.to_ne_bytes()))
            .arg("value")
            .args(bytes(&nanos.to_ne_bytes()))
            .status();
        assert!(status.expect("bpftool").success());
    }

    /// A kernel room, attached to the test's cgroup.
    pub fn attached(&self, instance: &str) -> Kernel {
        self.attached_to(&self.cgroup, instance)
    }

    pub fn attached_to(&self, cgroup: &Path, instance: &str) -> Kernel {
        let mut kernel = Kernel::load(&self.options_for(cgroup, instance)).expect("the kernel programs load");
        let attached = kernel.attach().expect("they attach");
        assert!(attached.verified && attached.ipv6, "{attached:?}");
        kernel
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        enter(&self.home);
        remove_cgroups(&self.cgroup);
        remove_pins(&self.pin_root);
    }
}

fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    line.and_then(|line| line.split(' ').nth(1))
        .expect("a cgroup v2 hierarchy")
        .into()
}

fn own_cgroup(root: &Path) -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .expect("a place in the v2 hierarchy");
    root.join(path)
}

/// Moves this process there, as if it were a pod's. [`Machine`] brings it home.
pub fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), "0").expect("root may move itself");
}

fn sweep(root: &Path) {
    let mine = |entry: &fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next().map(str::to_owned));
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    for entry in fs::read_dir(root).into_iter().flatten().flatten().filter(mine) {
        remove_cgroups(&entry.path());
    }
    for entry in fs::read_dir("/sys/fs/bpf")
        .into_iter()
        .flatten()
        .flatten()
        .filter(mine)
    {
        remove_pins(&entry.path());
    }
}

fn remove_cgroups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

fn remove_pins(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_pins(&entry.path());
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}
