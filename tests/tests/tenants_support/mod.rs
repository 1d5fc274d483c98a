//! Two pods with steady loads, and a third one whose clients or servers misbehave.

use std::time::Duration;

use anyhow::{Context as _, Result};
use grpclb_tests::agent::Agent;
use grpclb_tests::attack::{Attack, Figures, RawServer, Resident};
use grpclb_tests::node::Pod;
use grpclb_tests::peers::{Language, Load, LoadPlan, Outcome, Server};
use grpclb_tests::process::wait_until;
use grpclb_tests::service::{ECHO, OTHER};
use grpclb_tests::stage::Stage;
use serde_json::Value;

/// Within how long memory goes back to the system.
const BACK_WITHIN: Duration = Duration::from_mins(1);

/// Good pods call [`ECHO`], the attacking pod calls [`OTHER`]. Fields stand in the order in which things end.
pub(crate) struct Tenants {
    pub(crate) agent: Option<Agent>,
    server: Option<OtherServer>,
    attacker: Pod,
    victim: Pod,
    good: Vec<Pod>,
    stage: Stage,
}

/// The server of [`OTHER`], held until it is replaced.
#[allow(dead_code)] // ended by its drop
enum OtherServer {
    Grpc(Server),
    Raw(RawServer),
}

/// What an attack did to the agent.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) figures: Figures,
    /// Resident bytes before the attack, and the most from then until its end.
    pub(crate) before: u64,
    pub(crate) peak: u64,
    /// Bytes that pods held, by the agent's own count, before the attack ended.
    pub(crate) held: u64,
    /// The attacking pod in the agent's status at that time.
    pub(crate) pod: Value,
}

impl Tenants {
    /// Servers, pods, and an agent that steers the clients' pods.
    pub(crate) fn steered() -> Result<Self> {
        let mut stage = Stage::new(&[Language::Go; 2])?;
        let mut pod = |name| stage.node.add_pod(name);
        let (other, attacker, victim) = (pod("client-2")?, pod("attacker")?, pod("victim")?);
        OTHER.publish(&stage.node, &[&victim])?;
        let good = vec![stage.client.clone(), other];
        let mut configuration = stage.configuration();
        configuration.others = vec![(OTHER, vec![victim.clone()])];
        configuration.pods = [good.clone(), vec![attacker.clone()]].concat();
        Ok(Self {
            agent: Some(Agent::start(&stage.node, &configuration)?),
            server: None,
            attacker,
            victim,
            good,
            stage,
        })
    }

    /// Puts another server behind [`OTHER`]: a kind of `grpclb-attack server`, or `grpc`.
    pub(crate) fn serve(&mut self, kind: &str) -> Result<()> {
        // The port must be free before the next one listens.
        self.server = None;
        let node = &self.stage.node;
        self.server = Some(match kind {
            "grpc" => OtherServer::Grpc(Server::start(node, &self.victim, Language::Go, OTHER.port)?),
            kind => OtherServer::Raw(RawServer::start(node, &self.victim, kind, OTHER.port)?),
        });
        Ok(())
    }

    /// 250 calls a second in each of the good pods, which have begun.
    pub(crate) fn good_loads(&self) -> Result<Vec<Load>> {
        let plan = LoadPlan {
            rate: Some(250),
            concurrency: 100,
            ..LoadPlan::default()
        };
        let node = &self.stage.node;
        let start = |pod| Load::start(node, pod, Language::Rust, ECHO.ipv4(), &plan);
        let mut loads = self.good.iter().map(start).collect::<Result<Vec<Load>>>()?;
        loads.iter_mut().try_for_each(|load| load.wait_for(200))?;
        Ok(loads)
    }

    /// Plays an attack, a kind and bounds of `grpclb-attack client`, to its end.
    pub(crate) fn attack(&self, words: &str) -> Result<Effect> {
        let resident = self.resident();
        let before = resident.map_or(Ok(0), Resident::now)?;
        resident.map_or(Ok(()), Resident::forget_peak)?;
        let attack = Attack::start(&self.stage.node, &self.attacker, OTHER.ipv4(), words)?;
        let figures = attack.figures()?;
        let status = self.agent.as_ref().map_or(Ok(Value::Null), Agent::status)?;
        attack.end()?;
        Ok(Effect {
            figures,
            before,
            peak: resident.map_or(Ok(0), Resident::peak)?,
            held: status["process"]["held_bytes"].as_u64().unwrap_or_default(),
            pod: attacking_pod(&status),
        })
    }

    /// Calls of an honest client in the attacking pod, to [`OTHER`].
    pub(crate) fn call_other(&self, calls: u64) -> Result<Outcome> {
        let plan = LoadPlan {
            calls: Some(calls),
            concurrency: 8,
            ..LoadPlan::default()
        };
        Load::start(
            &self.stage.node,
            &self.attacker,
            Language::Rust,
            OTHER.ipv4(),
            &plan,
        )?
        .finish()
    }

    /// Waits until the server of [`OTHER`] answers a call, well or not; whether it did within a minute.
    pub(crate) fn other_answers(&self) -> bool {
        let unavailable = |outcome: &Outcome| outcome.errors.contains_key("Unavailable");
        wait_until(Duration::from_mins(1), || {
            self.call_other(1).is_ok_and(|outcome| !unavailable(&outcome))
        })
    }

    /// Bytes that one pod may hold while the others hold next to nothing: half of the agent's budget.
    pub(crate) fn budget(&self) -> Result<u64> {
        let agent = self.agent.as_ref().context("an agent runs")?;
        let bytes = agent.status()?["process"]["budget_bytes"].as_u64();
        Ok(bytes.context("process.budget_bytes in the status")? / 2)
    }

    /// The agent's resident bytes.
    pub(crate) fn resident(&self) -> Option<Resident> {
        self.agent.as_ref().map(|agent| Resident::of(&agent.process))
    }

    /// Waits until the agent's resident memory is down to `bytes`; whether it was within a minute.
    pub(crate) fn shrinks_to(&self, bytes: u64) -> bool {
        self.resident()
            .is_none_or(|resident| wait_until(BACK_WITHIN, || resident.now().is_ok_and(|now| now <= bytes)))
    }
}

fn attacking_pod(status: &Value) -> Value {
    let pods = status["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pod = pods.iter().find(|pod| pod["id"] == "attacker");
    pod.cloned().unwrap_or_default()
}
