//! What `grpclb status` of one agent looks like.

use std::collections::BTreeMap;

use super::*;
use crate::observe::status::{Endpoint, Histogram, Kernel, Process, Readiness, Source, Worker};

fn endpoint(id: &str, address: &str, state: EndpointState, calls: u64) -> Endpoint {
    Endpoint {
        id: id.to_owned(),
        address: address.parse().unwrap(),
        weight: 1,
        state,
        connections: 1,
        streams: 3,
        calls,
        errors: u64::from(state == EndpointState::Failed),
    }
}

fn example() -> Status {
    Status {
        node: "node-1".to_owned(),
        instance: "agent-1-2".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 4711,
        uptime_seconds: 3725,
        phase: Phase::Running,
        readiness: Readiness {
            ready: true,
            reasons: Vec::new(),
        },
        source: Source {
            name: "file /etc/grpclb.yaml".to_owned(),
            age_seconds: 61,
            generation: 2,
            error: None,
            switched_off: None,
            bad_values: 0,
            undecodable_objects: 0,
            in_force: Histogram::default(),
        },
        kernel: Kernel {
            cgroup: Some("/sys/fs/cgroup/kubepods".to_owned()),
            pins: "/sys/fs/bpf/grpclb/agent-1-2".to_owned(),
            programs: Vec::new(),
            counters: BTreeMap::from([("steered".to_owned(), 42), ("no_service".to_owned(), 0)]),
            error: None,
        },
        process: Process {
            resident_bytes: 8_400_000,
            budget_bytes: 0,
            held_bytes: 0,
            socket_bytes: Some(2_000),
            open_files: 34,
            threads: 4,
            cpu_seconds: 0.42,
        },
        workers: vec![Worker {
            index: 0,
            heartbeat_age_ms: 12,
            pods: 1,
            connections: 4,
            late: false,
        }],
        pods: vec![
            Pod {
                id: "client".to_owned(),
                netns: "client".to_owned(),
                state: PodState::Steered,
                port: Some(28_651),
                worker: Some(0),
                connections: 1,
                upstreams: 2,
                streams: 6,
                bypassing: 2,
                ..Pod::default()
            },
            Pod {
                id: "late".to_owned(),
                netns: "pid:7".to_owned(),
                reason: Some("no such process".to_owned()),
                ..Pod::default()
            },
        ],
        services: vec![Service {
            id: "greeter:50051".to_owned(),
            addresses: vec!["10.96.7.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            port: 50_051,
            protocol: "http2".to_owned(),
            policy: "round_robin".to_owned(),
            slot: Some(3),
            steered: true,
            connections: 1,
            endpoints: vec![
                endpoint("a", "10.0.0.1:50051", EndpointState::Ready, 30),
                endpoint("b", "10.0.0.2:50051", EndpointState::Failed, 10),
            ],
            ..Service::default()
        }],
        early_connections: 3,
        pod_panics: 0,
        services_known: 1,
        services_left_alone: 0,
        counters: BTreeMap::new(),
    }
}

#[test]
fn tables_are_aligned_plain_text_without_colours() {
    let expected = "\
grpclb 0.1.0 on node-1, running for 1h 2m
  ready    yes
";
    let text = status(&example(), false);
    assert!(text.starts_with(expected), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn colours_change_nothing_but_the_colours() {
    let coloured = status(&example(), true);
    assert!(coloured.contains("\x1b["), "{coloured}");
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    let trimmed: Vec<&str> = plain.lines().map(str::trim_end).collect();
    assert_eq!(trimmed.join("\n"), status(&example(), false).trim_end());
}

/// Text that would set a terminal's title, move its cursor and write a line.
const HOSTILE: &str = "\x1b]0;x\x07\x1b[1A\n\u{9b}2Jforged";

#[test]
fn strings_from_outside_are_escaped_in_every_part() {
    let mut told = example();
    let hostile = || HOSTILE.to_owned();
    (told.node, told.version, told.kernel.pins) = (hostile(), hostile(), hostile());
    told.readiness.ready = false;
    told.readiness.reasons = vec![hostile()];
    told.source.name = hostile();
    told.source.switched_off = Some(hostile());
    told.source.error = Some(hostile());
    told.kernel.cgroup = Some(hostile());
    told.kernel.error = Some(hostile());
    told.kernel.counters.insert(hostile(), 1);
    for pod in &mut told.pods {
        (pod.name, pod.netns, pod.reason) = (hostile(), hostile(), Some(hostile()));
    }
    for service in &mut told.services {
        (service.id, service.reason) = (hostile(), Some(hostile()));
        for endpoint in &mut service.endpoints {
            endpoint.id = hostile();
        }
    }
    for colours in [false, true] {
        let text = status(&told, colours);
        assert!(text.matches("forged").count() >= 14, "{text}");
        for raw in ["\x1b]", "\x07", "\x1b[1A", "\u{9b}"] {
            assert!(!text.contains(raw), "{text:?}");
        }
        // Errors of the agent itself may have several lines.
        let forged = text.lines().filter(|line| line.starts_with("\\u{9b}2Jforged"));
        assert_eq!(forged.count(), 0, "{text}");
    }
    let json = serde_json::to_string(&told).unwrap();
    assert_eq!(
        serde_json::from_str::<Status>(&json).unwrap(),
        told,
        "JSON is untouched"
    );
}

#[test]
fn a_node_that_is_switched_off_is_ready_and_says_so() {
    let mut example = example();
    example.source.switched_off = Some("this node's label is false".to_owned());
    let expected = "steering off, since this node's label is false: new connections go the plain way\n";
    let text = status(&example, false);
    assert!(text.contains(expected) && text.contains("ready    yes"), "{text}");
}

#[test]
fn reasons_of_an_agent_that_is_not_ready_stand_below() {
    let mut example = example();
    example.readiness = Readiness {
        ready: false,
        reasons: vec!["pod late waits".to_owned(), "no BTF".to_owned()],
    };
    example.kernel.cgroup = None;
    example.source.error = Some("a.yaml:1:1: bad\na.yaml:2:1: worse".to_owned());
    let text = status(&example, false);
    for line in [
        "  ready    no",
        "           pod late waits",
        "           no BTF",
        "           a.yaml:2:1: worse",
        "  kernel   not attached: nothing is steered",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} is not in\n{text}"
        );
    }
}

#[test]
fn connections_that_bypass_grpclb_are_told_below_the_pods() {
    let text = status(&example(), false);
    let line = "  client: 2 connections bypass grpclb, made before the pod was steered";
    assert!(text.lines().any(|found| found == line), "{text}");
}

#[test]
fn connections_that_came_too_early_are_told_if_there_were_any() {
    let text = status(&example(), false);
    let line = "  early    3 connections were there before their pod was steered, since the start";
    assert!(text.lines().any(|found| found == line), "{text}");
}

#[test]
fn an_agent_with_nothing_to_do_says_so() {
    let text = status(&Status::default(), false);
    assert!(!text.contains("early"), "{text}");
    assert!(text.contains("Pods\n  none is enabled\n"), "{text}");
    assert!(text.contains("Services\n  none is known\n"), "{text}");
}

#[test]
fn times_and_sizes_are_short() {
    assert_eq!(
        [duration(5), duration(725), duration(7_320), duration(100_000)],
        ["5s", "12m 5s", "2h 2m", "1d 3h"]
    );
    assert_eq!(
        [size(512), size(8_400_000), size(2_500_000_000)],
        ["0.5 kB", "8.4 MB", "2.5 GB"]
    );
    assert_eq!([share(0, 0), share(1, 3)], ["-", "33.3%"]);
}
