//! Clients and servers that misbehave (`grpclb-attack`), and a process's memory while they do.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::node::{Node, Pod};
use crate::peers::program_beside;
use crate::process::Process;
use crate::usage;

/// How long an attack may take beyond its time, and a server to listen.
const PATIENCE: Duration = Duration::from_mins(2);

/// An attack that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Attack(Process);

/// What an attack met, by its own count.
#[derive(Clone, Debug, Deserialize)]
pub struct Figures {
    pub connected: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub requests: u64,
    pub responses: u64,
    /// Resets, GOAWAYs and connections that ended, by reason.
    pub events: BTreeMap<String, u64>,
}

impl Attack {
    /// Starts an attack from a pod; `words` are the kind and its bounds, as `grpclb-attack client --help` has them.
    pub fn start(node: &Node, pod: &Pod, target: SocketAddr, words: &str) -> Result<Self> {
        let mut arguments: Vec<String> = ["client", "--target"].map(str::to_owned).into();
        arguments.extend([target.to_string(), "--kind".into()]);
        arguments.extend(words.split_whitespace().map(str::to_owned));
        let program = program_beside("grpclb-attack");
        Process::start(
            &node.place(pod),
            &format!("attack-{}", pod.name),
            &program,
            &arguments,
        )
        .map(Self)
    }

    /// Waits until its time is over. It holds what it has.
    pub fn figures(&self) -> Result<Figures> {
        let line = self.0.line(PATIENCE)?;
        serde_json::from_str(&line).with_context(|| format!("the attack printed {line}"))
    }

    /// Ends it, and its connections with it.
    pub fn end(mut self) -> Result<()> {
        self.0.close_stdin();
        self.0.wait(PATIENCE).map(drop)
    }

    pub fn process(&self) -> &Process {
        &self.0
    }
}

/// A server that behaves in an unusual way. Dropping it kills it.
#[derive(Debug)]
pub struct RawServer {
    pub pod: Pod,
    pub process: Process,
}

impl RawServer {
    /// Starts a server of `kind` on all addresses of the pod and waits until it listens.
    pub fn start(node: &Node, pod: &Pod, kind: &str, port: u16) -> Result<Self> {
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let arguments = [
            "server",
            "--listen",
            &listen.to_string(),
            "--name",
            &pod.name,
            "--kind",
            kind,
        ]
        .map(str::to_owned);
        let program = program_beside("grpclb-attack");
        let process = Process::start(
            &node.place(pod),
            &format!("raw-{}", pod.name),
            &program,
            &arguments,
        )?;
        process.line(PATIENCE)?;
        Ok(Self {
            pod: pod.clone(),
            process,
        })
    }
}

/// Resident memory of one process.
#[derive(Clone, Copy, Debug)]
pub struct Resident(u32);

impl Resident {
    pub fn of(process: &Process) -> Self {
        Self(process.pid())
    }

    /// Bytes at this moment.
    pub fn now(self) -> Result<u64> {
        Ok(usage::resident_kib(&[self.0])? << 10)
    }

    /// The most bytes since [`Self::forget_peak`], as the kernel keeps it (proc(5): `VmHWM`).
    pub fn peak(self) -> Result<u64> {
        Ok(usage::peak_kib(self.0)? << 10)
    }

    /// Lets the peak begin anew (proc(5): `clear_refs`).
    pub fn forget_peak(self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.0), "5")?)
    }
}
