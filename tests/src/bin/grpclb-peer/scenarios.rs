//! The scenarios: each makes calls and checks every answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::{AsciiMetadataValue, BinaryMetadataValue, MetadataMap};
use tonic::{Code, Request};

use crate::client::{Client, Tally, client, connect, endpoint, pattern};
use crate::probe::Call;

/// Runs one scenario and tells its outcome as a JSON line.
pub(crate) async fn run(target: SocketAddr, scenario: &str) -> String {
    let limit = Duration::from_secs(100);
    let result = tokio::time::timeout(limit, choose(target, scenario))
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {limit:?}")));
    let (error, tally) = match result {
        Ok(tally) => (None, tally),
        Err(error) => (Some(format!("{error:#}")), Tally::default()),
    };
    json!({
        "scenario": scenario, "language": "rust", "ok": error.is_none(), "error": error,
        "calls": tally.calls, "per_backend": tally.per_backend, "peers": tally.peers,
    })
    .to_string()
}

async fn choose(target: SocketAddr, scenario: &str) -> Result<Tally> {
    match scenario {
        "unary" => unary(target).await,
        "many_connections" => many_connections(target).await,
        "client_stream" => client_stream(target).await,
        "server_stream" => server_stream(target).await,
        "bidi" => bidi(target).await,
        "large" => large(target).await,
        "concurrent" => concurrent(target).await,
        "metadata" => metadata(target).await,
        "deadline" => deadline(target).await,
        "cancel" => cancel(target).await,
        "statuses" => statuses(target).await,
        "trailers_only" => trailers_only(target).await,
        "compression" => compression(target).await,
        "keepalive" => keepalive(target).await,
        other => bail!("no scenario is named {other}"),
    }
}

fn call(scenario: &str, number: u64, payload: Vec<u8>) -> Call {
    Call {
        id: format!("rust-{scenario}-{}-{number}", std::process::id()),
        payload,
        ..Call::default()
    }
}

async fn echo(client: &mut Client, call: Call, tally: &mut Tally) -> Result<()> {
    let (id, payload) = (call.id.clone(), call.payload.clone());
    let reply = client.unary(call).await?.into_inner();
    ensure!(reply.payload == payload, "{id}: other bytes came back");
    tally.add(&id, &reply)
}

async fn unary(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    for number in 0..300 {
        echo(
            &mut client,
            call("unary", number, pattern(number, 100)),
            &mut tally,
        )
        .await?;
    }
    Ok(tally)
}

async fn many_connections(target: SocketAddr) -> Result<Tally> {
    let mut tally = Tally::default();
    for number in 0..60 {
        echo(
            &mut connect(target).await?,
            call("many_connections", number, vec![1]),
            &mut tally,
        )
        .await?;
    }
    Ok(tally)
}

async fn client_stream(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    for number in 0..20 {
        let message = call("client_stream", number, pattern(number, 1000));
        let id = message.id.clone();
        let reply = client
            .client_stream(tokio_stream::iter(vec![message; 50]))
            .await?
            .into_inner();
        ensure!(
            (reply.messages, reply.received) == (50, 50_000),
            "{id}: {} messages came",
            reply.messages
        );
        tally.add(&id, &reply)?;
    }
    Ok(tally)
}

async fn server_stream(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    for number in 0..20 {
        let message = Call {
            replies: 50,
            ..call("server_stream", number, pattern(number, 1000))
        };
        let mut replies = client.server_stream(message.clone()).await?.into_inner();
        let mut first = None;
        for sequence in 0..50 {
            let reply = replies
                .message()
                .await?
                .with_context(|| format!("{}: ended early", message.id))?;
            ensure!(
                reply.sequence == sequence && reply.payload == message.payload,
                "{}: wrong reply",
                message.id
            );
            let backend = first.get_or_insert_with(|| reply.clone());
            ensure!(
                backend.backend == reply.backend,
                "{}: one stream, two backends",
                message.id
            );
        }
        ensure!(
            replies.message().await?.is_none(),
            "{}: too many replies",
            message.id
        );
        tally.add(&message.id, &first.context("no reply")?)?;
    }
    Ok(tally)
}

