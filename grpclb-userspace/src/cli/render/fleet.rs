//! All agents of a cluster: nodes, namespaces and Services in use, each a line, and what is wrong.

use comfy_table::{Cell, Color};

use super::{Draw, cell, count, draw, line, optional, right};
use crate::cli::fleet::{Fleet, Namespace, Node, Service, Unsteered};

/// So many lines of a kind are shown; all of them are in the JSON.
const MOST: usize = 40;

pub(in crate::cli) fn fleet(fleet: &Fleet, colours: bool) -> String {
    let draw = Draw { colours };
    let mut text = String::new();
    line(&mut text, summary(fleet));
    draw.nodes(&fleet.nodes, &mut text);
    draw.namespaces(&fleet.namespaces, &mut text);
    draw.services_in_use(&fleet.services, &mut text);
    draw.unsteered(&fleet.unsteered, &mut text);
    for note in &fleet.notes {
        text.push('\n');
        line(&mut text, format!("Note: {note}"));
    }
    text
}

fn summary(fleet: &Fleet) -> String {
    let ready = fleet.nodes.iter().filter(|node| node.ready).count();
    let calls: f64 = fleet
        .nodes
        .iter()
        .filter_map(|node| node.sums.calls_per_second)
        .sum();
    let connections: u64 = fleet.nodes.iter().map(|node| node.sums.connections).sum();
    format!(
        "grpclb at {}: {ready} of {} agents ready, {}, {} calls/s",
        fleet.cluster,
        fleet.nodes.len(),
        count(connections, "connection"),
        rate(Some(calls))
    )
}

impl Draw {
    fn nodes(self, nodes: &[Node], text: &mut String) {
        self.heading(text, "Nodes");
        let mut table = self.table(&[
            "node",
            "agent",
            "version",
            "ready",
            "pods",
            "steered",
            "bypassing",
            "connections",
            "calls/s",
            "calls",
            "errors",
        ]);
        right(&mut table, &[4, 5, 6, 7, 8, 9, 10]);
        for node in nodes {
            let ready = if node.ready {
                self.cell("yes", Color::Green)
            } else {
                self.cell("no", Color::Red)
            };
            table.add_row(vec![
                cell(&node.name),
                cell(optional(node.agent.as_ref())),
                cell(optional(node.version.as_ref())),
                ready,
                cell(node.pods),
                cell(node.steered),
                self.warn(node.bypassing, Color::Yellow),
                cell(node.sums.connections),
                cell(rate(node.sums.calls_per_second)),
                cell(node.sums.calls),
                self.warn(node.sums.errors, Color::Red),
            ]);
        }
        draw(text, &table);
        for node in nodes {
            for problem in &node.problems {
                line(text, format!("  {}: {problem}", node.name));
            }
            if let Some(why) = &node.switched_off {
                line(text, format!("  {}: steering is off, since {why}", node.name));
            }
            if node.restarts > 0 {
                line(
                    text,
                    format!(
                        "  {}: the agent was restarted {}",
                        node.name,
                        count(node.restarts.into(), "time")
                    ),
                );
            }
        }
    }

    fn namespaces(self, namespaces: &[Namespace], text: &mut String) {
        self.heading(text, "Namespaces with enabled pods");
        if namespaces.is_empty() {
            line(
                text,
                "  none: kubectl label namespace NAME grpclb.io/enabled=true",
            );
            return;
        }
        let mut table = self.table(&["namespace", "pods", "steered", "connections", "bypassing"]);
        right(&mut table, &[1, 2, 3, 4]);
        for namespace in namespaces.iter().take(MOST) {
            table.add_row(vec![
                cell(&namespace.name),
                cell(namespace.pods),
                cell(namespace.steered),
                cell(namespace.connections),
                self.warn(namespace.bypassing, Color::Yellow),
            ]);
        }
        draw(text, &table);
        more(text, namespaces.len());
        if namespaces.iter().any(|namespace| namespace.bypassing > 0) {
            line(
                text,
                "  BYPASSING: connections that were made before their pod was steered; grpclb adopt -n NAMESPACE moves them",
            );
        }
    }

    fn services_in_use(self, services: &[Service], text: &mut String) {
        self.heading(text, "Services in use");
        if services.is_empty() {
            line(text, "  none: no enabled pod has dialled one yet");
            return;
        }
        let mut table = self.table(&[
            "service",
            "protocol",
            "policy",
            "steered",
            "endpoints",
            "connections",
            "calls/s",
            "calls",
            "errors",
        ]);
        right(&mut table, &[4, 5, 6, 7, 8]);
        let mut busiest: Vec<&Service> = services.iter().collect();
        busiest.sort_by_key(|service| (std::cmp::Reverse(service.sums.calls), &service.id));
        for service in busiest.into_iter().take(MOST) {
            let steered = if service.steered == service.nodes {
                self.cell("yes", Color::Green)
            } else if service.steered == 0 {
                self.cell("no", Color::Yellow)
            } else {
                self.cell(
                    &format!("on {} of {} nodes", service.steered, service.nodes),
                    Color::Yellow,
                )
            };
            let endpoints = if service.failed > 0 {
                self.cell(
                    &format!("{} ({} failed)", service.endpoints, service.failed),
                    Color::Red,
                )
            } else {
                cell(service.endpoints)
            };
            table.add_row(vec![
                cell(&service.id),
                cell(&service.protocol),
                cell(&service.policy),
                steered,
                endpoints,
                cell(service.sums.connections),
                cell(rate(service.sums.calls_per_second)),
                cell(service.sums.calls),
                self.warn(service.sums.errors, Color::Red),
            ]);
        }
        draw(text, &table);
        more(text, services.len());
        for service in services.iter().take(MOST) {
            if let Some(reason) = &service.reason {
                line(text, format!("  {}: {reason}", service.id));
            }
        }
    }

    fn unsteered(self, pods: &[Unsteered], text: &mut String) {
        if pods.is_empty() {
            return;
        }
        self.heading(text, "Enabled pods that are not steered");
        let mut table = self.table(&["pod", "node", "state", "why"]);
        for pod in pods.iter().take(MOST) {
            table.add_row(vec![
                cell(&pod.pod),
                cell(&pod.node),
                self.cell(pod.state, Color::Yellow),
                cell(optional(pod.reason.as_ref())),
            ]);
        }
        draw(text, &table);
        more(text, pods.len());
    }

    /// A number that ought to be 0.
    fn warn(self, number: u64, colour: Color) -> Cell {
        if number > 0 {
            self.cell(&number.to_string(), colour)
        } else {
            cell(0)
        }
    }
}

fn more(text: &mut String, all: usize) {
    if all > MOST {
        line(text, format!("  and {} more: --json has them all", all - MOST));
    }
}

/// `120`, `3.5`; `-` where it is not known.
fn rate(calls: Option<f64>) -> String {
    match calls {
        None => "-".to_owned(),
        Some(calls) if calls >= 10.0 || calls == 0.0 => format!("{calls:.0}"),
        Some(calls) => format!("{calls:.1}"),
    }
}

#[cfg(test)]
mod tests;
