//! What is decided for the Service, and for each of its ports: protocol, policy, endpoints, and what the pod has to do with it now.

use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use super::{Facts, Trail, ports};
use crate::app::opaque::ENOUGH;
use crate::app::services::usable;
use crate::app::status::Known;
use crate::control::JudgedEndpoint;
use crate::control::kubernetes::remedies;
use crate::data;
use crate::leftovers::Count;
use crate::model::{self, PodSpec, Protocol, ServicePort};
use crate::observe::explain::{Endpoint, Port, Question};

/// What is left alone of the Service, or that there is none.
pub(super) fn about_service(
    question: &Question,
    key: &str,
    found: &[&Arc<ServicePort>],
    facts: &Facts<'_>,
    trail: &mut Trail,
) {
    let left = &facts.known.wanted.left_alone.services;
    let of_service = |id: &str| {
        id.strip_prefix(key)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    };
    let from_there = left.range::<_, str>((Bound::Included(key), Bound::Unbounded));
    let of_service = from_there
        .take_while(|(id, _)| id.starts_with(key))
        .filter(|(id, _)| of_service(id));
    for (id, reason) in of_service {
        let rest = &id[key.len()..];
        let port = rest
            .strip_prefix(':')
            .and_then(|rest| rest.split('/').next()?.parse::<u16>().ok());
        let is_other_port = port.is_some() && question.port.is_some() && port != question.port;
        // A node port, a load balancer: addresses beside the one that is asked for.
        let is_beside = rest.contains("/node-port") || rest.starts_with('/');
        if is_other_port {
            continue;
        }
        if is_beside || (question.port.is_none() && !rest.is_empty() && !found.is_empty()) {
            trail.note("service", &format!("{id}: {reason}"));
            continue;
        }
        trail.is_left_alone = true;
        trail.no("service", reason, remedies::of_service(reason, key));
    }
    if !found.is_empty() || trail.is_left_alone {
        return;
    }
    if facts.known.wanted.pods.is_empty() {
        return trail.note(
            "service",
            "not looked at: Services are not followed while no pod of the node is enabled",
        );
    }
    let mut others: Vec<String> = ports(facts.known, key, None)
        .iter()
        .map(|service| service.port.to_string())
        .collect();
    others.dedup();
    let (why, remedy) = match question.port {
        Some(port) if !others.is_empty() => (
            format!("the Service {key} has no TCP port {port}"),
            format!("dial {}", others.join(" or ")),
        ),
        _ => (
            format!("there is no Service {key}"),
            "name it as the client dials it: NAME, NAMESPACE/NAME or NAME.NAMESPACE".to_owned(),
        ),
    };
    trail.no("service", &why, Some(remedy));
}

/// What is decided for one port.
pub(super) fn about_port(pod: &PodSpec, service: &Arc<ServicePort>, facts: &Facts<'_>) -> (Port, Trail) {
    let mut trail = Trail::default();
    let known = facts.known;
    let addresses: Vec<SocketAddr> = service
        .addresses
        .iter()
        .map(|&address| SocketAddr::new(address, service.port))
        .collect();
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    trail.yes("service", &format!("{} is known", shown.join(" and ")));
    let slot = known.served.get(&service.id).copied();
    about_protocol(service, known, &mut trail);
    let shared = if service.per_connection {
        "each client connection has connections of its own to them"
    } else {
        "client connections of a pod share their connections to them"
    };
    let policy = format!(
        "{} over at most {} endpoints; {shared}",
        service.policy, service.subset
    );
    trail.yes("policy", &policy);

    let mut used = facts.relayed.iter().flat_map(|relayed| &relayed.services);
    let used = used.find(|used| slot.is_some_and(|slot| slot.get() == used.slot));
    let endpoints = endpoints(
        service,
        facts.judged.get(&service.id).cloned().unwrap_or_default(),
        used,
    );
    let eligible = endpoints.iter().filter(|endpoint| endpoint.eligible).count();
    let says = format!("{eligible} of {} get calls", endpoints.len());
    if usable(service) == 0 {
        let why = format!("no endpoint of {} gets calls from here ({says})", service.id);
        let remedy =
            "start pods behind it that are ready; the endpoints below say what each lacks".to_owned();
        trail.no("endpoints", &why, Some(remedy));
    } else {
        trail.yes("endpoints", &says);
    }
    if slot.is_none() && service.protocol != Protocol::Plain {
        trail.no(
            "slot",
            "no slot is free: too many Services",
            Some("restart the agent".to_owned()),
        );
    }

    let count = |bypassing: &Count| {
        addresses
            .iter()
            .filter_map(|address| bypassing.bypassing.get(address))
            .sum()
    };
    let mut port = Port {
        id: service.id.to_string(),
        addresses: service.addresses.clone(),
        port: service.port,
        balanced: trail.no.is_none(),
        policy: service.policy.to_string(),
        endpoints,
        connections: used.map_or(0, |used| used.client_connections as u64),
        opaque: used.map_or(0, |used| used.opaque),
        bypassing: facts.bypassing.map_or(0, count),
        last_picks: used.map(|used| used.recent.clone()).unwrap_or_default(),
        ..Port::default()
    };
    about_connections(&port, &pod.name, used, &mut trail);
    port.steps = std::mem::take(&mut trail.steps);
    (port, trail)
}

