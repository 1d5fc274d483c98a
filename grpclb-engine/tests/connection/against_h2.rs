//! Our server and the h2 crate's clients over an in-memory pipe; the pump that drives either role.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use grpclb_engine::Time;
use grpclb_engine::connection::{Config, Event, HeadersKind, Role};
use grpclb_engine::frame::ErrorCode;
use http::{HeaderMap, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::support::Side;

/// Drives one of our connections over a pipe: `act` on each event and once more without one, then a transmit, then whatever can be read or written.
/// Each wake-up takes a millisecond of the connection's time. Ends with the connection.
pub(crate) async fn pump(
    mut side: Side,
    io: DuplexStream,
    mut act: impl FnMut(&mut Side, Time, Option<Event>),
) -> Side {
    let mut now = Time::ZERO;
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut buffer = [0; 8192];
    let mut unwritten = Vec::new();
    loop {
        now += Duration::from_millis(1);
        side.timeout(now);
        for event in side.take_events() {
            act(&mut side, now, Some(event));
        }
        act(&mut side, now, None);
        if unwritten.is_empty() {
            unwritten = side.transmit(now);
        }
        if side.connection.is_closed() && unwritten.is_empty() {
            side.receive(now, &[]);
            return side;
        }
        // While a deadline is near, time goes on by itself.
        let impatient = side.connection.poll_timeout().is_some() || side.connection.wants_transmit();
        let read = tokio::select! {
            biased;
            read = reader.read(&mut buffer) => read,
            written = writer.write(&unwritten), if !unwritten.is_empty() => {
                match written {
                    Ok(n) => drop(unwritten.drain(..n)),
                    Err(_) => unwritten.clear(),
                }
                continue;
            }
            () = tokio::task::yield_now(), if impatient => continue,
        };
        match read {
            Ok(n) if n > 0 => side.receive(now, &buffer[..n]),
            _ => {
                unwritten.clear();
                side.connection.handle_eof();
                side.receive(now, &[]);
            }
        }
    }
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(tokio::task::LocalSet::new().run_until(test));
}

/// Our server's part of an echo: response headers at once, DATA as it comes, trailers at the end.
fn echo(side: &mut Side, _: Time, event: Option<Event>) {
    match event {
        Some(Event::Headers {
            stream,
            end_stream,
            kind: HeadersKind::Request,
            ..
        }) => {
            side.respond(stream, false);
            if end_stream {
                side.trailers(stream);
            }
        }
        Some(Event::Headers {
            stream,
            kind: HeadersKind::Trailers,
            ..
        }) => side.trailers(stream),
        Some(Event::Data {
            stream,
            chunk,
            end_stream,
            ..
        }) => {
            side.connection.release(stream, chunk.len() as u32);
            side.connection.send_data(stream, chunk, false);
            if end_stream {
                side.trailers(stream);
            }
        }
        Some(Event::Closed { code, reason, .. }) => assert_eq!(code, ErrorCode::NO_ERROR, "{reason}"),
        _ => {}
    }
}

pub(crate) fn body(call: usize, len: usize) -> Bytes {
    (0..len)
        .map(|at| (call * 7 + at) as u8)
        .collect::<Vec<_>>()
        .into()
}

fn request() -> Request<()> {
    Request::post("http://echo/echo.Echo/Unary")
        .header("content-type", "application/grpc")
        .body(())
        .expect("right")
}

/// Sends all of `data` as the peer's window allows.
async fn send_all(
    mut send: h2::SendStream<Bytes>,
    mut data: Bytes,
    trailers: Option<HeaderMap>,
) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let n = std::future::poll_fn(|cx| send.poll_capacity(cx))
            .await
            .expect("the stream lives")?;
        send.send_data(data.split_to(n.min(data.len())), false)?;
    }
    match trailers {
        Some(trailers) => send.send_trailers(trailers),
        None => send.send_data(Bytes::new(), true),
    }
}

async fn receive_all(mut recv: h2::RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = recv.data().await {
        let chunk = chunk?;
        all.extend_from_slice(&chunk);
        recv.flow_control().release_capacity(chunk.len())?;
    }
    Ok((all, recv.trailers().await?))
}

