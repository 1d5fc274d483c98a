//! The Helm chart: the same objects as the kustomizations, what its values change, and what it says to wrong ones. Needs no
//! cluster.
#![allow(clippy::unwrap_used)]

use grpclb_tests::manifests::{
    CHART, Objects, build_kustomization, objects, render_chart, tool, without_chart_labels,
};
use serde_json::{Value, json};

const NAMESPACE: &str = "grpclb-system";

fn chart(values: &[&str]) -> Objects {
    objects(&render_chart(NAMESPACE, values).unwrap()).unwrap()
}

fn kustomization(folder: &str) -> Objects {
    objects(&build_kustomization(folder).unwrap()).unwrap()
}

fn get<'o>(objects: &'o Objects, name: &str) -> &'o Value {
    let found = objects.iter().find(|(found, _)| *found == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {:?}", objects.keys()))
        .1
}

fn agent(values: &[&str]) -> Value {
    get(&chart(values), "DaemonSet grpclb-system/grpclb")["spec"].clone()
}

fn assert_same(left: &Objects, right: &Objects) {
    assert_eq!(
        left.keys().collect::<Vec<_>>(),
        right.keys().collect::<Vec<_>>(),
        "the same objects"
    );
    for (name, object) in left {
        assert_eq!(*object, right[name], "{name}");
    }
}

#[test]
fn the_chart_makes_the_same_objects_as_the_base() {
    let chart = without_chart_labels(chart(&["namespace.create=true"]));
    assert!(chart.len() >= 8, "{:?}", chart.keys());
    assert_same(&chart, &kustomization("base"));
}

/// Helm keeps its record of a release in the release's namespace, which must be there before.
#[test]
fn only_the_namespace_is_not_made_unless_it_is_wanted() {
    let mut with = chart(&["namespace.create=true"]);
    with.retain(|name, _| *name != *"Namespace grpclb-system");
    assert_same(&chart(&[]), &with);
}

#[test]
fn without_privileges_the_chart_makes_what_the_kustomization_for_that_makes() {
    let chart = without_chart_labels(chart(&["namespace.create=true", "privileged=false"]));
    assert_same(&chart, &kustomization("capabilities"));
}

/// Objects of one cluster would be fought over by two releases: Helm refuses the second one by these names.
#[test]
fn every_object_is_in_the_releases_namespace_or_in_none() {
    let yaml = render_chart("elsewhere", &EVERYTHING).unwrap();
    for (name, object) in objects(&yaml).unwrap() {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("elsewhere");
        assert_eq!(namespace, "elsewhere", "{name}");
    }
    assert!(!yaml.contains(NAMESPACE));
}

/// All that is off unless it is wanted.
const EVERYTHING: [&str; 11] = [
    "namespace.create=true",
    "priorityClassQuota.create=true",
    "openshift.enabled=true",
    "metrics.podMonitor.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "metrics.rules.enabled=true",
    "metrics.dashboard.enabled=true",
    "metrics.podMonitor.labels.release=prometheus",
    "viewer.subjects[0].kind=Group",
    "viewer.subjects[0].name=developers",
    "viewer.subjects[0].apiGroup=rbac.authorization.k8s.io",
];

#[test]
fn a_full_node_gets_its_new_agent_after_the_old_one() {
    let strategy = |values: &[&str]| agent(values)["updateStrategy"]["rollingUpdate"].clone();
    assert_eq!(strategy(&[]), json!({"maxSurge": 1, "maxUnavailable": 0}));
    let off = "updateStrategy.surge=false";
    assert_eq!(strategy(&[off]), json!({"maxSurge": 0, "maxUnavailable": 1}));
    let share = "updateStrategy.nodesAtOnce=10%";
    assert_eq!(
        strategy(&[off, share]),
        json!({"maxSurge": 0, "maxUnavailable": "10%"})
    );
    assert_eq!(
        strategy(&[share]),
        json!({"maxSurge": "10%", "maxUnavailable": 0})
    );
}

#[test]
fn pods_have_longer_to_end_than_their_calls_may_run_on() {
    let spec = agent(&["drainSeconds=86400"]);
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 86_430);
    assert!(arguments(pod).contains(&"--drain-timeout=86400"));
}

fn arguments(pod: &Value) -> Vec<&str> {
    let arguments = pod["containers"][0]["args"].as_array().unwrap();
    arguments
        .iter()
        .map(|argument| argument.as_str().unwrap())
        .collect()
}

#[test]
fn what_the_agent_is_told_follows_the_values() {
    let spec = agent(&[
        "metrics.address=0.0.0.0",
        "metrics.port=9100",
        "log.filter=debug",
        "log.format=json",
        "extraArgs={--workers=2}",
        "image.repository=registry.example/grpclb",
        "image.digest=sha256:00",
        "priorityClassName=",
        "podLabels.team=mesh",
        "tolerations=null",
    ]);
    let pod = &spec["template"]["spec"];
    assert_eq!(
        arguments(pod),
        [
            "agent",
            "--kubernetes",
            "--drain-timeout=300",
            "--metrics=0.0.0.0:9100",
            "--log=debug",
            "--log-format=json",
            "--workers=2"
        ]
    );
    let container = &pod["containers"][0];
    assert_eq!(
        container["ports"],
        json!([{"name": "metrics", "containerPort": 9100}])
    );
    assert_eq!(container["image"], "registry.example/grpclb@sha256:00");
    assert_eq!(pod["priorityClassName"], Value::Null);
    assert_eq!(pod["tolerations"], Value::Null);
    let metadata = &spec["template"]["metadata"];
    assert_eq!(metadata["labels"]["team"], "mesh");
    assert_eq!(metadata["annotations"]["prometheus.io/port"], "9100");
}

