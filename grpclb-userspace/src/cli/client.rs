//! Asks a running agent for its status, over HTTP at the admin address.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;

use crate::observe::Status;

/// How long the whole question may take; the agent itself gives up after 2 s.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const MAX_BYTES: usize = 64 << 20;

/// Why there is no status.
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
    NotAnAgent { address: SocketAddr, cause: String },
}

/// The status of the agent at `address`.
pub(super) async fn status(address: SocketAddr) -> Result<Status, Error> {
    tokio::time::timeout(TIMEOUT, ask(address))
        .await
        .unwrap_or(Err(Error::Timeout(address)))
}

async fn ask(address: SocketAddr) -> Result<Status, Error> {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .map_err(|cause| Error::Unreachable { address, cause })?;
    let strange = |cause: String| Error::NotAnAgent { address, cause };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| strange(error.to_string()))?;
    // It ends with the sender; what goes wrong shows in the answer.
    tokio::spawn(connection);
    let request = Request::get("/status")
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| strange(error.to_string()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| strange(error.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES)
        .collect()
        .await
        .map_err(|error| strange(error.to_string()))?;
    let body = body.to_bytes();
    if !status.is_success() {
        return Err(strange(format!(
            "{status}: {}",
            String::from_utf8_lossy(&body).trim()
        )));
    }
    serde_json::from_slice(&body).map_err(|error| strange(error.to_string()))
}