fn about_protocol(service: &ServicePort, known: &Known, trail: &mut Trail) {
    match (service.protocol, known.opaque.get(&service.id)) {
        (Protocol::Plain, _) => {
            let remedy = "declare the port as HTTP/2".to_owned();
            trail.no("protocol", "its port says that it is not HTTP/2", Some(remedy));
        }
        (Protocol::Http2, _) => trail.yes("protocol", "its port says that it is HTTP/2"),
        (Protocol::Detect, None) => {
            trail.yes(
                "protocol",
                "its port says nothing: the first bytes of each connection decide, within 1 s",
            );
        }
        (Protocol::Detect, Some(until)) => {
            let minutes = until
                .saturating_duration_since(Instant::now())
                .as_secs()
                .div_ceil(60);
            let why = format!(
                "its port says nothing, and {ENOUGH} connections in a row were not HTTP/2: it is looked at again in {minutes} min"
            );
            let remedy =
                "set its appProtocol to \"kubernetes.io/h2c\", if it is HTTP/2 without TLS".to_owned();
            trail.no("protocol", &why, Some(remedy));
        }
    }
}

fn about_connections(port: &Port, pod: &str, used: Option<&data::ServiceStatus>, trail: &mut Trail) {
    match used {
        None => trail.note("connections", "the pod has not dialled it since it is steered"),
        Some(used) => {
            let upstream: u64 = port.endpoints.iter().map(|endpoint| endpoint.connections).sum();
            let says = format!(
                "{} of the pod's clients, {upstream} to endpoints; {} calls wait",
                port.connections, used.waiting
            );
            trail.yes("connections", &says);
        }
    }
    if port.opaque > 0 {
        let says = format!(
            "{} were not HTTP/2: each of them got one endpoint, as it would without grpclb",
            port.opaque
        );
        trail.note("connections", &says);
    }
    if port.bypassing > 0 {
        let adopt = pod.split_once('/').map_or(String::new(), |(namespace, name)| {
            format!(": grpclb adopt -n {namespace} {name}")
        });
        let says = format!(
            "{} bypass grpclb, made before the pod was steered{adopt}",
            port.bypassing
        );
        trail.note("connections", &says);
    }
    if !port.last_picks.is_empty() {
        let picks: Vec<String> = port.last_picks.iter().map(ToString::to_string).collect();
        trail.note("last picks", &picks.join(", "));
    }
}

fn endpoints(
    service: &ServicePort,
    judged: Vec<JudgedEndpoint>,
    used: Option<&data::ServiceStatus>,
) -> Vec<Endpoint> {
    let judged = if judged.is_empty() {
        service.endpoints.iter().map(as_judged).collect()
    } else {
        judged
    };
    let endpoint = |judged: JudgedEndpoint| {
        let now = used.and_then(|used| {
            let mut endpoints = used.endpoints.iter();
            endpoints.find(|used| used.id == judged.id && used.address == judged.address)
        });
        let eligible = service
            .endpoints
            .iter()
            .any(|endpoint| endpoint.id == judged.id && endpoint.address == judged.address);
        Endpoint {
            id: judged.id.to_string(),
            address: judged.address,
            node: judged.node.map(|node| node.to_string()),
            eligible,
            verdict: judged.verdict,
            picked: used.map(|_| now.is_some_and(|now| now.member && !now.failed)),
            failed: now.is_some_and(|now| now.failed),
            connections: now.map_or(0, |now| now.connections as u64),
            streams: now.map_or(0, |now| now.streams as u64),
            calls: now.map_or(0, |now| now.calls),
            errors: now.map_or(0, |now| now.errors),
        }
    };
    judged.into_iter().map(endpoint).collect()
}

/// Where a source knows of no others than those that are wanted.
fn as_judged(endpoint: &model::Endpoint) -> JudgedEndpoint {
    let verdict = match endpoint.state {
        model::EndpointState::Ready => "gets calls: it is ready",
        model::EndpointState::Draining => "gets calls only while no other is ready: it drains",
    };
    JudgedEndpoint {
        id: Arc::clone(&endpoint.id),
        address: endpoint.address,
        node: None,
        gets_calls: true,
        verdict: verdict.to_owned(),
    }
}
