//! Finds the network namespace of a pod by its UID: the kubelet names the pod's cgroup with it, a process in that cgroup
//! is in the pod's namespace, and a namespace that another owner started is none of the pod's.
//!
//! Only pods that are wanted are looked for. Changes of their cgroups are told by inotify; a slow resync looks for what that
//! missed, through all processes. Where a runtime keeps no process in a sandbox (CRI-O), its namespace is found among the
//! names in `/run/netns` by the addresses that the API tells.
//!
//! Decides nothing about the pods: [`super::Pods`] asks for a namespace, and whether it still is the pod's.

mod path;
mod process;
mod tree;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::netns::{NAMES, Netns};
use process::{Birth, Identity};
use tree::Tree;
use watch::{Change, Watch};

/// How often a sandbox that is being made is looked at: between its cgroup and its process in its namespace lie some 10 ms, and
/// nothing tells when they are over.
const YOUNG_RETRY: Duration = Duration::from_millis(2);
/// For how long. A runtime that takes longer is found by the ordinary retries.
const YOUNG: Duration = Duration::from_secs(1);
/// How often everything is looked for anew.
const RESYNC: Duration = Duration::from_secs(10);
/// A process's ancestors that are looked at.
const MAX_ANCESTORS: usize = 64;

/// Why a pod's namespace was not found.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missing {
    #[error("its sandbox is not there yet")]
    Sandbox,
    #[error("its sandbox is being made: no process is in its network namespace yet")]
    Process,
    #[error("its processes are in the network namespace of the node or of the agent, which are left alone")]
    NotItsOwn,
    #[error(
        "the kubelet's cgroup (kubepods) is not seen from here: the agent needs the machine's /sys/fs/cgroup"
    )]
    NoKubelet,
    #[error("the processes of pods are not seen from here: the agent needs hostPID")]
    HiddenProcesses,
    #[error("several network namespaces in /run/netns have its address")]
    Ambiguous,
    #[error("its network namespace cannot be opened: {0}")]
    Open(#[from] io::Error),
}

impl Missing {
    /// A pod that starts passes through this.
    pub(super) fn is_a_stage(&self) -> bool {
        matches!(self, Self::Sandbox | Self::Process)
    }
}

/// The sandboxes of the wanted pods.
#[derive(Debug)]
pub(super) struct Sandboxes {
    tree: Tree,
    watch: Watch,
    /// The namespaces of the machine and of the agent.
    others: Vec<Identity>,
    pods: BTreeMap<Arc<str>, Known>,
    resync_due: Instant,
}

#[derive(Debug, Default)]
struct Known {
    /// When its sandbox's cgroup was made, if we were there.
    appeared: Option<Instant>,
    /// When a container's cgroup was made for it the last time.
    changed: Option<Instant>,
    /// Its processes by the last look through all of them.
    scanned: Vec<u32>,
}

/// A namespace that was found.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) uid: Arc<str>,
    identity: Identity,
    kept_by: Keeper,
}

/// What showed that the namespace is the pod's.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keeper {
    Process(u32),
    Name(PathBuf),
}

impl Sandboxes {
    pub(super) fn new() -> io::Result<Self> {
        let own = [Path::new("/proc/1/ns/net"), Path::new("/proc/thread-self/ns/net")];
        Ok(Self {
            tree: Tree::default(),
            watch: Watch::new()?,
            others: own
                .iter()
                .filter_map(|path| Identity::of_path(path).ok())
                .collect(),
            pods: BTreeMap::new(),
            resync_due: Instant::now(),
        })
    }

    /// Looks for these pods from now on, and for no other.
    pub(super) fn want(&mut self, uids: &BTreeSet<Arc<str>>) {
        let gone: Vec<_> = self
            .pods
            .keys()
            .filter(|uid| !uids.contains(*uid))
            .cloned()
            .collect();
        for uid in gone {
            self.pods.remove(&uid);
            self.watch.forget(&uid);
        }
        let new: Vec<_> = uids
            .iter()
            .filter(|uid| !self.pods.contains_key(*uid))
            .cloned()
            .collect();
        if !new.is_empty() && self.tree.is_empty() {
            self.look_for_roots();
        }
        for uid in new {
            self.watch.want(&uid, &self.tree);
            self.pods.insert(uid, Known::default());
        }
    }

    /// The pod's sandbox and its network namespace. `addresses`: those that the API tells, if it does.
    pub(super) fn open(&self, uid: &Arc<str>, addresses: &[IpAddr]) -> Result<(Sandbox, Netns), Missing> {
        let (kept_by, namespace) = match self.by_process(uid) {
            Err(missing) if missing.is_a_stage() && !addresses.is_empty() => {
                self.by_name(uid, addresses)?.ok_or(missing)?
            }
            found => found?,
        };
        let sandbox = Sandbox {
            uid: Arc::clone(uid),
            identity: namespace.identity()?.into(),
            kept_by,
        };
        Ok((sandbox, namespace))
    }

    /// Whether the sandbox still is there.
    pub(super) fn is_there(&self, sandbox: &mut Sandbox) -> bool {
        let is_it = |found: io::Result<Identity>| found.is_ok_and(|found| found == sandbox.identity);
        let stays = match &sandbox.kept_by {
            Keeper::Process(pid) => is_it(Identity::of_process(*pid)),
            Keeper::Name(path) => is_it(Identity::of_path(path)),
        };
        if stays {
            return true;
        }
        // Its first process may have gone and left others.
        let mut pids = self.processes(&sandbox.uid).into_iter();
        let other = pids.find(|pid| is_it(Identity::of_process(*pid)));
        if let Some(pid) = other {
            sandbox.kept_by = Keeper::Process(pid);
        }
        other.is_some()
    }

