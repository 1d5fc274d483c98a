//! `cargo xtask bench instructions`: counts the instructions of relayed calls under callgrind and compares them with the kept
//! figures of an earlier commit. The program that relays is the engine's benchmark `calls`.
//!
//! The counts are the same in each run of one toolchain, on a busy machine as well. Compilers and C libraries differ: with
//! another toolchain than the one of the kept figures nothing fails.

mod counted;
mod reference;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use self::counted::Program;
use self::reference::{Reference, Toolchain};
use crate::setup::{self, Need};

/// A scenario may take so many times the instructions of the kept figures.
const LIMIT: f64 = 1.03;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only report what is missing on this machine, install nothing
    #[arg(long)]
    no_install: bool,
    /// Only scenarios whose names contain this, for instance `1 MB`
    #[arg(long, default_value = "")]
    scenario: String,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Count the engine of this commit instead of the one in the working tree; the benchmark is always the working tree's
    #[arg(long, value_name = "COMMIT")]
    of: Option<String>,
    /// Keep the figures of that commit, to compare later ones with them
    #[arg(long, requires = "of", conflicts_with = "scenario")]
    save: bool,
}

/// The figures of one run.
#[derive(Debug, Serialize)]
struct Report {
    toolchain: Toolchain,
    reference: Reference,
    /// The reference was taken with this toolchain.
    comparable: bool,
    /// The greatest allowed ratio.
    limit: f64,
    scenarios: Vec<Row>,
}

/// One scenario: instructions per call, now and in the reference.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    instructions: f64,
    reference: Option<f64>,
    ratio: Option<f64>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Need::Valgrind], options.no_install)?;
    let toolchain = Toolchain::of_this_machine()?;
    let program = Program::build(options.of.as_deref())?;
    let mut figures = Vec::new();
    for (name, calls) in program.scenarios()? {
        if name.contains(&options.scenario) {
            let instructions = program.count(&name)?;
            figures.push((name, instructions as f64 / calls as f64));
        }
    }
    if figures.is_empty() {
        bail!("no scenario has `{}` in its name", options.scenario);
    }
    if let (true, Some(commit)) = (options.save, &options.of) {
        let commit = counted::short_name(commit)?;
        Reference::new(&commit, toolchain.clone(), &figures).save()?;
    }
    let report = Report::new(toolchain, Reference::load()?, figures);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).context("JSON")?);
    } else {
        println!("{}", report.markdown());
    }
    report.verdict()
}

impl Report {
    fn new(toolchain: Toolchain, reference: Reference, figures: Vec<(String, f64)>) -> Self {
        let row = |(name, instructions): (String, f64)| {
            let before = reference.instructions(&name);
            Row {
                name,
                instructions,
                reference: before,
                ratio: before.map(|before| instructions / before),
            }
        };
        Self {
            scenarios: figures.into_iter().map(row).collect(),
            comparable: reference.toolchain == toolchain,
            limit: LIMIT,
            toolchain,
            reference,
        }
    }

    fn markdown(&self) -> String {
        let number = |value: Option<f64>, digits| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let mut lines = vec![
            format!(
                "| instructions per call | now | {} | ratio |",
                self.reference.commit
            ),
            "| --- | ---: | ---: | ---: |".to_owned(),
        ];
        lines.extend(self.scenarios.iter().map(|row| {
            format!(
                "| {} | {:.0} | {} | {} |",
                row.name,
                row.instructions,
                number(row.reference, 0),
                number(row.ratio, 3)
            )
        }));
        lines.join("\n")
    }

    /// Fails for scenarios above the limit, if the figures can be compared.
    fn verdict(&self) -> Result<()> {
        if !self.comparable {
            eprintln!(
                "The kept figures were taken with {}, these with {}: ratios mean little, and nothing fails. To compare, take \
                 those of {1} again: cargo xtask bench instructions --of {} --save",
                self.reference.toolchain, self.toolchain, self.reference.commit
            );
            return Ok(());
        }
        let above: Vec<String> = self
            .scenarios
            .iter()
            .filter_map(|row| Some((row, row.ratio.filter(|ratio| *ratio > self.limit)?)))
            .map(|(row, ratio)| format!("{} (+{:.1} %)", row.name, (ratio - 1.0) * 100.0))
            .collect();
        if above.is_empty() {
            return Ok(());
        }
        bail!(
            "more than {:.0} % above {}: {}. callgrind_annotate shows the functions; the counts are in {}",
            (self.limit - 1.0) * 100.0,
            self.reference.commit,
            above.join("; "),
            counted::folder().display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain(rustc: &str) -> Toolchain {
        Toolchain {
            rustc: rustc.to_owned(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            libc: "glibc 2.36".to_owned(),
        }
    }

    fn report(now: f64, rustc: &str) -> Report {
        let reference = Reference::new("0e0af31", toolchain("1.95.0"), &[("a".to_owned(), 1000.0)]);
        Report::new(toolchain(rustc), reference, vec![("a".to_owned(), now)])
    }

    #[test]
    fn verdict_fails_above_the_limit_only() {
        assert!(report(1029.0, "1.95.0").verdict().is_ok());
        let error = report(1031.0, "1.95.0").verdict().expect_err("above the limit");
        assert!(error.to_string().contains("a (+3.1 %)"), "{error}");
    }

    #[test]
    fn verdict_passes_with_another_toolchain() {
        let report = report(2000.0, "1.96.0");
        assert!(!report.comparable && report.verdict().is_ok());
    }

    #[test]
    fn table_lists_scenarios_without_kept_figures() {
        let reference = Reference::new("0e0af31", toolchain("1.95.0"), &[]);
        let report = Report::new(toolchain("1.95.0"), reference, vec![("new".to_owned(), 12.4)]);
        assert!(report.markdown().ends_with("| new | 12 | - | - |"));
        assert!(report.verdict().is_ok());
    }
}
