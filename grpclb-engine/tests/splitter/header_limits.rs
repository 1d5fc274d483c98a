//! Header lists that are longer than the other end takes (`SETTINGS_MAX_HEADER_LIST_SIZE`): that call fails, and no other.

use grpclb_engine::connection::StreamKey;
use grpclb_engine::frame::ErrorCode;

use crate::support::{Behaviour, Outcome, World};

/// What netty's clients and servers say.
const NETTY: u32 = 8192;

/// A backend that runs calls and leaves it to the test to answer them.
fn world() -> World {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Silent;
    world.client_config.max_header_list_size = NETTY;
    world
}

/// The backend's stream of the call that came last.
fn newest(world: &mut World) -> StreamKey {
    let side = world.server(0);
    let streams = side.connection.tags().map(|(stream, _)| stream);
    let id = |stream: &StreamKey| side.connection.stream_id(*stream);
    streams.max_by_key(id).expect("a stream")
}

/// The backend sends a header section with one field of `size` bytes beside `pairs`.
fn send(world: &mut World, stream: StreamKey, pairs: &[(&str, &str)], size: usize, end: bool) {
    let value = "v".repeat(size);
    let pairs = [pairs, &[("x-big", value.as_str())]].concat();
    let side = world.server(0);
    let headers = side.headers(&pairs);
    side.connection.send_headers(stream, headers, end);
    world.run();
}

fn is_exhausted(world: &World, call: usize) -> bool {
    matches!(world.outcome(call), Some(Outcome::Status(http, grpc, message))
        if http == "200" && grpc == "8" && message.contains("exceed 8192 bytes, the client's limit"))
}

/// The connection goes on.
fn goes_on(world: &mut World, client: usize) {
    world.backends[0].behaviour = Behaviour::Echo;
    let next = world.call(client, b"x");
    assert!(world.is_ok(next), "{:?}", world.outcome(next));
    assert_eq!(world.clients[client].goaways, 0);
    world.backends[0].behaviour = Behaviour::Silent;
    // Calls that run on may be sent again.
    assert!(world.splitter.buffered() < 10_000);
}

#[test]
fn response_headers_beyond_the_clients_limit_fail_their_call_alone() {
    let mut world = world();
    let client = world.client();
    let other = world.call(client, b"x");
    for ended in [false, true] {
        let call = world.call(client, b"x");
        let stream = newest(&mut world);
        send(&mut world, stream, &[(":status", "200")], 20_000, ended);
        assert!(is_exhausted(&world, call), "{:?}", world.outcome(call));
        let plain = world.open_as(client, "text/html", b"x", true);
        world.run();
        let stream = newest(&mut world);
        send(&mut world, stream, &[(":status", "200")], 20_000, ended);
        assert!(matches!(world.outcome(plain), Some(Outcome::Status(http, ..)) if http == "502"));
        goes_on(&mut world, client);
    }
    assert_eq!(world.outcome(other), None, "it runs on");
    assert_eq!(world.splitter.stats().oversized, 4);
    assert_eq!(
        world.splitter.describe(world.now)[0].endpoints[0].out_for,
        None,
        "the endpoint has done nothing wrong"
    );
}

#[test]
fn trailers_beyond_the_clients_limit_become_trailers_that_say_so_or_a_reset() {
    let mut world = world();
    let client = world.client();
    for content_type in ["application/grpc", "application/grpc-web", "text/html"] {
        let call = world.open_as(client, content_type, b"x", true);
        world.run();
        let stream = newest(&mut world);
        send(&mut world, stream, &[(":status", "200")], 10, false);
        world.server(0).data(stream, b"content", false);
        world.run();
        send(&mut world, stream, &[("grpc-status", "0")], 20_000, true);
        assert_eq!(world.calls[call].body, b"content");
        if content_type == "application/grpc" {
            assert!(is_exhausted(&world, call), "{:?}", world.outcome(call));
        } else {
            let reset = Outcome::Reset(ErrorCode::INTERNAL_ERROR);
            assert_eq!(world.outcome(call), Some(&reset), "{content_type}");
        }
        goes_on(&mut world, client);
    }
}

#[test]
fn informational_responses_beyond_the_clients_limit_are_dropped() {
    let mut world = world();
    let client = world.client();
    let call = world.call(client, b"x");
    let stream = newest(&mut world);
    send(&mut world, stream, &[(":status", "103")], 20_000, false);
    assert_eq!(world.outcome(call), None);
    send(
        &mut world,
        stream,
        &[(":status", "200"), ("grpc-status", "0")],
        10,
        true,
    );
    assert!(world.is_ok(call), "{:?}", world.outcome(call));
}

/// RFC 9113 §6.5.2: names and values without compression, and 32 bytes more for each field.
#[test]
fn a_header_list_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let mut world = world();
    let client = world.client();
    // `:status: 200`, `grpc-status: 0` and `x-big` with its value.
    let others = (7 + 3 + 32) + (11 + 1 + 32) + (5 + 32);
    let exactly = NETTY as usize - others;
    for (size, passes) in [(exactly, true), (exactly + 1, false)] {
        let call = world.call(client, b"x");
        let stream = newest(&mut world);
        send(
            &mut world,
            stream,
            &[(":status", "200"), ("grpc-status", "0")],
            size,
            true,
        );
        assert_eq!(world.is_ok(call), passes, "{:?}", world.outcome(call));
    }
}

#[test]
fn a_request_beyond_the_backends_limit_is_not_sent() {
    let mut world = World::new(1);
    world.backends[0].config.max_header_list_size = 150;
    let client = world.client();
    for content_type in ["application/grpc", "text/html"] {
        let call = world.open_as(client, content_type, b"x", true);
        world.run();
        match world.outcome(call) {
            Some(Outcome::Status(http, grpc, message)) if content_type == "application/grpc" => {
                assert_eq!((http.as_str(), grpc.as_str()), ("200", "8"));
                assert!(
                    message.contains("exceed 150 bytes, the backend's limit"),
                    "{message}"
                );
            }
            Some(Outcome::Status(http, ..)) => assert_eq!(http, "431"),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.runs(call), 0);
    }
    assert_eq!(world.server(0).connection.streams(), 0);
    assert_eq!(world.splitter.stats().oversized, 2);
    assert_eq!(world.splitter.buffered(), 0);
    assert!(world.connections(0) == 1 && !world.clients[client].over);
}

#[test]
fn request_trailers_beyond_the_backends_limit_fail_their_call_alone() {
    let mut world = World::new(1);
    world.backends[0].config.max_header_list_size = NETTY;
    let client = world.client();
    // Known to the splitter before the call is sent, and after it.
    for sent_before in [false, true] {
        let call = world.open(client, b"x", false);
        if sent_before {
            world.run();
        }
        let (stream, value) = (world.calls[call].stream, "v".repeat(20_000));
        let side = &mut world.clients[client].side;
        let trailers = side.headers(&[("x-big", value.as_str())]);
        side.connection.send_headers(stream, trailers, true);
        world.run();
        assert!(
            matches!(world.outcome(call), Some(Outcome::Status(_, grpc, _)) if grpc == "8"),
            "{:?}",
            world.outcome(call)
        );
        let next = world.call(client, b"x");
        assert!(world.is_ok(next), "{:?}", world.outcome(next));
    }
    assert_eq!(world.opened, 1, "one connection, all the time");
}
