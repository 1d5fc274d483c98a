//! Drives h2load and reads what it reports. Fails unless every call came back with a 2xx: a fast error is no result.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::scenario::Scenario;

/// Sends `calls` calls in the scenario's shape to `url`, and returns the calls a second.
/// `launch` wraps the program's name into a command that runs in the client's namespace, on the load's core.
pub(crate) fn run(
    launch: &dyn Fn(&str) -> Command,
    url: &str,
    scenario: &Scenario,
    calls: u32,
    body: &Path,
) -> Result<f64> {
    let output = launch("h2load")
        .args([
            "-t",
            "1",
            "-n",
            &calls.to_string(),
            "-c",
            &scenario.connections.to_string(),
        ])
        .args(["-m", &scenario.streams.to_string(), "-w", "22", "-W", "24", "-d"])
        .arg(body)
        .arg(url)
        .output()
        .context("running h2load: is nghttp2-client installed?")?;
    let text = String::from_utf8_lossy(&output.stdout);
    succeeded(&text, u64::from(calls))?;
    let finished = text
        .lines()
        .find(|line| line.starts_with("finished in"))
        .context("h2load's summary line")?;
    let rate = finished
        .split(", ")
        .nth(1)
        .and_then(|part| part.strip_suffix(" req/s"))
        .context("h2load's req/s")?;
    rate.trim()
        .parse()
        .with_context(|| format!("h2load's req/s: {rate:?}"))
}

/// Latency percentiles at a fixed rate, µs.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// `rate` calls a second over ten connections for `seconds`.
pub(crate) fn at_fixed_rate(
    launch: &dyn Fn(&str) -> Command,
    url: &str,
    rate: u32,
    seconds: u32,
    body: &Path,
    log: &Path,
) -> Result<Latency> {
    let _ = fs::remove_file(log); // h2load appends
    let calls = rate * seconds;
    let output = launch("h2load")
        .args([
            "-t",
            "1",
            "-c",
            "10",
            "-m",
            "10",
            "--rps",
            &(rate / 10).to_string(),
            "-n",
            &calls.to_string(),
            "-d",
        ])
        .arg(body)
        .arg(format!("--log-file={}", log.display()))
        .arg(url)
        .output()
        .context("running h2load: is nghttp2-client installed?")?;
    succeeded(&String::from_utf8_lossy(&output.stdout), u64::from(calls))?;
    // A line a call: start time in µs, status, duration in µs.
    let text = fs::read_to_string(log).context("h2load's log")?;
    let mut micros: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split('\t').nth(2))
        .filter_map(|value| value.parse().ok())
        .collect();
    ensure!(!micros.is_empty(), "h2load wrote no calls to its log");
    micros.sort_by(f64::total_cmp);
    let at = |percent: usize| micros[(micros.len() - 1) * percent / 100];
    Ok(Latency {
        p50: at(50),
        p99: at(99),
    })
}

/// Checks the line `requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout`.
fn succeeded(report: &str, calls: u64) -> Result<()> {
    let Some(line) = report.lines().find(|line| line.starts_with("requests:")) else {
        bail!("h2load printed no summary: {report}");
    };
    let succeeded = line
        .split(", ")
        .find_map(|part| part.strip_suffix(" succeeded"))
        .and_then(|count| count.trim().parse::<u64>().ok());
    ensure!(
        succeeded == Some(calls),
        "of {calls} calls not all succeeded: {line}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_run_with_one_failed_call_is_refused() {
        let line = |good: u32, bad: u32| {
            format!(
                "requests: 10 total, 10 started, 10 done, {good} succeeded, {bad} failed, 0 errored, 0 timeout"
            )
        };
        assert!(super::succeeded(&line(10, 0), 10).is_ok());
        assert!(super::succeeded(&line(9, 1), 10).is_err());
        assert!(super::succeeded("nothing", 10).is_err());
    }
}
