//! What processes cost, read from `/proc`: CPU time and resident memory. Sums over all its processes' threads.

use std::fs;
use std::ops::Sub;

use anyhow::{Context, Result};

/// CPU time used so far, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            user: self.user - earlier.user,
            system: self.system - earlier.system,
        }
    }
}

/// A proxy may be several processes (nginx: master and worker): all that descend from `root` count.
pub fn tree(root: u32) -> Vec<u32> {
    let mut members = vec![root];
    let mut next = 0;
    while let Some(&pid) = members.get(next) {
        next += 1;
        // Children are listed under the thread that forked them.
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            members.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
    }
    members
}

/// Sums over the processes; one that has ended is an error, since its figures are gone with it.
pub fn cpu(pids: &[u32]) -> Result<Cpu> {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, fixed by the kernel's ABI for /proc
    let mut sum = Cpu::default();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} has ended"))?;
        // The command name may hold spaces and parentheses: fields count from the last ')' (proc(5): utime is the 14th).
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks = |at: usize| {
            fields
                .get(at)
                .and_then(|field| field.parse::<f64>().ok())
                .context("/proc/PID/stat")
        };
        let (user, system) = (ticks(11)? / TICKS_PER_SECOND, ticks(12)? / TICKS_PER_SECOND);
        // The scheduler counts nanoseconds, but not by mode; and what it counted of a thread goes with it.
        let total = scheduled(*pid).max(user + system);
        let share = if user + system > 0.0 {
            user / (user + system)
        } else {
            0.0
        };
        sum.user += total * share;
        sum.system += total * (1.0 - share);
    }
    Ok(sum)
}

/// Seconds that the threads of a process have run, of those that still live.
fn scheduled(pid: u32) -> f64 {
    let ran = |task: fs::DirEntry| -> Option<f64> {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let nanos: f64 = tasks.into_iter().flatten().flatten().filter_map(ran).sum();
    nanos / 1e9
}

/// Resident memory in KiB (`VmRSS`), summed over the processes.
pub fn resident_kib(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| status_kib(*pid, "VmRSS:")).sum()
}

/// The most resident memory that a process has had, in KiB (`VmHWM`).
pub fn peak_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, key: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} has ended"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let figure = line.with_context(|| format!("{key} in /proc/{pid}/status"))?;
    figure
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .with_context(|| key.to_owned())
}
