//! The report of a benchmark run: a table for people, JSON for machines, Markdown for `docs/benchmarks.md`.

use std::fmt::Write as _;

use serde::Serialize;

use crate::load::Latency;
use crate::scenario::Spread;

/// All figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) rounds: u32,
    pub(crate) scenarios: Vec<&'static str>,
    pub(crate) proxies: Vec<Proxy>,
    /// Peers that were left out, since they are not installed.
    pub(crate) missing: Vec<String>,
}

/// One proxy's figures, in the order of [`Report::scenarios`].
#[derive(Debug, Serialize)]
pub(crate) struct Proxy {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) balances: bool,
    /// CPU (user + system) of the proxy, µs a call.
    pub(crate) cpu_us: Vec<Spread>,
    /// The user-mode part of it.
    pub(crate) user_us: Vec<Spread>,
    pub(crate) calls_per_second: Vec<Spread>,
    pub(crate) latency: Latency,
    pub(crate) resident_idle_mib: f64,
    pub(crate) resident_1000_connections_mib: f64,
}

impl Report {
    /// Each scenario in which some balancing peer costs less CPU a call than grpclb, as a sentence.
    pub(crate) fn losses(&self) -> Vec<String> {
        let Some(ours) = self.proxies.iter().find(|proxy| proxy.name == "grpclb") else {
            return Vec::new();
        };
        let mut losses = Vec::new();
        for peer in self
            .proxies
            .iter()
            .filter(|proxy| proxy.balances && proxy.name != "grpclb")
        {
            for (n, scenario) in self.scenarios.iter().enumerate() {
                let (mine, theirs) = (ours.cpu_us[n].median, peer.cpu_us[n].median);
                if mine >= theirs {
                    losses.push(format!(
                        "{scenario}: {} needs {theirs:.1} µs, grpclb {mine:.1} µs",
                        peer.name
                    ));
                }
            }
        }
        losses
    }

    /// Two tables: CPU a call with its range, then latency and memory.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "{}\n\nCPU µs a call (user + system of the proxy), median of {} rounds [min-max]:\n\n",
            self.machine, self.rounds
        );
        text.push_str("| proxy |");
        for scenario in &self.scenarios {
            let _ = write!(text, " {scenario} |");
        }
        text.push_str("\n| --- |");
        text.push_str(&" ---: |".repeat(self.scenarios.len()));
        for proxy in &self.proxies {
            let _ = write!(text, "\n| {} |", proxy.name);
            for spread in &proxy.cpu_us {
                let digits = usize::from(spread.median < 100.0);
                let _ = write!(
                    text,
                    " {:.digits$} [{:.digits$}-{:.digits$}] |",
                    spread.median, spread.min, spread.max
                );
            }
        }
        text.push_str("\n\n| proxy | p50 µs at 2000/s | p99 µs | RSS idle, MiB | RSS with 1000 connections, MiB | version |\n");
        text.push_str("| --- | ---: | ---: | ---: | ---: | --- |");
        for proxy in &self.proxies {
            let _ = write!(
                text,
                "\n| {} | {:.0} | {:.0} | {:.1} | {:.1} | {} |",
                proxy.name,
                proxy.latency.p50,
                proxy.latency.p99,
                proxy.resident_idle_mib,
                proxy.resident_1000_connections_mib,
                proxy.version
            );
        }
        text.push('\n');
        for name in &self.missing {
            let _ = write!(text, "\nLeft out, not installed: {name}.");
        }
        text
    }
}
