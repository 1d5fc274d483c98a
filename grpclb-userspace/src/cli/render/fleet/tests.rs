//! What `grpclb status` of a cluster looks like.

use std::time::{Duration, Instant};

use super::*;
use crate::cli::fleet::put_together;
use crate::cli::fleet::tests::{round, status};
use crate::observe::status::PodState;

#[test]
fn nodes_namespaces_and_services_are_lines_and_what_is_wrong_stands_below() {
    let begun = Instant::now();
    let answers = |calls| {
        let mut other = status("node2", "pay/b", 7, "y");
        other.pods[0].state = PodState::Unsteered;
        other.pods[0].reason = Some("a firewall in the pod".to_owned());
        other.source.switched_off = Some("this node's label is false".to_owned());
        vec![
            ("node1", Ok(status("node1", "shop/a", calls, "x"))),
            ("node2", Ok(other)),
        ]
    };
    let before = round(begun, answers(100));
    let now = round(begun + Duration::from_secs(1), answers(220));
    let nodes = ["node1", "node2", "node3"].map(str::to_owned);
    let mut put = put_together("https://a/", &nodes, Some(&before), &now);
    put.notes.push("something is not known".to_owned());
    let expected = [
        "grpclb at https://a/: 2 of 3 agents ready, 4 connections, 120 calls/s",
        "",
        "Nodes",
        "  NODE   AGENT         VERSION  READY  PODS  STEERED  BYPASSING  CONNECTIONS  CALLS/S  CALLS  ERRORS",
        "  node1  grpclb-node1  0.1.0    yes       1        1          1            2      120    220       3",
        "  node2  grpclb-node2  0.1.0    yes       1        0          1            2        0      7       3",
        "  node3  -             -        no        0        0          0            0        -      0       0",
        "  node2: steering is off, since this node's label is false",
        "  node3: no agent",
        "",
        "Namespaces with enabled pods",
        "  NAMESPACE  PODS  STEERED  CONNECTIONS  BYPASSING",
        "  pay           1        0            2          1",
        "  shop          1        1            2          1",
        "  BYPASSING: connections that were made before their pod was steered; grpclb adopt -n NAMESPACE moves them",
        "",
        "Services in use",
        "  SERVICE          PROTOCOL  POLICY       STEERED  ENDPOINTS  CONNECTIONS  CALLS/S  CALLS  ERRORS",
        "  shop/cart:50051  http2     round_robin  yes              2            4      120    227       0",
        "",
        "Enabled pods that are not steered",
        "  POD    NODE   STATE      WHY",
        "  pay/b  node2  unsteered  a firewall in the pod",
        "",
        "Note: something is not known",
    ];
    assert_eq!(fleet(&put, false).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_cluster_with_ten_thousand_services_in_use_has_a_readable_answer() {
    let mut told = status("node1", "shop/a", 1, "x");
    let service = told.services[0].clone();
    told.services = (0..10_000)
        .map(|number| crate::observe::status::Service {
            id: format!("shop/cart-{number}:1"),
            ..service.clone()
        })
        .collect();
    let put = put_together("c", &[], None, &round(Instant::now(), vec![("node1", Ok(told))]));
    let text = fleet(&put, false);
    assert!(text.contains("  and 9960 more: --json has them all\n"), "{text}");
    assert!(text.lines().count() < 70);
}

#[test]
fn strings_from_outside_are_escaped() {
    let hostile = "\x1b]0;x\x07\nforged";
    let mut told = status(hostile, hostile, 1, hostile);
    told.pods[0].state = PodState::Unsteered;
    told.pods[0].reason = Some(hostile.to_owned());
    told.services[0].id = format!("shop/{hostile}:1");
    told.services[0].reason = Some(hostile.to_owned());
    told.source.switched_off = Some(hostile.to_owned());
    let now = round(Instant::now(), vec![(hostile, Ok(told))]);
    let mut put = put_together(hostile, &[hostile.to_owned()], None, &now);
    put.notes.push(hostile.to_owned());
    for colours in [false, true] {
        let text = fleet(&put, colours);
        assert!(text.matches("forged").count() >= 8, "{text}");
        assert!(!text.contains("\x1b]") && !text.contains('\x07'), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{text}");
    }
}
