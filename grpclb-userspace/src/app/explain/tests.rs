//! What is answered, case by case: each begins with a pod and a Service that are balanced, and takes one thing away.

use super::*;
use crate::app::services::Services;
use crate::model::{Desired, EnabledBy, Endpoint, EndpointState, NetnsRef, Protocol};
use crate::observe::status::{Kernel, Phase, Source, Status, Worker};
use crate::pods::PodState;

/// All that an answer is made of, as its owner.
struct World {
    agent: Status,
    desired: Desired,
    pods: Vec<PodStatus>,
    count: Count,
    judged: HashMap<ServiceId, Vec<JudgedEndpoint>>,
    opaque: bool,
}

fn endpoint(id: &str, last: u8) -> Endpoint {
    Endpoint {
        id: id.into(),
        address: ([10, 244, 1, last], 8080).into(),
        weight: 1,
        state: EndpointState::Ready,
    }
}

fn service(id: &str, port: u16) -> Arc<ServicePort> {
    Arc::new(ServicePort {
        id: id.into(),
        addresses: vec!["10.96.7.1".parse().unwrap()],
        port,
        protocol: Protocol::Http2,
        policy: grpclb_engine::balance::Policy::RoundRobin,
        subset: 20,
        per_connection: false,
        endpoints: vec![endpoint("a", 1), endpoint("b", 2)],
    })
}

fn world() -> World {
    let mut desired = Desired::default();
    let spec = PodSpec {
        name: "shop/client".into(),
        enabled_by: EnabledBy::NamespaceLabel,
        ..PodSpec::new("uid".into(), NetnsRef::Sandbox("uid".into()))
    };
    desired.pods.insert("uid".into(), Arc::new(spec));
    desired
        .services
        .insert("shop/cart:50051".into(), service("shop/cart:50051", 50_051));
    World {
        agent: Status {
            node: "node1".to_owned(),
            version: "0.1.0".to_owned(),
            phase: Phase::Running,
            kernel: Kernel {
                cgroup: Some("/kubepods".to_owned()),
                ..Kernel::default()
            },
            source: Source {
                name: "a test".to_owned(),
                generation: 1,
                ..Source::default()
            },
            workers: vec![Worker::default()],
            ..Status::default()
        },
        desired,
        pods: vec![PodStatus {
            id: "uid".into(),
            incarnation: "uid".into(),
            name: "shop/client".into(),
            state: PodState::Steered,
            reason: None,
            namespace: "sandbox of uid".to_owned(),
            cookie: Some(7),
            port: Some(28_651),
            ipv6: false,
            worker: Some(0),
            addresses: Vec::new(),
            failures: 0,
            ready_after: None,
            netns: None,
            adopt: None,
        }],
        count: Count::default(),
        judged: HashMap::new(),
        opaque: false,
    }
}

impl World {
    fn ask(&self, service: &str) -> Explanation {
        self.ask_of("client", service)
    }

    fn ask_of(&self, pod: &str, service: &str) -> Explanation {
        let mut services = Services::new();
        let (_, errors) = services.update(&self.desired.services);
        assert!(errors.is_empty(), "{errors:?}");
        if self.opaque {
            let slot = *services.served().values().next().unwrap();
            for _ in 0..3 {
                services.detected(slot, false, std::time::Instant::now());
            }
        }
        let known = Known::new(
            Arc::new(self.desired.clone()),
            services.served(),
            services.opaque(),
        );
        let facts = Facts {
            agent: &self.agent,
            known: &known,
            pods: &self.pods,
            relayed: Vec::new(),
            bypassing: Some(&self.count),
            judged: &self.judged,
        };
        explain(&Question::new(Some("shop"), pod, service).unwrap(), &facts)
    }

    fn leave_service_alone(&mut self, id: &str, reason: &str) {
        self.desired.left_alone.services.insert(id.into(), reason.into());
    }

    fn change_service(&mut self, change: impl FnOnce(&mut ServicePort)) {
        let mut service = (**self.desired.services.get("shop/cart:50051").unwrap()).clone();
        change(&mut service);
        self.desired
            .services
            .insert("shop/cart:50051".into(), Arc::new(service));
    }
}

/// The answer is no, for a reason with these words, at this step; and there is something to change.
fn assert_no(explanation: &Explanation, about: &str, words: &str) {
    assert_eq!(
        explanation.conclusion,
        Conclusion::NotBalanced,
        "{explanation:#?}"
    );
    let steps = explanation
        .steps
        .iter()
        .chain(explanation.ports.iter().flat_map(|port| &port.steps));
    let first = steps
        .into_iter()
        .find(|step| step.verdict == Verdict::No)
        .unwrap();
    assert_eq!(first.about, about, "{explanation:#?}");
    assert!(explanation.sentence.contains(words), "{}", explanation.sentence);
    assert!(explanation.remedy.is_some(), "{}", explanation.sentence);
}

