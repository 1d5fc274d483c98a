//! The whole agent where another owner's program stands at its hooks.
#![allow(clippy::unwrap_used)] // also in what the tests share

#[path = "kernel_support/program.rs"]
#[allow(dead_code, unreachable_pub)] // the kernel tests use the rest
mod program;

use grpclb_tests::agent::{self, Agent};
use grpclb_tests::peers::Language;
use grpclb_tests::service::ECHO;
use grpclb_tests::stage::Stage;
use program::{ALLOW_NONE, ALLOW_OVERRIDE, Does};

/// The agent stays off, says why, and clients go the plain way; once the other program has gone, it steers.
fn stays_off_beside_a_program_attached_with(flags: u32) {
    let stage = Stage::new(&[Language::Go; 3]).expect("a node with three servers");
    let other = program::attach(stage.node.cgroup(), Does::Nothing, flags).unwrap();
    let configuration = stage.configuration();
    let agent = Agent::launch(
        &stage.node,
        "agent",
        &agent::program().unwrap(),
        &configuration,
        &[],
    )
    .unwrap();
    agent
        .wait_for("to say who stands in its way", |status| {
            let said = |text: &serde_json::Value| text.as_str().is_some_and(|text| text.contains("MULTI"));
            let reasons = status["readiness"]["reasons"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            said(&status["kernel"]["error"]) && reasons.iter().any(said)
        })
        .unwrap();
    let status = agent.status().unwrap();
    assert_eq!(status["readiness"]["ready"], false);
    assert_eq!(status["kernel"]["cgroup"], serde_json::Value::Null);
    let plain = &stage.run(Language::Go, ECHO.ipv4(), &["unary"]).unwrap()[0];
    assert!(plain.ok, "{:?}", plain.error);
    assert_eq!(
        plain.per_backend.len(),
        1,
        "the plain way: {:?}",
        plain.per_backend
    );

    drop(other);
    agent.wait_until_it_steers(&configuration).unwrap();
    let spread = &stage.run(Language::Go, ECHO.ipv4(), &["unary"]).unwrap()[0];
    assert_eq!(spread.per_backend.len(), 3, "{:?}", spread.per_backend);
}

/// The kernel refuses to attach beside it (EPERM).
#[test]
fn beside_a_program_that_allows_no_other_the_agent_stays_off_until_it_has_gone() {
    stays_off_beside_a_program_attached_with(ALLOW_NONE);
}

/// The kernel would let us replace it in effect.
#[test]
fn beside_a_program_that_we_would_override_the_agent_stays_off_until_it_has_gone() {
    stays_off_beside_a_program_attached_with(ALLOW_OVERRIDE);
}
