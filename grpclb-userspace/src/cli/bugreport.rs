//! `grpclb bugreport`: one archive with what a developer needs to understand a problem, and nothing that is a secret.
//!
//! What is taken of Kubernetes' objects is listed field by field ([`redact`]); whatever may not be read is named in the report
//! instead of failing it.

mod archive;
mod redact;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::cluster::{Agent, Cluster, Error, Resource};
use super::failure::Failure;
use super::whom::{self, Whom};
use super::{Exit, client};
use crate::control::kubernetes::clock;
use crate::observe::Status;
use archive::Archive;

/// The last lines of each agent's log.
const LOG_LINES: u32 = 2_000;
/// Pages of an agent's admin, and what they are called in the archive.
const PAGES: [(&str, &str); 3] = [
    ("/status", "status.json"),
    ("/metrics", "metrics.txt"),
    ("/check", "check.json"),
];
/// Stands in every report.
const NEVER: &str = "\
Never in it: Secrets and ConfigMaps; environment variables, arguments and images of your pods' containers; labels and annotations
that decide nothing here; headers and bodies of calls (the agents keep none); credentials of any kind.
In it: names and addresses of nodes, namespaces, pods and Services. Look through it before you publish it.
";

/// Collect what the agents know into one archive for a bug report, without secrets
///
/// Ends with 0 when it was written, also where something could not be read: it says what.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    whom: whom::Options,
    /// Where it is written; by default grpclb-bugreport-TIME.tar.gz in this folder
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(options: &Options) -> Result<Exit, Failure> {
    let time = clock::rfc3339(SystemTime::now());
    let name = format!("grpclb-bugreport-{}", time.replace(':', ""));
    let mut report = Report::new(&name);
    match options.whom.find().await? {
        Whom::Agent(address) => {
            for (page, file) in PAGES {
                let answer = client::get_at(address, page).await;
                // Without any answer there is nothing to report.
                match (answer, page) {
                    (Err(error), "/status") => return Err(error.into()),
                    (Ok(answer), _) => {
                        report.text(&format!("agent/{file}"), &String::from_utf8_lossy(&answer));
                    }
                    (Err(error), _) => report.missing(page, &error),
                }
            }
        }
        Whom::Cluster(cluster) => of_cluster(&cluster, &mut report).await?,
    }
    let about = json!({"time": time, "grpclb": env!("CARGO_PKG_VERSION"), "missing": report.missing});
    report.json("about.json", &about);
    let readme = report.readme();
    report.text("README.txt", &readme);

    let path = options
        .output
        .clone()
        .unwrap_or_else(|| format!("{name}.tar.gz").into());
    let written = report
        .archive
        .finish()
        .and_then(|bytes| std::fs::write(&path, bytes));
    written
        .map_err(|cause| Failure::Said(Exit::Failed, format!("cannot write {}: {cause}", path.display())))?;
    let said = format!("{} is written.\n\n{readme}", path.display());
    Ok(super::print(&super::render::escaped_lines(&said), Exit::Success))
}

/// The archive as it grows, and what is not in it.
struct Report {
    archive: Archive,
    missing: Vec<String>,
}

impl Report {
    fn new(name: &str) -> Self {
        Self {
            archive: Archive::new(name),
            missing: Vec::new(),
        }
    }

    fn text(&mut self, file: &str, text: &str) {
        self.archive.add(file, redact::credentials(text).as_bytes());
    }

    fn json(&mut self, file: &str, value: &Value) {
        self.text(file, &format!("{value:#}\n"));
    }

    fn missing(&mut self, what: &str, why: &dyn std::fmt::Display) {
        self.missing.push(format!("{what}: {why}"));
    }

    /// All objects of a kind, field by field.
    async fn objects(
        &mut self,
        cluster: &Cluster,
        file: &str,
        (resource, namespace): (Resource, Option<&str>),
        fields: &[&str],
    ) {
        let found = cluster.list(resource, namespace, "").await;
        self.found(file, found, fields);
    }

    fn found(&mut self, file: &str, found: Result<Vec<Value>, Error>, fields: &[&str]) {
        match found {
            Ok(found) => {
                let kept: Vec<Value> = found.iter().map(|object| redact::keep(object, fields)).collect();
                self.json(file, &kept.into());
            }
            Err(error) => self.missing(file, &error),
        }
    }

    fn readme(&self) -> String {
        let mut text = NEVER.to_owned();
        if !self.missing.is_empty() {
            text.push_str("\nMissing, since it could not be read:\n");
            for missing in &self.missing {
                // Writing into a String cannot fail.
                let _ = writeln!(text, "- {missing}");
            }
        }
        text
    }
}

async fn of_cluster(cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let agents = cluster.agents().await?;
    let mut namespaces = BTreeSet::new();
    for (page, file) in PAGES {
        for (node, answer) in cluster.ask_agents(&agents, page).await {
            let file = format!("agents/{node}/{file}");
            match answer {
                Ok(answer) => {
                    if page == "/status" {
                        namespaces.extend(namespaces_of(&answer));
                    }
                    report.text(&file, &String::from_utf8_lossy(&answer));
                }
                Err(error) => report.missing(&file, &error),
            }
        }
    }
    for Agent { node, pod, .. } in &agents {
        let file = format!("agents/{node}/log.txt");
        match cluster.log(pod, LOG_LINES).await {
            Ok(log) => report.text(&file, &log),
            Err(error) => report.missing(&file, &error),
        }
    }
    match cluster.page::<Value>("/version").await {
        Ok(version) => report.json("cluster/version.json", &version),
        Err(error) => report.missing("cluster/version.json", &error),
    }
    let own = Some(cluster.agents.as_str());
    for (file, what, fields) in [
        ("cluster/nodes.json", (Resource::NODES, None), redact::NODE),
        (
            "cluster/namespaces.json",
            (Resource::NAMESPACES, None),
            redact::NAMESPACE,
        ),
        (
            "cluster/daemonsets.json",
            (Resource::DAEMONSETS, own),
            redact::DAEMONSET,
        ),
        ("cluster/agents.json", (Resource::PODS, own), redact::AGENT),
        ("cluster/events.json", (Resource::EVENTS, own), redact::EVENT),
    ] {
        report.objects(cluster, file, what, fields).await;
    }
    // What the agents decide by, of the namespaces whose pods they steer.
    for namespace in &namespaces {
        for (file, resource, fields) in [
            ("pods", Resource::PODS, redact::POD),
            ("services", Resource::SERVICES, redact::SERVICE),
            ("endpointslices", Resource::SLICES, redact::SLICE),
        ] {
            let file = format!("namespaces/{namespace}/{file}.json");
            report
                .objects(cluster, &file, (resource, Some(namespace)), fields)
                .await;
        }
        // Other people's can quote anything.
        let file = format!("namespaces/{namespace}/events.json");
        let events = cluster.own_events(namespace).await;
        report.found(&file, events, redact::EVENT);
    }
    Ok(())
}

/// The namespaces of an agent's pods, and of the Services that they use.
fn namespaces_of(answer: &[u8]) -> BTreeSet<String> {
    let Ok(status) = client::json::<Status>(answer) else {
        return BTreeSet::new();
    };
    let pods = status.pods.iter().map(|pod| &pod.name);
    let services = status.services.iter().map(|service| &service.id);
    let parts = pods.chain(services).filter_map(|name| name.split_once('/'));
    parts.map(|(namespace, _)| namespace.to_owned()).collect()
}
