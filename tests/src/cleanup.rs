//! Names for what a run makes on this machine, and the removal of all that carries such a name.
//!
//! A name says which process made it (its namespace of processes, pid and start time), so that what a killed run left is
//! told from what a live one uses. Namespaces, cgroups, pins and scratch folders are found by name; nothing else is ever touched.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const FAMILY: &str = "glbt-";

/// Where named network namespaces are kept, by iproute2's convention.
pub const NAMESPACES: &str = "/run/netns";

/// A new name that no other run uses. The first call sweeps what dead runs left and arranges for Ctrl-C.
pub fn unique_name() -> String {
    static START: Once = Once::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    START.call_once(|| {
        sweep();
        remove_on_interrupt();
    });
    format!("{}{}", own_prefix(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes everything whose name is `prefix` or begins with `prefix-`: the processes in it first.
pub fn remove_named(prefix: &str) {
    remove(&|name| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    });
}

/// Removes everything of this process.
pub fn remove_own() {
    let own = own_prefix();
    remove(&|name| name.starts_with(&own));
}

/// Removes what runs left whose process is gone.
pub fn sweep() {
    remove(&|name| !owner_lives(name));
}

/// Every name that a run of this harness has on this machine now.
pub fn all_names() -> Vec<String> {
    let places = [
        PathBuf::from(NAMESPACES),
        cgroup_root(),
        "/sys/fs/bpf".into(),
        std::env::temp_dir(),
    ];
    places.iter().flat_map(|place| names_in(place)).collect()
}

/// The mount point of cgroup v2: the whole tree on most machines, `unified` beside v1 on others.
pub fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ');
            let (_, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        })
        .unwrap_or_else(|| "/sys/fs/cgroup".into())
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// For the end of a program: if it was interrupted, what it made is being removed, and errors that it met meanwhile mean
/// nothing. Then this does not return: the process ends, as an interrupted one does, when all is removed.
pub fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn own_prefix() -> String {
    let pid = std::process::id();
    format!("{}{}-", prefix_of(pid), start_time(pid).unwrap_or_default())
}

/// How the names begin that a process of this namespace of processes gives.
pub fn prefix_of(pid: u32) -> String {
    format!("{FAMILY}{:x}-{pid}-", pid_namespace().unwrap_or_default())
}

fn owner_lives(name: &str) -> bool {
    let mut parts = name.strip_prefix(FAMILY).unwrap_or(name).split('-');
    let namespace = parts.next().and_then(|id| u64::from_str_radix(id, 16).ok());
    let (Some(namespace), Some(pid), Some(started)) = (
        namespace,
        parts.next().and_then(|pid| pid.parse().ok()),
        parts.next(),
    ) else {
        return false;
    };
    // Of what lives in another namespace of processes (another container on this machine), nothing can be seen from here.
    Some(namespace) != pid_namespace() || start_time(pid).is_some_and(|now| now == started)
}

/// Identifies the namespace in which process ids mean something.
fn pid_namespace() -> Option<u64> {
    Some(fs::metadata("/proc/self/ns/pid").ok()?.ino())
}

/// Field 22 of `/proc/PID/stat`; the fields are counted after the command's name, which may hold anything.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(FAMILY))
        .collect()
}

fn remove(wanted: &dyn Fn(&str) -> bool) {
    let root = cgroup_root();
    for name in names_in(&root).iter().filter(|name| wanted(name)) {
        remove_cgroup(&root.join(name));
    }
    for name in names_in(Path::new(NAMESPACES)).iter().filter(|name| wanted(name)) {
        remove_namespace(name);
    }
    for folder in [Path::new("/sys/fs/bpf"), &std::env::temp_dir()] {
        for name in names_in(folder).iter().filter(|name| wanted(name)) {
            let _ = fs::remove_dir_all(folder.join(name));
        }
    }
}

/// Kills what runs in the cgroup, which the harness alone put there, and removes it as soon as it is empty.
fn remove_cgroup(cgroup: &Path) {
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    for pid in fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
    {
        kill_process(pid);
    }
    crate::process::wait_until(std::time::Duration::from_secs(5), || {
        fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
    });
}

fn remove_namespace(name: &str) {
    let pids = Command::new("ip")
        .args(["netns", "pids", name])
        .stderr(Stdio::null())
        .output();
    for pid in pids
        .iter()
        .flat_map(|output| std::str::from_utf8(&output.stdout))
        .flat_map(str::lines)
    {
        kill_process(pid);
    }
    let _ = Command::new("ip")
        .args(["netns", "del", name])
        .stderr(Stdio::null())
        .status();
}

fn kill_process(pid: &str) {
    // A process of another namespace is called 0 here, and kill(2) would take that for our own process group.
    if let Some(pid) = pid.trim().parse::<i32>().ok().filter(|pid| *pid > 0) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// On Ctrl-C or SIGTERM: remove what is ours, then exit as a program that was interrupted does.
fn remove_on_interrupt() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else {
        return;
    };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            remove_own();
            std::process::exit(128 + signal);
        }
    });
}
