//! The agents of a cluster: which pods they are, and what they answer over a port-forward.
//!
//! The kubelet forwards from within the pod's network namespace, so the admin answers as it does to anyone on its loopback.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1 as core;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::api::{Asked, Cluster, Resource};
use super::{Error, objects};
use crate::admin;
use crate::cli::client;

/// What the agents' pods are labelled with, in every installation.
pub(in crate::cli) const LABEL: &str = "app.kubernetes.io/name=grpclb";
/// How many agents are asked at a time.
const AT_ONCE: usize = 16;
/// Until a port-forward stands.
const FORWARD: Duration = Duration::from_secs(10);

/// The agent of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Agent {
    pub(in crate::cli) node: String,
    pub(in crate::cli) pod: String,
    pub(in crate::cli) image: String,
    pub(in crate::cli) restarts: u32,
    /// Its container runs, so that it can be asked.
    pub(in crate::cli) runs: bool,
    pub(in crate::cli) ready: bool,
    /// Why it does not run.
    pub(in crate::cli) waits_for: String,
}

/// One of the agent's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Port {
    Admin,
}

impl Port {
    const fn number(self) -> u16 {
        match self {
            Self::Admin => admin::DEFAULT_ADMIN.port(),
        }
    }
}

/// What each agent answered, by node.
pub(in crate::cli) type Answers = BTreeMap<String, Result<Bytes, Error>>;

impl Cluster {
    /// The agents, one for each node, by node. During an upgrade there are two: the newer one counts once it runs.
    pub(in crate::cli) async fn agents(&self) -> Result<Vec<Agent>, Error> {
        let pods: Vec<objects::Pod> = self.list(Resource::PODS, Some(&self.agents), LABEL).await?;
        let agents = one_for_each_node(pods);
        if agents.is_empty() {
            return Err(Error::NoAgents(self.agents.clone()));
        }
        Ok(agents)
    }

    /// The agent of one node.
    pub(in crate::cli) async fn agent_of(&self, node: &str) -> Result<Agent, Error> {
        let agents = self.agents().await?;
        let agent = agents.into_iter().find(|agent| agent.node == node);
        agent.ok_or_else(|| Error::NoAgentOn {
            node: node.to_owned(),
            why: String::new(),
            namespace: self.agents.clone(),
        })
    }

    /// Asks one agent for a page of its admin.
    pub(in crate::cli) async fn ask_agent(&self, agent: &Agent, page: &str) -> Result<Bytes, Error> {
        if !agent.runs {
            return Err(Error::NoAgentOn {
                node: agent.node.clone(),
                why: format!(", its pod {} waits: {}", agent.pod, agent.waits_for),
                namespace: self.agents.clone(),
            });
        }
        let failed = |cause: String| Error::Agent {
            node: agent.node.clone(),
            pod: agent.pod.clone(),
            namespace: self.agents.clone(),
            cause,
        };
        let port = Port::Admin.number();
        let pods: kube::Api<core::Pod> = kube::Api::namespaced(self.client.clone(), &self.agents);
        let asked = Asked {
            action: format!("get and create pods/portforward in the namespace {}", self.agents),
            object: format!("pod {} in the namespace {}", agent.pod, self.agents),
        };
        let forwarder = tokio::time::timeout(FORWARD, pods.portforward(&agent.pod, &[port])).await;
        let mut forwarder = match forwarder {
            Ok(forwarder) => forwarder.map_err(|error| match self.failure(&error, &asked) {
                Error::Refused { message, .. } => failed(message),
                other => other,
            })?,
            Err(_) => return Err(failed(format!("no port-forward within {} s", FORWARD.as_secs()))),
        };
        let (stream, refused) = (forwarder.take_stream(port), forwarder.take_error(port));
        let Some(stream) = stream else {
            return Err(failed("the port-forward has no stream".to_owned()));
        };
        let answer = client::get(stream, page).await;
        forwarder.abort();
        match answer {
            Ok(answer) => Ok(answer),
            Err(client::BadAnswer::NotKnown(_)) => Err(Error::OtherVersion(agent.node.clone())),
            // The kubelet's own words say more than a stream that ended.
            Err(error) => {
                let said = match refused {
                    Some(refused) => tokio::time::timeout(Duration::from_millis(100), refused)
                        .await
                        .ok()
                        .flatten(),
                    None => None,
                };
                Err(failed(said.unwrap_or_else(|| error.to_string())))
            }
        }
    }

