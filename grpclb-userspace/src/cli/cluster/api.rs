//! One request to the API server, and what its failure means for the person who asked.

use std::fmt;
use std::time::Duration;

use http::{Request, header};
use kube::Client;
use serde::de::DeserializeOwned;

use super::objects::List;
use super::{Error, Options, config};
use crate::control::kubernetes::causes::with_causes;

/// Until an answer is there, whole.
const ANSWER: Duration = Duration::from_secs(20);

/// A cluster that can be asked.
#[derive(Clone)]
pub(in crate::cli) struct Cluster {
    pub(super) client: Client,
    /// Its address, for people.
    pub(in crate::cli) server: String,
    /// The namespace that the kubeconfig's context names.
    pub(in crate::cli) namespace: String,
    /// The namespace that the agents are in.
    pub(in crate::cli) agents: String,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// A kind of object, as paths and rights name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Resource {
    /// The path up to the namespace: `/api/v1`, `/apis/apps/v1`.
    pub(in crate::cli) api: &'static str,
    pub(in crate::cli) plural: &'static str,
    /// For people.
    pub(in crate::cli) singular: &'static str,
}

impl Resource {
    pub(in crate::cli) const PODS: Self = Self::core("pods", "pod");
    pub(in crate::cli) const NAMESPACES: Self = Self::core("namespaces", "namespace");
    pub(in crate::cli) const NODES: Self = Self::core("nodes", "node");
    pub(in crate::cli) const SERVICES: Self = Self::core("services", "Service");
    pub(in crate::cli) const EVENTS: Self = Self::core("events", "event");
    pub(in crate::cli) const SLICES: Self = Self {
        api: "/apis/discovery.k8s.io/v1",
        plural: "endpointslices",
        singular: "EndpointSlice",
    };
    pub(in crate::cli) const DAEMONSETS: Self = Self {
        api: "/apis/apps/v1",
        plural: "daemonsets",
        singular: "DaemonSet",
    };

    const fn core(plural: &'static str, singular: &'static str) -> Self {
        Self {
            api: "/api/v1",
            plural,
            singular,
        }
    }

    /// The path of all of them, in one namespace or in all.
    fn path(self, namespace: Option<&str>) -> String {
        let Self { api, plural, .. } = self;
        match namespace {
            Some(namespace) => format!("{api}/namespaces/{namespace}/{plural}"),
            None => format!("{api}/{plural}"),
        }
    }
}

impl Cluster {
    /// # Errors
    /// It is unclear how the cluster is to be reached. Nothing is sent yet.
    pub(in crate::cli) async fn find(options: &Options) -> Result<Self, Error> {
        let config = config::read(options).await?;
        let (server, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| Error::Kubeconfig(error.to_string()))?;
        Ok(Self {
            client,
            server,
            namespace,
            agents: options.agents.clone(),
        })
    }

    /// Whether there is a kubeconfig without its being named.
    pub(in crate::cli) fn is_configured() -> bool {
        config::exists()
    }

