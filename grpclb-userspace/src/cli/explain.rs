//! `grpclb explain`: why the calls of one pod to one Service are balanced, or are not.
//!
//! The agent of the pod's node knows. In a cluster the API server says which node that is; where the user may not read the pod,
//! every agent is asked whether it knows it.

use super::cluster::{Cluster, Error, Resource, objects};
use super::failure::Failure;
use super::whom::{self, Whom};
use super::{Exit, client, render};
use crate::observe::explain::{Conclusion, Explanation, Question};

/// Say why the calls of a pod to a Service are balanced, or are not, and what to change
///
/// Ends with 0 when they are, with 1 when they (or some) are not, with 6 when there is no such pod or Service.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The pod that calls
    pod: String,
    /// What it calls: SERVICE, NAMESPACE/SERVICE, or as the client names it (cart.shop.svc:50051); without a port, all of its ports
    #[arg(value_name = "SERVICE[:PORT]")]
    service: String,
    /// The pod's namespace; by default the one of the kubeconfig's context
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    whom: whom::Options,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: &Options) -> Result<Exit, Failure> {
    // What is wrong with the words is said before anybody is asked.
    let question = |namespace: Option<&str>| {
        Question::new(namespace, &options.pod, &options.service)
            .map_err(|error| Failure::Said(Exit::Usage, error.to_string()))
    };
    let asked = question(options.namespace.as_deref())?;
    let explanation = match options.whom.find().await? {
        Whom::Agent(address) => {
            let answer = client::get_at(address, &asked.page()).await?;
            let understood = client::json(&answer);
            understood.map_err(|cause| client::Error::NotAnAgent { address, cause })?
        }
        Whom::Cluster(cluster) => {
            let namespace = options.namespace.as_deref().unwrap_or(&cluster.namespace);
            in_cluster(&cluster, namespace, &question(Some(namespace))?).await?
        }
    };
    let exit = exit(explanation.conclusion);
    if options.json {
        return Ok(super::print_json(&explanation, exit));
    }
    Ok(super::print(
        &render::explanation(&explanation, super::colours()),
        exit,
    ))
}

fn exit(conclusion: Conclusion) -> Exit {
    match conclusion {
        Conclusion::Balanced => Exit::Success,
        Conclusion::Partly | Conclusion::NotBalanced => Exit::No,
        Conclusion::UnknownPod | Conclusion::UnknownService => Exit::Unknown,
    }
}

async fn in_cluster(cluster: &Cluster, namespace: &str, question: &Question) -> Result<Explanation, Failure> {
    let pod: Result<objects::Pod, Error> = cluster.get(Resource::PODS, Some(namespace), &question.pod).await;
    match pod {
        Ok(pod) if pod.spec.node_name.is_empty() => Err(Failure::Said(
            Exit::No,
            format!(
                "the pod {namespace}/{} is on no node yet: see kubectl describe pod",
                question.pod
            ),
        )),
        Ok(pod) => of_node(cluster, &pod.spec.node_name, question).await,
        Err(Error::NotFound(pod)) => {
            // Which of the two is missing; whoever may not read namespaces is told of the pod.
            let known: Result<objects::Object, Error> =
                cluster.get(Resource::NAMESPACES, None, namespace).await;
            Err(match known {
                Err(Error::NotFound(namespace)) => Error::NotFound(namespace),
                _ => Error::NotFound(format!("{pod}; its namespace is said with -n")),
            }
            .into())
        }
        Err(Error::Forbidden { .. }) => of_any_node(cluster, namespace, question).await,
        Err(error) => Err(error.into()),
    }
}

async fn of_node(cluster: &Cluster, node: &str, question: &Question) -> Result<Explanation, Failure> {
    let agent = cluster.agent_of(node).await?;
    let answer = cluster.ask_agent(&agent, &question.page()).await?;
    understand(node, &answer)
}

fn understand(node: &str, answer: &[u8]) -> Result<Explanation, Failure> {
    client::json(answer).map_err(|cause| Failure::NotUnderstood {
        node: node.to_owned(),
        cause,
    })
}

/// Asks all agents: the one that knows the pod answers.
async fn of_any_node(
    cluster: &Cluster,
    namespace: &str,
    question: &Question,
) -> Result<Explanation, Failure> {
    let agents = cluster.agents().await?;
    let mut failure = None;
    for (node, answer) in cluster.ask_agents(&agents, &question.page()).await {
        let explanation = match answer {
            Ok(answer) => understand(&node, &answer),
            Err(error) => Err(error.into()),
        };
        match explanation {
            Ok(explanation) if explanation.conclusion != Conclusion::UnknownPod => return Ok(explanation),
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
    }
    // An agent that gave no answer may be the one.
    Err(failure.unwrap_or_else(|| {
        Error::NotFound(format!(
            "pod {namespace}/{} that any agent knows; its namespace is said with -n",
            question.pod
        ))
        .into()
    }))
}