    /// The pod's sandbox is gone: what comes next under its UID is another one.
    pub(super) fn gone(&mut self, uid: &str) {
        if let Some(known) = self.pods.get_mut(uid) {
            known.appeared = None;
        }
    }

    /// When the pod's sandbox appeared, if that was while it was wanted.
    pub(super) fn appeared(&self, uid: &str) -> Option<Instant> {
        self.pods.get(uid)?.appeared
    }

    /// How soon to try again, for a sandbox that is just being made.
    pub(super) fn try_again(&self, uid: &str, now: Instant) -> Option<Duration> {
        let changed = self.pods.get(uid)?.changed?;
        (now.duration_since(changed) < YOUNG).then_some(YOUNG_RETRY)
    }

    /// Waits until something happened to wanted pods. Safe to drop and call again.
    pub(super) async fn changed(&mut self) -> Vec<Arc<str>> {
        let changes = self.watch.changed().await;
        let now = Instant::now();
        let take = |(uid, change)| {
            if change == Change::Appeared
                && let Some(known) = self.pods.get_mut(&uid)
            {
                known.appeared.get_or_insert(now);
                known.changed = Some(now);
            }
            uid
        };
        changes.into_iter().map(take).collect()
    }

    /// Looks for what inotify missed; costs little until it is due. `lost`: the pods whose sandbox was not found.
    pub(super) fn resync(&mut self, now: Instant, lost: &[Arc<str>]) {
        if self.pods.is_empty() || now < self.resync_due {
            return;
        }
        self.resync_due = now + RESYNC;
        self.look_for_roots();
        let mut scanned = if lost.is_empty() {
            BTreeMap::new()
        } else {
            process::of_pods(lost)
        };
        for (uid, known) in &mut self.pods {
            known.scanned = scanned.remove(uid).unwrap_or_default();
        }
    }

    fn look_for_roots(&mut self) {
        self.tree = Tree::find();
        self.watch.follow(&self.tree);
        for uid in self.pods.keys() {
            self.watch.want(uid, &self.tree);
        }
    }

    fn processes(&self, uid: &str) -> Vec<u32> {
        let mut found: Vec<u32> = self
            .tree
            .pod(uid)
            .iter()
            .flat_map(|cgroup| tree::processes(cgroup))
            .collect();
        found.extend(self.pods.get(uid).into_iter().flat_map(|known| &known.scanned));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The namespace of the pod's first process that is in one of the pod's own.
    fn by_process(&self, uid: &str) -> Result<(Keeper, Netns), Missing> {
        let pids = self.processes(uid);
        // A process that our process namespace does not have is shown as 0.
        if pids == [0] {
            return Err(Missing::HiddenProcesses);
        }
        let mut born: Vec<(Birth, u32)> = pids
            .iter()
            .filter_map(|pid| Some((Birth::of(*pid)?, *pid)))
            .collect();
        born.sort_by_key(|(birth, pid)| (birth.at, *pid));
        let mut missing = if self.tree.is_empty() && pids.is_empty() {
            Missing::NoKubelet
        } else if self.tree.pod(uid).is_empty() && pids.is_empty() {
            Missing::Sandbox
        } else {
            Missing::Process
        };
        for (birth, pid) in born {
            // Opened first, so that what is looked at is what is used.
            let Ok(file) = File::open(process::namespace_of(pid)) else {
                continue;
            };
            let identity = Identity::of(&file)?;
            if self.others.contains(&identity) || !is_its_own(birth, identity, &pids) {
                missing = self.not_its_own(uid);
                continue;
            }
            if process::belongs_to(pid, uid) {
                let name = process::namespace_of(pid).display().to_string();
                return Ok((Keeper::Process(pid), Netns::from_file(file, name)?));
            }
        }
        Err(missing)
    }

    /// A container that is being made is in the namespace of its runtime for a moment.
    fn not_its_own(&self, uid: &str) -> Missing {
        match self.try_again(uid, Instant::now()) {
            Some(_) => Missing::Process,
            None => Missing::NotItsOwn,
        }
    }

    /// The one name in `/run/netns` whose namespace has one of these addresses and no process of another pod.
    fn by_name(&self, uid: &str, addresses: &[IpAddr]) -> Result<Option<(Keeper, Netns)>, Missing> {
        let mut found = None;
        for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(file) = File::open(&path) else { continue };
            let identity = Identity::of(&file)?;
            let Ok(namespace) = Netns::from_file(file, path.display().to_string()) else {
                continue;
            };
            let has_it = super::listener::addresses(&namespace)
                .is_ok_and(|there| there.iter().any(|address| addresses.contains(address)));
            if !has_it || self.others.contains(&identity) || process::is_of_another_pod(identity, uid) {
                continue;
            }
            if found.is_some() {
                return Err(Missing::Ambiguous);
            }
            found = Some((Keeper::Name(path), namespace));
        }
        Ok(found)
    }
}

/// Whether a process is in another namespace than who started the pod's processes. A runtime's own processes, and those of a
/// pod in the node's network, are not.
fn is_its_own(birth: Birth, identity: Identity, pids: &[u32]) -> bool {
    let mut parent = birth.parent;
    for _ in 0..MAX_ANCESTORS {
        match Identity::of_process(parent) {
            // Not seen from here, or gone: nothing speaks against it.
            Err(_) => return true,
            Ok(of_parent) if of_parent != identity => return true,
            Ok(_) if !pids.contains(&parent) => return false,
            Ok(_) => {}
        }
        let Some(birth) = Birth::of(parent) else {
            return true;
        };
        parent = birth.parent;
    }
    false
}
