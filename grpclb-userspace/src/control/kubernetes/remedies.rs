//! What to change so that something which is left alone is balanced. By words that only its reason has: a test of each reason
//! asks for its remedy, too.

/// Words of a reason, and what to change; `{namespace}` and `{name}` are the object's.
const PODS: [(&str, &str); 9] = [
    (
        "neither it nor its namespace",
        "kubectl label namespace {namespace} grpclb.io/enabled=true",
    ),
    (
        "its namespace's label grpclb.io/enabled is false",
        "kubectl label namespace {namespace} grpclb.io/enabled=true --overwrite",
    ),
    (
        "its node's label",
        "take the label grpclb.io/enabled from its node",
    ),
    (
        "its label grpclb.io/enabled is false",
        "kubectl label pod -n {namespace} {name} grpclb.io/enabled- (and from its controller's template)",
    ),
    ("it has ended", NOTHING),
    ("the host's network", "run it without hostNetwork"),
    (
        "a sidecar of",
        "take it out of the mesh, or leave its calls to the mesh",
    ),
    (
        "Istio's ambient mesh",
        "take it out of the mesh, or leave its calls to the mesh",
    ),
    ("its runtime class", NOTHING),
];

const SERVICES: [(&str, &str); 15] = [
    ("ExternalName", "dial a Service with a cluster address"),
    (
        "headless",
        "dial a Service with a cluster address: the same one without clusterIP: None",
    ),
    ("it has no cluster address", "wait until it has one"),
    (
        "its label grpclb.io/enabled is false",
        "kubectl label service -n {namespace} {name} grpclb.io/enabled-",
    ),
    (
        "gives it to the proxy",
        "take that label away, if no other proxy serves it",
    ),
    ("sessionAffinity", "set its sessionAffinity to None"),
    (
        "service.cilium.io/global",
        "take that annotation away, if all of its endpoints are in this cluster",
    ),
    (
        "service.cilium.io/lb-l7",
        "take that annotation away: one of the two balances its calls",
    ),
    (
        "istio.io/use-waypoint",
        "label it istio.io/use-waypoint=none: one of the two balances its calls",
    ),
    (
        "has it as its parent",
        "take it out of that route: one of the two balances its calls",
    ),
    (
        "its appProtocol is",
        "set its appProtocol to \"kubernetes.io/h2c\", if it is HTTP/2",
    ),
    (
        "is that of another protocol",
        "set its appProtocol to \"kubernetes.io/h2c\", if it is HTTP/2",
    ),
    (
        "the server speaks first",
        "set its appProtocol to \"kubernetes.io/h2c\", if it is HTTP/2",
    ),
    ("only TCP carries HTTP/2", NOTHING),
    ("go the plain way", "dial its cluster address from a pod"),
];

const NOTHING: &str = "nothing: this cannot be balanced";

/// For a pod that is left alone for this reason.
pub fn of_pod(reason: &str, name: &str) -> Option<String> {
    find(&PODS, reason, name)
}

/// For a Service, or one of its ports.
pub fn of_service(reason: &str, name: &str) -> Option<String> {
    find(&SERVICES, reason, name)
}

fn find(remedies: &[(&str, &str)], reason: &str, name: &str) -> Option<String> {
    let (_, remedy) = remedies.iter().find(|(words, _)| reason.contains(words))?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Some(remedy.replace("{namespace}", namespace).replace("{name}", name))
}
