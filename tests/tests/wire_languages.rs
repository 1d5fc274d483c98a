//! Real gRPC stacks in four languages through the Service address, with grpclb, against one server in each of the four.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use grpclb_tests::peers::{Language, Outcome, Server, run_twice};
use grpclb_tests::process::wait_until;
use grpclb_tests::service::ECHO;
use grpclb_tests::stage::Stage;

const SCENARIOS: &[&str] = &[
    "unary",
    "many_connections",
    "client_stream",
    "server_stream",
    "bidi",
    "large",
    "concurrent",
    "metadata",
    "deadline",
    "cancel",
    "statuses",
    "trailers_only",
    "compression",
    "keepalive",
];

/// Runs all scenarios over IPv4. Which calls may fail: none that a scenario does not itself make fail.
fn every_scenario_works(client: Language) {
    let stage = Stage::new(&Language::ALL).expect("a node with four servers");
    let _agent = stage.start_agent().expect("the agent steers the client's pod");
    connect_to_all(&stage, ECHO.ipv4());
    let outcomes = stage
        .run(client, ECHO.ipv4(), SCENARIOS)
        .expect("the client runs");

    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.ok).collect();
    assert!(failed.is_empty(), "{client:?}: {failed:#?}");
    for outcome in &outcomes {
        let seen: Vec<_> = outcome
            .peers
            .iter()
            .filter(|peer| **peer != stage.client.ipv4)
            .collect();
        assert!(
            seen.is_empty(),
            "{}: backends saw {seen:?}, the pod is {}",
            outcome.scenario,
            stage.client.ipv4
        );
    }
    assert_even(&stage, by_name(&outcomes, "unary"));
    assert_even(&stage, by_name(&outcomes, "many_connections"));
    for scenario in ["client_stream", "server_stream", "bidi", "concurrent"] {
        let shares = stage.shares(by_name(&outcomes, scenario));
        assert!(
            shares.values().all(|calls| *calls > 0),
            "{scenario} over one connection did not reach all: {shares:?}"
        );
    }
    assert_cancellations_arrive(&stage.servers);
    assert_eq!(
        run_twice(&stage.servers),
        Vec::<String>::new(),
        "calls that ran twice"
    );
}

/// Calls until each server has answered one. A first connection takes as long as its server takes for it, and calls go to the
/// others meanwhile; for the next client the connections stand.
fn connect_to_all(stage: &Stage, target: SocketAddr) {
    let reached = || {
        let outcomes = stage
            .run(Language::Go, target, &["unary"])
            .expect("the client runs");
        assert!(outcomes[0].ok, "{:?}", outcomes[0].error);
        stage.shares(&outcomes[0]).values().all(|calls| *calls > 0)
    };
    assert!((0..10).any(|_| reached()), "a server gets no call");
}

fn by_name<'a>(outcomes: &'a [Outcome], scenario: &str) -> &'a Outcome {
    outcomes
        .iter()
        .find(|outcome| outcome.scenario == scenario)
        .expect("it was run")
}

/// Round robin: every backend has its share, within a fifth (the first calls may wait for a slower backend's connection).
fn assert_even(stage: &Stage, outcome: &Outcome) {
    let shares = stage.shares(outcome);
    let fair = outcome.calls as f64 / shares.len() as f64;
    let even = shares
        .values()
        .all(|calls| (*calls as f64 - fair).abs() <= fair / 5.0);
    assert!(even, "{} is not spread evenly: {shares:?}", outcome.scenario);
}

/// A cancel and a deadline of the client end the call on the backend that runs it.
fn assert_cancellations_arrive(servers: &[Server]) {
    let wanted = |id: &String| id.contains("-cancel-") || id.contains("-deadline-");
    let wanted = |id: &String| wanted(id) && !id.contains("-after-");
    let started: BTreeSet<String> = servers
        .iter()
        .flat_map(Server::executions)
        .filter(wanted)
        .collect();
    let of = |kind: &str| started.iter().filter(|id| id.contains(kind)).count();
    // Six each; a deadline may pass on the way, and such a call begins nowhere.
    assert!(
        of("-cancel-") == 6 && (1..=6).contains(&of("-deadline-")),
        "{started:?}"
    );
    let mut missing = started.clone();
    wait_until(Duration::from_secs(20), || {
        let cancelled: BTreeSet<String> = servers.iter().flat_map(Server::cancellations).collect();
        missing = started.difference(&cancelled).cloned().collect();
        missing.is_empty()
    });
    assert!(
        missing.is_empty(),
        "backends were not told that these calls are given up: {missing:?}"
    );
}

#[test]
fn every_scenario_works_for_a_tonic_client() {
    every_scenario_works(Language::Rust);
}

#[test]
fn every_scenario_works_for_a_grpcio_client() {
    every_scenario_works(Language::Python);
}

#[test]
fn every_scenario_works_for_a_grpc_js_client() {
    every_scenario_works(Language::Js);
}

#[test]
fn every_scenario_works_for_a_grpc_go_client() {
    every_scenario_works(Language::Go);
}

#[test]
fn ipv6_is_spread_like_ipv4_in_every_language() {
    let stage = Stage::new(&Language::ALL).expect("a node with four servers");
    let _agent = stage.start_agent().expect("the agent steers the client's pod");
    for language in Language::ALL {
        let scenarios = ["unary", "many_connections", "bidi", "large"];
        connect_to_all(&stage, ECHO.ipv6());
        let outcomes = stage
            .run(language, ECHO.ipv6(), &scenarios)
            .expect("the client runs");
        for outcome in &outcomes {
            assert!(
                outcome.ok,
                "{language:?} {}: {:?}",
                outcome.scenario, outcome.error
            );
            assert!(
                outcome.peers.iter().all(|peer| *peer == stage.client.ipv6),
                "{:?}",
                outcome.peers
            );
        }
        assert_even(&stage, by_name(&outcomes, "unary"));
        assert_even(&stage, by_name(&outcomes, "many_connections"));
    }
    assert_eq!(
        run_twice(&stage.servers),
        Vec::<String>::new(),
        "calls that ran twice"
    );
}
