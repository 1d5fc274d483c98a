//! What most tests begin with: one client pod and one server in each of some languages, behind the Service address.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Result;

use crate::agent::{Agent, Configuration};
use crate::node::{Node, Pod};
use crate::peers::{Language, Load, LoadPlan, Outcome, Server, run_scenarios};
use crate::service::ECHO;

/// A client pod and servers behind [`ECHO`]. The node is last: it goes when all that runs on it has gone.
#[derive(Debug)]
pub struct Stage {
    pub servers: Vec<Server>,
    pub client: Pod,
    pub node: Node,
}

impl Stage {
    /// One server in each of `languages`, on pods named `backend-0`, `backend-1` and so on; plain Kubernetes spreads the
    /// Service over them.
    pub fn new(languages: &[Language]) -> Result<Self> {
        let mut node = Node::new()?;
        let client = node.add_pod("client")?;
        let mut stage = Self {
            servers: Vec::new(),
            client,
            node,
        };
        for language in languages {
            stage.add_server(*language, &[])?;
        }
        stage.publish()?;
        Ok(stage)
    }

    /// One more pod with a server, which the Service does not know yet.
    pub fn add_server(&mut self, language: Language, extra: &[&str]) -> Result<()> {
        let pod = self.node.add_pod(&format!("backend-{}", self.servers.len()))?;
        self.servers
            .push(Server::start_with(&self.node, &pod, language, ECHO.port, extra)?);
        Ok(())
    }

    /// Makes all servers the Service's backends, as kube-proxy does.
    pub fn publish(&self) -> Result<()> {
        ECHO.publish(&self.node, &self.backends())
    }

    /// The servers' pods.
    pub fn backends(&self) -> Vec<&Pod> {
        self.servers.iter().map(|server| &server.pod).collect()
    }

    /// All servers ready, the client enabled.
    pub fn configuration(&self) -> Configuration {
        Configuration::new(ECHO, &self.backends(), &[&self.client])
    }

    /// An agent that steers the client pod.
    pub fn start_agent(&self) -> Result<Agent> {
        Agent::start(&self.node, &self.configuration())
    }

    /// Runs scenarios in the client pod.
    pub fn run(&self, language: Language, target: SocketAddr, scenarios: &[&str]) -> Result<Vec<Outcome>> {
        run_scenarios(&self.node, &self.client, language, target, scenarios)
    }

    /// Starts a load in the client pod, to the Service's IPv4 address.
    pub fn load(&self, language: Language, plan: &LoadPlan) -> Result<Load> {
        Load::start(&self.node, &self.client, language, ECHO.ipv4(), plan)
    }

    /// Calls by server, with a 0 for those that got none.
    pub fn shares(&self, outcome: &Outcome) -> BTreeMap<String, u64> {
        let none = self.servers.iter().map(|server| (server.name.clone(), 0));
        none.chain(outcome.per_backend.clone()).collect()
    }
}