    /// One object.
    pub(in crate::cli) async fn get<T: DeserializeOwned>(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<T, Error> {
        let path = format!("{}/{name}", resource.path(namespace));
        let asked = Asked::new("get", resource, namespace, Some(name));
        self.ask(Request::get(path), Vec::new(), &asked).await
    }

    /// All objects of a kind, in one namespace or in all; `selector` as `kubectl --selector` takes it.
    pub(in crate::cli) async fn list<T: DeserializeOwned>(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<T>, Error> {
        let asked = Asked::new("list", resource, namespace, None);
        let (path, selector) = (resource.path(namespace), selector.replace('=', "%3D"));
        let (mut items, mut rest) = (Vec::new(), String::new());
        loop {
            let page = format!("{path}?limit=500&labelSelector={selector}&continue={rest}");
            let list: List<T> = self.ask(Request::get(page), Vec::new(), &asked).await?;
            items.extend(list.items);
            rest = list.metadata.rest;
            if rest.is_empty() {
                return Ok(items);
            }
        }
    }

    /// The Events of a namespace that the agents wrote.
    pub(in crate::cli) async fn own_events<T: DeserializeOwned>(
        &self,
        namespace: &str,
    ) -> Result<Vec<T>, Error> {
        let path = Resource::EVENTS.path(Some(namespace));
        let asked = Asked::new("list", Resource::EVENTS, Some(namespace), None);
        let request = Request::get(format!("{path}?fieldSelector=source%3Dgrpclb"));
        let list: List<T> = self.ask(request, Vec::new(), &asked).await?;
        Ok(list.items)
    }

    /// Sets an annotation of an object, with the user's own rights.
    pub(in crate::cli) async fn annotate(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        (key, value): (&str, &str),
    ) -> Result<(), Error> {
        let path = format!("{}/{name}?fieldManager=grpclb", resource.path(namespace));
        let patch = serde_json::json!({"metadata": {"annotations": {key: value}}});
        let request = Request::patch(path).header(header::CONTENT_TYPE, "application/merge-patch+json");
        let asked = Asked::new("patch", resource, namespace, Some(name));
        let body = patch.to_string().into_bytes();
        self.ask::<serde::de::IgnoredAny>(request, body, &asked)
            .await
            .map(drop)
    }

    /// Creates what asks the API server a question about the user (`selfsubjectaccessreviews`); everybody may.
    pub(in crate::cli) async fn review(
        &self,
        review: &serde_json::Value,
    ) -> Result<serde_json::Value, Error> {
        let request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .header(header::CONTENT_TYPE, "application/json");
        let asked = Asked::words("ask what you are permitted to do");
        self.ask(request, review.to_string().into_bytes(), &asked).await
    }

    /// A page of the API server as it is: `/version`.
    pub(in crate::cli) async fn page<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.ask(
            Request::get(path),
            Vec::new(),
            &Asked::words(&format!("read {path}")),
        )
        .await
    }

    /// The end of a container's log.
    pub(in crate::cli) async fn log(&self, pod: &str, lines: u32) -> Result<String, Error> {
        let path = Resource::PODS.path(Some(&self.agents));
        let path = format!("{path}/{pod}/log?tailLines={lines}&timestamps=false");
        let asked = Asked {
            action: format!("get pods/log in the namespace {}", self.agents),
            object: format!("pod {pod} in the namespace {}", self.agents),
        };
        let request = Request::get(path).body(Vec::new()).map_err(malformed)?;
        let answer = tokio::time::timeout(ANSWER, self.client.request_text(request)).await;
        answer
            .map_err(|_| self.silent())?
            .map_err(|error| self.failure(&error, &asked))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
        asked: &Asked,
    ) -> Result<T, Error> {
        let request = request.body(body).map_err(malformed)?;
        let answer = tokio::time::timeout(ANSWER, self.client.request(request)).await;
        answer
            .map_err(|_| self.silent())?
            .map_err(|error| self.failure(&error, asked))
    }

    fn silent(&self) -> Error {
        Error::Unreachable {
            server: self.server.clone(),
            cause: format!("nothing came for {} s", ANSWER.as_secs()),
        }
    }

    /// What a failed request means.
    pub(super) fn failure(&self, error: &kube::Error, asked: &Asked) -> Error {
        let server = self.server.clone();
        let status = match error {
            kube::Error::Api(status) => status,
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                return Error::Malformed(error.to_string());
            }
            kube::Error::Auth(cause) => {
                return Error::Kubeconfig(format!("its credentials cannot be had: {}", with_causes(cause)));
            }
            _ => {
                let cause = with_causes(error);
                return Error::Unreachable { server, cause };
            }
        };
        match status.code {
            401 => Error::Unauthorized { server },
            403 => Error::Forbidden {
                action: asked.action.clone(),
                hint: hint(&status.message),
            },
            404 => Error::NotFound(asked.object.clone()),
            code => Error::Refused {
                action: asked.action.clone(),
                code,
                message: status.message.clone(),
            },
        }
    }
}

