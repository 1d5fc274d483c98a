//! The pages for people: links within the tree lead somewhere, and each page can be reached from README.md.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::{Problem, Tree};

const START: &str = "README.md";

pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) -> Result<()> {
    let mut pages = BTreeMap::new();
    for file in tree.with_ending(".md") {
        pages.insert(file, tree.read(file)?);
    }
    let mut leads: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (&file, text) in &pages {
        for (line, target) in links(text) {
            let Some((path, anchor)) = within(file, target) else {
                continue;
            };
            let mut add = |message| {
                problems.push(Problem {
                    file: file.to_owned(),
                    line,
                    message,
                });
            };
            let Some(path) = path else {
                add(format!("the link `{target}` leads out of the tree"));
                continue;
            };
            let exists = tree
                .files
                .iter()
                .any(|known| *known == path || known.starts_with(&format!("{path}/")));
            if !exists {
                add(format!("the link `{target}` leads to {path}, which is not there"));
            } else if let Some(page) = pages.get(path.as_str())
                && !anchor.is_empty()
                && !headings(page).contains(anchor)
            {
                add(format!(
                    "the link `{target}` leads to a heading that {path} has not"
                ));
            }
            leads.entry(file).or_default().insert(path);
        }
    }
    let found = reachable(&leads);
    for page in pages.keys().filter(|page| !found.contains(**page)) {
        let message = format!("cannot be reached from {START}: link it from a page that can");
        problems.push(Problem {
            file: (*page).to_owned(),
            line: 1,
            message,
        });
    }
    Ok(())
}

fn reachable<'p>(leads: &'p BTreeMap<&str, BTreeSet<String>>) -> BTreeSet<&'p str> {
    let mut found = BTreeSet::from([START]);
    let mut ahead = vec![START];
    while let Some(page) = ahead.pop() {
        for next in leads.get(page).into_iter().flatten() {
            if found.insert(next) {
                ahead.push(next);
            }
        }
    }
    found
}

/// The targets of `[text](target)` with their lines; not those in code.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (line, content) in prose(text) {
        for (at, _) in content.match_indices("](") {
            let in_code = content[..at].matches('`').count() % 2 == 1 && !content[..at].ends_with('`');
            let target = content[at + 2..].split(')').next().unwrap_or_default();
            if !in_code {
                found.push((line, target));
            }
        }
    }
    found
}

/// The lines that are not in fenced code, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((index + 1, line))
    })
}

/// Where a link within the tree leads: the path from its root (`None` if it leaves it) and the heading. `None` for links to
/// other places.
fn within<'t>(file: &str, target: &'t str) -> Option<(Option<String>, &'t str)> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    if path.is_empty() {
        return Some((Some(file.to_owned()), anchor));
    }
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            if parts.pop().is_none() {
                return Some((None, anchor));
            }
        } else {
            parts.push(part);
        }
    }
    Some((Some(parts.join("/")), anchor))
}

/// The anchors of a page's headings, as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let slug: String = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut anchor = slug.clone();
        let mut number = 0;
        while !found.insert(anchor) {
            number += 1;
            anchor = format!("{slug}-{number}");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let text = "see [a](x.md), [`b`](y.md#z) and `[c](w.md)`\n```\n[d](v.md)\n```\n";
        assert_eq!(links(text), [(1, "x.md"), (1, "y.md#z")]);
    }

    #[test]
    fn targets_are_relative_to_their_page() {
        assert_eq!(
            within("docs/a.md", "../README.md"),
            Some((Some("README.md".to_owned()), ""))
        );
        assert_eq!(
            within("docs/a.md", "b.md#c"),
            Some((Some("docs/b.md".to_owned()), "c"))
        );
        assert_eq!(
            within("docs/a.md", "#c"),
            Some((Some("docs/a.md".to_owned()), "c"))
        );
        assert_eq!(within("a.md", "../b.md"), Some((None, "")));
        assert_eq!(within("a.md", "https://x.example/y"), None);
    }

    #[test]
    fn headings_have_the_anchors_of_github() {
        let found = headings("# The `agent`, and why?\n## A-B c\n## A-B c\n```\n# no heading\n```\n");
        assert_eq!(
            found,
            ["a-b-c", "a-b-c-1", "the-agent-and-why"]
                .map(str::to_owned)
                .into()
        );
    }

    #[test]
    fn a_page_that_nothing_links_to_cannot_be_reached() {
        let leads = BTreeMap::from([
            ("README.md", BTreeSet::from(["a.md".to_owned()])),
            ("c.md", BTreeSet::from(["d.md".to_owned()])),
        ]);
        assert_eq!(reachable(&leads), BTreeSet::from(["README.md", "a.md"]));
    }
}