async fn bidi(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    for number in 0..20 {
        let message = call("bidi", number, pattern(number, 1000));
        let (requests, receiver) = tokio::sync::mpsc::channel(1);
        requests.send(message.clone()).await?;
        let mut replies = client.bidi(ReceiverStream::new(receiver)).await?.into_inner();
        let mut first = None;
        for sequence in 0..50 {
            let reply = replies
                .message()
                .await?
                .with_context(|| format!("{}: ended early", message.id))?;
            ensure!(
                reply.sequence == sequence && reply.payload == message.payload,
                "{}: wrong reply",
                message.id
            );
            let backend = first.get_or_insert_with(|| reply.clone());
            ensure!(
                backend.backend == reply.backend,
                "{}: one stream, two backends",
                message.id
            );
            if sequence < 49 {
                requests.send(message.clone()).await?;
            }
        }
        drop(requests);
        ensure!(
            replies.message().await?.is_none(),
            "{}: too many replies",
            message.id
        );
        tally.add(&message.id, &first.context("no reply")?)?;
    }
    Ok(tally)
}

async fn large(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    for number in 0..4 {
        echo(
            &mut client,
            call("large", number, pattern(number, 10_000_000)),
            &mut tally,
        )
        .await?;
    }
    Ok(tally)
}

async fn concurrent(target: SocketAddr) -> Result<Tally> {
    let client = connect(target).await?;
    let mut calls = JoinSet::new();
    for number in 0..1000 {
        let mut client = client.clone();
        calls.spawn(async move {
            let mut tally = Tally::default();
            let message = Call {
                delay_ms: 500,
                ..call("concurrent", number, pattern(number, 100))
            };
            let id = message.id.clone();
            let payload = message.payload.clone();
            let reply = client.unary(message).await?.into_inner();
            ensure!(reply.payload == payload, "{id}: other bytes came back");
            tally.add(&id, &reply)?;
            Ok((id, reply))
        });
    }
    let mut tally = Tally::default();
    while let Some(done) = calls.join_next().await {
        let (id, reply) = done??;
        tally.add(&id, &reply)?;
    }
    Ok(tally)
}

async fn metadata(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    let every_byte = BinaryMetadataValue::from_bytes(&(0..=255).collect::<Vec<u8>>());
    for number in 0..12 {
        let message = call("metadata", number, vec![7]);
        let id = message.id.clone();
        let mut request = Request::new(message);
        let sent = request.metadata_mut();
        sent.append(
            "x-echo-text",
            AsciiMetadataValue::try_from(format!("plain {number}"))?,
        );
        sent.append("x-echo-text", AsciiMetadataValue::from_static("second value"));
        sent.append_bin("x-echo-every-bin", every_byte.clone());
        sent.append("x-echo-large", AsciiMetadataValue::try_from("m".repeat(12_000))?);
        let sent = sent.clone();
        let response = client.unary(request).await?;
        ensure_echoed(&sent, response.metadata())?;
        tally.add(&id, &response.into_inner())?;
    }
    Ok(tally)
}

fn ensure_echoed(sent: &MetadataMap, received: &MetadataMap) -> Result<()> {
    for key in ["x-echo-text", "x-echo-large"] {
        // A grpc-js server joins fields of one name (RFC 9110, section 5.3).
        let values = |map: &MetadataMap| {
            let values = map.get_all(key).iter().map(AsciiMetadataValue::as_encoded_bytes);
            values.collect::<Vec<_>>().join(&b", "[..])
        };
        ensure!(
            values(sent) == values(received),
            "{key} came back as {}",
            values(received).escape_ascii()
        );
    }
    let bytes = |map: &MetadataMap| map.get_bin("x-echo-every-bin").map(BinaryMetadataValue::to_bytes);
    ensure!(
        matches!((bytes(sent), bytes(received)), (Some(Ok(sent)), Some(Ok(received))) if sent == received),
        "the binary value came back changed"
    );
    Ok(())
}