    /// Asks all of them.
    pub(in crate::cli) async fn ask_agents(&self, agents: &[Agent], page: &str) -> Answers {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut asked = JoinSet::new();
        for agent in agents.iter().cloned() {
            let (cluster, page, places) = (self.clone(), page.to_owned(), Arc::clone(&places));
            asked.spawn(async move {
                let _place = places.acquire().await;
                let answer = cluster.ask_agent(&agent, &page).await;
                (agent.node, answer)
            });
        }
        asked.join_all().await.into_iter().collect()
    }
}

/// Of a node's agents the one to ask: it runs, is not told to end, is ready, is the newest.
fn one_for_each_node(pods: Vec<objects::Pod>) -> Vec<Agent> {
    let mut best: BTreeMap<String, objects::Pod> = BTreeMap::new();
    let rank = |pod: &objects::Pod| {
        let stays = pod.metadata.deletion_timestamp.is_none();
        (
            pod.runs(),
            stays,
            pod.is_ready(),
            pod.metadata.creation_timestamp.clone(),
        )
    };
    let of_daemonset = |pod: &objects::Pod| {
        pod.metadata
            .owner_references
            .iter()
            .any(|owner| owner.kind == "DaemonSet")
    };
    for pod in pods {
        let node = pod.spec.node_name.clone();
        if node.is_empty() || !of_daemonset(&pod) {
            continue;
        }
        if best.get(&node).is_none_or(|known| rank(known) < rank(&pod)) {
            best.insert(node, pod);
        }
    }
    best.into_iter().map(|(node, pod)| agent(node, &pod)).collect()
}

fn agent(node: String, pod: &objects::Pod) -> Agent {
    Agent {
        node,
        pod: pod.metadata.name.clone(),
        image: pod
            .spec
            .containers
            .first()
            .map(|container| container.image.clone())
            .unwrap_or_default(),
        restarts: pod
            .status
            .container_statuses
            .iter()
            .map(|container| container.restart_count)
            .sum(),
        runs: pod.runs(),
        ready: pod.is_ready(),
        waits_for: pod.waits_for(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(json: serde_json::Value) -> Vec<Agent> {
        one_for_each_node(serde_json::from_value(json).unwrap())
    }

    fn pod(name: &str, created: u32, ready: bool, runs: bool) -> serde_json::Value {
        let ready = if ready { "True" } else { "False" };
        let state = if runs {
            serde_json::json!({"running": {"startedAt": "2026-11-21T00:00:00Z"}})
        } else {
            serde_json::json!({"waiting": {"reason": "ImagePullBackOff", "message": "x"}})
        };
        serde_json::json!({
            "metadata": {
                "name": name,
                "creationTimestamp": format!("2026-11-21T00:00:{created:02}Z"),
                "ownerReferences": [{"kind": "DaemonSet", "name": "grpclb"}],
            },
            "spec": {"nodeName": "node1", "containers": [{"image": "grpclb:1", "env": [{"name": "A"}]}]},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"restartCount": 2, "state": state}],
            },
        })
    }

    #[test]
    fn of_two_agents_on_a_node_the_newer_one_is_asked_once_it_runs() {
        let both = |newer| pods(serde_json::json!([pod("old", 1, true, true), newer]));
        assert_eq!(both(pod("new", 2, true, true))[0].pod, "new");
        assert_eq!(both(pod("new", 2, false, true))[0].pod, "old", "not ready yet");
        assert_eq!(both(pod("new", 2, false, false))[0].pod, "old", "it does not run");
    }

    #[test]
    fn an_agent_that_is_told_to_end_is_asked_only_if_there_is_no_other() {
        let mut old = pod("old", 1, true, true);
        old["metadata"]["deletionTimestamp"] = "2026-11-21T01:00:00Z".into();
        assert_eq!(pods(serde_json::json!([old.clone()]))[0].pod, "old");
        assert_eq!(
            pods(serde_json::json!([old, pod("new", 2, false, true)]))[0].pod,
            "new"
        );
    }

    #[test]
    fn a_pod_that_does_not_run_says_why_and_other_peoples_pods_are_none() {
        let agents = pods(serde_json::json!([pod("new", 2, false, false)]));
        assert_eq!(
            (agents[0].runs, agents[0].waits_for.as_str()),
            (false, "ImagePullBackOff")
        );
        let mut job = pod("cleanup", 1, true, true);
        job["metadata"]["ownerReferences"][0]["kind"] = "Job".into();
        assert_eq!(pods(serde_json::json!([job])), []);
    }
}
