//! The file format: what is taken, what is refused and with which words; and how changes are taken up.

mod format;
mod refused;
mod watching;

use std::path::Path;

use crate::model::Desired;

/// Reads `text` as `a.yaml`; the problems as they are printed.
fn parse(text: &str) -> Result<Desired, String> {
    super::parse(Path::new("a.yaml"), text).map_err(|problems| problems.to_string())
}
