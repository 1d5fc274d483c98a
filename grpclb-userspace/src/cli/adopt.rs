//! `grpclb adopt`: has connections reset that bypass grpclb, so that their clients make them anew and they are balanced.
//!
//! It asks by an annotation, with the rights of whoever asks; the agents act on it, and tell in their status what came of it. A
//! wish counts only while its pod is known to its agent, so what is old there does nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::cluster::{self, Agent, Cluster, Error, Resource, objects};
use super::failure::Failure;
use super::fleet::Round;
use super::{Exit, render, status};
use crate::control::kubernetes::{annotations, clock};
use crate::observe::status::{Adoption, Pod, PodState};

/// Between two questions how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// Until every agent has seen the wish, and beyond what the resets take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Reset connections that bypass grpclb, at a pace, so that they come back balanced. Calls in flight on them fail
///
/// Ends with 0 when all of them were, with 1 when an agent did not take it up.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The pod whose connections; all enabled pods of the namespace without it
    pod: Option<String>,
    /// The namespace; by default the one of the kubeconfig's context
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How many connections a second and pod
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=999_999_999))]
    rate: u32,
    #[command(flatten)]
    cluster: cluster::Options,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Outcome {
    /// The annotation that asked for it; none where nothing was to be done.
    pub(super) request: Option<String>,
    pub(super) pods: Vec<Adopted>,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Adopted {
    pub(super) node: String,
    /// `namespace/name`.
    pub(super) pod: String,
    /// Connections that bypassed grpclb before.
    pub(super) bypassing: u64,
    /// What its agent says; none: it has not taken it up.
    pub(super) adoption: Option<Adoption>,
}

impl Adopted {
    pub(super) fn is_done(&self) -> bool {
        self.adoption.as_ref().is_some_and(|adoption| adoption.ended)
    }

    pub(super) fn found(&self) -> u64 {
        self.adoption
            .as_ref()
            .and_then(|adoption| adoption.found)
            .unwrap_or(0)
    }

    fn went_well(&self) -> bool {
        self.adoption
            .as_ref()
            .is_some_and(|adoption| adoption.ended && adoption.error.is_none())
    }
}

pub(super) async fn run(options: &Options) -> Result<Exit, Failure> {
    let cluster = Cluster::find(&options.cluster).await?;
    let namespace = options
        .namespace
        .clone()
        .unwrap_or_else(|| cluster.namespace.clone());
    let round = status::round(&cluster, cluster.agents().await?).await;
    let (agents, mut outcome) = meant(&round, &namespace, options.pod.as_deref());
    if outcome.pods.is_empty() {
        return Err(nobody(&cluster, &round, &namespace, options.pod.as_deref()).await);
    }
    if outcome.pods.iter().any(|pod| pod.bypassing > 0) {
        let now = clock::rfc3339(SystemTime::now());
        let request = format!("{now}-{}", std::process::id());
        let value = format!("{request},rate={}", options.rate);
        ask(&cluster, &namespace, options.pod.as_deref(), &value).await?;
        outcome.request = Some(request);
        wait(&cluster, &agents, options.rate, &mut outcome).await;
    }
    let well = outcome.request.is_none() || outcome.pods.iter().all(Adopted::went_well);
    let exit = if well { Exit::Success } else { Exit::No };
    if options.json {
        return Ok(super::print_json(&outcome, exit));
    }
    Ok(super::print(&render::adoption(&outcome, super::colours()), exit))
}

/// The steered pods that are meant, and their agents.
fn meant(round: &Round, namespace: &str, pod: Option<&str>) -> (Vec<Agent>, Outcome) {
    let mut outcome = Outcome::default();
    for (node, found) in pods(round, namespace, pod).filter(|(_, found)| found.state == PodState::Steered) {
        outcome.pods.push(Adopted {
            node: node.to_owned(),
            pod: found.name.clone(),
            bypassing: found.bypassing,
            adoption: None,
        });
    }
    let nodes: BTreeSet<&str> = outcome.pods.iter().map(|pod| pod.node.as_str()).collect();
    let agents = round
        .agents
        .iter()
        .filter(|agent| nodes.contains(agent.node.as_str()));
    (agents.cloned().collect(), outcome)
}

/// All pods of a namespace that agents know, or the one of this name.
fn pods<'r>(
    round: &'r Round,
    namespace: &'r str,
    pod: Option<&'r str>,
) -> impl Iterator<Item = (&'r str, &'r Pod)> {
    let all = round
        .statuses()
        .flat_map(|(node, status)| status.pods.iter().map(move |pod| (node, pod)));
    all.filter(move |(_, known)| {
        let parts = known.name.split_once('/');
        parts.is_some_and(|(of, name)| of == namespace && pod.is_none_or(|pod| pod == name))
    })
}

