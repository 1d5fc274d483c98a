//! Which crate, and within a crate which room, may use which: held against the tables of ARCHITECTURE.md.
//!
//! A room is a module at a crate's root. An edge is a path that leads from one room into another: `crate::room`, a group
//! `crate::{a, b}`, or enough `super`s.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::source::{Source, is_word};
use super::{Problem, Tree, tables};

/// The crates whose rooms have a table, and its name.
const CRATES_WITH_ROOMS: [(&str, &str); 2] = [
    ("grpclb-userspace", "rooms of userspace"),
    ("grpclb-engine", "rooms of the engine"),
];

/// Who may use whom.
type Edges = BTreeMap<String, BTreeSet<String>>;

pub(super) fn check(tree: &Tree, architecture: &str, problems: &mut Vec<Problem>) -> Result<()> {
    let crates = edges(architecture, "crates")?;
    crate_edges(tree, &crates, problems)?;
    for (name, table) in CRATES_WITH_ROOMS {
        let rooms = edges(architecture, table)?;
        if let Some(cycle) = cycle(&rooms) {
            let message = format!("the table `{table}` allows a cycle through {cycle}");
            problems.push(Problem {
                file: super::ARCHITECTURE.to_owned(),
                line: 1,
                message,
            });
        }
        room_edges(tree, name, &rooms, problems)?;
    }
    Ok(())
}

fn edges(page: &str, table: &str) -> Result<Edges> {
    let mut edges = Edges::new();
    for row in tables::table(page, table)? {
        let [from, to, ..] = row.as_slice() else {
            bail!("table `{table}`: a row has no second column")
        };
        for from in from {
            edges.entry(from.clone()).or_default().extend(to.iter().cloned());
        }
    }
    Ok(edges)
}

/// The workspace's crates as cargo sees them; the kernel programs are built apart and asked about apart.
fn crate_edges(tree: &Tree, allowed: &Edges, problems: &mut Vec<Problem>) -> Result<()> {
    let mut found = Edges::new();
    for manifest in ["Cargo.toml", "grpclb-ebpf/Cargo.toml"] {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "metadata",
                "--no-deps",
                "--format-version",
                "1",
                "--manifest-path",
                manifest,
            ])
            .current_dir(&tree.root)
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!(
                "cargo metadata of {manifest}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let edges = found.entry(text(&package["name"])).or_default();
            for dependency in package["dependencies"].as_array().into_iter().flatten() {
                // Ours are those with a path; a crate's tests may use more than the crate.
                if dependency["path"].is_string() && dependency["kind"].as_str() != Some("dev") {
                    edges.insert(text(&dependency["name"]));
                }
            }
        }
    }
    for (from, to) in &found {
        let Some(allowed) = allowed.get(from) else {
            problems.push(not_in_table("crates", from));
            continue;
        };
        for to in to.difference(allowed) {
            let message = format!("uses {to}, which the table `crates` in ARCHITECTURE.md does not allow");
            problems.push(Problem {
                file: format!("{}/Cargo.toml", from.replace("grpclb-tests", "tests")),
                line: 1,
                message,
            });
        }
    }
    for gone in allowed.keys().filter(|name| !found.contains_key(*name)) {
        let message = format!("the table `crates` has a row for {gone}, which is no crate");
        problems.push(Problem {
            file: super::ARCHITECTURE.to_owned(),
            line: 1,
            message,
        });
    }
    Ok(())
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn not_in_table(table: &str, name: &str) -> Problem {
    let message = format!("`{name}` has no row in the table `{table}`");
    Problem {
        file: super::ARCHITECTURE.to_owned(),
        line: 1,
        message,
    }
}

