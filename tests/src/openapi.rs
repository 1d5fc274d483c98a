//! The cluster's own API as JSON schemas, one file for each kind of object, for kubeconform.
//!
//! Stricter than the API server's text in one point: a field that a kind does not have is an error. The API server drops such
//! fields with a warning, and with them what somebody meant.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::cluster::Cluster;

/// The file of an object's schema in the folder, as kubeconform's `--schema-location` has it.
pub const TEMPLATE: &str = "{{ .ResourceKind }}{{ .KindSuffix }}.json";

const PREFIX: &str = "#/definitions/";

/// Writes the schemas of all kinds that the API server has built in; returns how many.
pub fn write_schemas(cluster: &Cluster, folder: &Path) -> Result<usize> {
    let text = cluster.kubectl(&["get", "--raw", "/openapi/v2"])?;
    let document: Value = serde_json::from_str(&text).context("the OpenAPI is no JSON")?;
    let definitions = document["definitions"].as_object().context("no definitions")?;
    fs::create_dir_all(folder)?;
    let mut written = 0;
    for (name, definition) in definitions {
        let kinds = definition["x-kubernetes-group-version-kind"].as_array();
        // Some belong to every group, such as DeleteOptions: nobody writes manifests of them.
        let Some([kind]) = kinds.map(Vec::as_slice) else {
            continue;
        };
        let file = file_name(kind).context("a kind without a name")?;
        fs::write(folder.join(file), schema_of(name, definitions).to_string())?;
        written += 1;
    }
    Ok(written)
}

/// As [`TEMPLATE`] makes it: `daemonset-apps-v1.json`, `pod-v1.json`; of a group only what is before the first dot.
fn file_name(kind: &Value) -> Option<String> {
    let text = |key: &str| Some(kind[key].as_str()?.to_lowercase());
    let group = text("group")?;
    let group = group.split('.').next().filter(|group| !group.is_empty());
    let group = group.map_or_else(String::new, |group| format!("{group}-"));
    Some(format!("{}-{group}{}.json", text("kind")?, text("version")?))
}

/// A definition, with all that it refers to.
fn schema_of(name: &str, definitions: &Map<String, Value>) -> Value {
    let mut needed = BTreeSet::from([name.to_owned()]);
    let mut ahead = vec![name.to_owned()];
    let mut schemas = Map::new();
    while let Some(name) = ahead.pop() {
        let Some(definition) = definitions.get(&name) else {
            continue;
        };
        let schema = strict(definition);
        references(&schema, &mut |other| {
            if needed.insert(other.to_owned()) {
                ahead.push(other.to_owned());
            }
        });
        schemas.insert(name, schema);
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": format!("{PREFIX}{name}"),
        "definitions": schemas,
    })
}

fn strict(definition: &Value) -> Value {
    let mut schema = definition.clone();
    if schema["format"] == "int-or-string" {
        return json!({"type": ["string", "integer"]});
    }
    if let Some(fields) = schema.as_object_mut()
        && fields.contains_key("properties")
    {
        fields.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    schema
}

fn references(schema: &Value, found: &mut impl FnMut(&str)) {
    match schema {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str)
                && let Some(name) = name.strip_prefix(PREFIX)
            {
                found(name);
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}
