//! The Kubernetes API as a source: what is taken up, how soon, and what stays while the API server is away.
#![allow(clippy::unwrap_used)]

mod source_support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use grpclb_tests::cluster::{Cluster, Namespace, PATIENCE};
use grpclb_tests::peers::target;
use grpclb_userspace::control::Health;
use grpclb_userspace::model::Desired;
use source_support::{OnNode, Scratch};

#[tokio::test]
async fn a_label_is_taken_up_within_a_second_and_so_is_its_end() {
    let cluster = Cluster::find().unwrap();
    let namespace = cluster.namespace("label").unwrap();
    namespace.start_client("client", Some("node1")).unwrap();
    let directory = Scratch::new("label");
    let mut source = OnNode::new(&cluster, "node1", &directory);
    let name = format!("{}/client", namespace.name());
    let has = |wanted: bool| {
        let name = name.clone();
        move |desired: &Desired| desired.pods.values().any(|pod| *pod.name == *name) == wanted
    };
    source
        .wait(PATIENCE, |desired| {
            desired.left_alone.pods.values().any(|pod| *pod.name == *name)
        })
        .await;
    let toggles = [("grpclb.io/enabled=true", true), ("grpclb.io/enabled-", false)];
    // The best of three: what is slow once is the machine.
    let mut quickest = [Duration::MAX; 2];
    for _ in 0..3 {
        for ((label, wanted), quickest) in toggles.iter().zip(&mut quickest) {
            namespace
                .kubectl(&["label", "namespace", namespace.name(), label])
                .unwrap();
            let told = Instant::now();
            source.wait(PATIENCE, has(*wanted)).await;
            *quickest = told.elapsed().min(*quickest);
        }
    }
    assert!(
        quickest.iter().all(|took| *took < Duration::from_secs(1)),
        "{quickest:?}"
    );
}

#[tokio::test]
async fn while_the_api_server_is_away_what_is_known_stays_in_force_and_a_new_agent_takes_up_the_snapshot() {
    let cluster = Cluster::find().unwrap();
    let namespace = cluster.namespace("away").unwrap();
    let enabled = "grpclb.io/enabled=true";
    namespace
        .kubectl(&["label", "namespace", namespace.name(), enabled])
        .unwrap();
    namespace.start_servers("echo", 2).unwrap();
    namespace.start_client("client", Some("node1")).unwrap();
    let directory = Scratch::new("away");
    let mut first = OnNode::new(&cluster, "node1", &directory);
    let (service, client) = (
        format!("{}/echo:50051", namespace.name()),
        format!("{}/client", namespace.name()),
    );
    // What is known of this test's own: other tests' pods come and go.
    let own = |desired: &Desired| {
        let port = desired.services.get(&*service).cloned();
        let pod = desired.pods.values().find(|pod| *pod.name == *client).cloned();
        Some((port?, pod?)).filter(|(_, pod)| !pod.addresses.is_empty())
    };
    let endpoints = |desired: &Desired| own(desired).map_or(0, |(port, _)| port.endpoints.len());
    let known = first.wait(PATIENCE, |desired| endpoints(desired) == 2).await;
    let (port, pod) = own(&known).unwrap();
    let written = port.endpoints.iter().map(|endpoint| endpoint.address.to_string());
    directory
        .until_kept(written.chain([pod.addresses[0].to_string()]).collect())
        .await;

    let away = cluster.stop("control", "kube-apiserver").unwrap();
    first
        .health("the server is away", |health| health.error.is_some())
        .await;
    let mut second = OnNode::new(&cluster, "node1", &directory);
    let from_snapshot = |health: &Health| health.synced && health.origin.starts_with("snapshot of ");
    second
        .health("a new agent takes up the snapshot", from_snapshot)
        .await;
    for source in [&first, &second] {
        let now = source.watch.desired.borrow().clone();
        assert_eq!(own(&now), own(&known), "what was known stays in force");
    }

    drop(away);
    let live = |health: &Health| health.error.is_none() && health.origin.starts_with("the Kubernetes API");
    for source in [&mut first, &mut second] {
        source.health("the server is back", live).await;
    }
    namespace
        .kubectl(&["scale", "deployment/echo", "--replicas=3"])
        .unwrap();
    for source in [&mut first, &mut second] {
        source.wait(PATIENCE, |desired| endpoints(desired) == 3).await;
    }
}

/// etcd is changed and compacted while the API server is away, so that no watch can have told of it: the server that comes back
/// answers 410 Gone to who asks for what was since.
#[tokio::test]
async fn what_etcd_has_forgotten_is_found_by_difference_and_nothing_else_is_touched() {
    let cluster = Cluster::find().unwrap();
    let namespace = cluster.namespace("forgot").unwrap();
    let enabled = "grpclb.io/enabled=true";
    namespace
        .kubectl(&["label", "namespace", namespace.name(), enabled])
        .unwrap();
    namespace.start_servers("echo", 2).unwrap();
    namespace.start_client("client", Some("node1")).unwrap();
    for name in ["old", "new"] {
        namespace
            .kubectl(&["create", "service", "clusterip", name, "--tcp=80:80"])
            .unwrap();
    }
    let etcd = Etcd::of(&cluster);
    let key = |name: &str| format!("/registry/services/specs/{}/{name}", namespace.name());
    let kept = kept_file(&namespace);
    etcd.run(&format!(
        "get --print-value-only {} | head -c -1 >{kept}",
        key("new")
    ));
    namespace.kubectl(&["delete", "service", "new"]).unwrap();
    let id = |name: &str, port: u16| format!("{}/{name}:{port}", namespace.name());
    let (echo, old, new) = (id("echo", 50051), id("old", 80), id("new", 80));

    let directory = Scratch::new("forgot");
    let mut source = OnNode::new(&cluster, "node1", &directory);
    let has = |desired: &Desired, id: &str| desired.services.contains_key(id);
    let endpoints = |desired: &Desired| {
        desired
            .services
            .get(&*echo)
            .map_or(0, |port| port.endpoints.len())
    };
    source
        .wait(PATIENCE, |desired| has(desired, &old) && endpoints(desired) == 2)
        .await;
    assert!(!has(&source.watch.desired.borrow(), &new));

    let away = cluster.stop("control", "kube-apiserver").unwrap();
    etcd.run(&format!("del {}", key("old")));
    etcd.run(&format!("put {} <{kept}", key("new")));
    etcd.run("compact --physical $($ETCDCTL endpoint status -w fields | sed -n 's/.*\"Revision\" : //p')");
    drop(away);
    let mut fewest = usize::MAX;
    source
        .wait(PATIENCE, |desired| {
            fewest = fewest.min(endpoints(desired));
            has(desired, &new) && !has(desired, &old)
        })
        .await;
    assert_eq!(fewest, 2, "what did not change stayed in force all the time");
}

/// A file of the control plane's machine.
fn kept_file(namespace: &Namespace) -> String {
    format!("/run/{}", namespace.name())
}

/// The cluster's etcd, asked past the API server.
struct Etcd<'c> {
    cluster: &'c Cluster,
    program: PathBuf,
}

impl<'c> Etcd<'c> {
    fn of(cluster: &'c Cluster) -> Self {
        let program = target().join("k8s/etcdctl");
        Self { cluster, program }
    }

    /// Runs etcdctl with these words of a shell.
    fn run(&self, words: &str) -> String {
        let script = format!(
            "set -eo pipefail; ETCDCTL={}; $ETCDCTL {words}",
            self.program.display()
        );
        self.cluster.exec_on("control", &["bash", "-c", &script]).unwrap()
    }
}
