//! The options of `grpclb agent`, and what they are when they are not given.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::control::{Source, kubernetes};
use crate::data::DialTimes;
use crate::{admin, observe::logging};

/// Run the agent: steer the enabled pods' connections and give each call a backend of its own.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The Services and pods, as YAML (docs/configuration.md); taken up again whenever it changes
    #[arg(long, value_name = "FILE", required_unless_present = "kubernetes")]
    pub config: Option<PathBuf>,

    /// Only check the file: exit status 0 if it is valid
    #[arg(long, conflicts_with = "kubernetes")]
    pub check: bool,

    /// Take Services and pods from the Kubernetes API, for the node that --node names (docs/kubernetes.md)
    #[arg(long, conflicts_with = "config")]
    pub kubernetes: bool,

    /// How the Kubernetes API is reached; by default as a pod does, or as KUBECONFIG says
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub kubeconfig: Option<PathBuf>,

    /// The cgroup (v2) whose processes are steered; by default that of the pods (kubepods), else the root
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Where maps are pinned, on a bpffs
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/grpclb")]
    pub bpffs: PathBuf,

    /// Where the agents of this node find each other, to hand over
    #[arg(long, value_name = "DIR", default_value = "/run/grpclb")]
    pub run_dir: PathBuf,

    /// Data workers (threads), 1 to 64; by default one a CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: Option<u32>,

    /// This node's name, in messages and at the Kubernetes API; by default the host's
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: Option<String>,

    /// Where `grpclb status`, /readyz and /livez are answered: a loopback address
    #[arg(long, value_name = "ADDR", default_value_t = admin::DEFAULT_ADMIN)]
    pub admin: SocketAddr,

    /// Where Prometheus scrapes /metrics; `off` for nowhere
    #[arg(long, value_name = "ADDR", default_value_t = Metrics::At(admin::DEFAULT_METRICS))]
    pub metrics: Metrics,

    /// How long connections may run on after SIGTERM, an upgrade, or when their pod is disabled, in seconds
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub drain_timeout: u64,

    /// How long calls wait for a dial before they are given to another endpoint, if there is another, in seconds
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub dial_patience: u64,

    /// How long a backend may take to accept a TCP connection, in seconds
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub connect_timeout: u64,

    /// How long a connected HTTP/2 backend may take to send its SETTINGS, in seconds
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub settings_timeout: u64,

    /// Names this run of the agent: letters, digits, `-`, `_`; by default made from the process id and the time
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,

    /// Start beside running agents without taking over from them
    #[arg(long)]
    pub no_takeover: bool,

    /// What is logged: a level, or `target=level` pairs
    #[arg(long, value_name = "FILTER", env = "GRPCLB_LOG", default_value = logging::DEFAULT_FILTER)]
    pub log: String,

    /// The form of log lines
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: logging::Format,

    /// Logs of the kernel programs: 0 none and no cost, 1 errors, to 5 every connect
    #[arg(long, value_name = "LEVEL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=5))]
    pub kernel_log: u8,
}

/// The metrics' address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metrics {
    At(SocketAddr),
    Off,
}

impl std::str::FromStr for Metrics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::At)
                .map_err(|_| "expected ADDRESS:PORT or `off`".to_owned()),
        }
    }
}

impl std::fmt::Display for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

impl Options {
    pub(super) fn workers(&self) -> usize {
        let cpus = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.workers
            .map_or_else(cpus, |workers| workers as usize)
            .min(grpclb_abi::MAX_WORKERS as usize)
    }

    pub(super) fn node(&self) -> String {
        let host = || {
            nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
        };
        self.node
            .clone()
            .or_else(host)
            .unwrap_or_else(|| "unknown-node".to_owned())
    }

    /// Where Services and pods come from. The command line has made sure that there is one source.
    pub(super) fn source(&self) -> Source {
        match &self.config {
            Some(path) => Source::File(path.clone()),
            None => Source::Kubernetes(kubernetes::Options {
                node: self.node(),
                kubeconfig: self.kubeconfig.clone(),
                run_dir: self.run_dir.clone(),
            }),
        }
    }

    pub(super) fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.drain_timeout)
    }

    pub(super) fn dial(&self) -> DialTimes {
        DialTimes {
            patience: Duration::from_secs(self.dial_patience),
            connect: Duration::from_secs(self.connect_timeout),
            settings: Duration::from_secs(self.settings_timeout),
        }
    }

    /// Unique on this node for as long as it is up: in containers, every agent may have process id 1.
    pub(super) fn instance(&self) -> String {
        let made = || {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            format!("agent-{}-{}", now.as_secs(), std::process::id())
        };
        self.instance.clone().unwrap_or_else(made)
    }

    pub(super) fn admin(&self) -> admin::Config {
        let metrics = match self.metrics {
            Metrics::At(address) => Some(address),
            Metrics::Off => None,
        };
        admin::Config {
            admin: self.admin,
            metrics,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_file_is_all_that_must_be_given() {
        let options = Cli::try_parse_from(["agent", "--config", "a.yaml"])
            .unwrap()
            .options;
        assert!((1..=64).contains(&options.workers()));
        assert_eq!(options.drain_timeout(), Duration::from_secs(30));
        assert!(options.admin().admin.ip().is_loopback());
    }

    #[test]
    fn there_is_one_source_and_not_two() {
        let parse = |arguments: &[&str]| {
            Cli::try_parse_from([&["agent"], arguments].concat()).map(|cli| cli.options.source())
        };
        assert!(matches!(parse(&["--kubernetes"]), Ok(Source::Kubernetes(_))));
        assert!(matches!(parse(&["--config", "a.yaml"]), Ok(Source::File(_))));
        assert!(parse(&[]).is_err());
        assert!(parse(&["--kubernetes", "--config", "a.yaml"]).is_err());
        assert!(parse(&["--kubernetes", "--check"]).is_err());
        assert!(parse(&["--config", "a.yaml", "--kubeconfig", "b"]).is_err());
    }

    #[test]
    fn metrics_can_be_off_and_what_is_no_address_is_refused() {
        let parse = |metrics| Cli::try_parse_from(["agent", "--config", "a.yaml", "--metrics", metrics]);
        assert_eq!(parse("off").unwrap().options.admin().metrics, None);
        assert!(parse("nowhere").is_err());
    }

    #[test]
    fn dial_times_are_the_data_planes_unless_flags_say_another() {
        let parse = |arguments: &[&str]| {
            Cli::try_parse_from([&["agent", "--config", "a.yaml"], arguments].concat())
                .map(|cli| cli.options.dial())
        };
        assert_eq!(parse(&[]).unwrap(), DialTimes::default());
        let flags = [
            "--dial-patience",
            "2",
            "--connect-timeout",
            "5",
            "--settings-timeout",
            "7",
        ];
        assert_eq!(
            parse(&flags).unwrap(),
            DialTimes {
                patience: Duration::from_secs(2),
                connect: Duration::from_secs(5),
                settings: Duration::from_secs(7),
            }
        );
        for out_of_range in [
            ["--dial-patience", "0"],
            ["--connect-timeout", "121"],
            ["--settings-timeout", "0"],
        ] {
            assert!(parse(&out_of_range).is_err(), "{out_of_range:?}");
        }
    }

    #[test]
    fn no_workers_are_refused() {
        assert!(Cli::try_parse_from(["agent", "--config", "a.yaml", "--workers", "0"]).is_err());
    }
}
