//! A machine of the cluster as namespaces: network, processes, mounts, cgroups and host name of its own. Its first
//! process is a script that starts the components and starts again what ends; when that process dies, the kernel ends
//! everything else in there and takes its mounts away, so that nothing can be left over.
//!
//! A node sees folders of its own at `/run`, `/var/lib` and `/var/log` and a bpffs of its own: whatever is installed with
//! ordinary host paths works on two nodes of one machine. Its cgroup is the root of the hierarchies that it sees. What it
//! shares with the host is the kernel and the devices.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cgroups;
use super::command::{finish, run, write};
use super::state::{Cluster, Machine};
use super::wait;

/// A program that a machine runs, and starts again when it ends.
pub(super) struct Component {
    pub(super) name: &'static str,
    pub(super) command: Vec<String>,
}

/// What of the machine's folder lies over the host's folders of the same name. `/var/lib` comes last: it hides the
/// machine's folder itself.
const OWN_FOLDERS: [&str; 3] = ["run", "var/log", "var/lib"];

pub(super) fn start(cluster: &Cluster, machine: Machine, components: &[Component]) -> Result<()> {
    let folder = cluster.machine_folder(machine);
    for own in OWN_FOLDERS {
        fs::create_dir_all(folder.join(own))?;
    }
    // Keys are in there; the machine itself comes in by its mounts.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    let script = script_of(&folder);
    let (joining, mounting) = match machine {
        Machine::Control => (String::new(), String::new()),
        Machine::Node(_) => (cgroups::joining(cluster, machine)?, cgroups::mounting()?),
    };
    write(&script, &first_process(&folder, machine, &mounting, components))?;
    let netns = format!("--net=/run/netns/{}", cluster.netns(machine));
    // A session of its own, so that a closed terminal does not end the cluster.
    let mut command = Command::new("setsid");
    command
        .args(["--fork", "sh", "-c", &format!("{joining} exec \"$@\""), "sh"])
        .args([
            "nsenter", &netns, "unshare", "--fork", "--pid", "--mount", "--uts",
        ])
        .args(["--cgroup", "--mount-proc"])
        .args(["--propagation", "private", "/bin/bash"])
        .arg(&script)
        .stdin(Stdio::null())
        .stdout(fs::File::create(folder.join("var/log/machine.log"))?)
        .stderr(fs::File::create(folder.join("var/log/machine-errors.log"))?);
    let status = command.status().context("cannot run setsid")?;
    if !status.success() {
        bail!("{} did not start: {status}", machine.name());
    }
    Ok(())
}

fn script_of(folder: &Path) -> PathBuf {
    folder.join("first-process.sh")
}

fn first_process(folder: &Path, machine: Machine, mounting: &str, components: &[Component]) -> String {
    let mounts = OWN_FOLDERS.map(|own| format!("mount --bind {} /{own}\n", folder.join(own).display()));
    let starts: Vec<String> = components
        .iter()
        .map(|component| {
            let words: Vec<String> = component.command.iter().map(|word| quoted(word)).collect();
            format!("supervise {} {} &\n", component.name, words.join(" "))
        })
        .collect();
    format!(
        r#"# The first process of {name}, written by `cargo xtask cluster up`.
set -eu
hostname {name}
# The host's named network namespaces: their copies here would keep each one alive as long as this machine.
umount --recursive --lazy /run/netns
{mounting}{mounts}mount --make-rshared /
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/components /run/stopped
set +e

# Starts a component again whenever it ends, unless it is to stay down (`cargo xtask cluster stop`).
supervise() {{
    local name=$1
    shift
    while :; do
        if [ ! -e "/run/stopped/$name" ]; then
            "$@" </dev/null >>"/var/log/$name.log" 2>&1 &
            echo $! >"/run/components/$name"
            wait $!
            echo "$(date +%T) $name ended: $?"
            rm -f "/run/components/$name"
        fi
        sleep 0.2
    done
}}

{starts}
# Also collects what has lost its parent, as a first process must.
while :; do wait; sleep 1; done
"#,
        name = machine.name(),
        mounts = mounts.concat(),
        starts = starts.concat(),
    )
}

