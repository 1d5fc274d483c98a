//! What we answer ourselves, and peers that misbehave.

use std::time::Duration;

use grpclb_engine::connection::Config;
use grpclb_engine::splitter::SocketError;

use crate::support::{Behaviour, Outcome, World, millis};

#[test]
fn when_no_endpoint_can_be_reached_grpc_clients_are_told_by_whom_and_why() {
    let mut world = World::new(2);
    for backend in &mut world.backends {
        backend.accepts = Some(false);
    }
    let client = world.client();
    let call = world.call(client, b"x");
    let message = world.message(call);
    assert!(
        message.starts_with("grpclb-agent/n1: no endpoint of echo.default:grpc can be reached"),
        "{message}"
    );
    assert!(message.contains("connection refused"), "{message}");
    let plain = world.open_as(client, "text/html", b"x", true);
    world.run();
    assert!(matches!(world.outcome(plain), Some(Outcome::Status(http, ..)) if http == "503"));
    assert!(world.calls[plain].body.starts_with(b"grpclb-agent/n1: "));
}

const SOCKET_ERRORS: [(SocketError, &str); 5] = [
    (SocketError::TimedOut, "connection timed out (ETIMEDOUT)"),
    (SocketError::Reset, "connection reset by peer (ECONNRESET)"),
    (SocketError::HostUnreachable, "no route to host (EHOSTUNREACH)"),
    (
        SocketError::NetworkUnreachable,
        "network is unreachable (ENETUNREACH)",
    ),
    (SocketError::Other(71), "socket error (errno 71)"),
];

#[test]
fn unavailable_names_the_socket_error_of_the_last_dial() {
    for (error, name) in SOCKET_ERRORS {
        let mut world = World::new(1);
        world.backends[0].accepts = Some(false);
        world.backends[0].refuses_with = error;
        let client = world.client();
        let call = world.call(client, b"x");
        let message = world.message(call);
        assert!(message.ends_with(name), "{message}");
    }
}

#[test]
fn unavailable_names_the_socket_error_of_an_established_connection() {
    for (error, name) in SOCKET_ERRORS {
        let mut world = World::new(1);
        world.backends[0].behaviour = Behaviour::Silent;
        let client = world.client();
        let call = world.call(client, b"x");
        world.kill_with(0, error);
        world.run();
        let message = world.message(call);
        assert!(
            message.ends_with(&format!(" lost its connection: {name}")),
            "{message}"
        );
    }
}

/// TCP gave up on the host, as an unanswered PING would have told a little later. A reset says nothing of the kind.
#[test]
fn endpoint_whose_connection_timed_out_has_failed() {
    for (error, failed) in [(SocketError::TimedOut, true), (SocketError::Reset, false)] {
        let mut world = World::new(2);
        let client = world.client();
        for _ in 0..10 {
            let call = world.call(client, b"x");
            assert!(world.is_ok(call));
        }
        world.kill_with(0, error);
        world.run();
        let before = world.backends[0].dials;
        for _ in 0..10 {
            let call = world.call(client, b"x");
            assert!(world.is_ok(call));
        }
        assert_eq!(world.backends[0].dials == before, failed, "{error:?}");
    }
}

#[test]
fn after_all_have_failed_one_is_tried_again_each_second_at_most() {
    let mut world = World::new(1);
    world.backends[0].accepts = Some(false);
    let client = world.client();
    for _ in 0..100 {
        let call = world.call(client, b"x");
        assert!(!world.is_ok(call));
        world.advance(millis(100));
    }
    assert!(
        (8..=12).contains(&world.backends[0].dials),
        "{} dials in 10 s",
        world.backends[0].dials
    );
    world.backends[0].accepts = Some(true);
    world.advance(millis(1100));
    let call = world.call(client, b"x");
    assert!(
        world.is_ok(call),
        "it is back within a second, whatever its backoff says"
    );
}

#[test]
fn too_long_headers_are_an_error_of_their_stream_alone() {
    let mut world = World::new(1);
    let client = world.client();
    let big = "v".repeat(60_000);
    let pairs: Vec<(String, &str)> = (0..20).map(|n| (format!("x-{n}"), big.as_str())).collect();
    let mut all = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a"),
        ("content-type", "application/grpc"),
    ];
    all.extend(pairs.iter().map(|(name, value)| (name.as_str(), *value)));
    let number = world.open(client, b"", false);
    let now = world.now;
    let side = &mut world.clients[client].side;
    let headers = side.headers(&all);
    let stream = side.connection.open(now, number as u32, headers, true).unwrap();
    world.cancel(number);
    world.calls[number].stream = stream;
    world.run();
    assert!(
        matches!(world.outcome(number), Some(Outcome::Status(_, grpc, _)) if grpc == "8"),
        "{:?}",
        world.outcome(number)
    );
    let next = world.call(client, b"x");
    assert!(world.is_ok(next));
}

