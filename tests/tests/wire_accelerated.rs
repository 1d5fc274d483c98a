//! Pods that opted in to `sk_msg`: the same calls, the bytes between pod and agent handed from socket to socket.
#![allow(clippy::unwrap_used)] // also in what the tests share

use grpclb_tests::agent::Agent;
use grpclb_tests::peers::{Language, run_twice};
use grpclb_tests::service::ECHO;
use grpclb_tests::stage::Stage;

/// grpc-go and tonic read without blocking, as the opt-in asks for.
#[test]
fn an_accelerated_pods_calls_are_spread_and_whole_in_both_families() {
    let stage = Stage::new(&[Language::Go, Language::Rust, Language::Go]).expect("a node with three servers");
    let mut configuration = stage.configuration();
    configuration.accelerate = true;
    let agent = Agent::start(&stage.node, &configuration).expect("the agent steers the client's pod");
    for language in [Language::Go, Language::Rust] {
        for target in [ECHO.ipv4(), ECHO.ipv6()] {
            let scenarios = ["unary", "bidi", "large", "server_stream", "many_connections"];
            for outcome in stage.run(language, target, &scenarios).unwrap() {
                let what = format!("{language:?} to {target}, {}", outcome.scenario);
                assert!(outcome.ok, "{what}: {:?}", outcome.error);
                if outcome.scenario == "unary" {
                    assert_eq!(outcome.per_backend.len(), 3, "{what}: {:?}", outcome.per_backend);
                }
            }
        }
    }
    let counters = &agent.status().unwrap()["kernel"]["counters"];
    let counted = |name: &str| counters[name].as_u64().unwrap();
    assert!(
        counted("accelerated") > 0 && counted("redirected") > 0,
        "{counters:#}"
    );
    assert_eq!(run_twice(&stage.servers), Vec::<String>::new());
}