/// One call of an h2 client, echoed.
async fn call(mut client: h2::client::SendRequest<Bytes>, at: usize, len: usize) {
    let with_trailers = at.is_multiple_of(3);
    let (response, send) = client.send_request(request(), false).expect("room for a stream");
    let sent = body(at, len);
    let trailers = with_trailers.then(HeaderMap::new);
    let sending = tokio::task::spawn_local(send_all(send, sent.clone(), trailers));
    let response = response.await.expect("a response");
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let (echoed, trailers) = receive_all(response.into_body()).await.expect("the whole body");
    assert!(echoed == sent, "call {at}: {} of {len} bytes", echoed.len());
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    sending.await.expect("no panic").expect("sent");
}

fn h2_clients() -> Vec<h2::client::Builder> {
    let tuned = |tune: &dyn Fn(&mut h2::client::Builder)| {
        let mut builder = h2::client::Builder::new();
        tune(&mut builder);
        builder
    };
    vec![
        h2::client::Builder::new(),
        tuned(&|b| {
            b.initial_window_size(100).initial_connection_window_size(70_000);
        }),
        tuned(&|b| {
            b.header_table_size(0);
        }),
        tuned(&|b| {
            b.initial_window_size(1 << 20)
                .initial_connection_window_size(1 << 22)
                .max_frame_size(1 << 20);
        }),
    ]
}

#[test]
fn h2_clients_of_all_kinds_are_served() {
    for builder in h2_clients() {
        run(async {
            let (ours, theirs) = tokio::io::duplex(10_000);
            let server =
                tokio::task::spawn_local(pump(Side::new(Role::Server, Config::to_client()), ours, echo));
            let (client, connection) = builder.handshake(theirs).await.expect("a handshake");
            let connection = tokio::task::spawn_local(connection);
            let sizes = [0, 1, 5, 100, 16_383, 16_384, 16_385, 65_535, 65_536, 200_000];
            let calls: Vec<_> = (0..60)
                .map(|at| tokio::task::spawn_local(call(client.clone(), at, sizes[at % sizes.len()])))
                .collect();
            for call in calls {
                call.await.expect("the call went well");
            }
            drop(client);
            connection.await.expect("no panic").expect("a clean end");
            let side = server.await.expect("no panic");
            assert_eq!(side.connection.streams(), 0);
        });
    }
}

#[test]
fn an_h2_clients_cancelled_calls_leave_the_others_alone() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(10_000);
        let server = tokio::task::spawn_local(pump(Side::new(Role::Server, Config::to_client()), ours, echo));
        let (client, connection) = h2::client::handshake(theirs).await.expect("a handshake");
        let connection = tokio::task::spawn_local(connection);
        let mut kept = Vec::new();
        for at in 0..200 {
            let mut client = client.clone();
            if at % 2 == 0 {
                let (response, mut send) = client.send_request(request(), false).expect("room for a stream");
                send.send_data(body(at, 100), false).expect("queued");
                tokio::task::yield_now().await;
                drop((response, send));
            } else {
                kept.push(tokio::task::spawn_local(call(client, at, 1000)));
            }
        }
        for call in kept {
            call.await.expect("the call went well");
        }
        drop(client);
        connection.await.expect("no panic").expect("a clean end");
        server.await.expect("no panic");
    });
}

#[test]
fn a_shutdown_of_ours_lets_an_h2_client_finish() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(10_000);
        let mut asked = false;
        let server = tokio::task::spawn_local(pump(
            Side::new(Role::Server, Config::to_client()),
            ours,
            move |side, now, event| {
                let begun = matches!(event, Some(Event::Data { .. }));
                echo(side, now, event);
                if begun && !std::mem::replace(&mut asked, true) {
                    side.connection.shutdown(now);
                }
            },
        ));
        let (client, connection) = h2::client::handshake(theirs).await.expect("a handshake");
        let connection = tokio::task::spawn_local(connection);
        call(client.clone(), 1, 100_000).await;
        connection
            .await
            .expect("no panic")
            .expect("GOAWAY with NO_ERROR is a clean end");
        let side = server.await.expect("no panic");
        assert!(side.connection.is_closed());
    });
}
