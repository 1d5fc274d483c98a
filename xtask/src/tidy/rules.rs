//! What holds for each Rust file by itself.

use anyhow::Result;

use super::source::{Source, lines_with, words};
use super::{Problem, Tree, tables};

/// A file should be read at one sitting.
const MAX_LINES: usize = 500;

/// What the engine must not reach for: IO, clocks, chance, threads. They come in as arguments.
const IMPURE: &[&str] = &[
    "tokio",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "rand",
    "getrandom",
    "println!",
    "eprintln!",
];

pub(super) fn check(tree: &Tree, architecture: &str, problems: &mut Vec<Problem>) -> Result<()> {
    let with_unsafe = tables::first_column(architecture, "unsafe")?;
    let with_aya = tables::first_column(architecture, "aya")?;
    let long = tables::first_column(architecture, "long files")?;
    for file in tree.with_ending(".rs") {
        let text = tree.read(file)?;
        let source = Source::new(file, &text);
        let mut add = |line, message: String| {
            problems.push(Problem {
                file: file.to_owned(),
                line,
                message,
            });
        };
        if !text.starts_with("//!") {
            add(
                1,
                "does not open with `//!`: say what the file is for, and what it does not do".to_owned(),
            );
        }
        let lines = text.lines().count();
        if lines > MAX_LINES && !long.iter().any(|allowed| allowed == file) {
            add(
                lines,
                format!("has {lines} lines: split it by subject ({MAX_LINES} are enough)"),
            );
        }
        if !is_listed(file, &with_unsafe)
            && let Some((line, _)) = words(&source.all).find(|(_, word)| *word == "unsafe")
        {
            add(
                line,
                "`unsafe` in a file that ARCHITECTURE.md does not list for it".to_owned(),
            );
        }
        if !is_listed(file, &with_aya)
            && let Some(line) = ["aya::", "aya_ebpf::", "aya_obj::"]
                .iter()
                .find_map(|name| lines_with(&source.all, name).next())
        {
            add(
                line,
                "aya in a file that ARCHITECTURE.md does not list for it".to_owned(),
            );
        }
        for line in lines_with(&source.product, ".unwrap()") {
            add(
                line,
                "`unwrap()` outside of tests: handle it, or say with `expect` why it cannot be".to_owned(),
            );
        }
        if file.starts_with("grpclb-engine/src/") {
            for (line, name) in impurities(&source.product) {
                add(
                    line,
                    format!("`{name}` in the engine: bytes, time and random numbers come in as arguments"),
                );
            }
        }
    }
    for (name, list) in [
        ("unsafe", &with_unsafe),
        ("aya", &with_aya),
        ("long files", &long),
    ] {
        for entry in list
            .iter()
            .filter(|entry| !tree.files.iter().any(|file| file.starts_with(*entry)))
        {
            let message = format!("the table `{name}` lists `{entry}`, which is not there");
            problems.push(Problem {
                file: super::ARCHITECTURE.to_owned(),
                line: 1,
                message,
            });
        }
    }
    Ok(())
}

fn impurities(product: &str) -> impl Iterator<Item = (usize, &'static str)> {
    IMPURE
        .iter()
        .flat_map(move |name| lines_with(product, name).map(move |line| (line, *name)))
}

/// Whether the list names the file, or a folder (`…/`) above it.
fn is_listed(file: &str, list: &[String]) -> bool {
    list.iter()
        .any(|entry| entry == file || (entry.ends_with('/') && file.starts_with(entry.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_the_list_stands_for_what_is_in_it() {
        let list = ["a/b/".to_owned(), "c.rs".to_owned()];
        assert!(is_listed("a/b/d.rs", &list) && is_listed("c.rs", &list));
        assert!(!is_listed("a/bd.rs", &list) && !is_listed("x/c.rs", &list));
    }

    #[test]
    fn clocks_and_io_are_found_and_plain_values_are_not() {
        let found: Vec<_> = impurities(
            "let t = Instant::now();\nuse std::net::SocketAddr;\nlet operand = 1;\nuse rand::Rng;\n",
        )
        .collect();
        assert_eq!(found, [(1, "Instant::now"), (4, "rand")]);
    }
}