#[test]
fn a_pod_and_a_service_that_are_all_right_are_balanced() {
    let explanation = world().ask("cart:50051");
    assert_eq!(explanation.conclusion, Conclusion::Balanced);
    assert_eq!(
        explanation.sentence,
        "Yes: for each call of shop/client to shop/cart:50051 one of 2 endpoints is picked (round_robin)."
    );
    let about: Vec<&str> = explanation.steps.iter().map(|step| step.about.as_str()).collect();
    assert_eq!(
        about,
        [
            "agent",
            "source",
            "labels",
            "namespace",
            "listener",
            "probe",
            "worker"
        ]
    );
    let about: Vec<&str> = explanation.ports[0]
        .steps
        .iter()
        .map(|step| step.about.as_str())
        .collect();
    assert_eq!(
        about,
        ["service", "protocol", "policy", "endpoints", "connections"]
    );
}

#[test]
fn connections_that_bypass_it_are_told_with_the_command_that_moves_them() {
    let mut world = world();
    world
        .count
        .bypassing
        .insert("10.96.7.1:50051".parse().unwrap(), 3);
    world
        .count
        .bypassing
        .insert("10.96.7.2:50051".parse().unwrap(), 5);
    let explanation = world.ask("cart");
    assert_eq!(explanation.conclusion, Conclusion::Balanced);
    assert!(
        explanation
            .sentence
            .ends_with("but 3 older connections bypass grpclb until they end or are adopted."),
        "{}",
        explanation.sentence
    );
    assert_eq!(explanation.remedy.as_deref(), Some("grpclb adopt -n shop client"));
}

#[test]
fn it_is_told_what_enables_the_pod() {
    let told = [
        (EnabledBy::OwnLabel, "its label grpclb.io/enabled is true"),
        (
            EnabledBy::NamespaceLabel,
            "its namespace's label grpclb.io/enabled is true",
        ),
        (EnabledBy::Configuration, "the file lists it"),
    ];
    for (enabled_by, words) in told {
        let mut world = world();
        let pod = world.desired.pods.get_mut("uid").unwrap();
        Arc::make_mut(pod).enabled_by = enabled_by;
        let steps = world.ask("cart").steps;
        assert!(steps.iter().any(|step| step.says == words), "{steps:?}");
    }
}

#[test]
fn no_for_the_labels() {
    let mut world = world();
    world.desired.pods.clear();
    let left = PodLeftAlone {
        name: "shop/client".into(),
        reason: "neither it nor its namespace shop has the label grpclb.io/enabled=true".into(),
    };
    world.desired.left_alone.pods.insert("uid".into(), left);
    let explanation = world.ask("cart");
    assert_no(
        &explanation,
        "labels",
        "No, because of the pod: neither it nor its namespace",
    );
    assert_eq!(
        explanation.remedy.as_deref(),
        Some("kubectl label namespace shop grpclb.io/enabled=true")
    );
}

#[test]
fn no_for_what_the_agent_lacks() {
    let mut not_attached = world();
    not_attached.agent.kernel.cgroup = None;
    assert_no(
        &not_attached.ask("cart"),
        "agent",
        "because of the agent: grpclb 0.1.0 on node1 steers nothing",
    );
    let mut draining = world();
    draining.agent.phase = Phase::Draining;
    assert_no(&draining.ask("cart"), "agent", "is about to end");
    let mut stuck = world();
    stuck.agent.workers[0].heartbeat_age_ms = 501;
    assert_no(&stuck.ask("cart"), "worker", "its last heartbeat is 501 ms old");
    let mut panicked = world();
    panicked.pods[0].cookie = None;
    panicked.pods[0].state = PodState::Paused;
    panicked.pods[0].reason = Some("an internal error of the agent reset its connections".to_owned());
    assert_no(&panicked.ask("cart"), "agent", "an internal error of the agent");
}

#[test]
fn no_for_what_happens_in_the_pod() {
    let mut no_namespace = world();
    no_namespace.pods[0].cookie = None;
    no_namespace.pods[0].state = PodState::Waiting;
    no_namespace.pods[0].reason = Some("its sandbox is not found yet".to_owned());
    assert_no(
        &no_namespace.ask("cart"),
        "namespace",
        "because of the pod: its sandbox is not found yet",
    );
    let mut refused = world();
    refused.pods[0].state = PodState::Probing;
    refused.pods[0].failures = 1;
    refused.pods[0].reason = Some("a probe on the pod's own loopback was refused".to_owned());
    assert_no(
        &refused.ask("cart"),
        "probe",
        "a probe on the pod's own loopback was refused",
    );
    let mut too_new = world();
    too_new.pods.clear();
    assert_no(&too_new.ask("cart"), "pod", "has not been looked for yet");
}

#[test]
fn no_for_a_service_that_is_left_alone() {
    let mut world = world();
    world.desired.services.clear();
    world.leave_service_alone("shop/cart", "it is headless: clients dial its pods");
    world.leave_service_alone("shop/cart-2", "another");
    assert_no(
        &world.ask("cart:50051"),
        "service",
        "because of the Service: it is headless",
    );
}

