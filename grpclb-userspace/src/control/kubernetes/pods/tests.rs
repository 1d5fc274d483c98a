//! The labels' meaning, and one test for each reason to leave a pod alone.

use super::*;
use crate::control::kubernetes::remedies;

/// A running pod without a label.
fn pod() -> wire::Pod {
    wire::Pod {
        metadata: Some(wire::ObjectMeta {
            name: "client".to_owned(),
            namespace: "shop".to_owned(),
            uid: "uid-1".to_owned(),
            ..wire::ObjectMeta::default()
        }),
        spec: Some(wire::PodSpec {
            containers: vec![container("app", &[])],
            ..wire::PodSpec::default()
        }),
        status: Some(wire::PodStatus {
            phase: "Running".to_owned(),
            ips: vec![
                wire::PodIp {
                    ip: "10.244.1.7".to_owned(),
                },
                wire::PodIp {
                    ip: "fd00::7".to_owned(),
                },
            ],
        }),
    }
}

fn container(name: &str, ports: &[(i32, &str)]) -> wire::Container {
    let port = |&(port, protocol): &(i32, &str)| wire::ContainerPort {
        port,
        protocol: protocol.to_owned(),
    };
    wire::Container {
        name: name.to_owned(),
        ports: ports.iter().map(port).collect(),
    }
}

fn metadata(pod: &mut wire::Pod) -> &mut wire::ObjectMeta {
    pod.metadata.get_or_insert_default()
}

fn spec(pod: &mut wire::Pod) -> &mut wire::PodSpec {
    pod.spec.get_or_insert_default()
}

fn labelled(mut pod: wire::Pod, key: &str, value: &str) -> wire::Pod {
    metadata(&mut pod).labels.insert(key.to_owned(), value.to_owned());
    pod
}

fn annotated(mut pod: wire::Pod, key: &str, value: &str) -> wire::Pod {
    metadata(&mut pod)
        .annotations
        .insert(key.to_owned(), value.to_owned());
    pod
}

