//! The chart in a real cluster: taken by its API server and by kubeconform, installed, upgraded, rolled back and uninstalled under
//! load; and what monitoring asks for is what a running agent serves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use grpclb_tests::cluster::{Cluster, PATIENCE};
use grpclb_tests::helm::Release;
use grpclb_tests::install::{Installed, NAMESPACE, calls_reach, holds_something};
use grpclb_tests::load::PodLoad;
use grpclb_tests::manifests::{objects, render_chart, tool};
use grpclb_tests::process::wait_until;
use grpclb_tests::{monitoring, openapi, peers};

/// For a label to take effect: a second, and what kubectl takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

const ON: &str = "grpclb.io/enabled=true";

/// Every object that the chart can make, but for kinds that this cluster has not: the Prometheus operator's.
const VALUES: [&[&str]; 4] = [
    &[],
    &[
        "privileged=false",
        "seLinuxType=spc_t",
        "updateStrategy.surge=false",
    ],
    &[
        "priorityClassQuota.create=true",
        "openshift.enabled=true",
        "metrics.dashboard.enabled=true",
        "metrics.address=0.0.0.0",
        "viewer.subjects[0].kind=Group",
        "viewer.subjects[0].name=developers",
        "viewer.subjects[0].apiGroup=rbac.authorization.k8s.io",
    ],
    &["mode=cleanup"],
];

#[test]
fn kubeconform_finds_all_of_it_in_the_clusters_own_openapi() {
    let cluster = Cluster::find().unwrap();
    let folder = peers::target().join("k8s/schemas");
    let kinds = openapi::write_schemas(&cluster, &folder).unwrap();
    assert!(kinds > 100, "{kinds}");
    let check = |name: &str, yaml: &str| {
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, yaml).unwrap();
        let location = folder.join(openapi::TEMPLATE);
        let mut kubeconform = tool("kubeconform").unwrap();
        kubeconform.args(["-strict", "-summary", "-schema-location"]);
        kubeconform.arg(location).arg(file);
        let output = kubeconform.output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    for (index, values) in VALUES.iter().enumerate() {
        let yaml = render_chart(NAMESPACE, values).unwrap();
        let (valid, said) = check(&format!("chart-{index}"), &yaml);
        let all = format!("{} resources found", objects(&yaml).unwrap().len());
        assert!(
            valid && said.contains(&all) && said.contains("Skipped: 0"),
            "{values:?}: {said}"
        );
    }
    // It is not content with anything.
    let yaml = render_chart(NAMESPACE, &[]).unwrap();
    let (valid, said) = check("wrong", &yaml.replace("hostPID:", "hostPid:"));
    assert!(!valid && said.contains("hostPid"), "{said}");
}

#[test]
fn the_api_server_takes_all_of_it_and_knows_every_field() {
    let cluster = Cluster::find().unwrap();
    let namespace = cluster.namespace("dry").unwrap();
    for values in VALUES {
        let yaml = render_chart(namespace.name(), values).unwrap();
        let count = objects(&yaml).unwrap().len();
        let said = cluster.dry_run(&yaml).unwrap();
        assert_eq!(said.lines().count(), count, "{values:?}: {said}");
    }
    let yaml = render_chart(namespace.name(), &[]).unwrap();
    let refused = cluster
        .dry_run(&yaml.replace("hostPID:", "hostPid:"))
        .unwrap_err();
    assert!(format!("{refused:#}").contains("hostPid"), "{refused:#}");
}

/// May fail: none, of calls that go on all the time. Each step makes new agents on both nodes.
#[test]
fn a_release_is_upgraded_and_rolled_back_under_load_and_leaves_nothing() {
    let cluster = Cluster::find().unwrap();
    let before = objects_of_grpclb(&cluster);
    assert_eq!(before, Vec::<String>::new());
    // With the capabilities alone, so that these are tried too.
    let release = Release::install(&cluster, &["privileged=false"]).unwrap();
    let namespace = cluster.namespace("helm").unwrap();
    namespace.start_servers("echo", 3).unwrap();
    namespace.start_client("client", None).unwrap();
    cluster
        .kubectl(&["label", "namespace", namespace.name(), ON])
        .unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();

    let mut load = PodLoad::start(&namespace, "client", "echo:50051", 4, 16).unwrap();
    release.upgrade(&["log.filter=debug"]).unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();
    release.rollback().unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();
    // As on nodes that are full: the old agent goes first, and connections go the plain way meanwhile.
    release
        .upgrade(&[
            "updateStrategy.surge=false",
            "updateStrategy.nodesAtOnce=50%",
            "log.format=json",
        ])
        .unwrap();
    calls_reach(&namespace, "client", "echo:50051", 3, SOON).unwrap();
    load.wait_for(1000).unwrap();
    let outcome = load.finish().unwrap();
    outcome.assert_none_failed();

    release.upgrade(&["mode=cleanup"]).unwrap();
    calls_reach(&namespace, "client", "echo:50051", 1, Duration::ZERO).unwrap();
    for node in ["node1", "node2"] {
        for folder in ["/sys/fs/bpf/grpclb", "/run/grpclb"] {
            assert!(
                !holds_something(&cluster, node, Path::new(folder)).unwrap(),
                "{folder} of {node}"
            );
        }
    }
    release.uninstall().unwrap();
    // Helm may return while the last pods still end.
    let gone = wait_until(PATIENCE, || objects_of_grpclb(&cluster) == before);
    assert!(gone, "left: {:?}", objects_of_grpclb(&cluster));
}

/// What the chart and the manifests make, by their label.
fn objects_of_grpclb(cluster: &Cluster) -> Vec<String> {
    let kinds = "daemonsets,pods,serviceaccounts,roles,rolebindings,configmaps,services,resourcequotas,clusterroles,\
                 clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let selector = "app.kubernetes.io/name in (grpclb, grpclb-cleanup)";
    let words = [
        "get",
        kinds,
        "--all-namespaces",
        "--output",
        "name",
        "--selector",
        selector,
    ];
    let printed = cluster.kubectl(&words).unwrap();
    printed.lines().map(str::to_owned).collect()
}

#[test]
fn a_running_agent_serves_every_metric_that_alerts_and_dashboard_ask_for() {
    let cluster = Cluster::find().unwrap();
    let installed = Installed::new(&cluster).unwrap();
    let namespace = cluster.namespace("metrics").unwrap();
    namespace.start_servers("echo", 2).unwrap();
    namespace.start_client("client", Some("node1")).unwrap();
    cluster
        .kubectl(&["label", "namespace", namespace.name(), ON])
        .unwrap();
    calls_reach(&namespace, "client", "echo:50051", 2, SOON).unwrap();

    let path = "jsonpath={.items[0].status.podIP}";
    let on_node = "spec.nodeName=node1,status.phase=Running";
    let address = installed
        .kubectl(&["get", "pods", "--field-selector", on_node, "--output", path])
        .unwrap();
    let url = format!("http://{address}:28102/metrics");
    let text = namespace
        .exec("client", &["wget", "-q", "-O", "-", &url])
        .unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let served: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    for query in monitoring::queries().unwrap() {
        for metric in &query.metrics {
            // Only where the node has cgroup v2's memory controller.
            let known = served.contains(metric.as_str()) || metric == "grpclb_process_socket_bytes";
            assert!(known, "{metric} for {:?} is not among {served:?}", query.of);
        }
    }
}
