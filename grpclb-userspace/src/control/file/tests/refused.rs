//! What is refused, and the very words: they are what an operator has to go by. The cases stand in `refused.txt`.

use super::parse;

/// A file in one case: what it shows, the YAML, and what is said about it.
struct Case<'a> {
    title: &'a str,
    yaml: &'a str,
    said: &'a str,
}

/// Cases begin with `=== title`; the YAML ends at `--- refused:`.
fn cases() -> impl Iterator<Item = Case<'static>> {
    include_str!("refused.txt").split("=== ").skip(1).map(|case| {
        let (title, rest) = case.split_once('\n').expect("a title");
        let (yaml, said) = rest.split_once("--- refused:\n").expect("what is said");
        Case {
            title,
            yaml,
            said: said.trim_end(),
        }
    })
}

#[test]
fn each_mistake_is_told_with_its_place_its_key_and_what_was_expected() {
    let mut wrong = Vec::new();
    for case in cases() {
        let said = parse(case.yaml)
            .err()
            .unwrap_or_else(|| "nothing: it was taken".to_owned());
        if said != case.said {
            wrong.push(format!("=== {}\n{}--- refused:\n{said}\n", case.title, case.yaml));
        }
    }
    assert!(
        wrong.is_empty(),
        "these cases of refused.txt say something else now:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn aliases_cannot_make_a_small_file_a_huge_one() {
    let mut lines = vec!["- name: &a0 [x, x, x, x, x, x, x, x, x, x]".to_owned()];
    for level in 1..9 {
        let before = format!("*a{}", level - 1);
        lines.push(format!(
            "- name: &a{level} [{}]",
            [before.as_str(); 10].join(", ")
        ));
    }
    let text = format!("services:\n{}\n", lines.join("\n"));
    assert!(parse(&text).is_err());
}

#[test]
fn nesting_is_bounded() {
    let text = format!("services: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&text).is_err());
}
