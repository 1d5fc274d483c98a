//! Holds docs/configuration.md and deploy/examples/ to the code: every key, flag, default, port, exit status and metric.

#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;
use std::path::Path;

use grpclb_engine::balance::Policy;
use grpclb_engine::connection::Limit;
use grpclb_engine::splitter::Stats;
use grpclb_userspace::control::file;
use grpclb_userspace::observe::metrics::METRICS;
use grpclb_userspace::{admin, cli, pods};

const PAGE: &str = include_str!("../../docs/configuration.md");

/// The cells of the table rows below a heading, up to the next heading of the same or a higher level.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let level = heading.split(' ').next().unwrap();
    let mut rows = Vec::new();
    let mut inside = false;
    for line in PAGE.lines() {
        if line == heading {
            inside = true;
        } else if inside && line.starts_with('#') && line.split(' ').next().unwrap().len() <= level.len() {
            break;
        } else if inside && line.starts_with("| `") {
            rows.push(line.trim_matches('|').split(" | ").map(str::trim).collect());
        }
    }
    assert!(!rows.is_empty(), "no table below {heading}");
    rows
}

/// The code words of a cell.
fn words(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The first code word of each row below a heading.
fn first_words(heading: &str) -> BTreeSet<String> {
    rows(heading)
        .iter()
        .map(|row| words(row[0])[0].to_owned())
        .collect()
}

/// The keys that the reader takes at a place, as its own message about an unknown one lists them.
fn keys(place: &str, yaml: &str) -> BTreeSet<String> {
    let said = file::parse(Path::new("a.yaml"), yaml).unwrap_err().to_string();
    let (_, list) = said
        .split_once("expected one of ")
        .unwrap_or_else(|| panic!("{said}"));
    list.split(", ").map(|key| format!("{place}{key}")).collect()
}

#[test]
fn every_key_of_the_file_is_described_and_no_other() {
    let mut known = keys("", "unknown: 1");
    for (place, yaml) in [
        ("services[].", "services: [{unknown: 1}]"),
        ("services[].ports[].", "services: [{ports: [{unknown: 1}]}]"),
        (
            "services[].endpoints[].",
            "services: [{endpoints: [{unknown: 1}]}]",
        ),
        ("pods[].", "pods: [{unknown: 1}]"),
    ] {
        known.extend(keys(place, yaml));
    }
    let described: BTreeSet<String> = [
        "### Services",
        "### Ports of a Service",
        "### Endpoints",
        "### Pods",
    ]
    .into_iter()
    .flat_map(first_words)
    .collect();
    assert_eq!(described, known);
}

#[test]
fn every_policy_is_described() {
    let policies = Policy::ALL
        .iter()
        .map(|policy| policy.as_str().to_owned())
        .collect();
    assert_eq!(first_words("### Policies"), policies);
}

#[test]
fn every_flag_of_every_command_is_described_with_its_default() {
    for command in cli::command().get_subcommands() {
        let flags: Vec<_> = command
            .get_arguments()
            .filter(|argument| argument.get_long().is_some())
            .collect();
        let heading = format!("### grpclb {}", command.get_name());
        if flags.is_empty() {
            assert!(PAGE.contains(&heading), "{heading}");
            continue;
        }
        let rows = rows(&heading);
        let described: BTreeSet<&str> = rows.iter().map(|row| words(row[0])[0]).collect();
        let names: Vec<String> = flags
            .iter()
            .map(|flag| format!("--{}", flag.get_long().unwrap()))
            .collect();
        assert_eq!(
            described,
            names.iter().map(String::as_str).collect(),
            "below {heading}"
        );
        for (flag, name) in flags.iter().zip(&names) {
            let row = rows.iter().find(|row| words(row[0])[0] == name).unwrap();
            let is_switch = !flag.get_action().takes_values();
            for default in flag.get_default_values().iter().filter(|_| !is_switch) {
                let default = default.to_str().unwrap();
                assert!(
                    words(row[1]).contains(&default),
                    "{heading} {name}: its default is {default}"
                );
            }
            if let Some(variable) = flag.get_env() {
                let variable = variable.to_str().unwrap();
                assert!(
                    words(row[1]).contains(&variable),
                    "{heading} {name}: {variable} sets it"
                );
            }
        }
    }
}

#[test]
fn every_exit_status_is_described() {
    let statuses: Vec<Vec<String>> = cli::Exit::ALL
        .iter()
        .map(|(exit, meaning)| vec![format!("`{}`", *exit as u8), (*meaning).to_owned()])
        .collect();
    assert_eq!(rows("## Exit statuses"), statuses);
}

#[test]
fn every_port_is_in_the_table_of_ports() {
    let described: Vec<u16> = rows("## Ports")
        .iter()
        .flat_map(|row| words(row[0]))
        .map(|port| port.parse().unwrap())
        .collect();
    let mut ports = vec![admin::DEFAULT_ADMIN.port(), admin::DEFAULT_METRICS.port()];
    ports.extend(pods::PORTS);
    assert_eq!(described, ports);
}

#[test]
fn every_metric_is_described_in_its_own_words() {
    let metrics: Vec<Vec<String>> = METRICS
        .iter()
        .map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            vec![
                format!("`{}`", metric.name),
                metric.kind.as_str().to_owned(),
                labels.join(", "),
                metric.help.to_owned(),
            ]
        })
        .collect();
    let described: Vec<Vec<String>> = rows("## Metrics")
        .iter()
        // An empty cell of labels stands as `|  |`, which splits into one cell less.
        .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
        .collect();
    assert_eq!(described, metrics);
}

