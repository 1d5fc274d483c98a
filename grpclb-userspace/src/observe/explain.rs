//! Why the calls of one pod to one Service are balanced, or are not: every decision on the way, as plain values. `app` makes them,
//! `admin` serves them as JSON, `cli` draws them.
//!
//! As with the status: fields may be added; they are not renamed or removed within a major version.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Of the pod, and of the Service unless its own name says another. `None`: where a file is the source, or any.
    pub namespace: Option<String>,
    pub pod: String,
    /// `name`, or `namespace/name`.
    pub service: String,
    /// `None`: all of its ports.
    pub port: Option<u16>,
}

/// A question that is no question; a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuestion(String);

impl Question {
    /// From what people type: a pod, and `SERVICE[:PORT]`, where the Service is a name, `namespace/name`, or its name in DNS.
    pub fn new(namespace: Option<&str>, pod: &str, service: &str) -> Result<Self, BadQuestion> {
        let (name, port) = match service.rsplit_once(':') {
            Some((name, port)) => {
                let number = port.parse().ok().filter(|&number: &u16| number != 0);
                let bad = || {
                    BadQuestion(format!(
                        "{port:?} is no port: expected SERVICE or SERVICE:PORT, with a number"
                    ))
                };
                (name, Some(number.ok_or_else(bad)?))
            }
            None => (service, None),
        };
        // A Service's own name has no dots: `cart.shop.svc.cluster.local` is cart in shop.
        let mut labels = name.split('.');
        let name = match (labels.next(), labels.next(), labels.next()) {
            (Some(name), Some(namespace), None | Some("svc")) => format!("{namespace}/{name}"),
            _ => name.to_owned(),
        };
        for (what, name) in [
            ("pod", pod),
            ("Service", &name),
            ("namespace", namespace.unwrap_or("x")),
        ] {
            let known = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
            if name.is_empty() || name.len() > 600 || !name.chars().all(known) {
                return Err(BadQuestion(format!("{name:?} is no name of a {what}")));
            }
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            pod: pod.to_owned(),
            service: name,
            port,
        })
    }

    /// The question as the admin's page takes it: `/explain?pod=…`. Names need no escapes.
    pub fn page(&self) -> String {
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let namespace = self
            .namespace
            .as_ref()
            .map_or(String::new(), |name| format!("&namespace={name}"));
        format!(
            "/explain?pod={}&service={}{port}{namespace}",
            self.pod, self.service
        )
    }

    /// The same, read.
    pub fn from_query(query: &str) -> Result<Self, BadQuestion> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: BTreeMap<&str, &str> = pairs.collect();
        match (pairs.get("pod"), pairs.get("service")) {
            (Some(pod), Some(service)) => Self::new(pairs.get("namespace").copied(), pod, service),
            _ => Err(BadQuestion(
                "expected /explain?pod=NAME&service=NAME:PORT&namespace=NAME".to_owned(),
            )),
        }
    }
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// `namespace/name`, or as it was asked.
    pub pod: String,
    pub service: String,
    pub conclusion: Conclusion,
    /// The conclusion in one sentence.
    pub sentence: String,
    /// What to change, where the answer is no and something can be changed.
    pub remedy: Option<String>,
    /// What is decided for the pod, in order.
    pub steps: Vec<Step>,
    /// What is decided for each port, and of a Service with both families for each of them.
    pub ports: Vec<Port>,
}

/// How it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    Balanced,
    /// Some ports, or one family, are; others are not.
    Partly,
    #[default]
    NotBalanced,
    /// This agent knows no such pod: it is on another node, or nowhere.
    UnknownPod,
    UnknownService,
}

/// One decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is about: `labels`, `probe`, `protocol`, …
    pub about: String,
    pub verdict: Verdict,
    /// For people.
    pub says: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    #[default]
    Yes,
    No,
    /// It decides nothing, but is worth knowing.
    Note,
}

/// One port of the Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// As in the status.
    pub id: String,
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub balanced: bool,
    /// The annotation's word: `round_robin`, …
    #[serde(default)]
    pub policy: String,
    pub steps: Vec<Step>,
    pub endpoints: Vec<Endpoint>,
    /// Open HTTP/2 connections of the pod to it.
    pub connections: u64,
    /// Connections of the pod that proved to be something else, since it is steered.
    pub opaque: u64,
    /// Open connections of the pod that bypass grpclb.
    pub bypassing: u64,
    /// Who got the pod's last calls, the newest first.
    pub last_picks: Vec<SocketAddr>,
}

/// An endpoint of the Service, whether it gets calls or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: String,
    pub address: SocketAddr,
    pub node: Option<String>,
    /// Whether the source lets it get calls from this node.
    pub eligible: bool,
    /// Why.
    pub verdict: String,
    /// Whether this pod picks it now: it is of the pod's subset and has not failed. `None`: the pod has not called yet.
    pub picked: Option<bool>,
    /// It failed, and is out of the pick until its backoff ends.
    pub failed: bool,
    /// This pod's connections to it.
    pub connections: u64,
    /// This pod's calls: those that run, all so far, those that it failed.
    pub streams: u64,
    pub calls: u64,
    pub errors: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_as_people_name_it() {
        let service = |text: &str| {
            let question = Question::new(Some("shop"), "client", text).unwrap();
            (question.service, question.port)
        };
        assert_eq!(service("cart"), ("cart".to_owned(), None));
        assert_eq!(service("cart:50051"), ("cart".to_owned(), Some(50_051)));
        assert_eq!(service("pay/cart:1"), ("pay/cart".to_owned(), Some(1)));
        assert_eq!(service("cart.pay:1"), ("pay/cart".to_owned(), Some(1)));
        assert_eq!(
            service("cart.pay.svc.cluster.local"),
            ("pay/cart".to_owned(), None)
        );
    }

    #[test]
    fn what_is_no_name_or_no_port_is_refused_in_a_sentence() {
        for (pod, service, said) in [
            (
                "client",
                "cart:http",
                "\"http\" is no port: expected SERVICE or SERVICE:PORT, with a number",
            ),
            (
                "client",
                "cart:0",
                "\"0\" is no port: expected SERVICE or SERVICE:PORT, with a number",
            ),
            ("", "cart", "\"\" is no name of a pod"),
            ("a b", "cart", "\"a b\" is no name of a pod"),
            ("a", "x&pod=b", "\"x&pod=b\" is no name of a Service"),
        ] {
            assert_eq!(Question::new(None, pod, service).unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn a_page_reads_back_as_the_question() {
        for namespace in [None, Some("shop")] {
            let question = Question::new(namespace, "client", "pay/cart:50051").unwrap();
            let page = question.page();
            let (_, query) = page.split_once('?').unwrap();
            assert_eq!(Question::from_query(query).unwrap(), question);
        }
        assert!(Question::from_query("pod=a").is_err());
    }
}
