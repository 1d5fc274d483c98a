//! The processes of the cluster's machines that are measured: where they are, what they cost, and what they say of
//! themselves over HTTP.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use grpclb_tests::cluster::Cluster;
use grpclb_tests::usage;

/// A process at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_mib: f64,
}

/// A program that runs once on a machine (`control`, `node1`). Found anew each time: it may have been started again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program<'c> {
    pub(crate) cluster: &'c Cluster,
    pub(crate) machine: &'c str,
    pub(crate) name: &'c str,
}

impl Program<'_> {
    pub(crate) fn cost(self) -> Result<Cost> {
        let pids = [self.pid()?];
        let cpu = usage::cpu(&pids)?;
        Ok(Cost {
            cpu_seconds: cpu.user + cpu.system,
            resident_mib: usage::resident_kib(&pids)? as f64 / 1024.0,
        })
    }

    /// When it started, in seconds since 1970, to a hundredth.
    pub(crate) fn started(self) -> Result<f64> {
        const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, fixed by the kernel's ABI for /proc
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // The command's name may hold spaces: fields count from its ')', of which the first is proc(5)'s third.
        let (_, fields) = stat.rsplit_once(')').context("no stat(5)")?;
        let ticks: f64 = fields
            .split_whitespace()
            .nth(22 - 3)
            .context("no starttime")?
            .parse()?;
        let uptime = fs::read_to_string("/proc/uptime")?;
        let uptime: f64 = uptime.split(' ').next().context("no uptime")?.parse()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(now.as_secs_f64() - uptime + ticks / TICKS_PER_SECOND)
    }

    /// As this host counts processes. A machine has process ids of its own, by which its processes are known.
    fn pid(self) -> Result<u32> {
        let netns = format!("/run/netns/glb-{}-{}", self.cluster.name(), self.machine);
        let netns = fs::metadata(&netns).with_context(|| netns)?.ino();
        let namespace =
            |pid: u32, kind: &str| Some(fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok()?.ino());
        let all = || {
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        };
        let of_machine: Vec<u64> = all()
            .filter(|pid| namespace(*pid, "net") == Some(netns))
            .filter_map(|pid| namespace(pid, "pid"))
            .collect();
        let own = fs::metadata("/proc/self/ns/pid")?.ino();
        let found: Vec<u32> = all()
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == self.name)
            })
            .filter(|pid| namespace(*pid, "pid").is_some_and(|id| id != own && of_machine.contains(&id)))
            .collect();
        match found[..] {
            [pid] => Ok(pid),
            _ => bail!(
                "{} processes {} on {}, not one",
                found.len(),
                self.name,
                self.machine
            ),
        }
    }

    /// Waits until it has used next to no CPU for a while: what it had to do is done.
    pub(crate) async fn settle(self) -> Result<()> {
        const WINDOW: std::time::Duration = std::time::Duration::from_secs(3);
        const IDLE: f64 = 0.1;
        loop {
            let before = self.cost()?.cpu_seconds;
            tokio::time::sleep(WINDOW).await;
            if self.cost()?.cpu_seconds - before <= IDLE {
                return Ok(());
            }
        }
    }
}

/// What a machine of the cluster gets from an address, by HTTP. The machines have bash, and need no more for this.
pub(crate) fn http_get(cluster: &Cluster, machine: &str, address: &str, path: &str) -> Result<String> {
    let (host, port) = address.rsplit_once(':').context("an address with a port")?;
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port} && printf 'GET {path} HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n' >&3 && cat <&3"
    );
    let answer = cluster.exec_on(machine, &["bash", "-c", &script])?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if !head.lines().next().unwrap_or_default().contains(" 200 ") {
        bail!("{address}{path}: {head}");
    }
    Ok(body.to_owned())
}

/// The value of a sample in a metrics text: of the one that is named with its labels, or of all of that name together.
pub(crate) fn sample(metrics: &str, name: &str) -> Option<f64> {
    let values: Vec<f64> = metrics
        .lines()
        .filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let same = sample == name
                || sample
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('{'));
            same.then(|| value.parse().ok())?
        })
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