fn namespace(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Namespace {
    let mut metadata = wire::ObjectMeta::default();
    for (key, value) in labels {
        metadata.labels.insert((*key).to_owned(), (*value).to_owned());
    }
    for (key, value) in annotations {
        metadata
            .annotations
            .insert((*key).to_owned(), (*value).to_owned());
    }
    let mut bad = Vec::new();
    let namespace = Namespace::new(&metadata, &mut Names::default(), &mut bad);
    assert!(bad.is_empty(), "{bad:?}");
    namespace
}

fn enabled() -> Namespace {
    namespace(&[(ENABLED, "true")], &[])
}

fn decide(pod: &wire::Pod, namespace: &Namespace, node: Option<bool>) -> Result<PodSpec, String> {
    let mut bad = Vec::new();
    let pod = Pod::new(pod, &mut Names::default(), &mut bad);
    assert!(bad.is_empty(), "{bad:?}");
    pod.decide(namespace, node)
}

/// The pod is left alone although its namespace is enabled, for a reason with these words.
fn assert_left(pod: &wire::Pod, words: &str) {
    let reason = decide(pod, &enabled(), None).unwrap_err();
    assert!(reason.contains(words), "{reason}");
    assert!(
        remedies::of_pod(&reason, "shop/client").is_some(),
        "what to change: {reason}"
    );
}

#[test]
fn the_pods_label_counts_before_that_of_its_namespace() {
    let with = |value| labelled(pod(), ENABLED, value);
    let (plain, off) = (Namespace::default(), namespace(&[(ENABLED, "false")], &[]));
    let cases = [
        (pod(), &plain, Err("neither it nor its namespace shop")),
        (
            pod(),
            &off,
            Err("its namespace's label grpclb.io/enabled is false"),
        ),
        (pod(), &enabled(), Ok(EnabledBy::NamespaceLabel)),
        (
            with("false"),
            &enabled(),
            Err("its label grpclb.io/enabled is false"),
        ),
        (with("true"), &plain, Ok(EnabledBy::OwnLabel)),
        (with("true"), &off, Ok(EnabledBy::OwnLabel)),
        (with("true"), &enabled(), Ok(EnabledBy::OwnLabel)),
        (with("false"), &plain, Err("its label grpclb.io/enabled is false")),
    ];
    for (pod, namespace, expected) in cases {
        match (decide(&pod, namespace, None), expected) {
            (Ok(spec), Ok(enabled_by)) => assert_eq!(spec.enabled_by, enabled_by),
            (Err(reason), Err(words)) => {
                assert!(reason.contains(words), "{reason}");
                assert!(remedies::of_pod(&reason, "shop/client").is_some(), "{reason}");
            }
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn a_nodes_false_stops_steering_there_and_its_true_enables_nothing() {
    let canary = labelled(pod(), ENABLED, "true");
    assert!(
        decide(&canary, &enabled(), Some(false))
            .unwrap_err()
            .contains("its node's label")
    );
    assert!(decide(&canary, &enabled(), Some(true)).is_ok());
    assert!(decide(&pod(), &Namespace::default(), Some(true)).is_err());
}

#[test]
fn what_is_known_of_a_pod_is_told() {
    let mut pod = pod();
    spec(&mut pod).containers = vec![
        container("app", &[(8080, "TCP"), (53, "UDP")]),
        container("side", &[(80, "TCP"), (8080, "TCP")]),
    ];
    spec(&mut pod).init_containers = vec![container("native-sidecar", &[(90, "")])];
    let found = decide(&pod, &enabled(), None).unwrap();
    assert_eq!(&*found.id, "uid-1");
    assert_eq!(&*found.name, "shop/client");
    assert_eq!(found.netns, NetnsRef::Sandbox("uid-1".into()));
    assert_eq!(*found.ports, [80, 90, 8080]);
    assert_eq!(found.addresses.len(), 2);
    assert!(!found.accelerate);
}

#[test]
fn a_static_pods_sandbox_is_named_by_its_hash() {
    let mirror = annotated(annotated(pod(), CONFIG_HASH, "abc123"), CONFIG_MIRROR, "abc123");
    let found = decide(&mirror, &enabled(), None).unwrap();
    assert_eq!(found.netns, NetnsRef::Sandbox("abc123".into()));
    assert_eq!(&*found.id, "uid-1");
    // What anybody writes on an ordinary pod names no other pod's sandbox.
    let forged = annotated(pod(), CONFIG_HASH, "abc123");
    let found = decide(&forged, &enabled(), None).unwrap();
    assert_eq!(found.netns, NetnsRef::Sandbox("uid-1".into()));
}

#[test]
fn wishes_of_the_pod_count_before_those_of_its_namespace() {
    let wishing = namespace(
        &[(ENABLED, "true")],
        &[
            (annotations::ADOPT, "all,rate=5"),
            (annotations::ACCELERATE, "true"),
        ],
    );
    let found = decide(&pod(), &wishing, None).unwrap();
    assert!(found.accelerate);
    assert_eq!(found.adopt.map(|adopt| adopt.rate), Some(5));
    let own = annotated(
        annotated(pod(), annotations::ADOPT, "mine"),
        annotations::ACCELERATE,
        "false",
    );
    let found = decide(&own, &wishing, None).unwrap();
    assert!(!found.accelerate);
    assert_eq!(found.adopt.map(|adopt| adopt.request), Some("mine".into()));
}

#[test]
fn left_alone_ended() {
    for phase in ["Succeeded", "Failed"] {
        let mut pod = pod();
        pod.status.get_or_insert_default().phase = phase.to_owned();
        assert_left(&pod, "ended");
    }
}

#[test]
fn left_alone_host_network() {
    let mut pod = pod();
    spec(&mut pod).host_network = true;
    assert_left(&pod, "host's network");
}

#[test]
fn left_alone_sidecars() {
    for (name, mesh) in SIDECARS {
        let mut ordinary = pod();
        spec(&mut ordinary).containers.push(container(name, &[]));
        assert_left(&ordinary, mesh);
        let mut native = pod();
        spec(&mut native).init_containers.push(container(name, &[]));
        assert_left(&native, mesh);
    }
}

#[test]
fn left_alone_ambient_mesh() {
    assert_left(&annotated(pod(), REDIRECTION, "enabled"), "ambient");
    assert_left(&labelled(pod(), DATAPLANE_MODE, "ambient"), "ambient");
    let ambient = namespace(&[(ENABLED, "true"), (DATAPLANE_MODE, "ambient")], &[]);
    assert!(decide(&pod(), &ambient, None).unwrap_err().contains("ambient"));
    // A pod can stay out of an ambient namespace.
    let out = labelled(pod(), DATAPLANE_MODE, "none");
    assert!(decide(&out, &ambient, None).is_ok());
}

#[test]
fn left_alone_runtimes_with_a_kernel_of_their_own() {
    for class in ["gvisor", "kata-qemu", "Kata-FC"] {
        let mut pod = pod();
        spec(&mut pod).runtime_class = class.to_owned();
        assert_left(&pod, class);
    }
    let mut ordinary = pod();
    spec(&mut ordinary).runtime_class = "nvidia".to_owned();
    assert!(decide(&ordinary, &enabled(), None).is_ok());
}
