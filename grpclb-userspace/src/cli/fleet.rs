//! What all agents of a cluster say of themselves, put together: by node, by namespace, by Service. Pure.
//!
//! The JSON of `grpclb status --json` over a cluster is [`Fleet`], field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;

use super::Exit;
use super::cluster::Agent;
use crate::observe::status::{EndpointState, Phase, Pod, PodState, Status};

/// What was asked at one moment.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) at: Instant,
    pub(super) agents: Vec<Agent>,
    /// By node.
    pub(super) answers: BTreeMap<String, Result<Status, Silence>>,
}

/// Why an agent gave no answer: a sentence for people, and what it would mean if it were all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    pub(super) why: String,
    pub(super) exit: Exit,
}

/// The whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Fleet {
    /// The API server's address.
    pub(super) cluster: String,
    pub(super) nodes: Vec<Node>,
    /// Those with enabled pods.
    pub(super) namespaces: Vec<Namespace>,
    /// Those that pods have used since their agents started.
    pub(super) services: Vec<Service>,
    /// Pods that are not steered although they are enabled, and why.
    pub(super) unsteered: Vec<Unsteered>,
    /// What could not be learnt, for people.
    pub(super) notes: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    /// The agent's pod; none: there is no agent.
    pub(super) agent: Option<String>,
    pub(super) version: Option<String>,
    pub(super) ready: bool,
    /// Why it is not ready, or gave no answer.
    pub(super) problems: Vec<String>,
    /// Why nothing of it is steered, where that is wanted.
    pub(super) switched_off: Option<String>,
    pub(super) restarts: u32,
    pub(super) sums: Sums,
    pub(super) pods: u64,
    pub(super) steered: u64,
    pub(super) bypassing: u64,
    /// All that its agent says.
    pub(super) status: Option<Status>,
}

/// What is counted of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Sums {
    /// Client connections that are open.
    pub(super) connections: u64,
    /// Calls since the agents started.
    pub(super) calls: u64,
    /// Of those, the ones that failed on the way: not those that a server answered with an error.
    pub(super) errors: u64,
    /// `None` until they were asked twice.
    pub(super) calls_per_second: Option<f64>,
}

/// A namespace with enabled pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Namespace {
    pub(super) name: String,
    pub(super) pods: u64,
    pub(super) steered: u64,
    pub(super) connections: u64,
    pub(super) bypassing: u64,
}

/// A Service port in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Service {
    pub(super) id: String,
    pub(super) protocol: String,
    pub(super) policy: String,
    /// On how many nodes it is used.
    pub(super) nodes: u64,
    /// On how many of them it is steered.
    pub(super) steered: u64,
    /// Why not, where it is not.
    pub(super) reason: Option<String>,
    /// Different ones that get calls from some node.
    pub(super) endpoints: u64,
    /// Of those, the ones that some node found to fail.
    pub(super) failed: u64,
    /// Connections that were not HTTP/2.
    pub(super) opaque: u64,
    pub(super) sums: Sums,
}

/// An enabled pod that is not steered.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Unsteered {
    pub(super) node: String,
    pub(super) pod: String,
    pub(super) state: &'static str,
    pub(super) reason: Option<String>,
}

impl Fleet {
    /// Whether every node has an agent that is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.nodes.iter().all(|node| node.ready)
    }
}

/// Puts a round together; with the one before it, there are rates. `nodes`: all of the cluster, where that is known.
pub(super) fn put_together(cluster: &str, nodes: &[String], before: Option<&Round>, now: &Round) -> Fleet {
    let mut fleet = Fleet {
        cluster: cluster.to_owned(),
        ..Fleet::default()
    };
    let names: BTreeSet<&str> = nodes
        .iter()
        .map(String::as_str)
        .chain(now.agents.iter().map(|agent| agent.node.as_str()))
        .collect();
    fleet.nodes = names.into_iter().map(|name| node(name, before, now)).collect();
    fleet.namespaces = namespaces(now);
    fleet.services = services(before, now);
    fleet.unsteered = now
        .statuses()
        .flat_map(|(node, status)| unsteered(node, status))
        .collect();
    fleet
}

