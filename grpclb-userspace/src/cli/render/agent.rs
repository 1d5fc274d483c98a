//! One agent: the whole answer of `grpclb status` on its node.

use comfy_table::Color;

use super::{Draw, Text, cell, draw, duration, fact, line, optional, right, share, size};
use crate::observe::status::{EndpointState, Phase, Pod, PodState, Service, Status};

pub(in crate::cli) fn status(status: &Status, colours: bool) -> String {
    let draw = Draw { colours };
    let mut text = String::new();
    draw.summary(status, &mut text);
    draw.pods(&status.pods, &mut text);
    draw.services(&status.services, status.services_known, &mut text);
    draw.workers(status, &mut text);
    draw.counters("Kernel", &status.kernel.counters, &mut text);
    draw.counters("Data plane", &status.counters, &mut text);
    text
}

impl Draw {
    fn summary(self, status: &Status, text: &mut String) {
        let phase = match status.phase {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Draining => "draining",
        };
        let age = duration(status.uptime_seconds);
        line(
            text,
            format!("grpclb {} on {}, {phase} for {age}", status.version, status.node),
        );
        if status.readiness.ready {
            fact(text, "ready", self.paint("yes", Color::Green));
        } else {
            fact(text, "ready", self.paint("no", Color::Red));
            for reason in &status.readiness.reasons {
                fact(text, "", reason);
            }
        }
        let source = &status.source;
        let read = format!("{}, read {} ago", source.name, duration(source.age_seconds));
        fact(text, "source", &read);
        if let Some(error) = &source.error {
            fact(
                text,
                "",
                self.paint("nothing newer can be taken up, so this stays in use:", Color::Red),
            );
            for part in error.lines() {
                fact(text, "", part);
            }
        }
        if let Some(why) = &source.switched_off {
            let off = format!("off, since {why}: new connections go the plain way");
            fact(text, "steering", self.paint(&off, Color::Yellow));
        }
        match &status.kernel.cgroup {
            Some(cgroup) => fact(text, "kernel", format!("attached to {cgroup}")),
            None => fact(
                text,
                "kernel",
                self.paint("not attached: nothing is steered", Color::Red),
            ),
        }
        if let Some(error) = &status.kernel.error {
            for part in error.lines() {
                fact(text, "", part);
            }
        }
        if !status.kernel.pins.is_empty() {
            fact(text, "maps", &status.kernel.pins);
        }
        let process = &status.process;
        let sockets = process
            .socket_bytes
            .map_or(String::new(), |bytes| format!(" + {} in sockets", size(bytes)));
        fact(
            text,
            "process",
            format!(
                "pid {}, {}{sockets}, {} open files, {:.1} s CPU",
                status.pid,
                size(process.resident_bytes),
                process.open_files,
                process.cpu_seconds
            ),
        );
        if process.budget_bytes > 0 {
            let (held, budget) = (size(process.held_bytes), size(process.budget_bytes));
            fact(
                text,
                "memory",
                format!("{held} held for calls, of at most {budget}"),
            );
        }
        if status.early_connections > 0 {
            let were = match status.early_connections {
                1 => "1 connection was".to_owned(),
                count => format!("{count} connections were"),
            };
            let says = format!("{were} there before their pod was steered, since the start");
            fact(text, "early", &says);
        }
    }

    fn pods(self, pods: &[Pod], text: &mut String) {
        self.heading(text, "Pods");
        if pods.is_empty() {
            line(text, "  none is enabled");
            return;
        }
        let mut table = self.table(&[
            "pod",
            "namespace",
            "state",
            "listener",
            "worker",
            "clients",
            "upstreams",
            "running",
        ]);
        right(&mut table, &[3, 4, 5, 6, 7]);
        for pod in pods {
            let colour = match pod.state {
                PodState::Steered => Color::Green,
                PodState::Pending | PodState::Draining => Color::Yellow,
                PodState::Unsteered => Color::Red,
            };
            table.add_row(vec![
                cell(name_of(pod)),
                cell(&pod.netns),
                self.cell(pod.state.as_str(), colour),
                cell(optional(pod.port)),
                cell(optional(pod.worker)),
                cell(pod.connections),
                cell(pod.upstreams),
                cell(pod.streams),
            ]);
        }
        draw(text, &table);
        for pod in pods {
            if let Some(reason) = &pod.reason {
                line(text, format!("  {}: {reason}", name_of(pod)));
            }
            if pod.bypassing > 0 {
                let text_of = |count| {
                    if count == 1 {
                        "connection bypasses"
                    } else {
                        "connections bypass"
                    }
                };
                let (name, count) = (name_of(pod), pod.bypassing);
                line(
                    text,
                    format!(
                        "  {name}: {count} {} grpclb, made before the pod was steered",
                        text_of(count)
                    ),
                );
            }
        }
    }

