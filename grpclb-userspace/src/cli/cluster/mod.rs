//! The way from an operator's machine to the agents: a kubeconfig, the API server, and a port-forward to an agent's pod.
//!
//! The API server decides who may do what: nothing here runs in an agent's pod, and the agents answer without changing
//! anything. What is asked of the API is as little as a question needs, so that a viewer's few rights suffice.
//!
//! - [`config`]: the kubeconfig; [`api`]: one request, and what its failure means; [`objects`]: the fields that are read;
//! - [`agents`]: the agents' pods, and what they answer.

mod agents;
mod api;
mod config;
pub(super) mod objects;

use std::path::PathBuf;

pub(super) use agents::Agent;
pub(super) use api::{Cluster, Resource};

/// How a cluster is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub(super) struct Options {
    /// How the cluster is reached; by default as KUBECONFIG says, else ~/.kube/config
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Which context of the kubeconfig; by default its current one
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub(super) context: Option<String>,
    /// The namespace that grpclb is installed in
    #[arg(
        long,
        value_name = "NAMESPACE",
        help_heading = "Cluster",
        default_value = "grpclb-system"
    )]
    pub(super) agents: String,
}

/// Why the cluster, or an agent in it, gave no answer. One line each: what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the kubeconfig cannot be used: {0}; say another with --kubeconfig FILE, or set KUBECONFIG")]
    Kubeconfig(String),
    #[error("the kubeconfig has no context {wanted:?}; it has {known}")]
    Context { wanted: String, known: String },
    #[error(
        "no answer from the API server at {server}: {cause}; is the cluster up, and is this the right kubeconfig?"
    )]
    Unreachable { server: String, cause: String },
    #[error(
        "the API server at {server} does not know you (401): the kubeconfig's credentials are wrong or have expired"
    )]
    Unauthorized { server: String },
    #[error("you are not permitted to {action} (403); {hint}")]
    Forbidden { action: String, hint: String },
    #[error("there is no {0}")]
    NotFound(String),
    #[error("the API server refuses to {action}: {message} ({code})")]
    Refused {
        action: String,
        code: u16,
        message: String,
    },
    #[error("the API server's answer is not understood: {0}")]
    Malformed(String),
    #[error(
        "no agent in the namespace {0}: is grpclb installed there? If it is elsewhere, say where with --agents (kubectl get \
         daemonsets -A -l app.kubernetes.io/name=grpclb)"
    )]
    NoAgents(String),
    #[error("no agent on {node}{why}: nothing is steered there (kubectl get pods -n {namespace} -o wide)")]
    NoAgentOn {
        node: String,
        /// Empty, or with a comma in front.
        why: String,
        namespace: String,
    },
    #[error(
        "the agent on {0} is of another version than this grpclb, and does not know the question: use the grpclb of its version"
    )]
    OtherVersion(String),
    #[error(
        "the agent on {node} ({pod}) does not answer: {cause}; its log says more (kubectl logs -n {namespace} {pod})"
    )]
    Agent {
        node: String,
        pod: String,
        namespace: String,
        cause: String,
    },
}
