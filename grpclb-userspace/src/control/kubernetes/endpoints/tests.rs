//! kube-proxy's rules, one after the other.

use super::*;

/// One endpoint of one slice, ready, without hints, on another node.
fn at(address: &str) -> wire::Endpoint {
    wire::Endpoint {
        addresses: vec![address.to_owned().into()],
        conditions: Some(conditions(Some(true), Some(true), Some(false))),
        target: Some(wire::ObjectReference {
            kind: "Pod".into(),
            uid: format!("uid-{address}").into(),
        }),
        node_name: Some("there".into()),
        hints: None,
    }
}

fn conditions(
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
) -> wire::EndpointConditions {
    wire::EndpointConditions {
        ready,
        serving,
        terminating,
    }
}

fn with(
    address: &str,
    ready: impl Into<Option<bool>>,
    serving: impl Into<Option<bool>>,
    terminating: impl Into<Option<bool>>,
) -> wire::Endpoint {
    wire::Endpoint {
        conditions: Some(conditions(ready.into(), serving.into(), terminating.into())),
        ..at(address)
    }
}

fn on(node: &str, endpoint: wire::Endpoint) -> wire::Endpoint {
    wire::Endpoint {
        node_name: Some(node.to_owned().into()),
        ..endpoint
    }
}

fn hinted(nodes: &[&str], zones: &[&str], endpoint: wire::Endpoint) -> wire::Endpoint {
    let named = |names: &[&str]| {
        let named = |name: &&str| wire::Named {
            name: (*name).to_owned(),
        };
        names.iter().map(named).collect()
    };
    wire::Endpoint {
        hints: Some(wire::EndpointHints {
            zones: named(zones),
            nodes: named(nodes),
        }),
        ..endpoint
    }
}

fn port(name: Option<&str>, protocol: &str, port: Option<i32>) -> wire::EndpointPort {
    wire::EndpointPort {
        name: name.map(str::to_owned),
        protocol: Some(protocol.to_owned()),
        port,
    }
}

fn slice(address_type: &str, endpoints: Vec<wire::Endpoint>) -> wire::EndpointSlice {
    wire::EndpointSlice {
        metadata: None,
        endpoints,
        ports: vec![port(Some("grpc"), "TCP", Some(80))],
        address_type: address_type.to_owned(),
    }
}

fn v4(endpoints: Vec<wire::Endpoint>) -> wire::EndpointSlice {
    slice("IPv4", endpoints)
}

const GRPC: Wanted<'_> = Wanted {
    port: "grpc",
    family: Family::V4,
    local_only: false,
};
const HERE: Place<'_> = Place {
    node: "here",
    zone: Some("zone1"),
};

/// The verdicts, by address without the port.
fn verdicts(slices: &[wire::EndpointSlice], wanted: Wanted<'_>, place: Place<'_>) -> Vec<(String, Verdict)> {
    let mut names = Names::default();
    let slices: Vec<Slice> = slices
        .iter()
        .filter_map(|slice| Slice::new(slice, &mut names))
        .collect();
    judge(slices.iter(), wanted, place)
        .into_iter()
        .map(|(address, _, verdict)| (address.to_string(), verdict))
        .collect()
}

fn eligible_of(slices: &[wire::EndpointSlice], wanted: Wanted<'_>) -> Vec<String> {
    verdicts(slices, wanted, HERE)
        .into_iter()
        .filter(|(_, verdict)| verdict.gets_calls())
        .map(|(address, _)| address)
        .collect()
}