#[test]
fn selinux_gets_its_type_where_it_is_wanted() {
    let spec = agent(&["privileged=false", "seLinuxType=spc_t"]);
    let context = &spec["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(context["seLinuxOptions"], json!({"type": "spc_t"}));
    assert_eq!(context["privileged"], false);
}

#[test]
fn what_is_off_by_default_is_there_when_it_is_wanted() {
    let (plain, all) = (chart(&[]), chart(&EVERYTHING));
    let mut more: Vec<String> = all.keys().map(ToString::to_string).collect();
    more.retain(|name| !plain.keys().any(|plain| *plain == **name));
    assert_eq!(
        more,
        [
            "ConfigMap grpclb-system/grpclb-dashboard",
            "Namespace grpclb-system",
            "PodMonitor grpclb-system/grpclb",
            "PrometheusRule grpclb-system/grpclb",
            "ResourceQuota grpclb-system/grpclb",
            "Role grpclb-system/grpclb-scc",
            "RoleBinding grpclb-system/grpclb-scc",
            "RoleBinding grpclb-system/grpclb-viewer",
            "Service grpclb-system/grpclb-metrics",
            "ServiceMonitor grpclb-system/grpclb",
        ]
    );
    let quota = &get(&all, "ResourceQuota grpclb-system/grpclb")["spec"];
    assert_eq!(
        quota["scopeSelector"]["matchExpressions"],
        json!([{"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}])
    );
    let monitor = get(&all, "PodMonitor grpclb-system/grpclb");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
}

#[test]
fn wrong_values_are_refused_with_a_line_that_names_them() {
    for (value, named) in [
        ("updateStrategie.surge=false", "updateStrategie"),
        ("updateStrategy.nodesAtOnce=0", "nodesAtOnce"),
        ("updateStrategy.nodesAtOnce=ten", "nodesAtOnce"),
        ("updateStrategy.surge=maybe", "surge"),
        ("drainSeconds=100000", "drainSeconds"),
        ("drainSeconds=5m", "drainSeconds"),
        ("mode=off", "mode"),
        ("metrics.port=0", "port"),
        ("metrics.address=", "address"),
        ("log.format=xml", "format"),
        ("privileged=no", "privileged"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("extraArgs=--workers=2", "extraArgs"),
        ("resources.limit.memory=1Gi", "limit"),
    ] {
        let refused = render_chart(NAMESPACE, &[value]).expect_err(value).to_string();
        assert!(
            refused.lines().any(|line| line.contains(named)),
            "{value}: {refused}"
        );
    }
}

/// But for its namespace, which is the release's, and the service account that a value lets be admitted there.
#[test]
fn the_chart_cleans_up_as_the_kustomization_for_that_does() {
    let chart = chart(&["mode=cleanup"]);
    let mut left = get(&chart, "DaemonSet grpclb-system/grpclb-cleanup")["spec"].clone();
    let account = left["template"]["spec"]
        .as_object_mut()
        .unwrap()
        .remove("serviceAccountName");
    assert_eq!(account.unwrap(), "grpclb");
    let right = kustomization("cleanup");
    let right = &get(&right, "DaemonSet grpclb-cleanup/grpclb-cleanup")["spec"];
    assert_eq!(left, *right);
    let kinds: Vec<String> = chart.keys().map(ToString::to_string).collect();
    assert_eq!(
        kinds,
        [
            "DaemonSet grpclb-system/grpclb-cleanup",
            "ServiceAccount grpclb-system/grpclb"
        ]
    );
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    for values in [
        &[][..],
        &EVERYTHING,
        &["mode=cleanup"],
        &["privileged=false", "updateStrategy.surge=false"],
    ] {
        let mut lint = tool("helm").unwrap();
        lint.args(["lint", "--strict", "--quiet", CHART]);
        for value in values {
            lint.args(["--set", value]);
        }
        let output = lint.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{values:?}: {said}");
    }
}

#[test]
fn every_value_that_the_schema_knows_stands_in_the_values_with_its_default() {
    let values: Value = serde_saphyr::from_str(include_str!("../../deploy/helm/grpclb/values.yaml")).unwrap();
    let schema: Value =
        serde_json::from_str(include_str!("../../deploy/helm/grpclb/values.schema.json")).unwrap();
    let mut ahead = vec![(String::new(), &schema, &values)];
    let mut compared = 0;
    while let Some((path, described, value)) = ahead.pop() {
        let shared = described["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix("#/$defs/"));
        let described = shared.map_or(described, |name| &schema["$defs"][name]);
        for (key, inner) in described["properties"].as_object().into_iter().flatten() {
            // Helm's own, and what Kubernetes has in resources.
            if ["global", "limits", "claims"].contains(&key.as_str()) {
                continue;
            }
            let path = format!("{path}.{key}");
            let value = value
                .get(key)
                .unwrap_or_else(|| panic!("no {path} in values.yaml"));
            ahead.push((path, inner, value));
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared}");
}

/// Values in `code`, as `--set` takes them.
#[test]
fn the_values_that_the_page_on_operating_names_are_taken() {
    let page = include_str!("../../docs/operations.md");
    let values: Value = serde_saphyr::from_str(include_str!("../../deploy/helm/grpclb/values.yaml")).unwrap();
    let mut taken = 0;
    for word in page.split(['`', ' ', '\n', ',']) {
        let Some((key, setting)) = word.split_once('=') else {
            continue;
        };
        let first = key.split('.').next().unwrap_or_default();
        if values.get(first).is_some() && !setting.is_empty() {
            render_chart(NAMESPACE, &[word]).unwrap_or_else(|error| panic!("{word}: {error:#}"));
            taken += 1;
        }
    }
    assert!(taken >= 10, "{taken}");
}
