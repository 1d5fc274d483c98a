//! What is told is taken up where it touches, in whatever order it comes, and nothing is dropped because a list began anew.

use super::*;
use crate::control::kubernetes::annotations::ENABLED;

fn metadata(namespace: &str, name: &str, labels: &[(&str, &str)]) -> wire::ObjectMeta {
    wire::ObjectMeta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        uid: format!("uid of {name}"),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..wire::ObjectMeta::default()
    }
}

fn partial(name: &str, labels: &[(&str, &str)]) -> wire::PartialObjectMetadata {
    wire::PartialObjectMetadata {
        metadata: Some(metadata("", name, labels)),
    }
}

fn pod(name: &str, labels: &[(&str, &str)]) -> wire::Pod {
    wire::Pod {
        metadata: Some(metadata("shop", name, labels)),
        ..wire::Pod::default()
    }
}

fn service(name: &str) -> wire::Service {
    wire::Service {
        metadata: Some(metadata("shop", name, &[])),
        spec: Some(wire::ServiceSpec {
            cluster_ip: "10.96.0.1".to_owned(),
            ports: vec![wire::ServicePort {
                port: 80,
                protocol: "TCP".to_owned(),
                ..wire::ServicePort::default()
            }],
            ..wire::ServiceSpec::default()
        }),
    }
}

fn slice(name: &str, service: &str, zone: Option<&str>, addresses: &[&str]) -> wire::EndpointSlice {
    let endpoint = |address: &&str| wire::Endpoint {
        addresses: vec![(*address).to_owned().into()],
        hints: zone.map(|zone| wire::EndpointHints {
            zones: vec![wire::Named {
                name: zone.to_owned(),
            }],
            nodes: Vec::new(),
        }),
        ..wire::Endpoint::default()
    };
    wire::EndpointSlice {
        metadata: Some(metadata("shop", name, &[(SERVICE_NAME, service)])),
        endpoints: addresses.iter().map(endpoint).collect(),
        ports: vec![wire::EndpointPort {
            name: Some(String::new()),
            protocol: Some("TCP".to_owned()),
            port: Some(8080),
        }],
        address_type: "IPv4".to_owned(),
    }
}

/// A list from its beginning to its end.
fn list<R>(state: &mut State, wrap: fn(Told<R>) -> News, objects: impl IntoIterator<Item = R>) {
    state.take_up(wrap(Told::Listing));
    for object in objects {
        state.take_up(wrap(Told::Is(object)));
    }
    state.take_up(wrap(Told::Listed));
}

/// A node in `zone1`, whose pod `client` is enabled by its namespace; and a Service `cart` with one endpoint.
fn settled() -> State {
    let mut state = State::new("here");
    list(
        &mut state,
        News::Slice,
        [slice("s1", "cart", None, &["10.0.0.1"])],
    );
    list(&mut state, News::Service, [service("cart")]);
    list(&mut state, News::GrpcRoute, []);
    list(&mut state, News::HttpRoute, []);
    list(&mut state, News::Pod, [pod("client", &[])]);
    list(
        &mut state,
        News::Namespace,
        [partial("shop", &[(ENABLED, "true")])],
    );
    assert!(!state.settle(), "nothing is decided before all is known");
    list(&mut state, News::Node, [partial("here", &[(ZONE, "zone1")])]);
    assert!(state.settle());
    assert!(!state.settle(), "nothing is decided twice");
    state
}

/// The endpoints of `shop/cart`.
fn endpoints(state: &State) -> Vec<String> {
    let port = state.desired().services.get("shop/cart:80");
    let endpoints = port.iter().flat_map(|port| &port.endpoints);
    endpoints
        .map(|endpoint| endpoint.address.ip().to_string())
        .collect()
}

fn pods(state: &State) -> Vec<&str> {
    state.desired().pods.values().map(|pod| &*pod.name).collect()
}

#[test]
fn all_that_is_told_in_any_order_is_wanted_once_it_is_whole() {
    let state = settled();
    assert_eq!(endpoints(&state), ["10.0.0.1"]);
    assert_eq!(pods(&state), ["shop/client"]);
}

