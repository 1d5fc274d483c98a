//! Why the calls of one pod to one Service are balanced, or are not. Pure: what is known comes in, every decision goes out, in the
//! order in which they are made, and a sentence. The first "no" is the reason. [`pod`] has what is decided for the pod, [`port`]
//! what is decided for the Service and each of its ports.

mod pod;
mod port;

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use super::status::Known;
use crate::control::JudgedEndpoint;
use crate::control::kubernetes::remedies;
use crate::data;
use crate::leftovers::Count;
use crate::model::{PodLeftAlone, PodSpec, ServiceId, ServicePort};
use crate::observe::explain::{Conclusion, Explanation, Port, Question, Step, Verdict};
use crate::observe::status as told;
use crate::pods::PodStatus;
use pod::{about_agent, about_pod};
use port::{about_port, about_service};

/// All that the answer is made of.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// But for its pods and Services.
    pub(super) agent: &'a told::Status,
    pub(super) known: &'a Known,
    pub(super) pods: &'a [PodStatus],
    /// What the data plane says of the pod that is asked for, and which of its connections bypass us.
    pub(super) relayed: Vec<&'a data::PodStatus>,
    pub(super) bypassing: Option<&'a Count>,
    /// All endpoints of each Service port, where the source tells of those that get no calls, too.
    pub(super) judged: &'a HashMap<ServiceId, Vec<JudgedEndpoint>>,
}

/// A pod that was asked for.
enum Pod<'a> {
    Wanted(&'a PodSpec),
    LeftAlone(&'a PodLeftAlone),
}

impl Pod<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Wanted(pod) => &pod.name,
            Self::LeftAlone(pod) => &pod.name,
        }
    }
}

/// The pod that is meant, if this agent knows it.
fn find_pod<'a>(known: &'a Known, question: &Question) -> Option<Pod<'a>> {
    let is_meant = |name: &str| match (&question.namespace, name.rsplit_once('/')) {
        (Some(namespace), Some(parts)) => parts == (namespace.as_str(), question.pod.as_str()),
        (None, Some((_, last))) => name == question.pod || last == question.pod,
        (_, None) => name == question.pod,
    };
    let desired = &known.wanted;
    let mut wanted = desired.pods.values().map(|pod| Pod::Wanted(pod));
    let mut left_alone = desired.left_alone.pods.values().map(Pod::LeftAlone);
    wanted
        .find(|pod| is_meant(pod.name()))
        .or_else(|| left_alone.find(|pod| is_meant(pod.name())))
}

/// What the pod and the Service are called that are meant. A pod's Services are those of its namespace; names of a file have none.
pub(super) fn names(known: &Known, question: &Question) -> (String, String) {
    let pod = match (find_pod(known, question), &question.namespace) {
        (Some(pod), _) => pod.name().to_owned(),
        (None, Some(namespace)) => format!("{namespace}/{}", question.pod),
        (None, None) => question.pod.clone(),
    };
    let service = match pod.rsplit_once('/') {
        Some((namespace, _)) if !question.service.contains('/') => {
            format!("{namespace}/{}", question.service)
        }
        _ => question.service.clone(),
    };
    (pod, service)
}

/// The ports of a Service that are not left alone; one of them, or all.
pub(super) fn ports<'a>(known: &'a Known, key: &str, port: Option<u16>) -> Vec<&'a Arc<ServicePort>> {
    let begin = format!("{key}:");
    let services = &known.wanted.services;
    let from_there = services.range::<_, str>((Bound::Included(begin.as_str()), Bound::Unbounded));
    let of_service = from_there.take_while(|(id, _)| id.starts_with(&begin));
    of_service
        .map(|(_, service)| service)
        .filter(|service| port.is_none_or(|port| port == service.port))
        .collect()
}

/// The answer.
pub(super) fn explain(question: &Question, facts: &Facts<'_>) -> Explanation {
    let mut trail = Trail::default();
    let pod = find_pod(facts.known, question);
    let (name, key) = names(facts.known, question);
    let service = question
        .port
        .map_or_else(|| key.clone(), |port| format!("{key}:{port}"));
    about_agent(facts, &mut trail);
    match &pod {
        Some(Pod::Wanted(pod)) => about_pod(pod, facts, &mut trail),
        Some(Pod::LeftAlone(pod)) => {
            trail.no("labels", &pod.reason, remedies::of_pod(&pod.reason, &pod.name));
        }
        None => trail.no(
            "pod",
            &format!("this agent knows no pod {name} on its node"),
            None,
        ),
    }
    let found = ports(facts.known, &key, question.port);
    let mut no_service = Trail::default();
    about_service(question, &key, &found, facts, &mut no_service);
    let mut answers: Vec<(Port, Trail)> = Vec::new();
    if let Some(Pod::Wanted(pod)) = &pod {
        answers = found
            .iter()
            .map(|service| about_port(pod, service, facts))
            .collect();
    }
    let unknown_service = found.is_empty() && !no_service.is_left_alone;
    let conclusion = match (&pod, &trail.no) {
        (None, _) => Conclusion::UnknownPod,
        (_, Some(_)) => Conclusion::NotBalanced,
        _ if unknown_service => Conclusion::UnknownService,
        _ => of_ports(&answers),
    };
    let (sentence, remedy) = sentence(conclusion, (&name, &service), [&trail, &no_service], &answers);
    trail.steps.append(&mut no_service.steps);
    Explanation {
        node: facts.agent.node.clone(),
        version: facts.agent.version.clone(),
        pod: name,
        service,
        conclusion,
        sentence,
        remedy,
        steps: trail.steps,
        ports: answers.into_iter().map(|(port, _)| port).collect(),
    }
}

