//! The command line from an operator's machine, in a real cluster: what it says, what it does, what a viewer's rights suffice for, and
//! what it says when something is missing.
#![allow(clippy::unwrap_used)]

mod cli_support;

use std::process::Command;
use std::time::Duration;

use cli_support::{SERVER, SOON, Said, enable, grpclb, kubeconfig, program, read_all, shop};
use grpclb_tests::cluster::{Cluster, TEST_IMAGE};
use grpclb_tests::install::{Installed, NAMESPACE, calls_reach};
use grpclb_tests::load::PodLoad;
use grpclb_tests::process::wait_until;

/// In a Secret, in an environment, in arguments and in an annotation of a pod.
const SECRET: &str = "do-not-tell-4711";

#[test]
fn explain_and_status_tell_what_the_calls_of_two_nodes_show() {
    let cluster = Cluster::find().unwrap();
    let _installed = Installed::new(&cluster).unwrap();
    let namespace = shop(&cluster, "explain");
    let (admin, name) = (cluster.kubeconfig(), namespace.name());
    namespace.start_client("other", Some("node2")).unwrap();
    calls_reach(&namespace, "other", SERVER, 3, SOON).unwrap();

    let yes = grpclb(&admin, &["explain", "-n", name, "client", SERVER]);
    assert_eq!(yes.status, 0, "{yes:?}");
    let sentence = format!(
        "Yes: for each call of {name}/client to {name}/{SERVER} one of 3 endpoints is picked (round_robin)."
    );
    assert_eq!(yes.out.lines().last(), Some(sentence.as_str()), "{yes:?}");
    let explained = grpclb(&admin, &["explain", "-n", name, "client", SERVER, "--json"]).json();
    let port = &explained["ports"][0];
    let endpoints = port["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 3);
    for endpoint in endpoints {
        assert!(
            endpoint["calls"].as_u64().unwrap() > 0,
            "each was called: {endpoint}"
        );
        assert_eq!(endpoint["verdict"], "gets calls: it is ready");
    }
    assert!(!port["last_picks"].as_array().unwrap().is_empty());

    let status = grpclb(&admin, &["status", "--json"]);
    assert_eq!(status.status, 0, "{status:?}");
    let status = status.json();
    let nodes = status["nodes"].as_array().unwrap();
    let names: Vec<&str> = nodes.iter().map(|node| node["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["node1", "node2"]);
    for node in nodes {
        assert!(node["sums"]["calls"].as_u64().unwrap() >= 60, "{}", node["sums"]);
        let told = &node["status"];
        let ids: Vec<&str> = told["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["id"].as_str().unwrap())
            .collect();
        assert_eq!(
            ids,
            [format!("{name}/{SERVER}")],
            "Services that nobody used are not listed"
        );
        assert!(told["services_known"].as_u64().unwrap() >= 2);
    }
    let plain = grpclb(&admin, &["status"]);
    assert!(plain.out.contains("2 of 2 agents ready"), "{plain:?}");
    let node = grpclb(&admin, &["status", "--node", "node2"]);
    assert!(
        node.out.starts_with("grpclb 0.1.0 on node2, running for"),
        "{node:?}"
    );
    let check = grpclb(&admin, &["check", "--kubeconfig", admin.to_str().unwrap()]);
    assert_eq!(check.status, 0, "{check:?}");
    assert_eq!(
        check
            .out
            .matches(
                " nothing
"
            )
            .count(),
        2,
        "no node lacks anything: {check:?}"
    );

    // And no, with the first reason and what to change.
    namespace
        .kubectl(&["label", "pod", "client", "grpclb.io/enabled=false"])
        .unwrap();
    let mut no = None;
    wait_until(SOON, || {
        let said = grpclb(&admin, &["explain", "-n", name, "client", SERVER]);
        let is_no = said.status == 1;
        no = Some(said);
        is_no
    });
    let no = no.unwrap();
    let reason = format!(
        "No, because of the pod: its label grpclb.io/enabled is false. So {name}/client calls {name}/{SERVER} the plain way."
    );
    assert!(no.out.contains(&reason), "{no:?}");
    assert!(no.out.contains("What to change: kubectl label pod"), "{no:?}");

    // kubectl finds a plugin by its name.
    let folder = std::env::temp_dir().join(format!("grpclb-plugin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(program(), folder.join("kubectl-grpclb")).unwrap();
    let output = cluster
        .kubectl_command()
        .args(["grpclb", "status"])
        .env("PATH", &folder)
        .output();
    std::fs::remove_dir_all(&folder).unwrap();
    let plugin = Said::new(&output.unwrap());
    assert!(
        plugin.status == 0 && plugin.out.contains("2 of 2 agents ready"),
        "{plugin:?}"
    );
}

/// A client with connections that are older than the label: their calls stay on one backend each, until they are adopted.
#[test]
fn adopt_moves_old_connections_and_says_how_many() {
    let cluster = Cluster::find().unwrap();
    let _installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("adopt").unwrap();
    let (admin, name) = (cluster.kubeconfig(), namespace.name());
    namespace.start_servers("echo", 3).unwrap();
    let holder = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: holder}}, spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, \
         image: {TEST_IMAGE}, command: [sh, -c, 'sleep 1000000 | /peer load --target {SERVER} --connections 3 --concurrency 3 \
         --delay-ms 5']}}]}}}}"
    );
    namespace.apply(&holder).unwrap();
    namespace.wait_until_ready(&["pod/holder"]).unwrap();
    namespace.wait_until_connected("holder", 3).unwrap();
    enable(&cluster, &namespace);
    let bypasses = wait_until(SOON, || {
        let explained = grpclb(&admin, &["explain", "-n", name, "holder", SERVER]);
        explained.out.contains("3 older connections bypass grpclb")
    });
    assert!(
        bypasses,
        "{:?}",
        grpclb(&admin, &["explain", "-n", name, "holder", SERVER])
    );

    let adopted = grpclb(&admin, &["adopt", "-n", name, "--rate", "20", "--json"]);
    assert_eq!(adopted.status, 0, "{adopted:?}");
    let adopted = adopted.json();
    let mut pods = adopted["pods"].as_array().unwrap().iter();
    let of_holder = pods.find(|pod| pod["pod"] == format!("{name}/holder")).unwrap();
    assert_eq!(
        (&of_holder["adoption"]["found"], &of_holder["adoption"]["reset"]),
        (&3.into(), &3.into())
    );

    // The client's new connections are steered: its calls are seen on all three.
    let spread = wait_until(SOON, || {
        let explained = grpclb(&admin, &["explain", "-n", name, "holder", SERVER, "--json"]).json();
        let endpoints = explained["ports"][0]["endpoints"].as_array().unwrap().clone();
        endpoints
            .iter()
            .all(|endpoint| endpoint["calls"].as_u64() > Some(10))
    });
    assert!(
        spread,
        "{:?}",
        grpclb(&admin, &["explain", "-n", name, "holder", SERVER])
    );
    let again = grpclb(&admin, &["adopt", "-n", name, "holder"]);
    assert_eq!(
        (again.status, again.out.as_str()),
        (
            0,
            "Nothing to do: no connection of 1 steered pod bypasses grpclb.\n"
        )
    );
}

