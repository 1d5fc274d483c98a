//! Our client and the h2 crate's servers over an in-memory pipe.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use grpclb_engine::Time;
use grpclb_engine::connection::{Config, Event, HeadersKind, PingKind, Role, StreamKey};
use grpclb_engine::frame::ErrorCode;
use http::{HeaderMap, Response};
use tokio::io::DuplexStream;

use crate::against_h2::{body, pump, run};
use crate::support::Side;

/// An h2 server that echoes until the connection ends; how many calls it saw.
async fn h2_echo(
    builder: h2::server::Builder,
    io: DuplexStream,
    shutdown_after: Option<usize>,
) -> Result<usize, h2::Error> {
    let mut connection = builder.handshake::<_, Bytes>(io).await?;
    let mut seen = 0;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        seen += 1;
        if Some(seen) == shutdown_after {
            connection.graceful_shutdown();
        }
        tokio::task::spawn_local(async move {
            let mut recv = request.into_body();
            let response = Response::builder()
                .status(200)
                .header("content-type", "application/grpc");
            let Ok(mut send) = respond.send_response(response.body(()).expect("right"), false) else {
                return;
            };
            while let Some(Ok(chunk)) = recv.data().await {
                let mut chunk: Bytes = chunk;
                if recv.flow_control().release_capacity(chunk.len()).is_err() {
                    return;
                }
                while !chunk.is_empty() {
                    send.reserve_capacity(chunk.len());
                    let Some(Ok(n)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else {
                        return;
                    };
                    if send.send_data(chunk.split_to(n.min(chunk.len())), false).is_err() {
                        return;
                    }
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a value"));
            // The client may have reset the stream.
            let _ = send.send_trailers(trailers);
        });
    }
    Ok(seen)
}

/// Our client's part: opens calls as the server has room, sends each its body, checks what comes back.
struct Caller {
    sizes: Vec<usize>,
    /// Calls that are cancelled as soon as they are open.
    cancel: fn(usize) -> bool,
    next: usize,
    echoed: HashMap<u32, Vec<u8>>,
    done: usize,
    refused: usize,
    pongs: usize,
}

impl Caller {
    fn new(sizes: Vec<usize>, cancel: fn(usize) -> bool) -> Self {
        Self {
            sizes,
            cancel,
            next: 0,
            echoed: HashMap::new(),
            done: 0,
            refused: 0,
            pongs: 0,
        }
    }

    fn act(&mut self, side: &mut Side, now: Time, event: Option<Event>) {
        match event {
            None => {
                while self.next < self.sizes.len() && side.connection.can_open() {
                    let (at, len) = (self.next, self.sizes[self.next]);
                    self.next += 1;
                    let stream = side.open(now, at as u32, false);
                    Self::send(side, stream, at, len);
                }
                if self.done == self.sizes.len() && side.connection.streams() == 0 {
                    side.connection.shutdown(now);
                }
            }
            Some(Event::Headers {
                kind: HeadersKind::Response,
                stream,
                tag,
                ..
            }) => {
                side.connection
                    .ping(now, PingKind::Bandwidth, Duration::from_secs(100));
                if (self.cancel)(tag as usize) {
                    side.connection.reset(stream, ErrorCode::CANCEL);
                    self.done += 1;
                }
            }
            Some(Event::Headers {
                kind: HeadersKind::Trailers,
                headers,
                tag,
                ..
            }) => {
                assert_eq!(headers.get("grpc-status"), Some(&b"0"[..]));
                let echoed = self.echoed.remove(&tag).unwrap_or_default();
                assert!(
                    echoed == body(tag as usize, self.sizes[tag as usize]),
                    "call {tag}: {}",
                    echoed.len()
                );
                self.done += 1;
            }
            Some(Event::Data {
                stream, tag, chunk, ..
            }) => {
                side.connection.release(stream, chunk.len() as u32);
                self.echoed.entry(tag).or_default().extend_from_slice(&chunk);
            }
            Some(Event::Reset { cause, .. }) => {
                assert_eq!(cause, grpclb_engine::connection::Cause::GoAway);
                self.refused += 1;
            }
            Some(Event::Pong { .. }) => self.pongs += 1,
            Some(Event::Closed { code, reason, .. }) => assert_eq!(code, ErrorCode::NO_ERROR, "{reason}"),
            Some(_) => {}
        }
    }

    fn send(side: &mut Side, stream: StreamKey, at: usize, len: usize) {
        let mut body = body(at, len);
        while body.len() > 3000 {
            side.connection.send_data(stream, body.split_to(3000), false);
        }
        if at.is_multiple_of(2) {
            side.connection.send_data(stream, body, true);
        } else {
            side.connection.send_data(stream, body, false);
            side.trailers(stream);
        }
    }
}

fn h2_servers() -> Vec<h2::server::Builder> {
    let tuned = |tune: &dyn Fn(&mut h2::server::Builder)| {
        let mut builder = h2::server::Builder::new();
        tune(&mut builder);
        builder
    };
    vec![
        h2::server::Builder::new(),
        tuned(&|b| {
            b.max_concurrent_streams(3);
        }),
        tuned(&|b| {
            b.initial_window_size(10).initial_connection_window_size(70_000);
        }),
        tuned(&|b| {
            b.initial_window_size(1 << 20)
                .max_frame_size(1 << 20)
                .max_header_list_size(1000);
        }),
    ]
}

#[test]
fn h2_servers_of_all_kinds_are_called() {
    for builder in h2_servers() {
        run(async {
            let (ours, theirs) = tokio::io::duplex(10_000);
            let server = tokio::task::spawn_local(h2_echo(builder, theirs, None));
            let sizes: Vec<_> = (0..60)
                .map(|at| [0, 1, 100, 16_385, 65_536, 150_000][at % 6])
                .collect();
            let mut caller = Caller::new(sizes, |_| false);
            pump(
                Side::new(Role::Client, Config::to_backend()),
                ours,
                |side, now, event| caller.act(side, now, event),
            )
            .await;
            assert_eq!((caller.done, caller.refused), (60, 0));
            assert!(caller.pongs > 0);
            assert_eq!(server.await.expect("no panic").expect("a clean end"), 60);
        });
    }
}

#[test]
fn a_storm_of_our_cancels_does_not_end_an_h2_servers_connection() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(100_000);
        let server = tokio::task::spawn_local(h2_echo(h2::server::Builder::new(), theirs, None));
        let mut opened = Vec::new();
        let mut kept = 0;
        let mut ended = 0;
        pump(
            Side::new(Role::Client, Config::to_backend()),
            ours,
            |side, now, event| match event {
                None if opened.is_empty() && side.connection.can_open() => {
                    opened = (0..140).map(|tag| side.open(now, tag, tag % 10 == 0)).collect();
                    // All leave in one write, and all but a few are cancelled while it is on its way.
                    side.connection
                        .transmit(now, &mut side.fields, &mut side.output, &mut side.sent);
                    for (tag, stream) in opened.iter().enumerate() {
                        if tag % 10 == 0 {
                            kept += 1;
                        } else {
                            side.connection.reset(*stream, ErrorCode::CANCEL);
                        }
                    }
                }
                None if !opened.is_empty() && ended == kept && side.connection.streams() == 0 => {
                    side.connection.shutdown(now);
                }
                Some(Event::Headers {
                    kind: HeadersKind::Trailers,
                    ..
                }) => ended += 1,
                Some(Event::Reset { cause, code, .. }) => panic!("{cause:?} {code}"),
                Some(Event::GoAway { code, debug, .. }) => assert_eq!(code, ErrorCode::NO_ERROR, "{debug:?}"),
                _ => {}
            },
        )
        .await;
        assert_eq!((kept, ended), (14, 14));
        server.await.expect("no panic").expect("a clean end");
    });
}

