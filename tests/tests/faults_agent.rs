//! The agent killed, frozen, told to end and replaced by another, under a steady load. Each test says which calls may fail.
#![allow(clippy::unwrap_used)] // also in what the tests share

use std::time::{Duration, Instant};

use grpclb_tests::agent::{self, Agent};
use grpclb_tests::peers::{Dialler, Language, LoadPlan, Outcome, run_twice};
use grpclb_tests::service::ECHO;
use grpclb_tests::stage::Stage;
use nix::sys::signal::Signal;

const CONCURRENCY: u32 = 16;

fn stage_with_agent(language: Language) -> (Stage, Agent) {
    let stage = Stage::new(&[language; 3]).expect("a node with three servers");
    let agent = stage.start_agent().expect("the agent steers the client's pod");
    (stage, agent)
}

/// May fail: the calls in flight at that moment, and those that their client still writes to the dead connection. Every
/// later one goes the plain way.
#[test]
fn a_killed_agent_fails_only_the_calls_in_flight() {
    let (stage, mut agent) = stage_with_agent(Language::Rust);
    let plan = LoadPlan {
        concurrency: CONCURRENCY,
        ..LoadPlan::default()
    };
    let mut load = stage.load(Language::Rust, &plan).unwrap();
    load.wait_for(500).unwrap();
    agent.process.kill().unwrap();
    load.wait_for_more(2000).unwrap();
    let outcome = load.finish().unwrap();

    assert!(
        outcome.failed() <= 2 * u64::from(CONCURRENCY),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
    let outcome = &stage.run(Language::Go, ECHO.ipv4(), &["unary"]).unwrap()[0];
    assert!(
        outcome.ok,
        "a new client, after the agent's death: {:?}",
        outcome.error
    );
    assert_eq!(
        outcome.per_backend.len(),
        1,
        "the plain way is one backend a connection: {:?}",
        outcome.per_backend
    );
    assert_eq!(run_twice(&stage.servers), Vec::<String>::new());
}

/// May fail: the calls in flight. The kernel lets go of the connect hooks before it closes the listeners and resets what was
/// relayed: who connects in that moment goes the plain way.
#[test]
fn a_killed_agent_refuses_no_new_connection() {
    let stage = Stage::new(&[Language::Go; 3]).expect("a node with three servers");
    // Many connections, which take long to end.
    let plan = LoadPlan {
        concurrency: 300,
        connections: 300,
        delay_ms: 50,
        ..LoadPlan::default()
    };
    for round in 0..3 {
        let mut configuration = stage.configuration();
        configuration.pods.clear();
        let mut agent = Agent::start(&stage.node, &configuration).unwrap();
        // Enabled when all else stands: its listeners are what the agent opened last.
        agent.reconfigure(&stage.configuration()).unwrap();
        let mut load = stage.load(Language::Go, &plan).unwrap();
        load.wait_for(1000).unwrap();
        let dialler = Dialler::start(&stage.node, &stage.client, ECHO.ipv4()).unwrap();
        dialler.goes_on().unwrap();
        agent.process.kill().unwrap();
        load.wait_for_more(1000).unwrap();
        let dialled = dialler.finish().unwrap();
        drop(load.finish().unwrap());
        assert!(dialled.connected > 0, "round {round}: {dialled:?}");
        // Who was steered just before may be reset.
        assert!(
            dialled.errors.keys().all(|error| error == "connection reset"),
            "round {round}: {dialled:?}"
        );
    }
}

/// The agent's death is a reset, so that nobody takes a truncated answer for a whole one: a stream in flight ends with an
/// error, never as complete.
#[test]
fn a_killed_agent_ends_no_stream_as_if_it_were_complete() {
    let (stage, mut agent) = stage_with_agent(Language::Go);
    let plan = LoadPlan {
        concurrency: 64,
        delay_ms: 5000,
        ..LoadPlan::default()
    };
    let load = stage
        .load(
            Language::Go,
            &LoadPlan {
                calls: Some(64),
                ..plan
            },
        )
        .unwrap();
    let running = || {
        stage
            .servers
            .iter()
            .map(|server| server.executions().len())
            .sum::<usize>()
            == 64
    };
    assert!(
        grpclb_tests::process::wait_until(Duration::from_secs(20), running),
        "64 calls run"
    );
    agent.process.kill().unwrap();
    let outcome = load.finish().unwrap();
    assert_eq!(
        outcome.errors.get("Unavailable"),
        Some(&64),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
}

/// The bound: a connect made 600 ms after the freeze or later goes the plain way (heartbeats are stale at 500 ms). Before
/// that, and on connections that the agent holds, calls wait for their deadline or for the agent.
#[test]
fn a_frozen_agent_holds_up_no_connection_made_600_ms_later() {
    let (stage, agent) = stage_with_agent(Language::Rust);
    agent.process.signal(Signal::SIGSTOP).unwrap();
    let frozen = Instant::now();
    grpclb_tests::process::wait_until(Duration::from_millis(600), || false);
    for language in [Language::Rust, Language::Go] {
        let outcomes = stage
            .run(language, ECHO.ipv4(), &["unary", "many_connections"])
            .unwrap();
        for outcome in &outcomes {
            assert!(
                outcome.ok,
                "{language:?} {} with a frozen agent: {:?}",
                outcome.scenario, outcome.error
            );
        }
        assert_eq!(outcomes[0].per_backend.len(), 1, "{:?}", outcomes[0].per_backend);
    }
    assert!(
        frozen.elapsed() < Duration::from_secs(30),
        "{:?} for 720 calls",
        frozen.elapsed()
    );
    assert_eq!(run_twice(&stage.servers), Vec::<String>::new());
}

/// The second agent takes over new connections, the first tells its clients to go (GOAWAY in two steps) and ends when they
/// have gone.
fn upgrade_under_load(client: Language) -> Outcome {
    let (stage, mut first) = stage_with_agent(Language::Go);
    let plan = LoadPlan {
        concurrency: CONCURRENCY,
        connections: 4,
        delay_ms: 2,
        ..LoadPlan::default()
    };
    let mut load = stage.load(client, &plan).unwrap();
    load.wait_for(300).unwrap();
    let program = agent::program().unwrap();
    let _second = Agent::start_with(&stage.node, "agent-2", &program, &stage.configuration(), &[]).unwrap();
    let status = first
        .process
        .wait(Duration::from_secs(40))
        .expect("the first agent ends when it has drained");
    assert!(status.success(), "{status}");
    load.wait_for_more(500).unwrap();
    let outcome = load.finish().unwrap();
    let spread = stage.run(Language::Rust, ECHO.ipv4(), &["unary"]).unwrap();
    assert_eq!(
        spread[0].per_backend.len(),
        3,
        "the second agent spreads: {:?}",
        spread[0]
    );
    assert_eq!(run_twice(&stage.servers), Vec::<String>::new());
    outcome
}

/// May fail: none.
#[test]
fn an_upgrade_loses_no_call_of_a_grpc_go_client() {
    let outcome = upgrade_under_load(Language::Go);
    outcome.assert_none_failed();
}

/// May fail: what tonic itself cancels, before it sends anything, whenever a connection ends with GOAWAY (so it does
/// without grpclb, on a server with a maximal connection age), or fails because GOAWAY is read in the moment in which it begins
/// the call; at most one for each caller.
#[test]
fn an_upgrade_loses_no_call_of_a_tonic_client_but_those_that_tonic_cancels() {
    let outcome = upgrade_under_load(Language::Rust);
    assert!(
        outcome.failed() <= u64::from(CONCURRENCY),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
    let by_tonic = |message: &String| {
        (message.starts_with("Cancelled: ") && message.contains("connection closed"))
            || (message.starts_with("Internal: ") && message.contains("GoAway(b\"\", NO_ERROR, Remote)"))
    };
    assert!(
        outcome.messages.iter().all(by_tonic),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
}

/// The operator is in a hurry: what still runs is reset, and the agent ends at once, in good order.
#[test]
fn an_agent_that_is_told_to_end_twice_resets_what_is_left_and_exits_0() {
    let (stage, mut agent) = stage_with_agent(Language::Go);
    let plan = LoadPlan {
        concurrency: 8,
        delay_ms: 20_000,
        calls: Some(8),
        ..LoadPlan::default()
    };
    let load = stage.load(Language::Go, &plan).unwrap();
    let runs = |status: &serde_json::Value| status["pods"][0]["streams"] == 8;
    agent.wait_for("to have 8 calls running", runs).unwrap();
    agent.process.signal(Signal::SIGTERM).unwrap();
    agent
        .wait_for("to drain", |status| status["phase"] == "draining")
        .unwrap();
    assert!(!agent.process.has_ended(), "8 calls still run");
    agent.process.signal(Signal::SIGTERM).unwrap();
    let status = agent
        .process
        .wait(Duration::from_secs(15))
        .expect("it ends long before its calls would");
    assert!(status.success(), "{status}");
    let outcome = load.finish().unwrap();
    assert_eq!(
        outcome.errors.get("Unavailable"),
        Some(&8),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
}

/// May fail: none, though nobody takes over: new connections go the plain way.
#[test]
fn an_agent_that_is_told_to_end_drains_and_exits_0() {
    let (stage, mut agent) = stage_with_agent(Language::Go);
    let plan = LoadPlan {
        concurrency: CONCURRENCY,
        delay_ms: 2,
        ..LoadPlan::default()
    };
    let mut load = stage.load(Language::Go, &plan).unwrap();
    load.wait_for(300).unwrap();
    agent.process.signal(Signal::SIGTERM).unwrap();
    let status = agent
        .process
        .wait(Duration::from_secs(40))
        .expect("it ends when it has drained");
    assert!(status.success(), "{status}");
    load.wait_for_more(500).unwrap();
    let outcome = load.finish().unwrap();
    outcome.assert_none_failed();
    assert_eq!(run_twice(&stage.servers), Vec::<String>::new());
}
