//! What one client does to another one that shares its pod, and so the connections to the backends.
#![allow(clippy::unwrap_used)] // also in what the tests share

use grpclb_tests::peers::{Language, LoadPlan, run_twice};
use grpclb_tests::service::ECHO;
use grpclb_tests::stage::Stage;

/// May fail: calls of the storm. None of the other client's: tonic ends a connection on which it sees too many calls that
/// are given up before it took them, so grpclb must not pass a storm on as one.
#[test]
fn a_storm_of_cancels_fails_no_call_of_another_client_of_the_pod() {
    let stage = Stage::new(&[Language::Rust; 3]).expect("a node with three servers");
    let _agent = stage.start_agent().expect("the agent steers the client's pod");
    let mut load = stage
        .load(
            Language::Go,
            &LoadPlan {
                concurrency: 8,
                ..LoadPlan::default()
            },
        )
        .unwrap();
    load.wait_for(300).unwrap();
    let storm = stage
        .run(Language::Go, ECHO.ipv4(), &["cancel_storm"])
        .unwrap()
        .remove(0);
    assert!(storm.ok && storm.calls > 1000, "the storm is one: {storm:?}");
    load.wait_for_more(300).unwrap();
    let outcome = load.finish().unwrap();
    outcome.assert_none_failed();
    assert_eq!(run_twice(&stage.servers), Vec::<String>::new());
}
