//! Backends that die, freeze, restart, refuse and are replaced, under a steady load. Each test says which calls may fail,
//! and none may run twice.
#![allow(clippy::unwrap_used)] // also in what the tests share

use std::time::Duration;

use grpclb_tests::agent::{Agent, Configuration, Endpoint};
use grpclb_tests::peers::{Language, LoadPlan, Server, run_twice};
use grpclb_tests::process::wait_until;
use grpclb_tests::service::ECHO;
use grpclb_tests::stage::Stage;
use nix::sys::signal::Signal;

const CONCURRENCY: u32 = 16;

fn stage_of(language: Language, count: usize) -> (Stage, Agent) {
    let stage = Stage::new(&vec![language; count]).expect("a node with servers");
    let agent = stage.start_agent().expect("the agent steers the client's pod");
    (stage, agent)
}

fn steady() -> LoadPlan {
    LoadPlan {
        concurrency: CONCURRENCY,
        ..LoadPlan::default()
    }
}

fn assert_none_ran_twice(stage: &Stage) {
    assert_eq!(
        run_twice(&stage.servers),
        Vec::<String>::new(),
        "calls that ran twice"
    );
}

/// May fail, as UNAVAILABLE: the calls that ran on the backend when it was killed, at most all that were in flight.
#[test]
fn a_killed_backend_fails_only_the_calls_that_ran_on_it() {
    let (mut stage, _agent) = stage_of(Language::Rust, 3);
    let mut load = stage
        .load(
            Language::Rust,
            &LoadPlan {
                delay_ms: 5,
                ..steady()
            },
        )
        .unwrap();
    load.wait_for(500).unwrap();
    stage.servers[0].process.kill().unwrap();
    load.wait_for_more(2000).unwrap();
    let outcome = load.finish().unwrap();

    assert!(
        outcome.failed() <= u64::from(CONCURRENCY),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
    assert!(
        outcome.errors.keys().all(|code| code == "Unavailable"),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
    assert_none_ran_twice(&stage);
}

/// May fail, by their deadline: the calls that were given to the frozen backend. Nothing says that it is frozen, for its
/// kernel still answers; the calls of the others go on, and all is well when it runs again.
#[test]
fn a_frozen_backend_holds_up_only_its_own_calls() {
    let (stage, _agent) = stage_of(Language::Rust, 3);
    let plan = LoadPlan {
        deadline: Duration::from_millis(500),
        ..steady()
    };
    let mut load = stage.load(Language::Rust, &plan).unwrap();
    load.wait_for(500).unwrap();
    stage.servers[0].process.signal(Signal::SIGSTOP).unwrap();
    load.wait_for_more(200).unwrap();
    stage.servers[0].process.signal(Signal::SIGCONT).unwrap();
    let outcome = load.finish().unwrap();

    // A third of the calls, those in flight at the start, and what of a progress line's hundred was counted late.
    assert!(
        outcome.failed() <= 200,
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
    // A tonic server that thaws finds many calls that begin and are given up, and may end the connection for it.
    let frozen = format!("Unavailable: grpclb-agent/node-1: {}:", stage.servers[0].pod.ipv4);
    let allowed = ["DeadlineExceeded: ", "Cancelled: Timeout expired", &frozen];
    let of_it = |message: &String| allowed.iter().any(|allowed| message.starts_with(allowed));
    assert!(
        outcome.messages.iter().all(of_it),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
    let after = stage
        .load(
            Language::Rust,
            &LoadPlan {
                calls: Some(300),
                ..steady()
            },
        )
        .unwrap()
        .finish()
        .unwrap();
    after.assert_none_failed();
    assert!(
        after.per_backend.contains_key("backend-0"),
        "the thawed backend gets calls: {:?}",
        after.per_backend
    );
    assert_none_ran_twice(&stage);
}

/// May fail: none. A server that restarts says GOAWAY, finishes its calls, then refuses connections for a while.
#[test]
fn backends_that_restart_with_goaway_lose_no_call() {
    let (mut stage, _agent) = stage_of(Language::Go, 3);
    let mut load = stage
        .load(
            Language::Rust,
            &LoadPlan {
                delay_ms: 2,
                ..steady()
            },
        )
        .unwrap();
    for index in 0..3 {
        load.wait_for_more(500).unwrap();
        let server = &mut stage.servers[index];
        server.process.signal(Signal::SIGTERM).unwrap();
        server.process.wait(Duration::from_secs(20)).unwrap();
        let pod = server.pod.clone();
        stage.servers[index] = Server::start(&stage.node, &pod, Language::Go, ECHO.port).unwrap();
        // As a rolling restart does: the next one only when this one is in use again (its backoff has ended).
        let before = stage.servers[index].executions().len();
        let in_use = || stage.servers[index].executions().len() > before;
        assert!(
            wait_until(Duration::from_secs(20), in_use),
            "the restarted backend gets no calls"
        );
    }
    load.wait_for_more(500).unwrap();
    load.finish().unwrap().assert_none_failed();
    assert_none_ran_twice(&stage);
}

/// May fail: none. Every connection is ended with GOAWAY after a second, with calls running on it.
#[test]
fn a_max_connection_age_of_a_second_is_not_seen_by_the_client() {
    let mut stage = Stage::new(&[]).expect("a node");
    for _ in 0..3 {
        stage
            .add_server(Language::Go, &["--max-connection-age", "1s"])
            .unwrap();
    }
    stage.publish().unwrap();
    let _agent = stage.start_agent().expect("the agent steers the client's pod");
    // 16 at a time, each 20 ms: about 800 a second at most, so this takes more than five seconds.
    let plan = LoadPlan {
        calls: Some(4500),
        delay_ms: 20,
        ..steady()
    };
    let outcome = stage.load(Language::Rust, &plan).unwrap().finish().unwrap();
    outcome.assert_none_failed();
    assert_none_ran_twice(&stage);
}

/// May fail: none, for what is refused never left and goes to another backend.
#[test]
fn a_backend_that_refuses_connections_costs_no_call() {
    let (mut stage, _agent) = stage_of(Language::Rust, 3);
    stage.servers[1].process.kill().unwrap();
    let plan = LoadPlan {
        calls: Some(2000),
        ..steady()
    };
    let outcome = stage.load(Language::Rust, &plan).unwrap().finish().unwrap();
    outcome.assert_none_failed();
    assert_eq!(outcome.per_backend.len(), 2, "{:?}", outcome.per_backend);
}

/// May fail: all, at once and as UNAVAILABLE, and the message says who says so and why.
#[test]
fn when_every_backend_refuses_the_error_names_grpclb_and_comes_soon() {
    let (mut stage, _agent) = stage_of(Language::Rust, 2);
    for server in &mut stage.servers {
        server.process.kill().unwrap();
    }
    let plan = LoadPlan {
        calls: Some(20),
        concurrency: 1,
        ..LoadPlan::default()
    };
    let outcome = stage.load(Language::Go, &plan).unwrap().finish().unwrap();
    assert_eq!(
        outcome.errors.get("Unavailable"),
        Some(&20),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
    assert!(
        outcome.messages[0].contains("grpclb-agent/node-1:"),
        "{:?}",
        outcome.messages
    );
    assert!(outcome.max_ms < 5000.0, "it took {} ms to say so", outcome.max_ms);
}

/// May fail: none. New endpoints get calls at once; an endpoint that leaves is first draining, then gone.
#[test]
fn endpoints_come_and_go_under_load_without_a_lost_call() {
    let (mut stage, agent) = stage_of(Language::Rust, 2);
    let mut load = stage.load(Language::Rust, &steady()).unwrap();
    load.wait_for(300).unwrap();
    for round in 0..3 {
        stage.add_server(Language::Rust, &[]).unwrap();
        let mut configuration = all_but(&stage, round);
        agent.reconfigure(&configuration).unwrap();
        load.wait_for_more(500).unwrap();
        configuration.endpoints[0].draining = true;
        agent.reconfigure(&configuration).unwrap();
        load.wait_for_more(500).unwrap();
        configuration.endpoints.remove(0);
        agent.reconfigure(&configuration).unwrap();
        load.wait_for_more(500).unwrap();
    }
    let outcome = load.finish().unwrap();
    outcome.assert_none_failed();
    assert_eq!(
        outcome.per_backend.len(),
        5,
        "every backend had its turn: {:?}",
        outcome.per_backend
    );
    assert_none_ran_twice(&stage);
}

/// Every server but the first `gone` is an endpoint.
fn all_but(stage: &Stage, gone: usize) -> Configuration {
    let mut configuration = stage.configuration();
    configuration.endpoints.drain(..gone);
    configuration
}

/// May fail: none of 50,000. All three backends are replaced, one after the other, as a Deployment does: the new pod is
/// ready, the old one drains (no new calls, SIGTERM, GOAWAY, its calls end), then it is gone.
#[test]
fn a_rolling_replacement_of_all_backends_loses_none_of_50_000_calls() {
    let (mut stage, agent) = stage_of(Language::Go, 3);
    let plan = LoadPlan {
        calls: Some(50_000),
        concurrency: 32,
        connections: 2,
        ..LoadPlan::default()
    };
    let mut load = stage.load(Language::Rust, &plan).unwrap();
    let mut configuration = stage.configuration();
    for old in 0..3 {
        load.wait_for(10_000 * (old as u64 + 1)).unwrap();
        stage.add_server(Language::Go, &[]).unwrap();
        let pod = stage.servers[3 + old].pod.clone();
        configuration.endpoints.push(Endpoint { pod, draining: false });
        configuration.endpoints[0].draining = true;
        agent.reconfigure(&configuration).unwrap();
        let server = &mut stage.servers[old];
        server.process.signal(Signal::SIGTERM).unwrap();
        server.process.wait(Duration::from_secs(30)).unwrap();
        configuration.endpoints.remove(0);
        agent.reconfigure(&configuration).unwrap();
    }
    let outcome = load.finish().unwrap();
    outcome.assert_none_failed();
    assert_eq!(outcome.calls, 50_000);
    assert_eq!(
        outcome.per_backend.len(),
        6,
        "old and new backends all answered: {:?}",
        outcome.per_backend
    );
    assert_none_ran_twice(&stage);
    let ran: usize = stage.servers.iter().map(|server| server.executions().len()).sum();
    assert_eq!(ran, 50_000, "every call ran exactly once");
}