#[test]
fn every_endpoint_can_be_asked_for_those_that_get_no_calls_too() {
    let mut state = settled();
    let mut waiting = slice("s2", "cart", None, &["10.0.0.2"]);
    waiting.endpoints[0].conditions = Some(wire::EndpointConditions {
        ready: Some(false),
        serving: Some(false),
        terminating: None,
    });
    state.take_up(News::Slice(Told::Is(waiting)));
    state.settle();
    let judged: Vec<(String, bool, String)> = state
        .judge("shop/cart:80")
        .into_iter()
        .map(|judged| (judged.address.to_string(), judged.gets_calls, judged.verdict))
        .collect();
    let expected = [
        ("10.0.0.1:8080", true, "gets calls: it is ready"),
        ("10.0.0.2:8080", false, "gets no calls: it is not ready"),
    ];
    assert_eq!(
        judged,
        expected.map(|(address, gets, why)| (address.to_owned(), gets, why.to_owned()))
    );
    for nobody in ["shop/cart:81", "shop/other:80", "shop/cart:80/ipv6", "nonsense"] {
        assert_eq!(state.judge(nobody), [], "{nobody}");
    }
}

#[test]
fn a_slice_that_changes_changes_its_service_and_no_other() {
    let mut state = settled();
    state.take_up(News::Service(Told::Is(service("other"))));
    state.settle();
    let before = state.desired().clone();
    state.take_up(News::Slice(Told::Is(slice("s2", "cart", None, &["10.0.0.2"]))));
    assert!(state.settle());
    assert_eq!(endpoints(&state), ["10.0.0.1", "10.0.0.2"]);
    let other = |desired: &Desired| desired.services.get("shop/other:80").map(Arc::as_ptr);
    assert_eq!(other(&before), other(state.desired()), "the very same value");
    assert_eq!(
        before.services["shop/cart:80"].endpoints.len(),
        1,
        "what was told stays as it was"
    );
}

#[test]
fn what_changes_nothing_here_is_told_to_nobody() {
    let mut state = settled();
    let mut same = service("cart");
    same.metadata.get_or_insert_default().resource_version = "9".to_owned();
    state.take_up(News::Service(Told::Is(same)));
    state.take_up(News::Slice(Told::Is(slice("s1", "cart", None, &["10.0.0.1"]))));
    state.take_up(News::Node(Told::Is(partial("here", &[(ZONE, "zone1")]))));
    assert!(!state.settle());
}

#[test]
fn a_list_begun_anew_drops_nothing_before_its_end_and_then_what_it_does_not_have() {
    let mut state = settled();
    state.take_up(News::Service(Told::Is(service("old"))));
    state.settle();
    state.take_up(News::Slice(Told::Listing));
    state.take_up(News::Service(Told::Listing));
    assert!(!state.settle());
    // The watch breaks, the server is away.
    state.take_up(News::Service(Told::Failed("away".to_owned())));
    assert!(!state.settle());
    assert_eq!(endpoints(&state), ["10.0.0.1"]);
    list(&mut state, News::Service, [service("cart")]);
    assert!(state.settle());
    assert!(!state.desired().services.contains_key("shop/old:80"));
    assert_eq!(endpoints(&state), ["10.0.0.1"]);
    list(&mut state, News::Slice, []);
    assert!(state.settle());
    assert_eq!(endpoints(&state), [""; 0]);
    assert!(
        state.desired().services.contains_key("shop/cart:80"),
        "known, with nobody to call"
    );
}

#[test]
fn a_slice_that_is_given_to_another_service_leaves_the_first() {
    let mut state = settled();
    state.take_up(News::Service(Told::Is(service("other"))));
    state.take_up(News::Slice(Told::Is(slice("s1", "other", None, &["10.0.0.1"]))));
    assert!(state.settle());
    assert_eq!(endpoints(&state), [""; 0]);
    assert_eq!(state.desired().services["shop/other:80"].endpoints.len(), 1);
    assert!(!state.slices_of.contains_key("shop/cart"));
}

#[test]
fn a_service_that_is_deleted_and_made_again_is_as_it_is_made() {
    let mut state = settled();
    state.take_up(News::Service(Told::Gone(service("cart"))));
    assert!(state.settle());
    assert!(state.desired().services.is_empty());
    let mut again = service("cart");
    again.spec.get_or_insert_default().cluster_ip = "10.96.0.99".to_owned();
    state.take_up(News::Service(Told::Is(again)));
    assert!(state.settle());
    let address = state.desired().services["shop/cart:80"].addresses[0];
    assert_eq!(address.to_string(), "10.96.0.99");
    assert_eq!(endpoints(&state), ["10.0.0.1"]);
}