async fn deadline(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    for number in 0..6 {
        let mut request = Request::new(Call {
            delay_ms: 30_000,
            ..call("deadline", number, vec![])
        });
        request.set_timeout(Duration::from_millis(300));
        let started = Instant::now();
        let status = client
            .unary(request)
            .await
            .err()
            .context("answered before its time")?;
        // tonic's own timer reports CANCELLED "Timeout expired"; a server that is quicker, DEADLINE_EXCEEDED.
        ensure!(
            matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
            "ended with {status}"
        );
        ensure!(
            started.elapsed() < Duration::from_secs(5),
            "took {:?}",
            started.elapsed()
        );
        echo(&mut client, call("after-deadline", number, vec![1]), &mut tally).await?;
    }
    Ok(tally)
}

async fn cancel(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    for number in 0..6 {
        let message = Call {
            replies: 1000,
            delay_ms: 100,
            ..call("cancel", number, vec![])
        };
        let mut replies = client.server_stream(message.clone()).await?.into_inner();
        let first = replies.message().await?.context("ended early")?;
        ensure!(first.id == message.id, "another call's reply");
        drop(replies);
        echo(&mut client, call("after-cancel", number, vec![1]), &mut tally).await?;
    }
    Ok(tally)
}

/// A message that needs percent-encoding in `grpc-message`.
const MESSAGE: &str = "100 % so gewollt: äöü ✓";

async fn statuses(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    for code in 1..=16 {
        let message = Call {
            code,
            message: MESSAGE.into(),
            ..call("statuses", code.into(), vec![])
        };
        let status = client.unary(message.clone()).await.err().context("no error")?;
        ensure_status(&status, code)?;
        let id = format!("{}-stream", message.id);
        let mut replies = client
            .server_stream(Call {
                id,
                replies: 1,
                ..message
            })
            .await?
            .into_inner();
        let reply = replies.message().await?.context("no reply before the error")?;
        let status = replies
            .message()
            .await
            .err()
            .context("no error after the reply")?;
        ensure_status(&status, code)?;
        tally.add(&reply.id.clone(), &reply)?;
    }
    Ok(tally)
}

fn ensure_status(status: &tonic::Status, code: u32) -> Result<()> {
    ensure!(
        status.code() == Code::from_i32(code.cast_signed()),
        "asked for {code}, got {status}"
    );
    ensure!(
        status.message() == MESSAGE,
        "the message came as {}",
        status.message()
    );
    Ok(())
}

async fn trailers_only(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?;
    let mut tally = Tally::default();
    for number in 0..12 {
        let message = Call {
            code: 5,
            message: MESSAGE.into(),
            ..call("trailers_only", number, vec![])
        };
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("x-trail-why", AsciiMetadataValue::from_static("because"));
        let status = client.unary(request).await.err().context("no error")?;
        ensure_status(&status, 5)?;
        ensure!(
            status
                .metadata()
                .get("x-trail-why")
                .is_some_and(|why| why == "because"),
            "a trailer is missing"
        );
        echo(
            &mut client,
            call("after-trailers-only", number, vec![1]),
            &mut tally,
        )
        .await?;
    }
    Ok(tally)
}

async fn compression(target: SocketAddr) -> Result<Tally> {
    let mut client = connect(target).await?.send_compressed(Gzip);
    let mut tally = Tally::default();
    for number in 0..12 {
        let message = call("compression", number, b"compress me ".repeat(100_000));
        let (id, payload) = (message.id.clone(), message.payload.clone());
        let response = client.unary(message).await?;
        let reply = response.into_inner();
        ensure!(reply.payload == payload, "{id}: other bytes came back");
        tally.add(&id, &reply)?;
    }
    Ok(tally)
}

async fn keepalive(target: SocketAddr) -> Result<Tally> {
    let channel = endpoint(target)?
        .http2_keep_alive_interval(Duration::from_millis(200))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .connect()
        .await?;
    let mut client = client(channel);
    let mut tally = Tally::default();
    // Two replies two seconds apart: ten pings on a silent stream.
    let message = Call {
        replies: 2,
        delay_ms: 2000,
        ..call("keepalive", 0, vec![1])
    };
    let mut replies = client.server_stream(message.clone()).await?.into_inner();
    let first = replies.message().await?.context("no first reply")?;
    let second = replies.message().await?.context("no second reply")?;
    ensure!(first.backend == second.backend, "one stream, two backends");
    tally.add(&message.id, &first)?;
    Ok(tally)
}
