//! What is wrong with a file, and where: `config.yaml:7:13: services[0].policy: …`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_saphyr::{Location, UserMessageFormatter};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 when the place is not known.
    pub line: u64,
    /// From 1; 0 when the place is not known.
    pub column: u64,
    /// Which value: `services[0].ports[1].port`. Empty when the file is not YAML, or not of the right shape.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// All that is wrong with one file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    pub path: PathBuf,
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    /// One line for each, each beginning with `file:line:column:`, which editors and terminals make clickable.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{}:{}: ", self.path.display(), problem.line, problem.column)?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

/// What the YAML reader says in words of its own, and how we say it.
const PLAIN: &[(&str, &str)] = &[
    (
        "expected mapping start",
        "expected keys with values (`key: value`)",
    ),
    ("expected sequence start", "expected a list"),
    ("expected string scalar", "expected a single value"),
    ("invalid i64", "expected a whole number"),
    ("invalid boolean", "expected `true` or `false`"),
];

/// Collects problems while a file is read.
#[derive(Debug, Default)]
pub(super) struct Collector {
    list: Vec<Problem>,
}

impl Collector {
    /// Notes that the value `key` at `place` is wrong.
    pub(super) fn add(&mut self, place: Location, key: impl Into<String>, message: impl Into<String>) {
        self.list.push(Problem {
            line: place.line(),
            column: place.column(),
            key: key.into(),
            message: message.into(),
        });
    }

    /// Notes something that is wrong with the file as a whole.
    pub(super) fn add_whole(&mut self, message: &str) {
        self.list.push(Problem {
            line: 1,
            column: 1,
            key: String::new(),
            message: message.to_owned(),
        });
    }

    /// Notes what the YAML reader complained about; it stops at the first.
    pub(super) fn add_syntax(&mut self, error: &serde_saphyr::Error) {
        let place = error.location().unwrap_or(Location::UNKNOWN);
        // The place is told by us, in front.
        let message = error
            .without_snippet()
            .render_with_formatter(&UserMessageFormatter);
        let suffix = format!(" at line {}, column {}", place.line(), place.column());
        let message = message.strip_suffix(&suffix).unwrap_or(&message);
        let message = PLAIN
            .iter()
            .find(|(theirs, _)| *theirs == message)
            .map_or(message, |(_, ours)| ours);
        self.add(place, "", message);
    }

    /// `Ok` when nothing was noted.
    pub(super) fn finish(mut self, path: &Path) -> Result<(), Problems> {
        if self.list.is_empty() {
            return Ok(());
        }
        self.list.sort_by_key(|problem| (problem.line, problem.column));
        Err(Problems {
            path: path.to_owned(),
            list: self.list,
        })
    }
}