/// Decisions as they are made, and the first that says no.
#[derive(Debug, Default)]
struct Trail {
    steps: Vec<Step>,
    no: Option<No>,
    /// The Service is known, and left alone.
    is_left_alone: bool,
}

/// Why not.
#[derive(Clone, Debug, Default)]
struct No {
    about: String,
    why: String,
    remedy: Option<String>,
}

impl No {
    /// Reasons speak of "it": this is who.
    fn whose(&self) -> &'static str {
        match self.about.as_str() {
            "agent" | "source" | "worker" | "slot" => "agent",
            "pod" | "labels" | "namespace" | "listener" | "probe" => "pod",
            _ => "Service",
        }
    }
}

impl Trail {
    fn step(&mut self, about: &str, verdict: Verdict, says: &str) {
        self.steps.push(Step {
            about: about.to_owned(),
            verdict,
            says: says.to_owned(),
        });
    }

    fn yes(&mut self, about: &str, says: &str) {
        self.step(about, Verdict::Yes, says);
    }

    fn note(&mut self, about: &str, says: &str) {
        self.step(about, Verdict::Note, says);
    }

    fn no(&mut self, about: &str, why: &str, remedy: Option<String>) {
        self.step(about, Verdict::No, why);
        self.no.get_or_insert_with(|| No {
            about: about.to_owned(),
            why: why.to_owned(),
            remedy,
        });
    }
}

fn of_ports(answers: &[(Port, Trail)]) -> Conclusion {
    let balanced = answers.iter().filter(|(port, _)| port.balanced).count();
    match balanced {
        0 => Conclusion::NotBalanced,
        all if all == answers.len() => Conclusion::Balanced,
        _ => Conclusion::Partly,
    }
}

/// All of it in one sentence, and what to change.
fn sentence(
    conclusion: Conclusion,
    (pod, service): (&str, &str),
    trails: [&Trail; 2],
    answers: &[(Port, Trail)],
) -> (String, Option<String>) {
    let mut all = trails.into_iter().chain(answers.iter().map(|(_, trail)| trail));
    let no = all.find_map(|trail| trail.no.clone()).unwrap_or_default();
    let balanced = || answers.iter().map(|(port, _)| port).filter(|port| port.balanced);
    let picked = balanced().map(|port| {
        let eligible = port.endpoints.iter().filter(|endpoint| endpoint.eligible);
        (eligible.count(), port.policy.as_str())
    });
    let (eligible, policy) = picked.max().unwrap_or_default();
    let each =
        format!("for each call of {pod} to {service} one of {eligible} endpoints is picked ({policy})");
    let bypassing: u64 = answers.iter().map(|(port, _)| port.bypassing).sum();
    match conclusion {
        Conclusion::Balanced if bypassing > 0 => {
            let older = if bypassing == 1 {
                "1 older connection bypasses grpclb until it ends or is adopted".to_owned()
            } else {
                format!("{bypassing} older connections bypass grpclb until they end or are adopted")
            };
            let adopt = pod
                .split_once('/')
                .map(|(namespace, name)| format!("grpclb adopt -n {namespace} {name}"));
            (format!("Yes: {each}, but {older}."), adopt)
        }
        Conclusion::Balanced => (format!("Yes: {each}."), None),
        Conclusion::Partly => {
            let without = answers.iter().map(|(port, _)| port).filter(|port| !port.balanced);
            let without: Vec<&str> = without.map(|port| port.id.as_str()).collect();
            let without = without.join(" and ");
            (
                format!("In part: {each}, but not at {without}: {}.", no.why),
                no.remedy,
            )
        }
        Conclusion::NotBalanced => {
            let whose = no.whose();
            let sentence = format!(
                "No, because of the {whose}: {}. So {pod} calls {service} the plain way.",
                no.why
            );
            (sentence, no.remedy)
        }
        Conclusion::UnknownPod | Conclusion::UnknownService => (format!("Unknown: {}.", no.why), no.remedy),
    }
}

#[cfg(test)]
mod tests;
