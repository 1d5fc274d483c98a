//! What is in `deploy/` as Helm and kustomize make objects of it. The programs are those that `cargo xtask setup` built.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The folder of the chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/grpclb");
const KUSTOMIZE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kustomize");

/// Labels that Helm's conventions want on what a chart makes, and that plain manifests have no use for.
const CHART_LABELS: [&str; 4] = [
    "helm.sh/chart",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
];

/// Which object, as people write it: `DaemonSet grpclb-system/grpclb`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

/// Objects by their names.
pub type Objects = BTreeMap<Name, Value>;

/// One of the programs.
pub fn tool(name: &str) -> Result<Command> {
    let program = path(name);
    if !program.exists() {
        bail!("{} is missing: cargo xtask setup", program.display());
    }
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    Ok(command)
}

fn path(name: &str) -> PathBuf {
    crate::peers::target().join("k8s/tools").join(name)
}

/// The YAML of the chart as release `grpclb` in `namespace`, with values as `--set` takes them; an error says what Helm said.
pub fn render_chart(namespace: &str, values: &[&str]) -> Result<String> {
    let mut helm = tool("helm")?;
    helm.args(["template", "grpclb", CHART, "--namespace", namespace]);
    for value in values {
        helm.args(["--set", value]);
    }
    stdout(helm.output()?)
}

/// The YAML of a folder below `deploy/kustomize`.
pub fn build_kustomization(folder: &str) -> Result<String> {
    let mut kustomize = tool("kustomize")?;
    kustomize.args(["build", &format!("{KUSTOMIZE}/{folder}")]);
    stdout(kustomize.output()?)
}

/// The objects in YAML, each but once.
pub fn objects(yaml: &str) -> Result<Objects> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).context("no YAML")?;
    let mut objects = Objects::new();
    for object in documents.into_iter().filter(|object| !object.is_null()) {
        let name = name_of(&object)?;
        if objects.insert(name.clone(), object).is_some() {
            bail!("{name} is there twice");
        }
    }
    Ok(objects)
}

fn name_of(object: &Value) -> Result<Name> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let metadata = &object["metadata"];
    let (Some(kind), Some(name)) = (text(&object["kind"]), text(&metadata["name"])) else {
        bail!("an object without a kind or a name: {object}");
    };
    Ok(Name(match text(&metadata["namespace"]) {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }))
}

/// Takes the labels away that only charts have.
pub fn without_chart_labels(mut objects: Objects) -> Objects {
    for object in objects.values_mut() {
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            labels.retain(|label, _| !CHART_LABELS.contains(&label.as_str()));
        }
    }
    objects
}

fn stdout(output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("no UTF-8")
}
