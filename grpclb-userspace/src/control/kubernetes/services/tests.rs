//! One test for each row of the table of what is left alone, and what comes of a Service that is not.

use std::collections::BTreeMap;

use super::*;
use crate::control::kubernetes::endpoints::{Endpoint, SlicePort};
use crate::control::kubernetes::remedies;

const HERE: Place<'_> = Place {
    node: "here",
    zone: None,
};

/// A Service that is balanced, in both families, with a TCP port `grpc`.
fn dual() -> wire::Service {
    wire::Service {
        metadata: Some(wire::ObjectMeta {
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            ..wire::ObjectMeta::default()
        }),
        spec: Some(wire::ServiceSpec {
            ports: vec![port("grpc", "TCP", 50051)],
            cluster_ip: "10.96.7.1".to_owned(),
            cluster_ips: vec!["10.96.7.1".to_owned(), "fd00::7".to_owned()],
            kind: "ClusterIP".to_owned(),
            ..wire::ServiceSpec::default()
        }),
    }
}

fn port(name: &str, protocol: &str, port: i32) -> wire::ServicePort {
    wire::ServicePort {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        port,
        ..wire::ServicePort::default()
    }
}

fn spec(service: &mut wire::Service) -> &mut wire::ServiceSpec {
    service.spec.get_or_insert_default()
}

fn label(service: &mut wire::Service, key: &str, value: &str) {
    let metadata = service.metadata.get_or_insert_default();
    metadata.labels.insert(key.to_owned(), value.to_owned());
}

fn annotate(service: &mut wire::Service, key: &str, value: &str) {
    let metadata = service.metadata.get_or_insert_default();
    metadata.annotations.insert(key.to_owned(), value.to_owned());
}

fn slice(family: Family, port: u16, addresses: &[&str]) -> Slice {
    let endpoint = |address: &&str| Endpoint {
        address: address.parse().unwrap(),
        id: format!("pod {address}").into(),
        location: Arc::default(),
        ready: true,
        serving: true,
        terminating: false,
    };
    Slice {
        family,
        ports: Box::from([SlicePort {
            name: "grpc".into(),
            port,
        }]),
        endpoints: addresses.iter().map(endpoint).collect(),
    }
}

fn decide(service: &wire::Service, around: Around<'_>) -> Outcome {
    let slices = [
        slice(Family::V4, 8080, &["10.244.1.5", "10.244.1.4"]),
        slice(Family::V6, 8081, &["fd00:1::5"]),
    ];
    let mut bad = Vec::new();
    let service = Service::new(service, &mut Names::default(), &mut bad);
    assert!(bad.is_empty(), "{bad:?}");
    service.decide(&slices.iter(), around, HERE)
}

/// The Service is left alone as a whole, and the reason has these words.
fn assert_left(service: &wire::Service, around: Around<'_>, words: &str) {
    let outcome = decide(service, around);
    assert!(outcome.ports.is_empty());
    let [(id, reason)] = &outcome.left_alone[..] else {
        panic!("{:?}", outcome.left_alone);
    };
    assert_eq!(&**id, "shop/cart");
    assert!(reason.contains(words), "{reason}");
    assert!(
        remedies::of_service(reason, id).is_some(),
        "what to change: {reason}"
    );
}

/// The Service is balanced, but for what has this id, for a reason with these words.
fn assert_beside(service: &wire::Service, id: &str, words: &str) {
    let outcome = decide(service, Around::default());
    assert!(outcome.ports.iter().any(|port| &*port.id == "shop/cart:50051"));
    assert!(outcome.ports.iter().all(|port| &*port.id != id));
    let beside: BTreeMap<_, _> = outcome.left_alone.into_iter().collect();
    let reason = beside.get(id).unwrap_or_else(|| panic!("{beside:?}"));
    assert!(reason.contains(words), "{reason}");
    assert!(
        remedies::of_service(reason, id).is_some(),
        "what to change: {reason}"
    );
}

