//! Asks a running agent, over HTTP: at the admin address of this machine, or on a stream that leads to one elsewhere.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long the whole question may take; the agent itself gives up after 2 s.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const MAX_BYTES: usize = 64 << 20;

/// Why there is no answer from the agent of this machine.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "no agent answers at {address} ({cause}): is it running? Where it answers is said with --admin, here as at \
         `grpclb agent`"
    )]
    Unreachable {
        address: SocketAddr,
        cause: std::io::Error,
    },
    #[error("the agent at {0} did not answer within {secs} s: it is stuck, or not grpclb", secs = TIMEOUT.as_secs())]
    Timeout(SocketAddr),
    #[error("{address} does not answer like grpclb's admin port: {cause}")]
    NotAnAgent { address: SocketAddr, cause: BadAnswer },
}

/// What came was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadAnswer {
    #[error("nothing came for {secs} s", secs = TIMEOUT.as_secs())]
    Silent,
    #[error("{0}")]
    NotHttp(hyper::Error),
    /// An agent of another version, mostly.
    #[error("it does not know this question ({0}): is it older than this grpclb?")]
    NotKnown(String),
    #[error("{0}: {1}")]
    Refused(StatusCode, String),
    #[error("{0}")]
    NotJson(serde_json::Error),
    #[error("{0}")]
    Broken(String),
}

/// A page of the agent at `address`.
pub(super) async fn get_at(address: SocketAddr, page: &str) -> Result<Bytes, Error> {
    let connect = tokio::time::timeout(TIMEOUT, tokio::net::TcpStream::connect(address));
    let stream = connect
        .await
        .map_err(|_| Error::Timeout(address))?
        .map_err(|cause| Error::Unreachable { address, cause })?;
    get(stream, page).await.map_err(|cause| match cause {
        BadAnswer::Silent => Error::Timeout(address),
        cause => Error::NotAnAgent { address, cause },
    })
}

/// A page of the agent that the stream leads to.
pub(super) async fn get<S>(stream: S, page: &str) -> Result<Bytes, BadAnswer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::time::timeout(TIMEOUT, ask(stream, page))
        .await
        .unwrap_or(Err(BadAnswer::Silent))
}

/// Reads an answer.
pub(super) fn json<T: DeserializeOwned>(answer: &[u8]) -> Result<T, BadAnswer> {
    serde_json::from_slice(answer).map_err(BadAnswer::NotJson)
}

async fn ask<S>(stream: S, page: &str) -> Result<Bytes, BadAnswer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(BadAnswer::NotHttp)?;
    // It ends with the sender; what goes wrong shows in the answer.
    tokio::spawn(connection);
    let request = Request::get(page)
        .header(HOST, "agent")
        .body(Empty::<Bytes>::new())
        .map_err(|error| BadAnswer::Broken(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(BadAnswer::NotHttp)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES)
        .collect()
        .await
        .map_err(|error| BadAnswer::Broken(error.to_string()))?
        .to_bytes();
    let said = || String::from_utf8_lossy(&body).trim().to_owned();
    match status {
        status if status.is_success() => Ok(body),
        StatusCode::NOT_FOUND => Err(BadAnswer::NotKnown(said())),
        status => Err(BadAnswer::Refused(status, said())),
    }
}
