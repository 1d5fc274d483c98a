//! The metrics text, read back by the rules of the exposition format.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::observe::status::{Endpoint, Pod, Worker};

fn endpoint(address: &str, calls: u64) -> Endpoint {
    Endpoint {
        id: address.to_owned(),
        address: address.parse().unwrap(),
        weight: 1,
        state: EndpointState::Ready,
        connections: 1,
        streams: 2,
        calls,
        errors: 0,
    }
}

/// A snapshot in which every metric has a value.
fn full() -> Status {
    let mut status = Status {
        node: "n\"1\"\\\n".to_owned(),
        ..Status::default()
    };
    status.process.socket_bytes = Some(4096);
    status.kernel.counters.insert("steered".to_owned(), 7);
    status.counters.insert("replays".to_owned(), 3);
    status.workers.push(Worker {
        index: 0,
        heartbeat_age_ms: 250,
        pods: 1,
        connections: 4,
        late: false,
    });
    status.pods.push(Pod {
        state: PodState::Steered,
        ..Pod::default()
    });
    status.services.push(Service {
        id: "greeter:50051".to_owned(),
        endpoints: vec![endpoint("10.0.0.1:50051", 11), endpoint("[fd00::1]:50051", 12)],
        ..Service::default()
    });
    status
}

/// Reads the format back, strictly: `# HELP`, `# TYPE`, then samples of that metric alone. Returns sample → value.
fn parse(text: &str) -> BTreeMap<String, String> {
    let mut samples = BTreeMap::new();
    let mut current = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split_once(' ').unwrap().0.to_owned();
            let kind = lines
                .next()
                .unwrap()
                .strip_prefix(&format!("# TYPE {current} "))
                .unwrap();
            assert!(matches!(kind, "gauge" | "counter" | "histogram"), "{line}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = family(sample);
        assert_eq!(name, current, "a sample outside its family: {line}");
        let duplicate = samples.insert(sample.to_owned(), value.to_owned());
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert_eq!(duplicate, None, "twice: {line}");
    }
    samples
}

/// The metric that a sample belongs to: a histogram's samples have suffixes.
fn family(sample: &str) -> &str {
    let name = sample.split('{').next().unwrap();
    let of_histogram = |suffix| {
        name.strip_suffix(suffix)
            .filter(|name| name.ends_with("_seconds"))
    };
    ["_bucket", "_sum", "_count"]
        .into_iter()
        .find_map(of_histogram)
        .unwrap_or(name)
}

#[test]
fn every_metric_has_a_value_in_a_full_snapshot() {
    let text = text(&full());
    let seen: BTreeSet<String> = parse(&text)
        .keys()
        .map(|sample| family(sample).to_owned())
        .collect();
    let all: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(seen, all);
}

#[test]
fn values_and_labels_come_from_the_snapshot() {
    let samples = parse(&text(&full()));
    assert_eq!(
        samples["grpclb_calls_total{service=\"greeter:50051\",endpoint=\"10.0.0.1:50051\"}"],
        "11"
    );
    assert_eq!(
        samples["grpclb_calls_total{service=\"greeter:50051\",endpoint=\"[fd00::1]:50051\"}"],
        "12"
    );
    assert_eq!(samples["grpclb_kernel_events_total{event=\"steered\"}"], "7");
    assert_eq!(samples["grpclb_pods{state=\"steered\"}"], "1");
    assert_eq!(samples["grpclb_pods{state=\"pending\"}"], "0");
    assert_eq!(
        samples["grpclb_worker_heartbeat_age_seconds{worker=\"0\"}"],
        "0.25"
    );
}

#[test]
fn a_histogram_ends_with_the_bucket_of_all() {
    let mut status = full();
    status.source.in_force = Histogram {
        count: 3,
        sum_seconds: 1.5,
        buckets: vec![(0.001, 1), (0.5, 2)],
    };
    let samples = parse(&text(&status));
    let of = |sample: &str| samples[&format!("grpclb_source_in_force_seconds_{sample}")].clone();
    assert_eq!(of("bucket{le=\"0.001\"}"), "1");
    assert_eq!(of("bucket{le=\"0.5\"}"), "2");
    assert_eq!(of("bucket{le=\"+Inf\"}"), "3");
    assert_eq!((of("sum"), of("count")), ("1.5".to_owned(), "3".to_owned()));
}

#[test]
fn quotes_backslashes_and_newlines_in_labels_are_escaped() {
    let text = text(&full());
    assert!(
        text.contains(r#"grpclb_info{node="n\"1\"\\\n",instance="","#),
        "{text}"
    );
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    for metric in METRICS {
        assert!(metric.name.starts_with("grpclb_"), "{}", metric.name);
        let is_total = metric.name.ends_with("_total");
        assert_eq!(is_total, metric.kind == Kind::Counter, "{}", metric.name);
        assert!(metric.help.ends_with('.'), "{}", metric.help);
    }
}