#[test]
fn no_for_a_port_of_another_protocol_beside_one_that_is_balanced() {
    let mut world = world();
    world.leave_service_alone("shop/cart:80", "its name \"http\" is that of another protocol");
    assert_no(&world.ask("cart:80"), "service", "that of another protocol");
    assert_eq!(world.ask("cart:50051").conclusion, Conclusion::Balanced);
    assert_eq!(
        world.ask("cart").conclusion,
        Conclusion::Balanced,
        "told as a note"
    );
}

#[test]
fn addresses_beside_the_clusters_are_a_note() {
    let mut world = world();
    world.leave_service_alone("shop/cart/load-balancer", "connections to it go the plain way");
    world.leave_service_alone(
        "shop/cart:50051/tcp/node-port",
        "connections to it go the plain way",
    );
    let explanation = world.ask("cart:50051");
    assert_eq!(explanation.conclusion, Conclusion::Balanced);
    let notes = explanation
        .steps
        .iter()
        .filter(|step| step.verdict == Verdict::Note);
    assert_eq!(notes.count(), 2);
}

#[test]
fn no_for_a_port_that_proved_to_be_something_else() {
    let mut world = world();
    world.change_service(|service| service.protocol = Protocol::Detect);
    assert_eq!(world.ask("cart").conclusion, Conclusion::Balanced);
    world.opaque = true;
    assert_no(
        &world.ask("cart"),
        "protocol",
        "3 connections in a row were not HTTP/2",
    );
}

#[test]
fn no_without_an_endpoint_and_every_endpoint_says_why() {
    let mut world = world();
    world.change_service(|service| service.endpoints.clear());
    let judged = JudgedEndpoint {
        id: "a".into(),
        address: ([10, 244, 1, 1], 8080).into(),
        node: Some("node2".into()),
        gets_calls: false,
        verdict: "gets no calls: it is not ready".to_owned(),
    };
    world.judged.insert("shop/cart:50051".into(), vec![judged]);
    let explanation = world.ask("cart");
    assert_no(
        &explanation,
        "endpoints",
        "gets calls from here (0 of 1 get calls)",
    );
    assert_eq!(
        explanation.ports[0].endpoints[0].verdict,
        "gets no calls: it is not ready"
    );
}

#[test]
fn one_family_without_an_endpoint_is_told_apart() {
    let mut world = world();
    let mut v6 = (*service("shop/cart:50051/ipv6", 50_051)).clone();
    v6.addresses = vec!["fd00::1".parse().unwrap()];
    v6.endpoints.clear();
    world.desired.services.insert(v6.id.clone(), Arc::new(v6));
    let explanation = world.ask("cart");
    assert_eq!(explanation.conclusion, Conclusion::Partly);
    assert!(
        explanation
            .sentence
            .contains("but not at shop/cart:50051/ipv6: no endpoint"),
        "{}",
        explanation.sentence
    );
}

#[test]
fn what_is_not_known_is_said_to_be_unknown() {
    let world = world();
    let unknown = |explanation: Explanation| (explanation.conclusion, explanation.sentence);
    assert_eq!(
        unknown(world.ask_of("other", "cart")),
        (
            Conclusion::UnknownPod,
            "Unknown: this agent knows no pod shop/other on its node.".to_owned()
        )
    );
    assert_eq!(
        unknown(world.ask("basket")),
        (
            Conclusion::UnknownService,
            "Unknown: there is no Service shop/basket.".to_owned()
        )
    );
    let explanation = world.ask("cart:80");
    assert_eq!(explanation.remedy.as_deref(), Some("dial 50051"));
    assert_eq!(
        unknown(explanation),
        (
            Conclusion::UnknownService,
            "Unknown: the Service shop/cart has no TCP port 80.".to_owned()
        )
    );
}

#[test]
fn an_agent_that_has_heard_nothing_yet_says_that_and_not_that_the_pod_is_unknown() {
    let mut world = world();
    world.desired = Desired::default();
    world.agent.source.generation = 0;
    world.agent.source.name = "nothing yet: waiting for the Kubernetes API".to_owned();
    let explanation = world.ask("cart");
    assert_eq!(explanation.conclusion, Conclusion::UnknownPod);
    assert_eq!(
        explanation.sentence,
        "Unknown: nothing yet: waiting for the Kubernetes API."
    );
}

#[test]
fn where_a_file_is_the_source_names_have_no_namespace() {
    let mut world = world();
    world.desired.pods.clear();
    let spec = PodSpec::new("client".into(), NetnsRef::Host);
    world.desired.pods.insert("client".into(), Arc::new(spec));
    world.pods[0].id = "client".into();
    world
        .desired
        .services
        .insert("cart:1".into(), service("cart:1", 1));
    assert_eq!(world.ask("cart:1").conclusion, Conclusion::Balanced);
}