#[test]
fn ready_is_tested_first_so_one_that_terminates_but_is_published_gets_calls() {
    let slices = [v4(vec![with("10.0.0.1", true, true, true), at("10.0.0.2")])];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[test]
fn what_is_not_said_is_ready_serving_and_not_terminating() {
    let nothing = wire::Endpoint {
        conditions: None,
        ..at("10.0.0.1")
    };
    let slices = [v4(vec![nothing, with("10.0.0.2", None, None, None)])];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.1:80", "10.0.0.2:80"]);
    // serving nil is true: the last resort may be one that says only that it terminates.
    let slices = [v4(vec![with("10.0.0.1", false, None, true)])];
    assert_eq!(verdicts(&slices, GRPC, HERE)[0].1, Verdict::LastResort);
    // terminating nil is false: it is merely not ready.
    let slices = [v4(vec![with("10.0.0.1", false, true, None)])];
    assert_eq!(verdicts(&slices, GRPC, HERE)[0].1, Verdict::NotReady);
}

#[test]
fn one_that_terminates_and_serves_gets_calls_only_while_none_is_ready() {
    let ends = with("10.0.0.1", false, true, true);
    let dead = with("10.0.0.2", false, false, true);
    let slices = [v4(vec![ends.clone(), dead.clone()])];
    let found = verdicts(&slices, GRPC, HERE);
    assert_eq!(found[0].1, Verdict::LastResort);
    assert_eq!(found[1].1, Verdict::NotReady);
    let slices = [v4(vec![ends, dead, at("10.0.0.3")])];
    let found = verdicts(&slices, GRPC, HERE);
    assert_eq!(found[0].1, Verdict::Terminating);
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.3:80"]);
}

#[test]
fn the_last_resort_is_used_without_hints() {
    let slices = [v4(vec![
        hinted(&[], &["zone1"], with("10.0.0.1", false, true, true)),
        hinted(&[], &["zone2"], with("10.0.0.2", false, true, true)),
    ])];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[test]
fn hints_for_zones_count_if_every_ready_endpoint_has_one_and_one_fits() {
    let near = hinted(&[], &["zone1"], at("10.0.0.1"));
    let far = hinted(&[], &["zone2"], at("10.0.0.2"));
    let slices = [v4(vec![near.clone(), far.clone()])];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.1:80"]);
    assert_eq!(verdicts(&slices, GRPC, HERE)[1].1, Verdict::ForOtherZones);
    // One without: none counts.
    let slices = [v4(vec![near.clone(), far.clone(), at("10.0.0.3")])];
    assert_eq!(eligible_of(&slices, GRPC).len(), 3);
    // One without that is not ready does not matter.
    let slices = [v4(vec![near, far.clone(), with("10.0.0.3", false, false, false)])];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.1:80"]);
    // None fits: none counts.
    let slices = [v4(vec![far])];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.2:80"]);
}

#[test]
fn hints_for_nodes_come_before_those_for_zones() {
    let same_node = hinted(&["here"], &["zone1"], at("10.0.0.1"));
    let same_zone = hinted(&["there"], &["zone1"], at("10.0.0.2"));
    let far = hinted(&["there"], &["zone2"], at("10.0.0.3"));
    let slices = [v4(vec![same_node, same_zone.clone(), far.clone()])];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.1:80"]);
    assert_eq!(verdicts(&slices, GRPC, HERE)[1].1, Verdict::ForOtherNodes);
    // No node fits: the zone is asked.
    let slices = [v4(vec![same_zone, far])];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.2:80"]);
}

#[test]
fn hints_for_zones_do_not_fit_a_node_without_a_zone() {
    let slices = [v4(vec![hinted(&[], &["zone1"], at("10.0.0.1"))])];
    let nowhere = Place { zone: None, ..HERE };
    assert_eq!(verdicts(&slices, GRPC, nowhere)[0].1, Verdict::Ready);
}

#[test]
fn internal_traffic_policy_local_decides_among_local_endpoints_only_and_without_hints() {
    let local = Wanted {
        local_only: true,
        ..GRPC
    };
    let elsewhere = at("10.0.0.1");
    let here = hinted(&["there"], &["zone2"], on("here", at("10.0.0.2")));
    let slices = [v4(vec![elsewhere.clone(), here])];
    assert_eq!(eligible_of(&slices, local), ["10.0.0.2:80"]);
    assert_eq!(verdicts(&slices, local, HERE)[0].1, Verdict::OtherNode);
    // A ready one elsewhere does not keep the local one that terminates from being the last resort.
    let ends = on("here", with("10.0.0.2", false, true, true));
    let slices = [v4(vec![elsewhere.clone(), ends])];
    assert_eq!(verdicts(&slices, local, HERE)[1].1, Verdict::LastResort);
    // None here: none at all.
    assert_eq!(eligible_of(&[v4(vec![elsewhere])], local), [""; 0]);
}

#[test]
fn an_address_in_two_slices_counts_once_and_the_one_that_does_not_terminate_wins() {
    let old = with("10.0.0.1", false, true, true);
    let young = wire::Endpoint {
        target: Some(wire::ObjectReference {
            kind: "Pod".into(),
            uid: "young".into(),
        }),
        ..at("10.0.0.1")
    };
    for slices in [
        [v4(vec![old.clone()]), v4(vec![young.clone()])],
        [v4(vec![young]), v4(vec![old])],
    ] {
        let mut names = Names::default();
        let slices: Vec<Slice> = slices.iter().filter_map(|s| Slice::new(s, &mut names)).collect();
        let found = eligible(slices.iter(), GRPC, HERE);
        assert_eq!(found.len(), 1);
        assert_eq!(&*found[0].id, "young");
        assert_eq!(found[0].state, model::EndpointState::Ready);
    }
}

#[test]
fn families_stay_apart() {
    let slices = [v4(vec![at("10.0.0.1")]), slice("IPv6", vec![at("fd00::1")])];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.1:80"]);
    let v6 = Wanted {
        family: Family::V6,
        ..GRPC
    };
    assert_eq!(eligible_of(&slices, v6), ["[fd00::1]:80"]);
    // An address of the other family in a slice, and a slice of names, are nobody's.
    let wrong = [
        v4(vec![at("fd00::1"), at("not an address")]),
        slice("FQDN", vec![at("10.0.0.1")]),
    ];
    assert_eq!(eligible_of(&wrong, GRPC), [""; 0]);
    assert_eq!(eligible_of(&wrong, v6), [""; 0]);
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let mut named = v4(vec![at("10.0.0.1")]);
    named.ports = vec![
        port(Some("grpc"), "UDP", Some(1)),
        port(Some("other"), "TCP", Some(2)),
        port(Some("grpc"), "TCP", Some(3)),
        port(None, "TCP", Some(4)),
        port(Some(""), "TCP", Some(5)),
        port(Some("grpc"), "TCP", None),
        port(Some("grpc"), "TCP", Some(0)),
    ];
    assert_eq!(eligible_of(std::slice::from_ref(&named), GRPC), ["10.0.0.1:3"]);
    let unnamed = Wanted { port: "", ..GRPC };
    assert_eq!(eligible_of(&[named], unnamed), ["10.0.0.1:5"]);
}

#[test]
fn one_name_may_stand_for_another_number_in_each_slice() {
    let mut other = v4(vec![at("10.0.0.2")]);
    other.ports = vec![port(Some("grpc"), "TCP", Some(81))];
    let slices = [v4(vec![at("10.0.0.1")]), other];
    assert_eq!(eligible_of(&slices, GRPC), ["10.0.0.1:80", "10.0.0.2:81"]);
}

#[test]
fn an_endpoint_is_its_pod_and_without_one_its_address() {
    let manual = wire::Endpoint {
        target: None,
        ..at("10.0.0.2")
    };
    let slices = [v4(vec![at("10.0.0.1"), manual])];
    let mut names = Names::default();
    let slices: Vec<Slice> = slices.iter().filter_map(|s| Slice::new(s, &mut names)).collect();
    let ids: Vec<Arc<str>> = eligible(slices.iter(), GRPC, HERE)
        .into_iter()
        .map(|endpoint| endpoint.id)
        .collect();
    assert_eq!(ids, ["uid-10.0.0.1".into(), "10.0.0.2".into()]);
}