#[test]
fn too_long_trailers_of_a_request_are_told_in_the_form_that_the_answer_has_taken() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Hold;
    let client = world.client();
    let call = world.open(client, b"x", false);
    world.run();
    assert_eq!(world.calls[call].status.as_deref(), Some("200"), "it has begun");
    let big = "v".repeat(60_000);
    let trailers: Vec<(String, &str)> = (0..20).map(|n| (format!("x-{n}"), big.as_str())).collect();
    let trailers: Vec<_> = trailers
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let stream = world.calls[call].stream;
    let side = &mut world.clients[client].side;
    let trailers = side.headers(&trailers);
    side.connection.send_headers(stream, trailers, true);
    world.run();
    // Trailers that looked like a response would be malformed: the client would see a broken stream.
    assert!(
        matches!(world.outcome(call), Some(Outcome::Status(_, grpc, _)) if grpc == "8"),
        "{:?}",
        world.outcome(call)
    );
    assert!(world.message(call).contains("headers exceed"));
}

#[test]
fn more_calls_than_may_wait_are_told_so() {
    let mut config = grpclb_engine::splitter::Config::new("n1");
    config.queue = 3;
    let mut world = World::with(1, 7, config, &std::sync::Arc::default());
    world.backends[0].accepts = None;
    let client = world.client();
    let calls: Vec<_> = (0..5).map(|_| world.call(client, b"x")).collect();
    assert!(calls[..3].iter().all(|&call| world.outcome(call).is_none()));
    assert!(
        world.message(calls[3]).contains("3 calls wait"),
        "{}",
        world.message(calls[3])
    );
    assert_eq!(world.splitter.stats().queue_full, 2);
}

#[test]
fn cancelled_calls_do_not_keep_their_place_in_the_queue() {
    let mut config = grpclb_engine::splitter::Config::new("n1");
    config.queue = 100;
    let mut world = World::with(1, 7, config, &std::sync::Arc::default());
    world.dial_delay = millis(500);
    let client = world.client();
    for _ in 0..150 {
        let call = world.call(client, b"x");
        world.cancel(call);
        world.advance(millis(2));
    }
    assert_eq!(world.splitter.stats().queue_full, 0);
    let last = world.open(client, b"x", true);
    world.advance(Duration::from_secs(1));
    assert!(world.is_ok(last));
    assert_eq!(world.spread(), [1], "cancelled before they left: no trace");
}

#[test]
fn a_slow_client_stalls_its_own_stream_only_and_memory_is_bounded() {
    let mut world = World::new(2);
    let (deaf, brisk) = (world.client(), world.client());
    let warm = world.call(deaf, b"x");
    assert!(world.is_ok(warm));
    world.clients[deaf].deaf = true;
    let stuck: Vec<_> = (0..4)
        .map(|_| world.open(deaf, &vec![1; 3 << 20], true))
        .collect();
    for _ in 0..50 {
        let call = world.open(brisk, &vec![2; 100_000], true);
        world.advance(millis(1));
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
    }
    assert!(stuck.iter().all(|&call| world.outcome(call).is_none()));
    let peak = world.splitter.held_peak();
    assert!(peak < 20 << 20, "{peak} bytes");
}

#[test]
fn a_backend_that_gives_no_credit_stalls_its_own_streams_only() {
    let mut world = World::new(2);
    world.backends[0].behaviour = Behaviour::NoCredit;
    let client = world.client();
    let mut stuck = 0;
    for _ in 0..20 {
        let call = world.open(client, &vec![1; 80_000], true);
        world.advance(millis(1));
        stuck += usize::from(world.outcome(call).is_none());
    }
    assert_eq!(
        stuck, 10,
        "half of the calls went to the backend that takes 65,535 bytes"
    );
    for _ in 0..20 {
        let small = world.call(client, b"small");
        assert!(world.is_ok(small));
    }
}

#[test]
fn windows_of_zero_and_one_byte_delay_but_do_not_break_calls() {
    for window in [0, 1] {
        let mut world = World::new(1);
        world.backends[0].config = Config {
            initial_window: window,
            ..Config::to_client()
        };
        let client = world.client();
        let call = world.open(client, b"forty-two bytes, each of them on its own..", true);
        world.run();
        if window == 0 {
            assert_eq!(world.calls[call].body, b"");
            let side = world.server(0);
            let stream = side.connection.tags().next().unwrap().0;
            side.connection.grow_stream_window(stream, 100);
        }
        world.run();
        assert!(world.is_ok(call), "window {window}: {:?}", world.outcome(call));
        assert_eq!(world.calls[call].body.len(), 42);
    }
}

#[test]
fn a_frozen_backend_is_found_by_the_clients_keepalive() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Silent;
    let client = world.client();
    let call = world.call(client, b"x");
    world.advance(Duration::from_secs(1));
    world.backends[0].frozen = true;
    for _ in 0..5 {
        let now = world.now;
        let kind = grpclb_engine::connection::PingKind::Keepalive;
        world.clients[client]
            .side
            .connection
            .ping(now, kind, Duration::from_secs(20));
        world.advance(Duration::from_secs(10));
    }
    assert!(
        world.message(call).contains("answered no PING"),
        "{}",
        world.message(call)
    );
    assert!(world.splitter.stats().pings_relayed >= 1);
}

#[test]
fn a_client_that_does_not_ping_causes_no_ping() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Silent;
    let client = world.client();
    world.call(client, b"x");
    world.advance(Duration::from_secs(100));
    assert_eq!(world.splitter.stats().pings_relayed, 0);
    assert_eq!(world.server(0).connection.peer_pings(), 0);
}
