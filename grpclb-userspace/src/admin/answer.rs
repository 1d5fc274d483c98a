//! Which answer belongs to which request. No sockets here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};

use super::StatusSource;
use crate::observe::explain::Question;
use crate::observe::metrics;
use crate::observe::status::Readiness;

/// How long a snapshot may take to make.
pub(super) const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// The same for the check; below what a client waits for.
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);

/// Which port was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Admin,
    /// Reachable from the network: the metrics, and a kubelet's probes without any reason.
    Metrics,
}

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METRICS: HeaderValue = HeaderValue::from_static(metrics::CONTENT_TYPE);

/// Answers one request.
pub(super) async fn answer(
    port: Port,
    method: &Method,
    uri: &Uri,
    source: &Arc<dyn StatusSource>,
) -> Response<Full<Bytes>> {
    let path = uri.path();
    let known = match port {
        Port::Admin => matches!(
            path,
            "/status" | "/explain" | "/check" | "/readyz" | "/livez" | "/metrics"
        ),
        Port::Metrics => matches!(path, "/metrics" | "/readyz" | "/livez"),
    };
    if !known {
        let paths = if port == Port::Admin {
            "/status, /explain, /check, /readyz, /livez and /metrics"
        } else {
            "/metrics, /readyz and /livez"
        };
        return response(
            StatusCode::NOT_FOUND,
            TEXT,
            format!("no such page; there is {paths}\n"),
        );
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refused = response(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "this port only answers GET\n".to_owned(),
        );
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if path == "/livez" {
        return response(StatusCode::OK, TEXT, "ok\n".to_owned());
    }
    if path == "/readyz" {
        return readiness(&source.readiness(), port);
    }
    if path == "/check" {
        return match tokio::time::timeout(CHECK_TIMEOUT, source.check()).await {
            Ok(report) => response(StatusCode::OK, JSON, report),
            Err(_) => late(CHECK_TIMEOUT),
        };
    }
    if path == "/explain" {
        return explain(uri.query().unwrap_or_default(), source).await;
    }
    let Ok(status) = tokio::time::timeout(STATUS_TIMEOUT, source.status()).await else {
        return late(STATUS_TIMEOUT);
    };
    if path == "/status" {
        json(&status)
    } else {
        response(StatusCode::OK, METRICS, metrics::text(&status))
    }
}

async fn explain(query: &str, source: &Arc<dyn StatusSource>) -> Response<Full<Bytes>> {
    let question = match Question::from_query(query) {
        Ok(question) => question,
        Err(error) => return response(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n")),
    };
    match tokio::time::timeout(STATUS_TIMEOUT, source.explain(question)).await {
        Ok(explanation) => json(&explanation),
        Err(_) => late(STATUS_TIMEOUT),
    }
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(json) => response(StatusCode::OK, JSON, json),
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn late(limit: Duration) -> Response<Full<Bytes>> {
    let message = format!("the agent did not tell its status within {} s\n", limit.as_secs());
    response(StatusCode::SERVICE_UNAVAILABLE, TEXT, message)
}

fn readiness(readiness: &Readiness, port: Port) -> Response<Full<Bytes>> {
    if readiness.ready {
        return response(StatusCode::OK, TEXT, "ready\n".to_owned());
    }
    let mut reasons = String::from("not ready\n");
    let told = if port == Port::Admin {
        &readiness.reasons[..]
    } else {
        &[]
    };
    for reason in told {
        reasons.push_str(reason);
        reasons.push('\n');
    }
    response(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons)
}

fn response(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
