//! A port that says nothing about its protocol, and carries HTTP/1.1: after three connections grpclb leaves it alone.
#![allow(clippy::unwrap_used)] // also in what the tests share

use grpclb_tests::agent::Agent;
use grpclb_tests::peers::Language;
use grpclb_tests::service::ECHO;
use grpclb_tests::stage::Stage;
use serde_json::Value;

/// One connection that speaks HTTP/1.1; what the gRPC server makes of it does not matter.
const HTTP_1: &str = "exec 3<>/dev/tcp/";

#[test]
fn a_port_that_proves_not_to_be_http2_goes_plain_until_its_service_changes() {
    let stage = Stage::new(&[Language::Go; 3]).expect("a node with three servers");
    let mut configuration = stage.configuration();
    configuration.protocol = "detect";
    let agent = Agent::start(&stage.node, &configuration).expect("the agent steers the client's pod");
    let spread = |what: &str| {
        let outcome = stage
            .run(Language::Go, ECHO.ipv4(), &["unary"])
            .unwrap()
            .remove(0);
        assert!(outcome.ok, "{what}: {:?}", outcome.error);
        outcome.per_backend.len()
    };
    assert_eq!(spread("detected as HTTP/2"), 3);

    let (address, cgroup) = (ECHO.ipv4(), stage.node.cgroup().join("cgroup.procs"));
    let connect = format!(
        "echo $$ > {}; bash -c '{HTTP_1}{}/{} && printf \"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n\" >&3 ; cat <&3 >/dev/null 2>&1; true'",
        cgroup.display(),
        address.ip(),
        address.port()
    );
    let echo = |status: &Value| {
        let services = status["services"].as_array().unwrap();
        let mut found = services
            .iter()
            .filter(|service| service["addresses"][0] == address.ip().to_string());
        found.next().unwrap().clone()
    };
    for _ in 0..3 {
        agent
            .wait_for("to steer the port again", |status| {
                echo(status)["steered"] == true
            })
            .unwrap();
        stage.node.inside_pod(&stage.client, &connect).unwrap();
    }
    agent
        .wait_for("to leave the port alone", |status| {
            echo(status)["steered"] == false
        })
        .unwrap();
    let status = agent.status().unwrap();
    let reason = echo(&status)["reason"].to_string();
    assert!(
        reason.contains("3 connections in a row were not HTTP/2"),
        "{reason}"
    );
    assert_eq!(status["counters"]["ports_found_opaque"], 1);
    assert_eq!(spread("left alone"), 1, "the plain way");

    configuration.policy = "random";
    agent.reconfigure(&configuration).unwrap();
    assert_eq!(echo(&agent.status().unwrap())["steered"], true);
    assert_eq!(spread("after a change of the Service"), 3);
}