/// May fail: none. On that node calls go the plain way, and whoever asks is told why; on the other one nothing changes.
#[test]
fn a_node_that_is_switched_off_goes_the_plain_way_and_says_so() {
    let cluster = Cluster::find().unwrap();
    let _installed = Installed::new(&cluster).unwrap();
    let namespace = shop(&cluster, "node");
    let (admin, name) = (cluster.kubeconfig(), namespace.name());
    namespace.start_client("other", Some("node2")).unwrap();
    calls_reach(&namespace, "other", SERVER, 3, SOON).unwrap();
    let mut load = PodLoad::start(&namespace, "other", SERVER, 4, 16).unwrap();
    load.wait_for(300).unwrap();

    let off = SwitchedOff::new(&cluster, "node2");
    calls_reach(&namespace, "other", SERVER, 1, SOON).unwrap();
    calls_reach(&namespace, "client", SERVER, 3, SOON).unwrap();
    let status = grpclb(&admin, &["status"]);
    let line = "node2: steering is off, since this node's label grpclb.io/enabled is false";
    assert!(status.status == 0 && status.out.contains(line), "{status:?}");
    let node = grpclb(&admin, &["status", "--node", "node2"]);
    let line = "off, since this node's label grpclb.io/enabled is false: new connections go the plain way";
    assert!(node.out.contains(line), "{node:?}");
    let no = grpclb(&admin, &["explain", "-n", name, "other", SERVER]);
    assert!(
        no.status == 1 && no.out.contains("label grpclb.io/enabled is false"),
        "{no:?}"
    );

    drop(off);
    calls_reach(&namespace, "other", SERVER, 3, SOON).unwrap();
    load.wait_for_more(1000).unwrap();
    load.finish().unwrap().assert_none_failed();
    let status = grpclb(&admin, &["status"]);
    assert!(!status.out.contains("steering is off"), "{status:?}");
}

