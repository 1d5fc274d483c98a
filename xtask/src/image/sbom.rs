//! The bill of materials of the agent's image: a `CycloneDX` 1.5 document of all crates that are in the program and in the
//! kernel programs that it embeds, as cargo resolved them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::workspace;

/// What `cargo metadata` prints, as far as it is needed.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

impl Package {
    /// A macro runs in the compiler; neither it nor what it uses gets into the program.
    fn is_macro(&self) -> bool {
        let kinds = self.targets.iter().flat_map(|target| &target.kind);
        kinds.into_iter().any(|kind| kind == "proc-macro")
    }
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None for a dependency of the program itself, else `build` or `dev`.
    kind: Option<String>,
}

/// The document for the agent of that version on `target`.
pub(super) fn of_agent(target: &str, version: &str) -> Result<String> {
    let mut components = BTreeMap::new();
    for (manifest, package) in [
        ("Cargo.toml", "grpclb-userspace"),
        ("grpclb-ebpf/Cargo.toml", "grpclb-ebpf"),
    ] {
        collect(&metadata(manifest, target)?, package, &mut components)?;
    }
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "name": "grpclb",
            "version": version,
            "licenses": [{"expression": "Apache-2.0"}],
        }},
        "components": components.into_values().collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&document)?)
}

fn metadata(manifest: &str, target: &str) -> Result<Metadata> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace::root())
        .args(["metadata", "--format-version=1", "--filter-platform", target])
        .args(["--manifest-path", manifest])
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "cargo metadata of {manifest}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("cargo metadata of {manifest}"))
}

/// Adds `root` and all that is linked with it, by name and version.
fn collect(metadata: &Metadata, root: &str, into: &mut BTreeMap<(String, String), Value>) -> Result<()> {
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let root = metadata.packages.iter().find(|package| package.name == root);
    let mut waiting = vec![root.context("a package of the workspace is missing")?.id.as_str()];
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        let Some(package) = packages.get(id).filter(|package| !package.is_macro()) else {
            continue;
        };
        if !seen.insert(id) {
            continue;
        }
        into.insert(
            (package.name.clone(), package.version.clone()),
            component(package),
        );
        let linked = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        waiting.extend(
            linked
                .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()))
                .map(|dependency| dependency.pkg.as_str()),
        );
    }
    Ok(())
}

fn component(package: &Package) -> Value {
    let Package { name, version, .. } = package;
    let mut component = json!({"type": "library", "name": name, "version": version});
    if package.source.is_some() {
        component["purl"] = json!(format!("pkg:cargo/{name}@{version}"));
    }
    if let Some(license) = &package.license {
        // Old crates write MIT/Apache-2.0, which is no SPDX expression.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_names_what_is_linked_and_not_what_only_tests_use() {
        let document: Value =
            serde_json::from_str(&of_agent("x86_64-unknown-linux-gnu", "1.2.3").unwrap()).unwrap();
        let names: Vec<&str> = document["components"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|component| component["name"].as_str())
            .collect();
        for linked in ["aya", "tokio", "grpclb-engine", "aya-ebpf"] {
            assert!(names.contains(&linked), "{linked} is in the program");
        }
        for absent in ["xtask", "syn", "serde_derive"] {
            assert!(!names.contains(&absent), "{absent} is not in the program");
        }
        assert_eq!(document["metadata"]["component"]["version"], "1.2.3");
    }
}