#[test]
fn every_kernel_event_is_described_in_its_own_words() {
    let events: Vec<Vec<String>> = grpclb_abi::COUNTERS
        .iter()
        .map(|counter| vec![format!("`{}`", counter.name()), counter.help().trim().to_owned()])
        .collect();
    assert_eq!(rows("### Kernel events"), events);
}

#[test]
fn every_event_of_the_data_plane_is_described() {
    let mut events: BTreeSet<String> = Stats::default()
        .named()
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    // Those that the agent adds to the engine's, as its source lists them.
    let collector = include_str!("../src/data/status.rs");
    let list = collector
        .split("let own = [")
        .nth(1)
        .and_then(|rest| rest.split("];").next())
        .unwrap();
    events.extend(list.split('"').skip(1).step_by(2).map(str::to_owned));
    events.insert("ports_found_opaque".to_owned());
    assert_eq!(first_words("### Data plane events"), events);
}

#[test]
fn every_limit_is_described() {
    let limits = Limit::ALL.iter().map(|limit| limit.name().to_owned()).collect();
    assert_eq!(first_words("### Limits"), limits);
}

#[test]
fn agent_may_create_events_and_change_nothing_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for file in [
        "deploy/kustomize/base/rbac.yaml",
        "deploy/helm/grpclb/templates/rbac.yaml",
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let rules: Vec<&str> = text.lines().map(str::trim).collect();
        let changing: Vec<_> = rules
            .windows(2)
            .filter(|pair| pair[1].starts_with("verbs:") && pair[1] != "verbs: [get, list, watch]")
            .collect();
        assert_eq!(changing, [["resources: [events]", "verbs: [create]"]], "{file}");
    }
}

#[test]
fn the_examples_on_the_page_and_in_deploy_are_valid_and_show_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut examples = 0;
    for entry in std::fs::read_dir(root.join("deploy/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            file::load(&path).unwrap();
            examples += 1;
        }
    }
    assert!(examples > 0, "no example in deploy/examples");
    let example = std::fs::read_to_string(root.join("deploy/examples/shop.yaml")).unwrap();
    for heading in [
        "### Services",
        "### Ports of a Service",
        "### Endpoints",
        "### Pods",
    ] {
        for key in first_words(heading) {
            let key = key.rsplit('.').next().unwrap();
            assert!(
                example.contains(&format!("{key}:")),
                "shop.yaml does not show `{key}`"
            );
        }
    }
    for page in [PAGE, include_str!("../../README.md")] {
        for yaml in page.split("```yaml\n").skip(1) {
            let yaml = yaml.split("```").next().unwrap();
            if let Err(problems) = file::parse(Path::new("example"), yaml) {
                panic!("{problems}\nin\n{yaml}");
            }
        }
    }
}
