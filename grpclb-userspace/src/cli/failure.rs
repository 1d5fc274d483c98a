//! Why a command has no answer: one line that names the side at fault and what to do, and an exit status.

use super::{Exit, client, cluster};

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Agent(#[from] client::Error),
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    #[error(
        "no agent answers at {0}, and there is no kubeconfig: on a node, start the agent or say where it answers with --admin; \
         elsewhere say --kubeconfig FILE, or set KUBECONFIG"
    )]
    Nobody(std::net::SocketAddr),
    #[error("the agent on {node} answers in a way that is not understood: {cause}; is it of another version than {version}?", version = env!("CARGO_PKG_VERSION"))]
    NotUnderstood { node: String, cause: client::BadAnswer },
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    /// Anything else; the sentence stands for itself.
    #[error("{1}")]
    Said(Exit, String),
}

impl Failure {
    pub(super) fn exit(&self) -> Exit {
        use cluster::Error as Cluster;
        match self {
            Self::Agent(client::Error::Unreachable { .. } | client::Error::Timeout(_)) | Self::Nobody(_) => {
                Exit::Unreachable
            }
            Self::Cluster(error) => match error {
                Cluster::Unreachable { .. }
                | Cluster::NoAgents(_)
                | Cluster::NoAgentOn { .. }
                | Cluster::Agent { .. } => Exit::Unreachable,
                Cluster::Unauthorized { .. } | Cluster::Forbidden { .. } => Exit::Forbidden,
                Cluster::NotFound(_) => Exit::Unknown,
                Cluster::Kubeconfig(_)
                | Cluster::Context { .. }
                | Cluster::Refused { .. }
                | Cluster::OtherVersion(_)
                | Cluster::Malformed(_) => Exit::Failed,
            },
            Self::Agent(client::Error::NotAnAgent { .. }) | Self::NotUnderstood { .. } | Self::Runtime(_) => {
                Exit::Failed
            }
            Self::Said(exit, _) => *exit,
        }
    }
}
