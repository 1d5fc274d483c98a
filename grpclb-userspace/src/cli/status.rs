//! `grpclb status`: what the agent of this machine does now, or all agents of a cluster.

use std::time::{Duration, Instant};

use super::cluster::{Agent, Cluster, Resource, objects};
use super::failure::Failure;
use super::fleet::{self, Fleet, Round, Silence};
use super::whom::{self, Whom};
use super::{Exit, client, render};
use crate::observe::Status;

/// Between the two rounds that a rate is made of.
const ROUND: Duration = Duration::from_secs(1);

/// The nodes that the manifests put an agent on.
const STEERED: &str = "kubernetes.io/os=linux,type!=virtual-kubelet";

/// Show what the agents do: nodes, pods, Services, connections, calls
///
/// Ends with 0 when every agent that was asked is ready, with 1 when one is not.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    whom: whom::Options,
    /// In a cluster: all that the agent of this node tells
    #[arg(long, value_name = "NODE", conflicts_with = "admin")]
    node: Option<String>,
    /// Go on, with a new answer every so many seconds (2 without a number)
    #[arg(long, value_name = "S", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// Print JSON instead of tables; with --watch one object a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: &Options) -> Result<Exit, Failure> {
    let whom = options.whom.find().await?;
    let mut asks = Asks::new(whom, options.node.clone());
    let Some(seconds) = options.watch else {
        return Ok(asks.answer().await?.show(options.json, false));
    };
    loop {
        let begun = Instant::now();
        let shown = asks.answer().await?.show(options.json, true);
        if shown == Exit::Failed {
            return Ok(shown); // nobody reads it
        }
        tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed())).await;
    }
}

/// One answer.
enum Answer {
    /// Of one agent.
    One(Box<Status>),
    All(Fleet),
}

impl Answer {
    fn show(&self, json: bool, again: bool) -> Exit {
        let ready = match self {
            Self::One(status) => status.readiness.ready,
            Self::All(fleet) => fleet.is_ready(),
        };
        let exit = if ready { Exit::Success } else { Exit::No };
        match (self, json) {
            (Self::One(status), true) if again => super::print_json_line(status, exit),
            (Self::All(fleet), true) if again => super::print_json_line(fleet, exit),
            (Self::One(status), true) => super::print_json(status, exit),
            (Self::All(fleet), true) => super::print_json(fleet, exit),
            (Self::One(status), false) => {
                super::print_page(&render::status(status, super::colours()), again, exit)
            }
            (Self::All(fleet), false) => {
                super::print_page(&render::fleet(fleet, super::colours()), again, exit)
            }
        }
    }
}

/// Asks, again and again.
struct Asks {
    whom: Whom,
    node: Option<String>,
    before: Option<Round>,
}

impl Asks {
    fn new(whom: Whom, node: Option<String>) -> Self {
        Self {
            whom,
            node,
            before: None,
        }
    }

    async fn answer(&mut self) -> Result<Answer, Failure> {
        match (&self.whom, &self.node) {
            (Whom::Agent(address), _) => {
                let answer = client::get_at(*address, "/status").await?;
                let understood = client::json(&answer);
                let address = *address;
                let status = understood.map_err(|cause| client::Error::NotAnAgent { address, cause })?;
                Ok(Answer::One(Box::new(status)))
            }
            (Whom::Cluster(cluster), Some(node)) => {
                let agent = cluster.agent_of(node).await?;
                let answer = cluster.ask_agent(&agent, "/status").await?;
                let status = client::json(&answer).map_err(|cause| Failure::NotUnderstood {
                    node: node.clone(),
                    cause,
                })?;
                Ok(Answer::One(Box::new(status)))
            }
            (Whom::Cluster(cluster), None) => {
                let cluster = cluster.clone();
                Ok(Answer::All(self.fleet(&cluster).await?))
            }
        }
    }

    /// Two rounds the first time, so that there are rates.
    async fn fleet(&mut self, cluster: &Cluster) -> Result<Fleet, Failure> {
        let agents = cluster.agents().await?;
        if self.before.is_none() {
            self.before = Some(round(cluster, agents.clone()).await);
            tokio::time::sleep(ROUND).await;
        }
        let now = round(cluster, agents).await;
        if let Some(Silence { why, exit }) = now.silence() {
            return Err(Failure::Said(*exit, why.clone()));
        }
        let nodes: Result<Vec<objects::Object>, _> = cluster.list(Resource::NODES, None, STEERED).await;
        let (nodes, note) = match nodes {
            Ok(nodes) => (nodes.into_iter().map(|node| node.metadata.name).collect(), None),
            Err(error) => (
                Vec::new(),
                Some(format!("nodes without an agent are not known: {error}")),
            ),
        };
        let mut fleet = fleet::put_together(&cluster.server, &nodes, self.before.as_ref(), &now);
        fleet.notes.extend(note);
        self.before = Some(now);
        Ok(fleet)
    }
}

/// Asks every agent once.
pub(super) async fn round(cluster: &Cluster, agents: Vec<Agent>) -> Round {
    let answers = cluster.ask_agents(&agents, "/status").await;
    let read = |node: &str, answer: Result<bytes::Bytes, super::cluster::Error>| {
        let status = answer.map_err(Failure::from).and_then(|answer| {
            client::json(&answer).map_err(|cause| Failure::NotUnderstood {
                node: node.to_owned(),
                cause,
            })
        });
        status.map_err(|failure| Silence {
            why: failure.to_string(),
            exit: failure.exit(),
        })
    };
    let read = |(node, answer): (String, _)| {
        let status = read(&node, answer);
        (node, status)
    };
    Round {
        at: Instant::now(),
        agents,
        answers: answers.into_iter().map(read).collect(),
    }
}