    fn services(self, services: &[Service], known: u64, text: &mut String) {
        self.heading(text, "Services");
        if services.is_empty() && known == 0 {
            line(text, "  none is known");
            return;
        }
        let listed = services.len() as u64;
        if known > listed {
            let rest = known - listed;
            line(
                text,
                format!(
                    "  {known} ports are known; these pods have used {listed} of them, and not the other {rest}"
                ),
            );
        }
        for service in services {
            self.service(service, text);
        }
    }

    fn service(self, service: &Service, text: &mut String) {
        let addresses: Vec<String> = service
            .addresses
            .iter()
            .map(|&address| std::net::SocketAddr::new(address, service.port).to_string())
            .collect();
        let steered = if service.steered {
            self.paint("steered", Color::Green)
        } else {
            self.paint("not steered", Color::Yellow)
        };
        let slot = service
            .slot
            .map_or(String::new(), |slot| format!(", slot {slot}"));
        line(
            text,
            Text::from("  ")
                + self.bold(&service.id)
                + format!(" at {}: ", addresses.join(" and "))
                + steered
                + format!(
                    ", {}, {}{slot}, {} client connections",
                    service.protocol, service.policy, service.connections
                ),
        );
        if service.opaque > 0 {
            line(
                text,
                format!(
                    "    {} connections were not HTTP/2: one endpoint each",
                    service.opaque
                ),
            );
        }
        if let Some(reason) = &service.reason {
            line(text, format!("    {reason}"));
        }
        if service.endpoints.is_empty() {
            line(text, "    no endpoints");
            return;
        }
        let all: u64 = service.endpoints.iter().map(|endpoint| endpoint.calls).sum();
        let mut table = self.table(&[
            "  endpoint",
            "address",
            "weight",
            "state",
            "connections",
            "running",
            "calls",
            "share",
            "errors",
        ]);
        right(&mut table, &[2, 4, 5, 6, 7, 8]);
        for endpoint in &service.endpoints {
            let colour = match endpoint.state {
                EndpointState::Ready => Color::Green,
                EndpointState::Draining => Color::Yellow,
                EndpointState::Failed => Color::Red,
            };
            let errors = if endpoint.errors > 0 {
                self.cell(&endpoint.errors.to_string(), Color::Red)
            } else {
                cell(0)
            };
            table.add_row(vec![
                cell(format!("  {}", endpoint.id)),
                cell(endpoint.address),
                cell(endpoint.weight),
                self.cell(endpoint.state.as_str(), colour),
                cell(endpoint.connections),
                cell(endpoint.streams),
                cell(endpoint.calls),
                cell(share(endpoint.calls, all)),
                errors,
            ]);
        }
        draw(text, &table);
    }

    fn workers(self, status: &Status, text: &mut String) {
        if status.workers.is_empty() {
            return;
        }
        self.heading(text, "Workers");
        let mut table = self.table(&["worker", "pods", "connections", "last heartbeat"]);
        right(&mut table, &[0, 1, 2, 3]);
        for worker in &status.workers {
            let age = format!("{} ms", worker.heartbeat_age_ms);
            let age = if worker.heartbeat_age_ms > 500 {
                self.cell(&age, Color::Red)
            } else {
                cell(age)
            };
            table.add_row(vec![
                cell(worker.index),
                cell(worker.pods),
                cell(worker.connections),
                age,
            ]);
        }
        draw(text, &table);
    }

    /// The counters that have counted something.
    fn counters(self, whose: &str, counters: &std::collections::BTreeMap<String, u64>, text: &mut String) {
        let mut table = self.table(&["event", "count"]);
        right(&mut table, &[1]);
        for (name, count) in counters.iter().filter(|(_, count)| **count > 0) {
            table.add_row(vec![cell(name), cell(count)]);
        }
        if table.row_count() > 0 {
            self.heading(text, &format!("{whose} counters"));
            draw(text, &table);
        }
    }
}

/// In Kubernetes, the id is a UID.
fn name_of(pod: &Pod) -> &str {
    if pod.name.is_empty() { &pod.id } else { &pod.name }
}

#[cfg(test)]
mod tests;