/// Why there is nobody to adopt.
async fn nobody(cluster: &Cluster, round: &Round, namespace: &str, pod: Option<&str>) -> Failure {
    let silent = round.answers.values().find_map(|answer| answer.as_ref().err());
    if let Some(problem) = silent {
        return Failure::Said(problem.exit, problem.why.clone());
    }
    let known = pods(round, namespace, pod).next();
    if let Some((_, Pod { name, reason, .. })) = known {
        let why = reason.as_deref().unwrap_or("it has only been enabled");
        return Failure::Said(
            Exit::No,
            format!("{name} is not steered yet, so nothing would come back balanced: {why}"),
        );
    }
    let exists: Result<objects::Object, Error> = match pod {
        Some(pod) => cluster.get(Resource::PODS, Some(namespace), pod).await,
        None => cluster.get(Resource::NAMESPACES, None, namespace).await,
    };
    let what = pod.map_or_else(
        || format!("no pod in the namespace {namespace} is"),
        |pod| format!("the pod {namespace}/{pod} is not"),
    );
    match exists {
        Err(error @ Error::NotFound(_)) => error.into(),
        _ => Failure::Said(
            Exit::No,
            format!("{what} enabled: first kubectl label namespace {namespace} grpclb.io/enabled=true"),
        ),
    }
}

/// Sets the annotation: on the pod, or on the namespace and on pods that have one of their own, which would count before it.
async fn ask(cluster: &Cluster, namespace: &str, pod: Option<&str>, value: &str) -> Result<(), Error> {
    let annotation = (annotations::ADOPT, value);
    if let Some(pod) = pod {
        return cluster
            .annotate(Resource::PODS, Some(namespace), pod, annotation)
            .await;
    }
    cluster
        .annotate(Resource::NAMESPACES, None, namespace, annotation)
        .await?;
    let pods: Vec<objects::Object> = cluster.list(Resource::PODS, Some(namespace), "").await?;
    let with_own = pods
        .iter()
        .filter(|pod| pod.metadata.annotations.contains_key(annotations::ADOPT));
    for pod in with_own {
        match cluster
            .annotate(Resource::PODS, Some(namespace), &pod.metadata.name, annotation)
            .await
        {
            // It has gone meanwhile.
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Follows what the agents say until all is done, or nothing more is to be expected.
async fn wait(cluster: &Cluster, agents: &[Agent], rate: u32, outcome: &mut Outcome) {
    let most = outcome.pods.iter().map(|pod| pod.bypassing).max().unwrap_or(0);
    let limit = Instant::now() + PATIENCE + Duration::from_secs(most.div_ceil(u64::from(rate)));
    while Instant::now() < limit {
        let round = status::round(cluster, agents.to_vec()).await;
        for adopted in &mut outcome.pods {
            let (namespace, name) = adopted.pod.split_once('/').unwrap_or_default();
            let told = pods(&round, namespace, Some(name)).find_map(|(_, pod)| pod.adoption.clone());
            let of_ours = told.filter(|told| Some(&told.request) == outcome.request.as_ref());
            adopted.adoption = of_ours.or(adopted.adoption.take());
        }
        if outcome.pods.iter().all(Adopted::is_done) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Status;

    fn round(pods: &[(&str, PodState, u64)]) -> Round {
        let pod = |(name, state, bypassing): &(&str, PodState, u64)| Pod {
            name: (*name).to_owned(),
            state: *state,
            bypassing: *bypassing,
            ..Pod::default()
        };
        let status = Status {
            pods: pods.iter().map(pod).collect(),
            ..Status::default()
        };
        Round {
            at: Instant::now(),
            agents: Vec::new(),
            answers: [("node1".to_owned(), Ok(status))].into(),
        }
    }

    #[test]
    fn steered_pods_of_the_namespace_are_meant_and_no_others() {
        let round = round(&[
            ("shop/a", PodState::Steered, 3),
            ("shop/b", PodState::Pending, 1),
            ("shop/c", PodState::Steered, 0),
            ("pay/a", PodState::Steered, 2),
        ]);
        let names = |pod| {
            let (_, outcome) = meant(&round, "shop", pod);
            let names = outcome.pods.into_iter().map(|pod| pod.pod);
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["shop/a", "shop/c"]);
        assert_eq!(names(Some("a")), ["shop/a"]);
        assert_eq!(names(Some("b")), [""; 0]);
    }
}
