//! What a valid file means.

use std::sync::Arc;

use grpclb_engine::balance::Policy;

use super::parse;
use crate::model::{Endpoint, EndpointState, NetnsRef, PodSpec, Protocol, ServicePort};

#[test]
fn every_key_is_taken_up() {
    let desired = parse(
        "
services:
  - name: greeter
    addresses: [10.96.7.1, 'fd00::1']
    policy: peak_ewma
    subset: 3
    upstream: per-connection
    ports:
      - port: 50051
        protocol: http2
    endpoints:
      - {id: a, address: 10.0.0.1, port: 6000, weight: 65535, state: draining}
      - {id: b, address: 'fd00::2'}
pods:
  - {name: client, netns: client, accelerate: true}
",
    )
    .unwrap();
    let endpoint = |id: &str, address: &str, weight, state| Endpoint {
        id: id.into(),
        address: address.parse().unwrap(),
        weight,
        state,
    };
    let expected = ServicePort {
        id: "greeter:50051".into(),
        addresses: vec!["10.96.7.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        port: 50_051,
        protocol: Protocol::Http2,
        policy: Policy::PeakEwma,
        subset: 3,
        per_connection: true,
        endpoints: vec![
            endpoint("a", "10.0.0.1:6000", 65_535, EndpointState::Draining),
            endpoint("b", "[fd00::2]:50051", 1, EndpointState::Ready),
        ],
    };
    assert_eq!(
        desired.services.values().map(Arc::as_ref).collect::<Vec<_>>(),
        [&expected]
    );
    let pod = PodSpec {
        accelerate: true,
        ..PodSpec::new("client".into(), NetnsRef::Name("client".to_owned()))
    };
    assert_eq!(desired.pods.values().map(Arc::as_ref).collect::<Vec<_>>(), [&pod]);
}

#[test]
fn what_is_not_written_has_its_default() {
    let desired =
        parse("services: [{name: s, addresses: [10.96.7.1], ports: [{port: 80}], endpoints: []}]\npods: [{name: p, netns: host}]\n")
            .unwrap();
    let service = &desired.services["s:80"];
    assert_eq!(service.protocol, Protocol::Detect);
    assert_eq!(service.policy, Policy::RoundRobin);
    assert_eq!((service.subset, service.per_connection), (20, false));
    assert!(!desired.pods["p"].accelerate);
}

#[test]
fn each_port_of_a_service_reaches_the_endpoints_at_its_own_target_port() {
    let desired = parse(
        "
services:
  - name: s
    addresses: [10.96.7.1]
    ports:
      - {port: 80, target_port: 8080, protocol: plain}
      - {port: 81}
    endpoints: [{id: a, address: 10.0.0.1}]
",
    )
    .unwrap();
    let target = |id: &str| desired.services[id].endpoints[0].address.to_string();
    assert_eq!([target("s:80"), target("s:81")], ["10.0.0.1:8080", "10.0.0.1:81"]);
    assert_eq!(desired.services["s:80"].protocol, Protocol::Plain);
}

#[test]
fn a_namespace_is_a_name_a_path_a_process_or_the_host() {
    for (written, expected) in [
        ("blue", NetnsRef::Name("blue".to_owned())),
        ("/proc/7/ns/net", NetnsRef::Path("/proc/7/ns/net".into())),
        ("4711", NetnsRef::Pid(4711)),
        ("host", NetnsRef::Host),
        ("7up", NetnsRef::Name("7up".to_owned())),
    ] {
        let desired = parse(&format!("pods: [{{name: p, netns: {written}}}]")).unwrap();
        assert_eq!(desired.pods["p"].netns, expected);
    }
}

#[test]
fn two_services_may_share_an_address_on_different_ports_and_a_port_on_different_addresses() {
    let desired = parse(
        "
services:
  - {name: a, addresses: [10.96.7.1], ports: [{port: 80}], endpoints: []}
  - {name: b, addresses: [10.96.7.1], ports: [{port: 81}], endpoints: []}
  - {name: c, addresses: [10.96.7.2], ports: [{port: 80}], endpoints: []}
",
    )
    .unwrap();
    assert_eq!(desired.services.len(), 3);
}

#[test]
fn lists_that_are_written_empty_are_empty() {
    let desired = parse("services: []\npods: []\n").unwrap();
    assert!(desired.services.is_empty() && desired.pods.is_empty());
}