impl Round {
    /// Why nobody answered, if nobody did; of several reasons one.
    pub(super) fn silence(&self) -> Option<&Silence> {
        let mut answers = self.answers.values();
        let first = answers.next()?.as_ref().err()?;
        answers.all(Result::is_err).then_some(first)
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = (&str, &Status)> {
        self.answers
            .iter()
            .filter_map(|(node, answer)| Some((node.as_str(), answer.as_ref().ok()?)))
    }

    fn status(&self, node: &str) -> Option<&Status> {
        self.answers.get(node)?.as_ref().ok()
    }

    /// Seconds since another round.
    fn since(&self, before: &Self) -> f64 {
        self.at.saturating_duration_since(before.at).as_secs_f64()
    }
}

fn node(name: &str, before: Option<&Round>, now: &Round) -> Node {
    let Some(agent) = now.agents.iter().find(|agent| agent.node == name) else {
        return Node {
            name: name.to_owned(),
            problems: vec!["no agent".to_owned()],
            ..Node::default()
        };
    };
    let mut node = Node {
        name: name.to_owned(),
        agent: Some(agent.pod.clone()),
        restarts: agent.restarts,
        ..Node::default()
    };
    let status = match now.answers.get(name) {
        Some(Ok(status)) => status,
        Some(Err(problem)) => {
            node.problems.push(problem.why.clone());
            return node;
        }
        None => return node,
    };
    node.version = Some(status.version.clone());
    node.ready = status.readiness.ready;
    node.problems.clone_from(&status.readiness.reasons);
    if let Some(error) = &status.source.error {
        node.problems.push(error.clone());
    }
    node.switched_off.clone_from(&status.source.switched_off);
    node.pods = status.pods.len() as u64;
    node.steered = steered(status.pods.iter());
    node.bypassing = status.pods.iter().map(|pod| pod.bypassing).sum();
    let calls = |status: &Status| counter(status, "calls");
    node.sums = Sums {
        connections: status.pods.iter().map(|pod| pod.connections).sum(),
        calls: calls(status),
        errors: FAILED.iter().map(|name| counter(status, name)).sum(),
        calls_per_second: before.and_then(|before| {
            let known = before
                .status(name)
                .filter(|known| known.instance == status.instance)?;
            Some(rate(calls(known), calls(status), now.since(before)))
        }),
    };
    node.status = Some(status.clone());
    node
}

/// Counters of calls that a client saw fail through no answer of its server's.
const FAILED: [&str; 5] = [
    "unavailable",
    "refused",
    "oversized",
    "broken",
    "reset_by_backend",
];

fn counter(status: &Status, name: &str) -> u64 {
    status.counters.get(name).copied().unwrap_or(0)
}

fn rate(before: u64, now: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        now.saturating_sub(before) as f64 / seconds
    } else {
        0.0
    }
}

fn steered<'p>(pods: impl Iterator<Item = &'p Pod>) -> u64 {
    pods.filter(|pod| pod.state == PodState::Steered).count() as u64
}

fn namespaces(now: &Round) -> Vec<Namespace> {
    let mut found: BTreeMap<&str, Namespace> = BTreeMap::new();
    for pod in now.statuses().flat_map(|(_, status)| &status.pods) {
        let name = pod.name.split_once('/').map_or("", |(namespace, _)| namespace);
        let namespace = found.entry(name).or_insert_with(|| Namespace {
            name: name.to_owned(),
            ..Namespace::default()
        });
        namespace.pods += 1;
        namespace.steered += u64::from(pod.state == PodState::Steered);
        namespace.connections += pod.connections;
        namespace.bypassing += pod.bypassing;
    }
    found.into_values().collect()
}

fn services(before: Option<&Round>, now: &Round) -> Vec<Service> {
    let mut found: BTreeMap<&str, (Service, BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    for (_, status) in now
        .statuses()
        .filter(|(_, status)| status.phase != Phase::Starting)
    {
        for told in &status.services {
            let (service, endpoints, failed) = found.entry(&told.id).or_default();
            service.id.clone_from(&told.id);
            service.protocol.clone_from(&told.protocol);
            service.policy.clone_from(&told.policy);
            service.nodes += 1;
            service.steered += u64::from(told.steered);
            if service.reason.is_none() {
                service.reason.clone_from(&told.reason);
            }
            service.opaque += told.opaque;
            service.sums.connections += told.connections;
            for endpoint in &told.endpoints {
                let name = format!("{} {}", endpoint.id, endpoint.address);
                if endpoint.state == EndpointState::Failed {
                    failed.insert(name.clone());
                }
                endpoints.insert(name);
                service.sums.errors += endpoint.errors;
            }
            service.sums.calls += calls(status, &told.id);
        }
    }
    let rate_of = |id: &str| {
        let before = before?;
        let of = |round: &Round| round.statuses().map(|(_, status)| calls(status, id)).sum();
        Some(rate(of(before), of(now), now.since(before)))
    };
    found
        .into_values()
        .map(|(mut service, endpoints, failed)| {
            service.endpoints = endpoints.len() as u64;
            service.failed = failed.len() as u64;
            service.sums.calls_per_second = rate_of(&service.id);
            service
        })
        .collect()
}

fn calls(status: &Status, service: &str) -> u64 {
    let told = status.services.iter().filter(|told| told.id == service);
    told.flat_map(|told| &told.endpoints)
        .map(|endpoint| endpoint.calls)
        .sum()
}

fn unsteered<'s>(node: &'s str, status: &'s Status) -> impl Iterator<Item = Unsteered> + 's {
    let unsteered = status
        .pods
        .iter()
        .filter(|pod| matches!(pod.state, PodState::Pending | PodState::Unsteered));
    unsteered.map(move |pod| Unsteered {
        node: node.to_owned(),
        pod: pod.name.clone(),
        state: pod.state.as_str(),
        reason: pod.reason.clone(),
    })
}

#[cfg(test)]
pub(super) mod tests;