#[test]
fn the_nodes_zone_decides_anew_for_services_with_hints() {
    let mut state = settled();
    list(
        &mut state,
        News::Slice,
        [
            slice("s1", "cart", Some("zone1"), &["10.0.0.1"]),
            slice("s2", "cart", Some("zone2"), &["10.0.0.2"]),
        ],
    );
    state.settle();
    assert_eq!(endpoints(&state), ["10.0.0.1"]);
    state.take_up(News::Node(Told::Is(partial("here", &[(ZONE, "zone2")]))));
    assert!(state.settle());
    assert_eq!(endpoints(&state), ["10.0.0.2"]);
}

#[test]
fn labels_of_namespace_pod_and_node_are_followed() {
    let mut state = settled();
    let tell = |state: &mut State, news| {
        state.take_up(news);
        state.settle()
    };
    assert!(tell(&mut state, News::Namespace(Told::Is(partial("shop", &[])))));
    assert_eq!(pods(&state), [""; 0]);
    let reason = &state.desired().left_alone.pods["uid of client"].reason;
    assert!(
        reason.contains("has the label grpclb.io/enabled=true"),
        "{reason}"
    );

    assert!(tell(
        &mut state,
        News::Pod(Told::Is(pod("client", &[(ENABLED, "true")])))
    ));
    assert_eq!(pods(&state), ["shop/client"]);
    assert!(state.desired().left_alone.pods.is_empty());

    assert!(tell(
        &mut state,
        News::Node(Told::Is(partial("here", &[(ENABLED, "false")])))
    ));
    assert_eq!(pods(&state), [""; 0]);
    let off = state.node_switched_off();
    assert_eq!(
        off.as_deref(),
        Some("this node's label grpclb.io/enabled is false")
    );
    assert!(tell(&mut state, News::Node(Told::Is(partial("here", &[])))));
    assert_eq!(pods(&state), ["shop/client"]);
    assert_eq!(state.node_switched_off(), None);

    assert!(tell(&mut state, News::Pod(Told::Gone(pod("client", &[])))));
    assert!(state.desired().pods.is_empty() && state.desired().left_alone.pods.is_empty());
}

#[test]
fn a_namespaces_waypoint_takes_its_services_away_and_gives_them_back() {
    let mut state = settled();
    let label = |value| partial("shop", &[(ENABLED, "true"), ("istio.io/use-waypoint", value)]);
    state.take_up(News::Namespace(Told::Is(label("way"))));
    assert!(state.settle());
    assert!(state.desired().services.is_empty());
    assert!(state.desired().left_alone.services.contains_key("shop/cart"));
    state.take_up(News::Namespace(Told::Is(label("none"))));
    assert!(state.settle());
    assert_eq!(endpoints(&state), ["10.0.0.1"]);
    assert!(state.desired().left_alone.services.is_empty());
}

#[test]
fn a_bad_value_is_complained_of_once_until_it_is_another() {
    let mut state = settled();
    let bad = |value: &str| {
        let mut service = service("cart");
        let metadata = service.metadata.get_or_insert_default();
        metadata
            .annotations
            .insert(annotations::POLICY.to_owned(), value.to_owned());
        News::Service(Told::Is(service))
    };
    state.take_up(bad("fastest"));
    let complaints = state.take_complaints().1;
    assert_eq!(complaints.len(), 1);
    assert_eq!((complaints[0].kind, &*complaints[0].name), ("Service", "cart"));
    assert!(state.concerns_this_node(&complaints[0]));
    state.take_up(bad("fastest"));
    assert!(state.take_complaints().1.is_empty());
    state.take_up(bad("best"));
    assert_eq!(state.take_complaints().1.len(), 1);
    assert!(!state.settle(), "the default stays in force");
}

#[test]
fn services_that_are_followed_no_more_are_forgotten() {
    let mut state = settled();
    state.forget_services();
    assert!(!state.knows_services());
    assert!(state.desired().services.is_empty());
    assert_eq!(pods(&state), ["shop/client"]);
    list(
        &mut state,
        News::Slice,
        [slice("s1", "cart", None, &["10.0.0.1"])],
    );
    list(&mut state, News::Service, [service("cart")]);
    list(&mut state, News::GrpcRoute, []);
    list(&mut state, News::HttpRoute, []);
    assert!(state.settle());
    assert_eq!(endpoints(&state), ["10.0.0.1"]);
}

