//! One request to the API server: how it is reached, and what can go wrong, in the few ways that make a difference here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use super::causes::with_causes;
use super::{Error, Options, wire};

/// Until the head of a response is there. The API server ends a request itself after a minute.
const RESPONSE: Duration = Duration::from_secs(30);
/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest answer that is taken as a whole. A page of 500 slices is 1 MiB; with 100 endpoints in each, 12 MiB.
const MAX_ANSWER: usize = 64 << 20;
/// The largest explanation of a refusal that is read.
const MAX_REFUSAL: usize = 64 << 10;

/// The way to the API server. Copies share their connections.
#[derive(Clone)]
pub(super) struct Api {
    client: kube::Client,
    /// For people.
    pub(super) server: String,
}

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the API server is not reached: {0}")]
    Unreachable(String),
    #[error("the API server does not answer: nothing came for {0:?}")]
    Silent(Duration),
    /// 410: what was asked for is too old for it.
    #[error("the API server no longer has that state: {0}")]
    Gone(String),
    /// 400 and 422: it does not know what was asked for.
    #[error("the API server does not understand the request: {0}")]
    NotUnderstood(String),
    /// 404: it has no such resource.
    #[error("the API server has no such resource: {0}")]
    NotFound(String),
    #[error("the API server refuses: {message} ({code})")]
    Refused {
        code: u16,
        message: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
    #[error("the API server's answer is not understood: {0}")]
    Malformed(#[from] wire::Error),
    #[error("the API server's answer is larger than {MAX_ANSWER} bytes")]
    TooLarge,
}

impl Failure {
    /// A refusal by its code; from the head of a response, or from an event in a watch.
    pub(super) fn refused(code: u16, message: String, after: Option<Duration>) -> Self {
        match code {
            400 | 422 => Self::NotUnderstood(message),
            404 => Self::NotFound(message),
            410 => Self::Gone(message),
            _ => Self::Refused { code, message, after },
        }
    }

    /// Whether there is no such resource, or none that may be read (the server asks for rights before it looks).
    pub(super) fn is_of_the_resource(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::Refused { code: 403, .. })
    }

    /// Whether another request for the same might be answered: the server does not know how this one was made (422), or lacks
    /// what it takes (500: etcd before 3.4.31 tells no progress, and lists are not streamed). client-go, too, takes any
    /// refusal for that.
    pub(super) fn is_of_the_request(&self) -> bool {
        matches!(self, Self::NotUnderstood(_) | Self::Refused { code: 500, .. })
    }
}

impl Api {
    /// # Errors
    /// It is unclear how the API is to be reached. Nothing is sent yet.
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let mut config = config(options)?;
        config.connect_timeout = Some(CONNECT);
        // Watches are silent for long, and this would end them; silence is noticed where they are read.
        config.read_timeout = None;
        // Ours is spread over time, and knows what a failure means.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = kube::Client::try_from(config).map_err(Error::Client)?;
        Ok(Self { client, server })
    }

    /// Asks for something; the answer comes in pieces.
    pub(super) async fn get(&self, path: &str, accept: &str) -> Result<Answer, Failure> {
        let request = Request::get(path).header(header::ACCEPT, accept);
        self.send(request.body(Body::empty())).await
    }

    /// Makes an object of what is given as JSON.
    pub(super) async fn post(&self, path: &str, json: Vec<u8>) -> Result<(), Failure> {
        let request = Request::post(path)
            .header(header::ACCEPT, wire::ACCEPT)
            .header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(Body::from(json))).await.map(|_| ())
    }

    async fn send(&self, request: http::Result<Request<Body>>) -> Result<Answer, Failure> {
        let request = request.map_err(|error| Failure::Unreachable(error.to_string()))?;
        let response = tokio::time::timeout(RESPONSE, self.client.send(request))
            .await
            .map_err(|_| Failure::Silent(RESPONSE))?
            .map_err(|error| Failure::Unreachable(with_causes(&error)))?;
        let (status, after) = (response.status(), retry_after(response.headers()));
        let answer = Answer {
            body: response.into_body(),
        };
        if status.is_success() {
            return Ok(answer);
        }
        Err(Failure::refused(
            status.as_u16(),
            answer.refusal(status).await,
            after,
        ))
    }
}

/// A response's body.
pub(super) struct Answer {
    body: Body,
}

impl Answer {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or nothing came within `patience`.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(patience, self.body.frame())
                .await
                .map_err(|_| Failure::Silent(patience))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Unreachable(with_causes(&error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All of it.
    pub(super) async fn whole(mut self) -> Result<Bytes, Failure> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next(RESPONSE).await? {
            if whole.len() + piece.len() > MAX_ANSWER {
                return Err(Failure::TooLarge);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// What a refusal says of itself.
    async fn refusal(mut self, status: StatusCode) -> String {
        let mut said = BytesMut::new();
        while let Ok(Some(piece)) = self.next(RESPONSE).await {
            said.extend_from_slice(&piece);
            if said.len() > MAX_REFUSAL {
                break;
            }
        }
        let said = said.freeze();
        match wire::object::<wire::Status>(said.clone()) {
            Ok(status) => status.message,
            // From something on the way, or from a server that is only starting.
            Err(_) => match std::str::from_utf8(&said) {
                Ok(text) if !text.trim().is_empty() => text.trim().chars().take(300).collect(),
                _ => status.to_string(),
            },
        }
    }
}

/// The kubeconfig that is named; the pod's service account; the user's own kubeconfig.
fn config(options: &Options) -> Result<Config, Error> {
    let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let kubeconfig = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None if in_cluster => return Config::incluster().map_err(Error::ServiceAccount),
        None => Kubeconfig::read(),
    };
    let kubeconfig = kubeconfig.map_err(Error::Kubeconfig)?;
    // It is asynchronous for the sake of credential plugins that ask their user; here nobody can be asked.
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options);
    let runtime = tokio::runtime::Builder::new_current_thread();
    std::thread::scope(|scope| {
        let read = move || {
            let mut runtime = runtime;
            runtime
                .enable_all()
                .build()
                .map(|runtime| runtime.block_on(config))
        };
        let reading = std::thread::Builder::new().spawn_scoped(scope, read);
        match reading.map_err(Error::Thread)?.join() {
            Ok(Ok(config)) => config.map_err(Error::Kubeconfig),
            Ok(Err(cause)) => Err(Error::Thread(cause)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
