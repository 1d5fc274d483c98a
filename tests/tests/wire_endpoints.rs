//! What the configuration says about endpoints, seen by a real client.
#![allow(clippy::unwrap_used)] // also in what the tests share

use grpclb_tests::agent::Agent;
use grpclb_tests::peers::{Language, Outcome};
use grpclb_tests::service::ECHO;
use grpclb_tests::stage::Stage;

/// 300 calls over one connection.
fn calls(stage: &Stage) -> Outcome {
    let outcome = stage
        .run(Language::Go, ECHO.ipv4(), &["unary"])
        .unwrap()
        .remove(0);
    assert!(outcome.ok, "{:?}", outcome.error);
    outcome
}

#[test]
fn every_policy_reaches_every_backend() {
    let stage = Stage::new(&[Language::Go; 3]).expect("a node with three servers");
    let agent = stage.start_agent().expect("the agent steers the client's pod");
    for policy in ["random", "least_request", "peak_ewma"] {
        let mut configuration = stage.configuration();
        configuration.policy = policy;
        agent.reconfigure(&configuration).unwrap();
        let shares = stage.shares(&calls(&stage));
        assert!(shares.values().all(|calls| *calls > 0), "{policy}: {shares:?}");
    }
}

#[test]
fn draining_endpoints_get_calls_only_when_none_is_ready() {
    let stage = Stage::new(&[Language::Go; 3]).expect("a node with three servers");
    let agent = stage.start_agent().expect("the agent steers the client's pod");
    let mut configuration = stage.configuration();
    configuration.endpoints[0].draining = true;
    agent.reconfigure(&configuration).unwrap();
    assert_eq!(stage.shares(&calls(&stage))["backend-0"], 0);
    for endpoint in &mut configuration.endpoints {
        endpoint.draining = true;
    }
    agent.reconfigure(&configuration).unwrap();
    let shares = stage.shares(&calls(&stage));
    assert!(
        shares.values().all(|calls| *calls > 0),
        "all drain, so all are used: {shares:?}"
    );
}

/// The connect hook leaves it alone; kube-proxy's rules decide, which may know better.
#[test]
fn a_service_without_endpoints_goes_the_plain_way() {
    let stage = Stage::new(&[Language::Go; 3]).expect("a node with three servers");
    let mut configuration = stage.configuration();
    configuration.endpoints.clear();
    let _agent = Agent::start(&stage.node, &configuration).expect("the agent steers the client's pod");
    assert_eq!(
        calls(&stage).per_backend.len(),
        1,
        "one backend for one connection"
    );
}

#[test]
fn a_gigabyte_both_ways_on_one_stream_arrives_byte_for_byte() {
    let stage = Stage::new(&[Language::Go; 2]).expect("a node with two servers");
    let _agent = stage.start_agent().expect("the agent steers the client's pod");
    let outcome = stage
        .run(Language::Go, ECHO.ipv4(), &["gigabyte"])
        .unwrap()
        .remove(0);
    assert!(outcome.ok, "{:?}", outcome.error);
}
