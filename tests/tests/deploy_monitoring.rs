//! The chart's alerts and dashboard: Prometheus takes them, and they ask for nothing that the agent does not have. Needs no
//! cluster; `cluster_helm` compares with what a running agent serves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use grpclb_tests::monitoring::{Query, check_rules, dashboard, queries};
use grpclb_userspace::observe::metrics::{Kind, METRICS, Metric};

/// What Prometheus puts on what it scrapes, and on the parts of histograms.
const OF_PROMETHEUS: [&str; 2] = ["instance", "le"];

fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| {
        let part = name.strip_prefix(metric.name);
        let parts: &[&str] = if metric.kind == Kind::Histogram {
            &["_bucket", "_sum", "_count"]
        } else {
            &[""]
        };
        part.is_some_and(|part| parts.contains(&part))
    })
}

fn all() -> Vec<Query> {
    let queries = queries().unwrap();
    assert!(queries.len() > 25, "{}", queries.len());
    queries
}

#[test]
fn prometheus_takes_the_alerts() {
    check_rules().unwrap();
}

#[test]
fn every_query_asks_for_metrics_of_the_agent_and_by_labels_that_they_have() {
    for query in all() {
        assert!(!query.metrics.is_empty(), "{query:?}");
        let mut labels = BTreeSet::from(OF_PROMETHEUS);
        for name in &query.metrics {
            let metric = metric(name).unwrap_or_else(|| panic!("no metric {name}: {query:?}"));
            labels.extend(metric.labels);
        }
        for label in &query.labels {
            assert!(labels.contains(label.as_str()), "no label {label}: {query:?}");
        }
    }
}

/// A gauge under `rate`, or a counter without it, shows something else than its title says.
#[test]
fn counters_are_asked_for_by_rate_and_gauges_are_not() {
    for query in all() {
        let rates = ["rate(", "increase("]
            .iter()
            .any(|rate| query.expression.contains(rate));
        for name in &query.metrics {
            let counts = metric(name).is_some_and(|metric| metric.kind != Kind::Gauge);
            assert_eq!(rates, counts, "{name}: {query:?}");
        }
    }
}

#[test]
fn what_the_dashboard_shows_of_events_the_agent_counts() {
    let page = include_str!("../../docs/configuration.md");
    for query in all() {
        let Some((_, events)) = query.expression.split_once("event=~\"") else {
            continue;
        };
        for event in events.split('"').next().unwrap().split('|') {
            let known = event == "limit_.*" || page.contains(&format!("\n| `{event}` |"));
            assert!(known, "{event}: {query:?}");
        }
    }
}

#[test]
fn every_panel_of_the_dashboard_has_a_title_a_place_and_a_number_of_its_own() {
    let dashboard = dashboard().unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut numbers, mut titles) = (BTreeSet::new(), BTreeSet::new());
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{}", panel["id"]);
        assert!(
            titles.insert(panel["title"].as_str().unwrap()),
            "{}",
            panel["title"]
        );
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(
                    x < 24 && taken.insert((x, y)),
                    "{} lies on another",
                    panel["title"]
                );
            }
        }
    }
    let text = dashboard.to_string();
    for variable in ["datasource", "service"] {
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        assert!(variables.iter().any(|known| known["name"] == variable));
        assert!(text.contains(&format!("${variable}")) || text.contains(&format!("${{{variable}}}")));
    }
}
