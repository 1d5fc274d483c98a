//! Servers, and a client of an enabled namespace that calls them for as long as a test wants; and what is to be seen of its calls.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::net::SocketAddr;
use std::time::Duration;

use grpclb_tests::cluster::{Cluster, Namespace, PATIENCE};
use grpclb_tests::install::{Installed, calls_reach};
use grpclb_tests::load::{ClientPod, PodLoad};
use grpclb_tests::peers::Outcome;
use grpclb_tests::process::wait_until;

pub const TARGET: &str = "echo:50051";
pub const NODE: &str = "node1";
pub const CONNECTIONS: u32 = 8;
pub const CONCURRENCY: u32 = 32;

pub struct Stage {
    pub cluster: Cluster,
    pub installed: Installed,
    pub namespace: Namespace,
}

/// `replicas` servers, and a client on `NODE` whose calls are spread.
pub fn stage(about: &str, replicas: u32) -> Stage {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace(about).unwrap();
    namespace.start_servers("echo", replicas).unwrap();
    namespace.start_client("client", Some(NODE)).unwrap();
    cluster
        .kubectl(&["label", "namespace", namespace.name(), "grpclb.io/enabled=true"])
        .unwrap();
    calls_reach(&namespace, "client", TARGET, replicas as usize, PATIENCE).unwrap();
    Stage {
        cluster,
        installed,
        namespace,
    }
}

impl Stage {
    /// A load that runs.
    pub fn load(&self) -> PodLoad {
        self.load_of(TARGET)
    }

    pub fn load_of(&self, target: &str) -> PodLoad {
        let mut load = PodLoad::start(&self.namespace, "client", target, CONNECTIONS, CONCURRENCY).unwrap();
        load.wait_for(300).unwrap();
        load
    }

    pub fn rolled_out(&self) {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let status = ["rollout", "status", "deployment/echo", &timeout];
        self.namespace.kubectl(&status).unwrap();
    }

    /// The Service's first address with its port: names are not resolved while the API server is away.
    pub fn address(&self) -> String {
        let service = self.namespace.get(&["service", "echo"]).unwrap();
        let address = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        SocketAddr::new(address, 50051).to_string()
    }

    /// The servers' addresses with the port on which they serve.
    pub fn servers(&self) -> Vec<SocketAddr> {
        let slices = self
            .namespace
            .get(&["endpointslices", "--selector", "kubernetes.io/service-name=echo"])
            .unwrap();
        let mut servers = Vec::new();
        for slice in slices["items"].as_array().unwrap() {
            let port = u16::try_from(slice["ports"][0]["port"].as_u64().unwrap()).unwrap();
            for endpoint in slice["endpoints"].as_array().unwrap() {
                let address = endpoint["addresses"][0].as_str().unwrap();
                servers.push(SocketAddr::new(address.parse().unwrap(), port));
            }
        }
        servers
    }

    pub fn client_address(&self) -> String {
        let client = self.namespace.get(&["pod", "client"]).unwrap();
        client["status"]["podIP"].as_str().unwrap().to_owned()
    }

    /// Runs a command on the client's node.
    pub fn on_node(&self, command: &[&str]) -> String {
        self.cluster.exec_on(NODE, command).unwrap()
    }
}

/// Waits until the calls of one connection reach so many servers and none fails. At first names may have their old address,
/// addresses nobody behind them, and kubelets no ear for the client.
pub fn reaches(namespace: &Namespace, target: &str, servers: usize) {
    let mut last = None;
    let reached = wait_until(PATIENCE, || {
        let outcome = namespace.call("client", target, 60, 1);
        let reached = outcome
            .as_ref()
            .is_ok_and(|outcome| outcome.failed() == 0 && outcome.per_backend.len() == servers);
        last = Some(outcome);
        reached
    });
    assert!(reached, "{target} does not reach {servers} servers: {last:?}");
}

/// A load of the client that runs, without the API server's help; each call has until `deadline`.
pub fn load_of(client: &ClientPod, address: &str, deadline: Duration) -> PodLoad {
    let mut load = client.load(address, CONNECTIONS, CONCURRENCY, deadline).unwrap();
    load.wait_for(300).unwrap();
    load
}

/// Ends a load, once it is one. None of its calls may have failed.
#[track_caller]
pub fn end_unharmed(mut load: PodLoad) -> Outcome {
    load.wait_for(1000).unwrap();
    let outcome = load.finish().unwrap();
    outcome.assert_none_failed();
    outcome
}