/// A node whose label takes it out. Dropping this takes the label away.
struct SwitchedOff {
    cluster: Cluster,
    node: &'static str,
}

impl SwitchedOff {
    fn new(cluster: &Cluster, node: &'static str) -> Self {
        let label = ["label", "node", node, "grpclb.io/enabled=false"];
        cluster.kubectl(&label).unwrap();
        Self {
            cluster: cluster.clone(),
            node,
        }
    }
}

impl Drop for SwitchedOff {
    fn drop(&mut self) {
        let label = ["label", "node", self.node, "grpclb.io/enabled-"];
        if let Err(error) = self.cluster.kubectl(&label) {
            eprintln!("{error:#}");
        }
    }
}

/// The Role of the manifests, bound to somebody who may do nothing else.
#[test]
fn a_viewer_may_ask_and_not_adopt() {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let namespace = shop(&cluster, "viewer");
    let name = namespace.name();
    namespace
        .kubectl(&["create", "serviceaccount", "viewer"])
        .unwrap();
    let account = format!("--serviceaccount={name}:viewer");
    let token = namespace.kubectl(&["create", "token", "viewer"]).unwrap();
    let viewer = kubeconfig(&cluster, "viewer", |config| {
        config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    });
    let viewer = viewer.0.as_path();
    grpclb(viewer, &["status"]).assert_failed(
        5,
        "not permitted to list pods in the namespace grpclb-system (403)",
    );
    // What is missing is told to who has no right at all.
    let check = grpclb(viewer, &["check", "--kubeconfig", &viewer.display().to_string()]);
    assert!(
        check.status == 5 && check.out.contains("✗  list pods in the namespace grpclb-system"),
        "{check:?}"
    );

    // A list of pods alone does not reach the agents.
    for words in [
        &["create", "role", "lister", "--verb=list", "--resource=pods"],
        &["create", "rolebinding", "lister", "--role=lister", &account],
    ] {
        installed.kubectl(words).unwrap();
    }
    wait_until(SOON, || !grpclb(viewer, &["status"]).err.contains("list pods"));
    let words = "not permitted to get and create pods/portforward in the namespace grpclb-system (403)";
    grpclb(viewer, &["status"]).assert_failed(5, words);

    installed
        .kubectl(&[
            "create",
            "rolebinding",
            "viewer",
            "--role=grpclb-viewer",
            &account,
        ])
        .unwrap();
    let allowed = wait_until(SOON, || grpclb(viewer, &["status"]).status == 0);
    let status = grpclb(viewer, &["status"]);
    assert!(
        allowed && status.out.contains("2 of 2 agents ready"),
        "{status:?}"
    );
    assert!(
        status
            .out
            .contains("Note: nodes without an agent are not known: you are not permitted to list nodes"),
        "{status:?}"
    );
    let explained = grpclb(viewer, &["explain", "-n", name, "client", SERVER]);
    assert_eq!(explained.status, 0, "{explained:?}");
    grpclb(viewer, &["explain", "-n", name, "nobody", SERVER]).assert_failed(6, "there is no pod");

    // Something to adopt, or nobody would be asked.
    let holder = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: holder, labels: {{grpclb.io/enabled: \"false\"}}}}, spec: \
         {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: {TEST_IMAGE}, command: [sh, -c, 'sleep 1000000 | /peer load \
         --target {SERVER} --connections 1 --concurrency 1 --delay-ms 50']}}]}}}}"
    );
    namespace.apply(&holder).unwrap();
    namespace.wait_until_ready(&["pod/holder"]).unwrap();
    namespace.wait_until_connected("holder", 1).unwrap();
    namespace
        .kubectl(&["label", "pod", "holder", "grpclb.io/enabled-"])
        .unwrap();
    let bypasses = wait_until(SOON, || {
        grpclb(viewer, &["status"])
            .out
            .contains("grpclb adopt -n NAMESPACE moves them")
    });
    assert!(bypasses, "{:?}", grpclb(viewer, &["status"]));
    grpclb(viewer, &["adopt", "-n", name]).assert_failed(
        5,
        &format!("not permitted to patch namespaces in the namespace {name} (403)")
            .replace(&format!(" in the namespace {name}"), ""),
    );
    grpclb(viewer, &["adopt", "-n", name, "holder"]).assert_failed(
        5,
        &format!("not permitted to patch pods in the namespace {name} (403)"),
    );
    let reset = grpclb(viewer, &["explain", "-n", name, "holder", SERVER]);
    assert!(
        reset.out.contains("1 older connection bypasses grpclb"),
        "nothing was reset: {reset:?}"
    );
}

#[test]
fn a_bug_report_has_what_is_needed_and_no_secret() {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let namespace = shop(&cluster, "report");
    let (admin, name) = (cluster.kubeconfig(), namespace.name());
    namespace
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "secret",
            &format!("--from-literal=password={SECRET}"),
        ])
        .unwrap();
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: keeper, annotations: {{example.com/note: {SECRET}}}, labels: {{customer: \
         {SECRET}}}}}, spec: {{containers: [{{name: c, image: {TEST_IMAGE}, command: [sh, -c, 'sleep 1000000 # {SECRET}'], env: \
         [{{name: PASSWORD, value: {SECRET}}}]}}]}}}}"
    );
    namespace.apply(&pod).unwrap();
    namespace.wait_until_ready(&["pod/keeper"]).unwrap();

    let folder = std::env::temp_dir().join(format!("grpclb-report-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let archive = folder.join("report.tar.gz");
    let said = grpclb(&admin, &["bugreport", "--output", archive.to_str().unwrap()]);
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.out.contains("Never in it: Secrets"), "{said:?}");
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(&archive)
        .arg("-C")
        .arg(&folder)
        .status();
    assert!(unpacked.unwrap().success());
    std::fs::remove_file(&archive).unwrap();

    let mut files = Vec::new();
    read_all(&folder, &mut files);
    std::fs::remove_dir_all(&folder).unwrap();
    let has = |ending: &str| {
        files
            .iter()
            .any(|(path, content)| path.ends_with(ending) && !content.is_empty())
    };
    for file in ["status.json", "metrics.txt", "check.json", "log.txt"] {
        for node in ["node1", "node2"] {
            assert!(has(&format!("agents/{node}/{file}")), "{file} of {node}");
        }
    }
    for file in ["pods.json", "services.json", "endpointslices.json", "events.json"] {
        assert!(has(&format!("namespaces/{name}/{file}")), "{file}");
    }
    assert!(has("about.json") && has("README.txt") && has("cluster/daemonsets.json"));
    let token = installed.kubectl(&["create", "token", "grpclb"]).unwrap();
    let header_of_tokens = token.split('.').next().unwrap();
    for (path, content) in &files {
        for secret in [
            SECRET,
            header_of_tokens,
            "BEGIN CERTIFICATE",
            "PRIVATE KEY",
            "client-key-data",
        ] {
            assert!(!content.contains(secret), "{secret:?} is in {}", path.display());
        }
    }
    let pods = files
        .iter()
        .find(|(path, _)| path.ends_with(format!("namespaces/{name}/pods.json")))
        .unwrap();
    assert!(pods.1.contains("\"keeper\""), "the pod itself is in it");
}