#[test]
fn h2_server_keeps_connection_over_2000_cancels() {
    const CANCELS: usize = 2000;
    run(async {
        let (ours, theirs) = tokio::io::duplex(100_000);
        let server = tokio::task::spawn_local(h2_echo(h2::server::Builder::new(), theirs, None));
        let mut lasting = None;
        let (mut cancelled, mut answered) = (0, false);
        pump(
            Side::new(Role::Client, Config::to_backend()),
            ours,
            |side, now, event| match event {
                None if side.connection.can_open() && lasting.is_none() => {
                    lasting = Some(side.open(now, 0, false));
                }
                // As many as there is room for, in one write: cancelled while they are on their way.
                None if lasting.is_some()
                    && cancelled < CANCELS
                    && side.connection.spare_resets(now) >= 50 =>
                {
                    let calls: Vec<_> = (0..50).map(|_| side.open(now, 1, false)).collect();
                    side.connection
                        .transmit(now, &mut side.fields, &mut side.output, &mut side.sent);
                    for call in calls {
                        side.connection.reset(call, ErrorCode::CANCEL);
                    }
                    cancelled += 50;
                }
                None if cancelled == CANCELS && side.connection.streams() == 1 => {
                    if let Some(lasting) = lasting {
                        side.data(lasting, b"", true);
                    }
                }
                None if answered && side.connection.streams() == 0 => side.connection.shutdown(now),
                None => {
                    // Each answer is a millisecond: time goes on while the bucket of resets fills.
                    side.connection
                        .ping(now, PingKind::Bandwidth, Duration::from_secs(100));
                }
                Some(Event::Headers {
                    kind: HeadersKind::Trailers,
                    ..
                }) => answered = true,
                Some(Event::Reset { cause, code, .. }) => panic!("{cause:?} {code}"),
                Some(Event::GoAway { code, debug, .. }) => assert_eq!(code, ErrorCode::NO_ERROR, "{debug:?}"),
                _ => {}
            },
        )
        .await;
        assert!(answered, "the call that lasts");
        server.await.expect("no panic").expect("a clean end");
    });
}

#[test]
fn an_h2_servers_graceful_shutdown_loses_no_call_that_it_took() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(10_000);
        let server = tokio::task::spawn_local(h2_echo(h2::server::Builder::new(), theirs, Some(10)));
        let mut caller = Caller::new(vec![5000; 40], |_| false);
        let side = pump(
            Side::new(Role::Client, Config::to_backend()),
            ours,
            |side, now, event| caller.act(side, now, event),
        )
        .await;
        assert_eq!(server.await.expect("no panic").expect("a clean end"), caller.done);
        assert_eq!(caller.done + caller.refused, caller.next);
        assert!(side.connection.is_going_away());
    });
}

#[test]
fn cancelled_and_finished_calls_share_an_h2_server() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(10_000);
        let server = tokio::task::spawn_local(h2_echo(h2::server::Builder::new(), theirs, None));
        let mut caller = Caller::new(vec![70_000; 60], |at| at % 3 == 0);
        pump(
            Side::new(Role::Client, Config::to_backend()),
            ours,
            |side, now, event| caller.act(side, now, event),
        )
        .await;
        assert_eq!(caller.done, 60);
        server.await.expect("no panic").expect("a clean end");
    });
}