#[test]
fn each_family_has_its_own_address_and_endpoints() {
    let outcome = decide(&dual(), Around::default());
    let [v4, v6] = &outcome.ports[..] else {
        panic!("{:?}", outcome.ports);
    };
    assert_eq!((&*v4.id, &*v6.id), ("shop/cart:50051", "shop/cart:50051/ipv6"));
    assert_eq!(v4.addresses, ["10.96.7.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(v6.addresses, ["fd00::7".parse::<IpAddr>().unwrap()]);
    let dialled = |port: &ServicePort| -> Vec<String> {
        port.endpoints
            .iter()
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    };
    assert_eq!(dialled(v4), ["10.244.1.4:8080", "10.244.1.5:8080"]);
    assert_eq!(dialled(v6), ["[fd00:1::5]:8081"]);
    assert_eq!(v4.protocol, Protocol::Http2);
}

#[test]
fn a_service_of_one_family_has_no_family_in_its_name() {
    let mut service = dual();
    spec(&mut service).cluster_ips = vec!["fd00::7".to_owned()];
    let outcome = decide(&service, Around::default());
    assert_eq!(outcome.ports.len(), 1);
    assert_eq!(&*outcome.ports[0].id, "shop/cart:50051");
    assert_eq!(outcome.ports[0].endpoints.len(), 1);
}

#[test]
fn its_annotations_are_taken_up() {
    let mut service = dual();
    annotate(&mut service, annotations::POLICY, "least_request");
    annotate(&mut service, annotations::SUBSET, "3");
    annotate(&mut service, annotations::UPSTREAM, "per-connection");
    let port = &decide(&service, Around::default()).ports[0];
    assert_eq!(port.policy, grpclb_engine::balance::Policy::LeastRequest);
    assert_eq!((port.subset, port.per_connection), (3, true));
}

#[test]
fn left_alone_headless() {
    let mut service = dual();
    spec(&mut service).cluster_ip = "None".to_owned();
    spec(&mut service).cluster_ips = vec!["None".to_owned()];
    assert_left(&service, Around::default(), "headless");
}

#[test]
fn left_alone_external_name() {
    let mut service = dual();
    spec(&mut service).kind = "ExternalName".to_owned();
    assert_left(&service, Around::default(), "ExternalName");
}

#[test]
fn left_alone_without_an_address() {
    let mut service = dual();
    spec(&mut service).cluster_ip = String::new();
    spec(&mut service).cluster_ips.clear();
    assert_left(&service, Around::default(), "no cluster address");
}

#[test]
fn left_alone_udp() {
    let mut service = dual();
    // The same number in both protocols, as DNS has it.
    spec(&mut service).ports.push(port("dns", "UDP", 50051));
    assert_beside(&service, "shop/cart:50051/udp", "UDP");
}

#[test]
fn left_alone_sctp() {
    let mut service = dual();
    spec(&mut service).ports.push(port("sig", "SCTP", 50052));
    assert_beside(&service, "shop/cart:50052/sctp", "SCTP");
}

#[test]
fn left_alone_other_protocols_by_app_protocol_and_by_name() {
    let mut service = dual();
    let mut declared = port("api", "TCP", 80);
    declared.app_protocol = Some("https".to_owned());
    spec(&mut service).ports.push(declared);
    spec(&mut service).ports.push(port("redis", "TCP", 6379));
    assert_beside(&service, "shop/cart:80", "appProtocol");
    assert_beside(&service, "shop/cart:6379", "redis");
}

#[test]
fn left_alone_node_port() {
    let mut service = dual();
    spec(&mut service).kind = "NodePort".to_owned();
    spec(&mut service).ports[0].node_port = 30_080;
    assert_beside(&service, "shop/cart:50051/tcp/node-port", "node port 30080");
}

#[test]
fn left_alone_load_balancer_address() {
    let mut service = dual();
    spec(&mut service).kind = "LoadBalancer".to_owned();
    assert_beside(&service, "shop/cart/load-balancer", "load balancer");
}

#[test]
fn left_alone_external_addresses() {
    let mut service = dual();
    spec(&mut service).external_ips = vec!["192.0.2.1".to_owned()];
    assert_beside(&service, "shop/cart/external", "external addresses");
}

#[test]
fn left_alone_session_affinity() {
    let mut service = dual();
    spec(&mut service).session_affinity = "ClientIP".to_owned();
    assert_left(&service, Around::default(), "sessionAffinity");
}

#[test]
fn left_alone_another_proxy() {
    let mut service = dual();
    label(&mut service, PROXY_NAME, "own");
    assert_left(&service, Around::default(), "\"own\"");
}

#[test]
fn left_alone_waypoint_of_the_service() {
    let mut service = dual();
    label(&mut service, WAYPOINT, "way");
    assert_left(
        &service,
        Around::default(),
        "it has the label istio.io/use-waypoint=way",
    );
}

#[test]
fn left_alone_waypoint_of_the_namespace_unless_the_service_says_none() {
    let around = Around {
        waypoint: Some("way"),
        route: None,
    };
    let mut service = dual();
    assert_left(&service, around, "its namespace has the label");
    label(&mut service, WAYPOINT, "none");
    assert_eq!(decide(&service, around).ports.len(), 2);
    let none = Around {
        waypoint: Some("none"),
        route: None,
    };
    assert_eq!(decide(&dual(), none).ports.len(), 2);
}

#[test]
fn left_alone_cilium_global() {
    let mut service = dual();
    annotate(&mut service, CILIUM_GLOBAL, "true");
    assert_left(&service, Around::default(), CILIUM_GLOBAL);
}

#[test]
fn left_alone_cilium_l7() {
    let mut service = dual();
    annotate(&mut service, CILIUM_L7, "enabled");
    assert_left(&service, Around::default(), CILIUM_L7);
}

#[test]
fn left_alone_parent_of_a_route() {
    let around = Around {
        waypoint: None,
        route: Some("GRPCRoute shop/split"),
    };
    assert_left(&dual(), around, "GRPCRoute shop/split");
}

#[test]
fn left_alone_label_false() {
    let mut service = dual();
    label(&mut service, ENABLED, "false");
    assert_left(&service, Around::default(), "grpclb.io/enabled is false");
    label(&mut service, ENABLED, "true");
    assert_eq!(decide(&service, Around::default()).ports.len(), 2);
}