/// For a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The host's number of the machine's first process, if it runs.
pub(super) fn first_process_of(cluster: &Cluster, machine: Machine) -> Option<u32> {
    processes_of(&cluster.machine_folder(machine))
        .into_iter()
        .find(|pid| is_first_in_its_namespace(*pid))
}

/// The processes that were started with a script of a machine under `folder`.
fn processes_of(folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&str> = command
                .split(|byte| *byte == 0)
                .map(|word| std::str::from_utf8(word).unwrap_or_default())
                .collect();
            words.contains(&"/bin/bash")
                && words
                    .iter()
                    .any(|word| word.ends_with("/first-process.sh") && Path::new(word).starts_with(folder))
        })
        .collect()
}

fn is_first_in_its_namespace(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers: Vec<&str> = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .map(|numbers| numbers.split_whitespace().collect())
        .unwrap_or_default();
    numbers.len() > 1 && numbers.last() == Some(&"1")
}

/// Whether anything runs of the cluster whose folder is `folder`.
pub(super) fn any_runs(folder: &Path) -> bool {
    !processes_of(folder).is_empty()
}

/// Ends all machines of the cluster whose folder is `folder`, and waits until their last process is gone.
pub(super) fn kill_all(folder: &Path) -> Result<()> {
    let (patience, interval) = (Duration::from_secs(20), Duration::from_millis(50));
    let mut known = BTreeSet::new();
    wait::until("all processes have ended", patience, interval, || {
        for pid in processes_of(folder) {
            // One that has ended in the meantime is as good.
            let _ = run("kill", ["-KILL", &pid.to_string()]);
            known.insert(pid);
        }
        // One that is ending says no more what it was; a first process ends after all others of its machine.
        known.retain(|pid| Path::new("/proc").join(pid.to_string()).exists());
        Ok(known.is_empty())
    })
}

/// A command in all namespaces of a machine.
pub(super) fn inside(cluster: &Cluster, machine: Machine) -> Result<Command> {
    let pid = first_process_of(cluster, machine)
        .with_context(|| format!("{} does not run (cargo xtask cluster up)", machine.name()))?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string()]);
    command.args(["--net", "--pid", "--mount", "--uts", "--cgroup", "--"]);
    Ok(command)
}

/// Ends a component, which stays down until [`start_component`].
pub(super) fn stop_component(cluster: &Cluster, machine: Machine, name: &str) -> Result<()> {
    let run = cluster.machine_folder(machine).join("run");
    write(&run.join("stopped").join(name), "")?;
    let pid_file = run.join("components").join(name);
    let started = Instant::now();
    let (patience, interval) = (Duration::from_secs(15), Duration::from_millis(100));
    wait::until(&format!("{name} has ended"), patience, interval, || {
        let Ok(pid) = fs::read_to_string(&pid_file) else {
            return Ok(true);
        };
        let politely = started.elapsed() < Duration::from_secs(5);
        let signal = if politely { "-TERM" } else { "-KILL" };
        // Inside, where its number means what the file says.
        let _ = finish(
            inside(cluster, machine)?.args(["kill", signal, pid.trim()]),
            Stdio::null(),
        );
        Ok(false)
    })
}

pub(super) fn start_component(cluster: &Cluster, machine: Machine, name: &str) -> Result<()> {
    let file = cluster.machine_folder(machine).join("run/stopped").join(name);
    fs::remove_file(file).with_context(|| format!("{name} was not stopped on {}", machine.name()))?;
    let (patience, interval) = (Duration::from_secs(15), Duration::from_millis(100));
    wait::until(&format!("{name} runs"), patience, interval, || {
        Ok(running_components(cluster, machine)
            .iter()
            .any(|running| running == name))
    })
}

/// What runs on a machine: its components that have a process now.
pub(super) fn running_components(cluster: &Cluster, machine: Machine) -> Vec<String> {
    let folder = cluster.machine_folder(machine).join("run/components");
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
