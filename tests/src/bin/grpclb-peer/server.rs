//! The tonic server.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::probe::probe_server::{Probe, ProbeServer};
use crate::probe::{Call, Reply};
use crate::{MAX_HEADER_LIST, MAX_MESSAGE};

pub(crate) async fn serve(
    listen: SocketAddr,
    name: String,
    executions: &Path,
    max_concurrent_streams: Option<u32>,
) -> anyhow::Result<()> {
    let executions = File::options().create(true).append(true).open(executions)?;
    let backend = Backend {
        name: name.into(),
        executions: Arc::new(executions),
    };
    let service = ProbeServer::new(backend)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let incoming = tonic::transport::server::TcpIncoming::bind(listen)?.with_nodelay(Some(true));
    println!("{{\"listening\":true}}");
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tonic::transport::Server::builder()
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .max_concurrent_streams(max_concurrent_streams)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move {
            terminated.recv().await;
        })
        .await?;
    Ok(())
}

#[derive(Clone)]
struct Backend {
    name: Arc<str>,
    executions: Arc<File>,
}

/// One run of a call: says that it began, and that it was cancelled unless it is told of its end.
struct Execution {
    id: String,
    executions: Arc<File>,
    ended: bool,
}

impl Execution {
    fn note(&self, event: &str) {
        // One write for one line: lines of parallel calls do not mix in a file opened for appending.
        let _ = (&*self.executions).write_all(format!("{event} {}\n", self.id).as_bytes());
    }
}

impl Execution {
    /// The call came to its own end. (A method, so that a closure that calls it captures the whole guard.)
    fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        if !self.ended {
            self.note("cancelled");
        }
    }
}

impl Backend {
    fn begin(&self, id: &str) -> Execution {
        let execution = Execution {
            id: id.to_owned(),
            executions: Arc::clone(&self.executions),
            ended: false,
        };
        execution.note("started");
        execution
    }

    fn reply(&self, peer: &str, id: &str) -> Reply {
        Reply {
            backend: self.name.to_string(),
            peer: peer.to_owned(),
            id: id.to_owned(),
            ..Reply::default()
        }
    }
}

fn peer_of<T>(request: &Request<T>) -> String {
    request
        .remote_addr()
        .map(|address| address.ip().to_canonical().to_string())
        .unwrap_or_default()
}

/// The request metadata whose key begins with `prefix`.
fn with_prefix(metadata: &MetadataMap, prefix: &str) -> MetadataMap {
    let mut found = MetadataMap::new();
    for entry in metadata.iter() {
        match entry {
            KeyAndValueRef::Ascii(key, value) if key.as_str().starts_with(prefix) => {
                found.append(key.clone(), value.clone());
            }
            KeyAndValueRef::Binary(key, value) if key.as_str().starts_with(prefix) => {
                found.append_bin(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    found
}

fn failure(call: &Call, trailers: MetadataMap) -> Status {
    Status::with_metadata(
        Code::from_i32(call.code.cast_signed()),
        call.message.clone(),
        trailers,
    )
}

#[tonic::async_trait]
impl Probe for Backend {
    async fn unary(&self, request: Request<Call>) -> Result<Response<Reply>, Status> {
        let (peer, metadata) = (peer_of(&request), request.metadata().clone());
        let call = request.into_inner();
        let mut execution = self.begin(&call.id);
        if call.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(call.delay_ms.into())).await;
        }
        execution.end();
        if call.code != 0 {
            return Err(failure(&call, with_prefix(&metadata, "x-trail-")));
        }
        let mut response = Response::new(Reply {
            payload: call.payload,
            ..self.reply(&peer, &call.id)
        });
        *response.metadata_mut() = with_prefix(&metadata, "x-echo-");
        Ok(response)
    }

    async fn client_stream(&self, request: Request<Streaming<Call>>) -> Result<Response<Reply>, Status> {
        let (peer, metadata) = (peer_of(&request), request.metadata().clone());
        let mut calls = request.into_inner();
        let mut reply = self.reply(&peer, "");
        let mut execution: Option<Execution> = None;
        while let Some(call) = calls.message().await? {
            execution.get_or_insert_with(|| self.begin(&call.id));
            reply.id = call.id;
            reply.messages += 1;
            reply.received += call.payload.len() as u64;
        }
        if let Some(execution) = &mut execution {
            execution.end();
        }
        let mut response = Response::new(reply);
        *response.metadata_mut() = with_prefix(&metadata, "x-echo-");
        Ok(response)
    }

    type ServerStreamStream = ReceiverStream<Result<Reply, Status>>;

    async fn server_stream(
        &self,
        request: Request<Call>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        let (peer, metadata) = (peer_of(&request), request.metadata().clone());
        let call = request.into_inner();
        let mut execution = self.begin(&call.id);
        let backend = self.clone();
        let (replies, receiver) = mpsc::channel(4);
        let echoed = with_prefix(&metadata, "x-echo-");
        tokio::spawn(async move {
            for sequence in 0..call.replies {
                if call.delay_ms > 0 {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(call.delay_ms.into())) => {}
                        () = replies.closed() => return,
                    }
                }
                let payload = call.payload.clone();
                let reply = Reply {
                    sequence,
                    payload,
                    ..backend.reply(&peer, &call.id)
                };
                if replies.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
            execution.end();
            if call.code != 0 {
                let _ = replies
                    .send(Err(failure(&call, with_prefix(&metadata, "x-trail-"))))
                    .await;
            }
        });
        let mut response = Response::new(ReceiverStream::new(receiver));
        *response.metadata_mut() = echoed;
        Ok(response)
    }

    type BidiStream = ReceiverStream<Result<Reply, Status>>;

    async fn bidi(&self, request: Request<Streaming<Call>>) -> Result<Response<Self::BidiStream>, Status> {
        let (peer, metadata) = (peer_of(&request), request.metadata().clone());
        let mut calls = request.into_inner();
        let backend = self.clone();
        let (replies, receiver) = mpsc::channel(4);
        let echoed = with_prefix(&metadata, "x-echo-");
        tokio::spawn(async move {
            let mut execution: Option<Execution> = None;
            let mut sequence = 0;
            loop {
                let call = tokio::select! {
                    call = calls.message() => call,
                    () = replies.closed() => return,
                };
                let Ok(Some(call)) = call else {
                    if let (Ok(None), Some(execution)) = (call, &mut execution) {
                        execution.end();
                    }
                    return;
                };
                let execution = execution.get_or_insert_with(|| backend.begin(&call.id));
                if call.code != 0 {
                    execution.end();
                    let _ = replies
                        .send(Err(failure(&call, with_prefix(&metadata, "x-trail-"))))
                        .await;
                    return;
                }
                let reply = Reply {
                    sequence,
                    payload: call.payload,
                    ..backend.reply(&peer, &call.id)
                };
                sequence += 1;
                if replies.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        });
        let mut response = Response::new(ReceiverStream::new(receiver));
        *response.metadata_mut() = echoed;
        Ok(response)
    }
}
