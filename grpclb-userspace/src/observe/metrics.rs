//! A [`Status`] as Prometheus text (exposition format 0.0.4).
//!
//! [`METRICS`] is the list of all there is; docs/configuration.md shows it, and a test holds the page to the list. No label
//! names a pod or an address of a client: their number has no bound. Endpoints are named, for the spread of calls over
//! them is what one wants to see.

use std::fmt::Write as _;

use super::status::{EndpointState, Histogram, Phase, PodState, Service, Status};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    pub help: &'static str,
    /// Its values in a snapshot.
    samples: fn(&Status, &mut Samples<'_>),
}

/// What Prometheus makes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up; starts at zero with the agent.
    Counter,
    /// Durations in seconds, by how many took at most so long.
    Histogram,
}

impl Kind {
    /// The word of the `# TYPE` line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// Every metric.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "grpclb_info",
        kind: Kind::Gauge,
        labels: &["node", "instance", "version"],
        help: "1; the labels say which agent this is.",
        samples: |status, out| out.add(&[&status.node, &status.instance, &status.version], 1.0),
    },
    Metric {
        name: "grpclb_ready",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 when the agent does its work, 0 when /readyz has reasons why not.",
        samples: |status, out| out.add(&[], f64::from(u8::from(status.readiness.ready))),
    },
    Metric {
        name: "grpclb_draining",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the agent lets its connections run out before it ends.",
        samples: |status, out| out.add(&[], f64::from(u8::from(status.phase == Phase::Draining))),
    },
    Metric {
        name: "grpclb_uptime_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Seconds since the agent started.",
        samples: |status, out| out.add(&[], status.uptime_seconds as f64),
    },
    Metric {
        name: "grpclb_source_age_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Seconds since the configuration in use was read.",
        samples: |status, out| out.add(&[], status.source.age_seconds as f64),
    },
    Metric {
        name: "grpclb_source_generations_total",
        kind: Kind::Counter,
        labels: &[],
        help: "How many configurations were taken up.",
        samples: |status, out| out.add(&[], status.source.generation as f64),
    },
    Metric {
        name: "grpclb_source_failed",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 when nothing newer can be taken up (a broken file, no API server) and what was known stays in use.",
        samples: |status, out| out.add(&[], f64::from(u8::from(status.source.error.is_some()))),
    },
    Metric {
        name: "grpclb_source_in_force_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "From when a change of the configuration was read until the kernel and the workers had all of it.",
        samples: |status, out| out.add_histogram(&status.source.in_force),
    },
    Metric {
        name: "grpclb_bad_values_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Labels and annotations that were not understood; the defaults stay in force.",
        samples: |status, out| out.add(&[], status.source.bad_values as f64),
    },
    Metric {
        name: "grpclb_undecodable_objects_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Times that an object of the API was skipped because it cannot be decoded.",
        samples: |status, out| out.add(&[], status.source.undecodable_objects as f64),
    },
    Metric {
        name: "grpclb_kernel_attached",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 when the kernel programs are attached and connections are steered.",
        samples: |status, out| out.add(&[], f64::from(u8::from(status.kernel.cgroup.is_some()))),
    },
    Metric {
        name: "grpclb_kernel_events_total",
        kind: Kind::Counter,
        labels: &["event"],
        help: "What became of connects and the like, as the kernel programs count it.",
        samples: |status, out| {
            for (event, count) in &status.kernel.counters {
                out.add(&[event], *count as f64);
            }
        },
    },
    Metric {
        name: "grpclb_data_events_total",
        kind: Kind::Counter,
        labels: &["event"],
        help: "What the data plane counts: limits that were hit, replays, connections refused.",
        samples: |status, out| {
            for (event, count) in &status.counters {
                out.add(&[event], *count as f64);
            }
        },
    },
    Metric {
        name: "grpclb_pods",
        kind: Kind::Gauge,
        labels: &["state"],
        help: "Enabled pods of this node.",
        samples: |status, out| {
            for state in PodState::ALL {
                let count = status.pods.iter().filter(|pod| pod.state == state).count();
                out.add(&[state.as_str()], count as f64);
            }
        },
    },
    Metric {
        name: "grpclb_pod_panics_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Internal errors of the agent, each of which reset one pod's connections and left that pod to kube-proxy for a while.",
        samples: |status, out| out.add(&[], status.pod_panics as f64),
    },
    Metric {
        name: "grpclb_bypassing_connections",
        kind: Kind::Gauge,
        labels: &[],
        help: "Open connections of enabled pods to Services that bypass grpclb: made before the pod was steered.",
        samples: |status, out| {
            out.add(
                &[],
                status.pods.iter().map(|pod| pod.bypassing).sum::<u64>() as f64,
            );
        },
    },
    Metric {
        name: "grpclb_early_connections_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Connections to Services that pods already had when they began to be steered.",
        samples: |status, out| out.add(&[], status.early_connections as f64),
    },
    Metric {
        name: "grpclb_client_connections",
        kind: Kind::Gauge,
        labels: &["service"],
        help: "Open connections from pods of this node to a Service.",
        samples: |status, out| {
            for service in &status.services {
                out.add(&[&service.id], service.connections as f64);
            }
        },
    },
    Metric {
        name: "grpclb_opaque_connections_total",
        kind: Kind::Counter,
        labels: &["service"],
        help: "Connections that are not HTTP/2, relayed byte by byte to one endpoint.",
        samples: |status, out| {
            for service in &status.services {
                out.add(&[&service.id], service.opaque as f64);
            }
        },
    },
    Metric {
        name: "grpclb_endpoints",
        kind: Kind::Gauge,
        labels: &["service", "state"],
        help: "Endpoints of a Service; failed ones are out of the pick until their backoff ends.",
        samples: |status, out| {
            for service in &status.services {
                for state in EndpointState::ALL {
                    let count = service
                        .endpoints
                        .iter()
                        .filter(|endpoint| endpoint.state == state)
                        .count();
                    out.add(&[&service.id, state.as_str()], count as f64);
                }
            }
        },
    },
    Metric {
        name: "grpclb_upstream_connections",
        kind: Kind::Gauge,
        labels: &["service", "endpoint"],
        help: "Open connections to an endpoint, from all pods of this node.",
        samples: |status, out| each_endpoint(&status.services, out, |endpoint| endpoint.connections),
    },
    Metric {
        name: "grpclb_calls_running",
        kind: Kind::Gauge,
        labels: &["service", "endpoint"],
        help: "Calls that are running on an endpoint.",
        samples: |status, out| each_endpoint(&status.services, out, |endpoint| endpoint.streams),
    },
    Metric {
        name: "grpclb_calls_total",
        kind: Kind::Counter,
        labels: &["service", "endpoint"],
        help: "Calls given to an endpoint.",
        samples: |status, out| each_endpoint(&status.services, out, |endpoint| endpoint.calls),
    },
    Metric {
        name: "grpclb_call_errors_total",
        kind: Kind::Counter,
        labels: &["service", "endpoint"],
        help: "Calls that an endpoint refused, reset or lost.",
        samples: |status, out| each_endpoint(&status.services, out, |endpoint| endpoint.errors),
    },
    Metric {
        name: "grpclb_worker_heartbeat_age_seconds",
        kind: Kind::Gauge,
        labels: &["worker"],
        help: "Seconds since a data worker's last heartbeat; above 0.5 the kernel steers nothing to it.",
        samples: |status, out| {
            for worker in &status.workers {
                out.add(
                    &[&worker.index.to_string()],
                    worker.heartbeat_age_ms as f64 / 1000.0,
                );
            }
        },
    },
    Metric {
        name: "grpclb_worker_connections",
        kind: Kind::Gauge,
        labels: &["worker"],
        help: "Open connections that a data worker owns, to clients and to endpoints.",
        samples: |status, out| {
            for worker in &status.workers {
                out.add(&[&worker.index.to_string()], worker.connections as f64);
            }
        },
    },
    Metric {
        name: "grpclb_process_resident_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Resident memory of the agent's process.",
        samples: |status, out| out.add(&[], status.process.resident_bytes as f64),
    },
    Metric {
        name: "grpclb_memory_budget_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes that the calls of all pods may hold together.",
        samples: |status, out| out.add(&[], status.process.budget_bytes as f64),
    },
    Metric {
        name: "grpclb_memory_held_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes of the budget that pods have taken, in steps of 64 KiB.",
        samples: |status, out| out.add(&[], status.process.held_bytes as f64),
    },
    Metric {
        name: "grpclb_process_socket_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Memory of all sockets charged to the agent's cgroup; absent without cgroup v2's memory controller.",
        samples: |status, out| {
            if let Some(bytes) = status.process.socket_bytes {
                out.add(&[], bytes as f64);
            }
        },
    },
    Metric {
        name: "grpclb_process_open_files",
        kind: Kind::Gauge,
        labels: &[],
        help: "Open file descriptors of the agent.",
        samples: |status, out| out.add(&[], status.process.open_files as f64),
    },
    Metric {
        name: "grpclb_process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        help: "CPU time that the agent has used, user and system.",
        samples: |status, out| out.add(&[], status.process.cpu_seconds),
    },
];

