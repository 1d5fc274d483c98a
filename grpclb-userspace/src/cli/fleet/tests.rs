//! What becomes of the answers of two nodes.

use std::time::Duration;

use super::*;
use crate::observe::status::{Endpoint, Readiness, Service as Told, Source};

fn agent(node: &str) -> Agent {
    Agent {
        node: node.to_owned(),
        pod: format!("grpclb-{node}"),
        image: "grpclb:0.1.0".to_owned(),
        restarts: 0,
        runs: true,
        ready: true,
        waits_for: String::new(),
    }
}

/// An agent with a pod, whose calls went to one endpoint of one Service.
pub(in crate::cli) fn status(node: &str, pod: &str, calls: u64, endpoint: &str) -> Status {
    Status {
        node: node.to_owned(),
        version: "0.1.0".to_owned(),
        phase: Phase::Running,
        readiness: Readiness {
            ready: true,
            reasons: Vec::new(),
        },
        source: Source::default(),
        pods: vec![Pod {
            name: pod.to_owned(),
            state: PodState::Steered,
            connections: 2,
            bypassing: 1,
            ..Pod::default()
        }],
        services: vec![Told {
            id: "shop/cart:50051".to_owned(),
            protocol: "http2".to_owned(),
            policy: "round_robin".to_owned(),
            steered: true,
            connections: 2,
            endpoints: vec![Endpoint {
                id: endpoint.to_owned(),
                address: ([10, 0, 0, 1], 1).into(),
                weight: 1,
                state: EndpointState::Ready,
                connections: 1,
                streams: 0,
                calls,
                errors: 0,
            }],
            ..Told::default()
        }],
        counters: [("calls".to_owned(), calls), ("broken".to_owned(), 3)].into(),
        ..Status::default()
    }
}

pub(in crate::cli) fn round(at: Instant, answers: Vec<(&str, Result<Status, Silence>)>) -> Round {
    Round {
        at,
        agents: answers.iter().map(|(node, _)| agent(node)).collect(),
        answers: answers
            .into_iter()
            .map(|(node, answer)| (node.to_owned(), answer))
            .collect(),
    }
}

#[test]
fn calls_of_all_nodes_add_up_and_rates_come_of_two_rounds() {
    let begun = Instant::now();
    let both = |at, calls| {
        let one = Ok(status("node1", "shop/a", calls, "x"));
        let other = Ok(status("node2", "pay/b", 2 * calls, "y"));
        round(at, vec![("node1", one), ("node2", other)])
    };
    let (before, now) = (both(begun, 100), both(begun + Duration::from_secs(2), 150));
    let fleet = put_together("c", &[], Some(&before), &now);
    assert!(fleet.is_ready());
    let rates: Vec<_> = fleet
        .nodes
        .iter()
        .map(|node| node.sums.calls_per_second)
        .collect();
    assert_eq!(rates, [Some(25.0), Some(50.0)]);
    assert_eq!((fleet.nodes[0].sums.calls, fleet.nodes[0].sums.errors), (150, 3));
    let [service] = &fleet.services[..] else {
        panic!("{:?}", fleet.services);
    };
    assert_eq!((service.nodes, service.steered, service.endpoints), (2, 2, 2));
    assert_eq!(
        (service.sums.calls, service.sums.calls_per_second),
        (450, Some(75.0))
    );
    let namespaces: Vec<_> = fleet
        .namespaces
        .iter()
        .map(|found| (found.name.as_str(), found.bypassing))
        .collect();
    assert_eq!(namespaces, [("pay", 1), ("shop", 1)]);
    assert_eq!(
        put_together("c", &[], None, &now).services[0]
            .sums
            .calls_per_second,
        None
    );
}

#[test]
fn an_agent_that_was_started_anew_has_no_rate_yet() {
    let begun = Instant::now();
    let before = round(begun, vec![("node1", Ok(status("node1", "shop/a", 100, "x")))]);
    let mut restarted = status("node1", "shop/a", 1, "x");
    restarted.instance = "another".to_owned();
    let now = round(begun + Duration::from_secs(1), vec![("node1", Ok(restarted))]);
    let fleet = put_together("c", &[], Some(&before), &now);
    assert_eq!(fleet.nodes[0].sums.calls_per_second, None);
}

fn silence() -> Silence {
    Silence {
        why: "it is silent".to_owned(),
        exit: Exit::Unreachable,
    }
}

#[test]
fn where_nobody_answers_there_is_a_reason_instead_of_a_table() {
    let one = round(
        Instant::now(),
        vec![
            ("node1", Err(silence())),
            ("node2", Ok(status("node2", "shop/a", 1, "x"))),
        ],
    );
    assert_eq!(one.silence(), None);
    let none = round(
        Instant::now(),
        vec![("node1", Err(silence())), ("node2", Err(silence()))],
    );
    assert_eq!(none.silence(), Some(&silence()));
}

#[test]
fn a_node_without_an_agent_or_an_answer_is_not_ready_and_says_why() {
    let now = round(Instant::now(), vec![("node1", Err(silence()))]);
    let fleet = put_together("c", &["node1".to_owned(), "node2".to_owned()], None, &now);
    assert!(!fleet.is_ready());
    let problems: Vec<_> = fleet
        .nodes
        .iter()
        .map(|node| (node.name.as_str(), node.problems.concat()))
        .collect();
    assert_eq!(
        problems,
        [
            ("node1", "it is silent".to_owned()),
            ("node2", "no agent".to_owned())
        ]
    );
}

#[test]
fn pods_that_are_not_steered_are_listed_with_their_reasons() {
    let mut told = status("node1", "shop/a", 1, "x");
    told.pods[0].state = PodState::Unsteered;
    told.pods[0].reason = Some("a firewall".to_owned());
    let fleet = put_together("c", &[], None, &round(Instant::now(), vec![("node1", Ok(told))]));
    let listed: Vec<_> = fleet
        .unsteered
        .iter()
        .map(|pod| (pod.pod.as_str(), pod.state, pod.reason.as_deref()))
        .collect();
    assert_eq!(listed, [("shop/a", "unsteered", Some("a firewall"))]);
    assert_eq!(fleet.namespaces[0].steered, 0);
}
