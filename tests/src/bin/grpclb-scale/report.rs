//! The figures of a run: a table for people, which is also the one of `docs/benchmarks.md`, and JSON for machines.

use std::fmt;

use serde::Serialize;

/// All figures.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    pub(crate) fill_seconds: f64,
    /// What a watcher of Services and slices was told meanwhile.
    pub(crate) fill_events: u32,
    pub(crate) grpclb: Side,
    pub(crate) kube_proxy: Side,
    /// From a slice's watch event until all of the agent has it: mean, and the share that took at most 10 ms.
    pub(crate) changes: u32,
    pub(crate) change_ms: f64,
    pub(crate) within_10_ms: f64,
    pub(crate) kube_proxy_sync_ms: f64,
    /// CPU a call with a handful of Services, and with all of them.
    pub(crate) call_us_few: f64,
    pub(crate) call_us_many: f64,
    pub(crate) crowd: Option<Crowd>,
}

/// What one of the two costs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Side {
    /// From the start of the process with everything there until all of it is in force.
    pub(crate) cold_seconds: f64,
    pub(crate) cold_cpu_seconds: f64,
    pub(crate) cold_mib: f64,
    pub(crate) fill_cpu_seconds: f64,
    pub(crate) filled_mib: f64,
}

/// What many agents cost the API server.
#[derive(Debug, Serialize)]
pub(crate) struct Crowd {
    pub(crate) agents: u32,
    pub(crate) list_mib_each: f64,
    pub(crate) list_cpu_ms_each: f64,
    pub(crate) change_bytes_each: f64,
    pub(crate) change_cpu_us_each: f64,
    pub(crate) watches: u64,
    /// How often the server has ended one of them; how often there was nothing to go on from, and all was listed again.
    pub(crate) watches_ended: u64,
    pub(crate) listed_anew: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ours, theirs) = (&self.grpclb, &self.kube_proxy);
        writeln!(
            f,
            "{} Services with {} endpoints, filled in {:.0} s.\n",
            self.services, self.endpoints, self.fill_seconds
        )?;
        writeln!(f, "| what | grpclb | kube-proxy (nftables) | goal for grpclb |")?;
        writeln!(f, "| --- | ---: | ---: | --- |")?;
        let mut row = |what: &str, ours: String, theirs: String, goal: &str| {
            writeln!(f, "| {what} | {ours} | {theirs} | {goal} |")
        };
        let seconds = |value: f64| format!("{value:.2} s");
        let mib = |value: f64| format!("{value:.0} MiB");
        row(
            "start with everything there, until in force",
            seconds(ours.cold_seconds),
            seconds(theirs.cold_seconds),
            "3 s",
        )?;
        row(
            "CPU until then",
            seconds(ours.cold_cpu_seconds),
            seconds(theirs.cold_cpu_seconds),
            "",
        )?;
        row(
            "resident memory then",
            mib(ours.cold_mib),
            mib(theirs.cold_mib),
            "48 MiB",
        )?;
        row(
            "CPU while it was filled",
            seconds(ours.fill_cpu_seconds),
            seconds(theirs.fill_cpu_seconds),
            "a fifth of kube-proxy's",
        )?;
        let each = |side: &Side| {
            let of_one = side.fill_cpu_seconds / f64::from(self.fill_events.max(1));
            format!("{:.0} µs", of_one * 1e6)
        };
        row("of that for each watch event", each(ours), each(theirs), "")?;
        row(
            "resident memory after that",
            mib(ours.filled_mib),
            mib(theirs.filled_mib),
            "48 MiB",
        )?;
        row(
            "one changed slice, until in force",
            format!(
                "{:.2} ms ({:.0} % within 10 ms)",
                self.change_ms,
                self.within_10_ms * 100.0
            ),
            format!("{:.0} ms", self.kube_proxy_sync_ms),
            "10 ms",
        )?;
        row(
            "CPU a call, with few Services and with all",
            format!("{:.1} µs, {:.1} µs", self.call_us_few, self.call_us_many),
            "-".to_owned(),
            "equal",
        )?;
        let Some(crowd) = &self.crowd else { return Ok(()) };
        writeln!(
            f,
            "\nThe API server, with {} agents connected: {:.1} MiB and {:.0} ms of CPU for the first lists of each; {:.0} bytes and {:.0} µs \
             for one changed slice to each. Watches: {}; ended by it: {}; of those, with a new list: {}.",
            crowd.agents,
            crowd.list_mib_each,
            crowd.list_cpu_ms_each,
            crowd.change_bytes_each,
            crowd.change_cpu_us_each,
            crowd.watches,
            crowd.watches_ended,
            crowd.listed_anew
        )
    }
}
