//! Ordinary HTTP/2 ends on both sides of the data plane: the h2 crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::rig::{Rig, backend};

/// A backend that echoes bodies; its responses' header `backend` and trailer `grpc-status` are its own.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) calls: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn start(name: &'static str) -> Self {
        let (listener, address) = backend().await;
        let (connections, calls) = (Arc::default(), Arc::default());
        let accepting = tokio::spawn(accept(
            listener,
            name,
            Arc::clone(&connections),
            Arc::clone(&calls),
        ));
        Self {
            address,
            connections,
            calls,
            accepting,
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    name: &'static str,
    connections: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("nodelay");
        connections.fetch_add(1, Ordering::Relaxed);
        let calls = Arc::clone(&calls);
        tasks.spawn(async move {
            let mut connection = h2::server::Builder::new()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(8 << 20)
                .handshake(stream)
                .await?;
            while let Some(request) = connection.accept().await {
                let (request, respond) = request?;
                calls.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(echo(request, respond, name));
            }
            Ok::<_, h2::Error>(())
        });
    }
}

async fn echo(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    name: &'static str,
) -> Result<(), h2::Error> {
    let response = Response::builder()
        .header("backend", name)
        .body(())
        .expect("a response");
    let mut to = respond.send_response(response, false)?;
    let mut from = request.into_body();
    while let Some(chunk) = from.data().await {
        let chunk = chunk?;
        from.flow_control().release_capacity(chunk.len())?;
        send(&mut to, chunk).await?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    to.send_trailers(trailers)
}

/// Sends a chunk as the windows allow.
pub(crate) async fn send(to: &mut SendStream<Bytes>, mut chunk: Bytes) -> Result<(), h2::Error> {
    while !chunk.is_empty() {
        to.reserve_capacity(chunk.len());
        let granted = std::future::poll_fn(|cx| to.poll_capacity(cx)).await;
        let granted = granted.ok_or(h2::Reason::CANCEL)??;
        to.send_data(chunk.split_to(granted.min(chunk.len())), false)?;
    }
    Ok(())
}

/// A client's connection; what its task ended with.
pub(crate) struct Client {
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub(crate) async fn connect(rig: &Rig, slot: u32) -> Self {
        Self::over(rig.connect(slot).await).await
    }

    pub(crate) async fn over(stream: TcpStream) -> Self {
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(stream)
            .await
            .expect("a handshake");
        Self {
            requests,
            connection: tokio::spawn(connection),
        }
    }

    /// One call: the response's head, body and trailers.
    pub(crate) async fn call(&self, body: Bytes) -> Result<Answer, h2::Error> {
        let (response, mut to) = self.begin(body.is_empty()).await?;
        let sending = async {
            if !body.is_empty() {
                send(&mut to, body).await?;
                to.send_data(Bytes::new(), true)?;
            }
            Ok::<_, h2::Error>(())
        };
        let receiving = async {
            let mut response = response.await?;
            let mut body = Vec::new();
            while let Some(chunk) = response.body_mut().data().await {
                let chunk = chunk?;
                response.body_mut().flow_control().release_capacity(chunk.len())?;
                body.extend_from_slice(&chunk);
            }
            let trailers = response.body_mut().trailers().await?.unwrap_or_default();
            Ok(Answer {
                head: response.map(|_| ()),
                body,
                trailers,
            })
        };
        let both = async { tokio::try_join!(sending, receiving) };
        let ((), answer) = tokio::time::timeout(Duration::from_secs(20), both)
            .await
            .expect("a call within 20 s")?;
        Ok(answer)
    }

    /// Begins a call whose body the test sends.
    pub(crate) async fn begin(
        &self,
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let request = Request::post("http://service/test.Echo/Call")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        self.requests.clone().ready().await?.send_request(request, end)
    }
}

pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    /// Which backend ran the call.
    pub(crate) fn backend(&self) -> &str {
        self.head
            .headers()
            .get("backend")
            .and_then(|name| name.to_str().ok())
            .unwrap_or("none")
    }

    /// The status of a gRPC call, in the trailers or in the head of a trailers-only response.
    pub(crate) fn grpc(&self, name: &str) -> &str {
        let value = self.trailers.get(name).or_else(|| self.head.headers().get(name));
        value.and_then(|value| value.to_str().ok()).unwrap_or("none")
    }
}
