//! What the chart's alerts and dashboard ask of Prometheus, read by Prometheus' own parser.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::manifests::{self, objects, render_chart, tool};

/// One expression, with what it asks for.
#[derive(Clone, Debug)]
pub struct Query {
    /// Where it stands: an alert's name or a panel's title.
    pub of: String,
    pub expression: String,
    pub metrics: Vec<String>,
    /// Labels that it matches or groups by.
    pub labels: Vec<String>,
}

/// The chart's dashboard.
pub fn dashboard() -> Result<Value> {
    let yaml = render_chart("grpclb-system", &["metrics.dashboard.enabled=true"])?;
    let objects = objects(&yaml)?;
    let map = objects.values().find(|object| object["kind"] == "ConfigMap");
    let text = map.and_then(|map| map["data"]["grpclb.json"].as_str());
    serde_json::from_str(text.context("no dashboard")?).context("the dashboard is no JSON")
}

/// Whether Prometheus takes the file of rules, with the templates in it; an error says why not.
pub fn check_rules() -> Result<()> {
    let file = format!("{}/files/rules.yaml", manifests::CHART);
    let output = tool("promql")?.arg(file).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Every expression of the alerts and of the dashboard.
pub fn queries() -> Result<Vec<Query>> {
    let rules = render_chart("grpclb-system", &["metrics.rules.enabled=true"])?;
    let objects = objects(&rules)?;
    let rule = objects.values().find(|object| object["kind"] == "PrometheusRule");
    let mut asked = Vec::new();
    for group in array(&rule.context("no rules")?["spec"]["groups"]) {
        for alert in array(&group["rules"]) {
            asked.push((text(&alert["alert"]), text(&alert["expr"])));
        }
    }
    for panel in array(&dashboard()?["panels"]) {
        for target in array(&panel["targets"]) {
            asked.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    parse(asked)
}

fn parse(asked: Vec<(String, String)>) -> Result<Vec<Query>> {
    #[derive(Deserialize)]
    struct Parsed {
        metrics: Vec<String>,
        labels: Vec<String>,
    }
    let mut child = tool("promql")?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A page of text, which the pipe takes as a whole: it need not be read meanwhile.
    let mut stdin = child.stdin.take().context("no pipe")?;
    for (_, expression) in &asked {
        // As Grafana would fill them in.
        let filled = expression
            .replace("$__rate_interval", "5m")
            .replace("$service", ".*");
        writeln!(stdin, "{}", filled.replace('\n', " "))?;
    }
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let parsed: Vec<Parsed> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(serde_json::from_str)
        .collect::<serde_json::Result<_>>()?;
    if parsed.len() != asked.len() {
        bail!("{} expressions, {} answers", asked.len(), parsed.len());
    }
    let queries = asked.into_iter().zip(parsed);
    Ok(queries
        .map(|((of, expression), parsed)| Query {
            of,
            expression,
            metrics: parsed.metrics,
            labels: parsed.labels,
        })
        .collect())
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