#[test]
fn a_route_takes_its_parents_away_and_gives_them_back_when_it_goes() {
    let mut state = settled();
    let route = || {
        let route = r#"{"items": [{"metadata": {"name": "split", "namespace": "shop"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "cart"}]}}]}"#;
        wire::json::Route::list(route.into())
            .unwrap()
            .1
            .remove(0)
            .unwrap()
    };
    state.take_up(News::HttpRoute(Told::Is(route())));
    assert!(state.settle());
    assert!(state.desired().services.is_empty());
    let reason = &state.desired().left_alone.services["shop/cart"];
    assert!(reason.starts_with("HTTPRoute shop/split"), "{reason}");
    // The other kind's list has no say in it.
    list(&mut state, News::GrpcRoute, []);
    assert!(!state.settle());
    state.take_up(News::HttpRoute(Told::Gone(route())));
    assert!(state.settle());
    assert_eq!(endpoints(&state), ["10.0.0.1"]);
}

#[test]
fn object_that_became_undecodable_is_forgotten_and_others_stay() {
    let mut state = settled();
    // As the reflector tells it.
    state.take_up(News::Service(Told::Gone(wire::Service::from_metadata(metadata(
        "shop",
        "cart",
        &[],
    )))));
    state.take_up(News::Service(Told::Is(service("other"))));
    assert!(state.settle());
    let services: Vec<&str> = state.desired().services.keys().map(|id| &**id).collect();
    assert_eq!(services, ["shop/other:80"]);
}

#[test]
fn bad_values_are_forgotten_with_their_object() {
    let mut state = settled();
    let bad = [(ENABLED, "yes")];
    let (cart, client) = (
        || wire::Service {
            metadata: Some(metadata("shop", "cart", &bad)),
            ..service("cart")
        },
        || pod("client", &bad),
    );
    for _ in 0..2 {
        state.take_up(News::Service(Told::Is(cart())));
        state.take_up(News::Pod(Told::Is(client())));
        list(&mut state, News::Namespace, [partial("shop", &bad)]);
        assert_eq!(state.take_complaints().0, 3, "none of them is remembered");
        state.take_up(News::Service(Told::Gone(cart())));
        state.take_up(News::Pod(Told::Gone(client())));
        state.take_up(News::Namespace(Told::Gone(partial("shop", &bad))));
    }
    for _ in 0..2 {
        list(&mut state, News::Service, [cart()]);
        list(&mut state, News::Pod, [client()]);
        list(&mut state, News::Namespace, [partial("shop", &bad)]);
        assert_eq!(state.take_complaints().0, 3, "none of them is remembered");
        list(&mut state, News::Service, []);
        list(&mut state, News::Pod, []);
        list(&mut state, News::Namespace, []);
    }
}

#[test]
fn consumer_route_leaves_no_service_alone_and_producer_route_does() {
    let route = |namespace: &str, parent: &str| {
        let list = format!(
            r#"{{"items": [{{"metadata": {{"name": "split", "namespace": "{namespace}"}},
            "spec": {{"parentRefs": [{{"group": "", "kind": "Service", "name": "cart"{parent}}}]}}}}]}}"#
        );
        wire::json::Route::list(list.into()).unwrap().1.remove(0).unwrap()
    };
    let of_shop = r#", "namespace": "shop""#;
    let mut state = settled();
    for wrap in [News::GrpcRoute as fn(_) -> _, News::HttpRoute] {
        for parent in ["", of_shop] {
            state.take_up(wrap(Told::Is(route("other", parent))));
            state.settle();
            assert_eq!(endpoints(&state), ["10.0.0.1"], "{parent}");
        }
        for parent in [of_shop, "", r#", "namespace": null"#] {
            state.take_up(wrap(Told::Is(route("shop", parent))));
            state.settle();
            assert_eq!(endpoints(&state), Vec::<String>::new(), "{parent}");
            state.take_up(wrap(Told::Gone(route("shop", parent))));
            state.settle();
            assert_eq!(endpoints(&state), ["10.0.0.1"]);
        }
        // A producer route that begins to mean another namespace's Service becomes a consumer route.
        state.take_up(wrap(Told::Is(route("shop", of_shop))));
        state.take_up(wrap(Told::Is(route("shop", r#", "namespace": "else""#))));
        state.settle();
        assert_eq!(endpoints(&state), ["10.0.0.1"]);
    }
}