/// What was asked for, in the words of rights and of people.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// `list pods in the namespace shop`.
    pub(super) action: String,
    /// `pod cart-0 in the namespace shop`.
    pub(super) object: String,
}

impl Asked {
    fn new(verb: &str, resource: Resource, namespace: Option<&str>, name: Option<&str>) -> Self {
        let place = namespace.map_or(String::new(), |namespace| {
            format!(" in the namespace {namespace}")
        });
        let object = match name {
            Some(name) => format!("{} {name}{place}", resource.singular),
            None => format!("resource {}{place}", resource.plural),
        };
        Self {
            action: format!("{verb} {}{place}", resource.plural),
            object,
        }
    }

    fn words(action: &str) -> Self {
        Self {
            action: action.to_owned(),
            object: action.to_owned(),
        }
    }
}

/// What the API server says of a refusal; an admission policy refuses with 403 too, and says why.
fn hint(message: &str) -> String {
    let said = message
        .split_once("forbidden: ")
        .map_or(message, |(_, said)| said);
    let user = said
        .strip_prefix("User \"")
        .and_then(|rest| rest.split('"').next());
    match (user, said.trim()) {
        (Some(user), _) => {
            format!(
                "an administrator can grant it to {user:?} (docs/commands.md lists what each command needs)"
            )
        }
        (None, "") => {
            "an administrator can grant it (docs/commands.md lists what each command needs)".to_owned()
        }
        (None, said) => format!("the API server says: {said}"),
    }
}

#[allow(clippy::needless_pass_by_value)] // as map_err gives it
fn malformed(error: http::Error) -> Error {
    Error::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Exit, failure::Failure};

    /// What is said, and the exit status, when the API server answers so. A client wants a runtime around it.
    fn said(code: u16, message: &str) -> (String, Exit) {
        let config = kube::Config::new("https://api.example:6443".parse().unwrap());
        let cluster = Cluster {
            client: Client::try_from(config).unwrap(),
            server: "https://api.example:6443/".to_owned(),
            namespace: "default".to_owned(),
            agents: "grpclb-system".to_owned(),
        };
        let status = kube::core::Status {
            code,
            message: message.to_owned(),
            ..kube::core::Status::default()
        };
        let asked = Asked::new("get", Resource::PODS, Some("shop"), Some("cart-0"));
        let failure = Failure::from(cluster.failure(&kube::Error::Api(status.boxed()), &asked));
        (failure.to_string(), failure.exit())
    }

    #[tokio::test]
    async fn every_refusal_is_one_line_that_names_the_right_or_the_object() {
        let forbidden = r#"pods "cart-0" is forbidden: User "alice" cannot get resource "pods" in API group "" in the namespace "shop""#;
        let refused_by_policy =
            "namespaces \"shop\" is forbidden: ValidatingAdmissionPolicy 'x' denied request: not like this";
        for (code, message, expected, exit) in [
            (
                403,
                forbidden,
                "you are not permitted to get pods in the namespace shop (403); an administrator can grant it to \"alice\" \
                 (docs/commands.md lists what each command needs)",
                Exit::Forbidden,
            ),
            (
                403,
                refused_by_policy,
                "you are not permitted to get pods in the namespace shop (403); the API server says: ValidatingAdmissionPolicy 'x' \
                 denied request: not like this",
                Exit::Forbidden,
            ),
            (
                403,
                "",
                "you are not permitted to get pods in the namespace shop (403); an administrator can grant it (docs/commands.md lists \
                 what each command needs)",
                Exit::Forbidden,
            ),
            (
                401,
                "Unauthorized",
                "the API server at https://api.example:6443/ does not know you (401): the kubeconfig's credentials are wrong or have \
                 expired",
                Exit::Forbidden,
            ),
            (
                404,
                "not found",
                "there is no pod cart-0 in the namespace shop",
                Exit::Unknown,
            ),
            (
                500,
                "etcd is away",
                "the API server refuses to get pods in the namespace shop: etcd is away (500)",
                Exit::Failed,
            ),
        ] {
            assert_eq!(said(code, message), (expected.to_owned(), exit));
        }
    }
}
