//! `grpclb check`: what this machine has and lacks; or, of a cluster, what its nodes and the user's own rights do.
//!
//! A node is looked at by its agent, in its own place. The user's rights are asked of the API server, right by right.

use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;

use super::cluster::{self, Agent, Cluster, Error, Resource};
use super::failure::Failure;
use super::{Exit, client, render};
use crate::kernel::check::{self as machine, Line, Verdict};

/// Say what this machine has and lacks for grpclb; with a cluster's options, what its nodes and your own rights do
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The cgroup (v2) that the agent would attach to; by default that of the pods (kubepods), else the root
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    cgroup: Option<PathBuf>,
    /// Where maps would be pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/grpclb", conflicts_with_all = ["kubeconfig", "context"])]
    bpffs: PathBuf,
    #[command(flatten)]
    cluster: cluster::Options,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Exit {
    let asks_cluster = options.cluster.kubeconfig.is_some()
        || options.cluster.context.is_some()
        || super::is_kubectl_plugin();
    if asks_cluster {
        return super::ask(of_cluster(options));
    }
    let mut report = machine::run(options.cgroup.as_deref(), &options.bpffs);
    let exit = if report.usable() { Exit::Success } else { Exit::No };
    if options.json {
        return super::print_json(&report, exit);
    }
    for line in &mut report.lines {
        for text in [&mut line.subject, &mut line.found, &mut line.follows] {
            *text = render::escaped_lines(text);
        }
    }
    let table = machine::table(&report, super::colours());
    super::print(&format!("{}\n", table.trim_end()), exit)
}

/// What was found in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Report {
    /// The API server's address and version.
    pub(super) cluster: String,
    pub(super) kubernetes: String,
    pub(super) nodes: Vec<Node>,
    pub(super) rights: Vec<Right>,
}

/// A node, as its agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) agent: String,
    pub(super) ready: bool,
    /// What is limited or missing; empty where all is well.
    pub(super) lacks: Vec<Line>,
    /// Why its agent gave no answer.
    pub(super) problem: Option<String>,
}

/// A right that a command needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Right {
    pub(super) command: &'static str,
    /// `list pods in the namespace grpclb-system`.
    pub(super) action: String,
    pub(super) held: bool,
}

impl Node {
    pub(super) fn is_well(&self) -> bool {
        let missing = self.lacks.iter().any(|line| line.verdict == Verdict::Missing);
        self.ready && self.problem.is_none() && !missing
    }
}

async fn of_cluster(options: &Options) -> Result<Exit, Failure> {
    let cluster = Cluster::find(&options.cluster).await?;
    let version: Value = cluster.page("/version").await?;
    let rights = rights(&cluster).await?;
    // Where the nodes cannot be asked, the rights are told all the same: they may be why.
    let (nodes, failure) = match nodes(&cluster).await {
        Ok(nodes) => (nodes, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let report = Report {
        cluster: cluster.server.clone(),
        kubernetes: version["gitVersion"].as_str().unwrap_or("unknown").to_owned(),
        nodes,
        rights,
    };
    let exit = if report.nodes.iter().all(Node::is_well) {
        Exit::Success
    } else {
        Exit::No
    };
    let shown = if options.json {
        super::print_json(&report, exit)
    } else {
        super::print(&render::check(&report, super::colours()), exit)
    };
    failure.map_or(Ok(shown), Err)
}

/// What every node's agent finds in its place.
async fn nodes(cluster: &Cluster) -> Result<Vec<Node>, Failure> {
    let agents = cluster.agents().await?;
    let mut answers = cluster.ask_agents(&agents, "/check").await;
    let node = |agent: Agent| {
        let found = answers.remove(&agent.node).map(lacks);
        let (lacks, problem) = match found {
            Some(Ok(lacks)) => (lacks, None),
            Some(Err(problem)) => (Vec::new(), Some(problem)),
            None => (Vec::new(), Some("it was not asked".to_owned())),
        };
        Node {
            name: agent.node,
            agent: agent.image,
            ready: agent.ready,
            lacks,
            problem,
        }
    };
    Ok(agents.into_iter().map(node).collect())
}

fn lacks(answer: Result<bytes::Bytes, Error>) -> Result<Vec<Line>, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    let report: machine::Report = client::json(&answer).map_err(|error| error.to_string())?;
    let lacks = report
        .lines
        .into_iter()
        .filter(|line| line.verdict != Verdict::Ok);
    Ok(lacks.collect())
}

/// Whether the user may do what the commands do.
async fn rights(cluster: &Cluster) -> Result<Vec<Right>, Failure> {
    let own = Some(cluster.agents.as_str());
    let mut rights = Vec::new();
    for (command, verb, resource, part, namespace) in [
        ("status, explain", "list", Resource::PODS, "", own),
        ("status, explain", "get", Resource::PODS, "portforward", own),
        ("status, explain", "create", Resource::PODS, "portforward", own),
        ("status", "list", Resource::NODES, "", None),
        ("explain", "get", Resource::PODS, "", None),
        ("adopt", "patch", Resource::NAMESPACES, "", None),
        ("adopt POD", "patch", Resource::PODS, "", None),
        ("bugreport", "get", Resource::PODS, "log", own),
    ] {
        let asked = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": verb, "resource": resource.plural, "subresource": part, "namespace": namespace.unwrap_or(""),
            }},
        });
        let answer = cluster.review(&asked).await?;
        let whole = if part.is_empty() {
            String::new()
        } else {
            format!("/{part}")
        };
        let place = namespace.map_or("in every namespace".to_owned(), |name| {
            format!("in the namespace {name}")
        });
        rights.push(Right {
            command,
            action: format!("{verb} {}{whole} {place}", resource.plural),
            held: answer["status"]["allowed"] == true,
        });
    }
    Ok(rights)
}