fn room_edges(tree: &Tree, name: &str, allowed: &Edges, problems: &mut Vec<Problem>) -> Result<()> {
    let folder = format!("{name}/src/");
    let mut seen = BTreeSet::new();
    for file in tree.with_ending(".rs").filter(|file| file.starts_with(&folder)) {
        let module: Vec<&str> = module_of(&file[folder.len()..]);
        // The crate's root and the binary wire; they are no room.
        let Some(&room) = module.first() else { continue };
        seen.insert(room.to_owned());
        let Some(may_use) = allowed.get(room) else {
            continue;
        };
        let source = Source::new(file, &tree.read(file)?);
        for (line, used) in uses(&source.all, module.len()) {
            if used != room && allowed.contains_key(used) && !may_use.contains(used) {
                let message = format!(
                    "room `{room}` uses room `{used}`, which the table in ARCHITECTURE.md does not allow"
                );
                problems.push(Problem {
                    file: file.to_owned(),
                    line,
                    message,
                });
            }
        }
    }
    for room in seen.iter().filter(|room| !allowed.contains_key(*room)) {
        problems.push(not_in_table(&format!("rooms of {name}"), room));
    }
    for gone in allowed.keys().filter(|room| !seen.contains(*room)) {
        let message = format!("a table of rooms has a row for `{gone}`, which is no room of {name}");
        problems.push(Problem {
            file: super::ARCHITECTURE.to_owned(),
            line: 1,
            message,
        });
    }
    Ok(())
}

/// The module path of a file: `kernel/pins.rs` → `kernel`, `pins`; empty for the crate's roots.
fn module_of(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    if matches!(parts.as_slice(), ["lib" | "main"]) || parts.first() == Some(&"bin") {
        parts.clear();
    }
    parts
}

/// The modules at the crate's root that paths in `code` lead to, with their lines. `depth` is the file's own.
fn uses(code: &str, depth: usize) -> Vec<(usize, &str)> {
    let up = "super::".repeat(depth);
    let mut found = Vec::new();
    for start in ["crate::", up.as_str()] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            // `my_crate::`, `$crate::`, and a `super::` that is not the first of its path.
            if before.is_some_and(|c| is_word(c) || c == '$') || code[..at].ends_with("::") {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            found.extend(
                heads(&code[at + start.len()..])
                    .into_iter()
                    .map(|head| (line, head)),
            );
        }
    }
    found
}

/// The first names of what follows `crate::`: one, or those of a group.
fn heads(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else {
        return word(rest).into_iter().collect();
    };
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut at_head = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && is_word(c) => {
                heads.extend(word(&group[at..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> Option<&str> {
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// A room that can be reached from itself.
fn cycle(edges: &Edges) -> Option<&str> {
    edges.keys().map(String::as_str).find(|start| {
        let mut ahead: Vec<&str> = edges[*start].iter().map(String::as_str).collect();
        let mut seen = BTreeSet::new();
        while let Some(next) = ahead.pop() {
            if next == *start {
                return true;
            }
            if seen.insert(next) {
                ahead.extend(edges.get(next).into_iter().flatten().map(String::as_str));
            }
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_groups_and_supers_lead_to_rooms() {
        let code = "use crate::kernel::Pins;\nuse crate::{admin, data::{Leave, Pods}, model as m};\nlet x = crate::pods::PORTS;\nuse super::netns;\nuse super::super::far;\n";
        let found = uses(code, 1);
        assert_eq!(
            found,
            [
                (1, "kernel"),
                (2, "admin"),
                (2, "data"),
                (2, "model"),
                (3, "pods"),
                (4, "netns"),
                (5, "super")
            ]
        );
        assert_eq!(
            uses(code, 2),
            [
                (1, "kernel"),
                (2, "admin"),
                (2, "data"),
                (2, "model"),
                (3, "pods"),
                (5, "far")
            ]
        );
    }

    #[test]
    fn other_crates_and_macros_are_no_rooms() {
        assert!(uses("use my_crate::kernel; $crate::data!()", 1).is_empty());
    }

    #[test]
    fn a_file_is_in_the_module_that_its_path_says() {
        assert_eq!(module_of("kernel/mod.rs"), ["kernel"]);
        assert_eq!(module_of("kernel/pins.rs"), ["kernel", "pins"]);
        assert_eq!(module_of("netns.rs"), ["netns"]);
        assert!(module_of("lib.rs").is_empty() && module_of("main.rs").is_empty());
    }

    #[test]
    fn cycles_are_found_and_diamonds_are_none() {
        let edges = |pairs: &[(&str, &[&str])]| -> Edges {
            pairs
                .iter()
                .map(|(from, to)| ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect()))
                .collect()
        };
        assert_eq!(
            cycle(&edges(&[
                ("a", &["b", "c"]),
                ("b", &["d"]),
                ("c", &["d"]),
                ("d", &[])
            ])),
            None
        );
        assert_eq!(
            cycle(&edges(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])])),
            Some("b")
        );
    }
}