/// One value for each endpoint. An endpoint is named by its address: ids are UIDs that nobody reads.
fn each_endpoint(
    services: &[Service],
    out: &mut Samples<'_>,
    value: impl Fn(&super::status::Endpoint) -> u64,
) {
    for service in services {
        for endpoint in &service.endpoints {
            out.add(
                &[&service.id, &endpoint.address.to_string()],
                value(endpoint) as f64,
            );
        }
    }
}

/// The whole text.
pub fn text(status: &Status) -> String {
    let mut text = String::with_capacity(8 << 10);
    for metric in METRICS {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "# HELP {} {}", metric.name, escape_help(metric.help));
        let _ = writeln!(text, "# TYPE {} {}", metric.name, metric.kind.as_str());
        (metric.samples)(
            status,
            &mut Samples {
                metric,
                text: &mut text,
            },
        );
    }
    text
}

/// Where one metric's values are written.
#[derive(Debug)]
struct Samples<'a> {
    metric: &'a Metric,
    text: &'a mut String,
}

impl Samples<'_> {
    /// One value, with the values of the metric's labels in their order.
    fn add(&mut self, labels: &[&str], value: f64) {
        debug_assert_eq!(
            labels.len(),
            self.metric.labels.len(),
            "labels of {}",
            self.metric.name
        );
        self.text.push_str(self.metric.name);
        for (index, (name, value)) in self.metric.labels.iter().zip(labels).enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"{}\"", escape_label(value));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// A histogram, which has no labels.
    fn add_histogram(&mut self, histogram: &Histogram) {
        let (name, count, sum) = (self.metric.name, histogram.count, histogram.sum_seconds);
        for (bound, count) in &histogram.buckets {
            let _ = writeln!(self.text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(self.text, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(self.text, "{name}_sum {sum}\n{name}_count {count}");
    }
}

fn escape_label(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

fn escape_help(help: &str) -> String {
    help.replace('\\', r"\\").replace('\n', r"\n")
}

#[cfg(test)]
mod tests;