#[test]
fn whatever_is_missing_is_named_in_one_line_with_what_to_do() {
    let cluster = Cluster::find().unwrap();
    let admin = cluster.kubeconfig();
    let ask = |arguments: &[&str]| grpclb(&admin, arguments);
    ask(&["status"]).assert_failed(
        3,
        "no agent in the namespace grpclb-system: is grpclb installed there?",
    );
    ask(&["status", "--context", "nowhere"])
        .assert_failed(4, "the kubeconfig has no context \"nowhere\"; it has ");
    ask(&["status", "--kubeconfig", "/nowhere"]).assert_failed(4, "the kubeconfig cannot be used");
    ask(&["explain", "a", "b:c"]).assert_failed(2, "\"c\" is no port");
    let away = kubeconfig(&cluster, "away", |config| {
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    });
    grpclb(&away.0, &["status"]).assert_failed(3, "no answer from the API server at https://127.0.0.1:1/");
    let stranger = kubeconfig(&cluster, "stranger", |config| {
        config["users"][0]["user"] = serde_json::json!({"token": "stranger"});
    });
    grpclb(&stranger.0, &["status"]).assert_failed(5, "does not know you (401)");

    let installed = Installed::new(&cluster).unwrap();
    let namespace = shop(&cluster, "missing");
    let name = namespace.name();
    namespace.start_client("other", Some("node2")).unwrap();
    ask(&["explain", "-n", name, "nobody", SERVER])
        .assert_failed(6, &format!("there is no pod nobody in the namespace {name}"));
    ask(&["explain", "-n", "nowhere", "client", SERVER]).assert_failed(6, "there is no namespace nowhere");
    let unknown = ask(&["explain", "-n", name, "client", "basket:1"]);
    assert_eq!(unknown.status, 6, "{unknown:?}");
    assert!(
        unknown
            .out
            .contains(&format!("Unknown: there is no Service {name}/basket.")),
        "{unknown:?}"
    );
    let port = ask(&["explain", "-n", name, "client", "echo:1"]);
    assert!(
        port.status == 6 && port.out.contains("What to change: dial 50051"),
        "{port:?}"
    );
    ask(&["status", "--node", "node9"]).assert_failed(3, "no agent on node9: nothing is steered there");
    ask(&["adopt", "-n", "default"]).assert_failed(1, "no pod in the namespace default is enabled");

    // An agent on one node only.
    let patch = r#"{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"node1"}}}}}"#;
    installed
        .kubectl(&["patch", "daemonset", "grpclb", "--patch", patch])
        .unwrap();
    let gone = wait_until(Duration::from_mins(2), || {
        let pods = installed
            .kubectl(&["get", "pods", "--output", "jsonpath={.items[*].spec.nodeName}"])
            .unwrap();
        pods.trim() == "node1"
    });
    assert!(
        gone,
        "{}",
        installed.kubectl(&["get", "pods", "-n", NAMESPACE]).unwrap()
    );
    ask(&["explain", "-n", name, "other", SERVER])
        .assert_failed(3, "no agent on node2: nothing is steered there");
    let status = ask(&["status"]);
    assert_eq!(status.status, 1, "{status:?}");
    assert!(status.out.contains("node2: no agent"), "{status:?}");
}
