//! What the agent's process uses, read from /proc. A figure that cannot be read is zero or absent, never an error.

use std::fs;
use std::path::PathBuf;

use super::status::Process;

/// The figures of this process, now.
pub fn read() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Process {
        resident_bytes: field(&status, "VmRSS:").unwrap_or(0) * 1024,
        budget_bytes: 0,
        held_bytes: 0,
        socket_bytes: socket_bytes(),
        // One of them is the directory that is being read.
        open_files: fs::read_dir("/proc/self/fd")
            .map_or(0, |entries| (entries.count() as u64).saturating_sub(1)),
        threads: field(&status, "Threads:").unwrap_or(0),
        cpu_seconds: cpu_seconds(&stat),
    }
}

/// Resident bytes of this process, now; zero where they cannot be read.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&status, "VmRSS:").unwrap_or(0) * 1024
}

/// The number after `name` in `/proc/self/status` or `memory.stat`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time, from the fields 14 and 15 of proc(5)'s `stat`, in clock ticks of 10 ms.
fn cpu_seconds(stat: &str) -> f64 {
    // The second field is the program's name in brackets, and may hold spaces and brackets.
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return 0.0;
    };
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks as f64 / 100.0
}

/// `sock` of this cgroup's memory.stat: the agent pays for both legs of every connection.
fn socket_bytes() -> Option<u64> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path: PathBuf = ["/sys/fs/cgroup", path.trim_start_matches('/'), "memory.stat"]
        .iter()
        .collect();
    field(&fs::read_to_string(path).ok()?, "sock ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_open_files() {
        let process = read();
        assert!(process.resident_bytes > 100_000, "{process:?}");
        assert!(process.threads >= 1, "{process:?}");
        assert!(process.open_files >= 3, "{process:?}");
    }

    #[test]
    fn a_program_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) (b)) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0";
        assert!((cpu_seconds(stat) - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_not_there_is_absent() {
        assert_eq!(field("VmRSS:  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(field("VmRSS:  12 kB\n", "Threads:"), None);
        assert!(cpu_seconds("").abs() < f64::EPSILON);
    }
}
