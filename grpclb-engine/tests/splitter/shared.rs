//! What an application puts into its messages fails its own call at most: the connection that it shares with others goes on.

use grpclb_engine::frame::Frame;

use crate::support::{Outcome, World, flags, greeting, kinds, raw};

const WHOLE: u8 = flags::END_HEADERS | flags::END_STREAM;

/// `:status` 200, and a field `a` of this value.
fn response(value: &[u8]) -> Vec<u8> {
    [b"\x88\x00\x01a", &[value.len() as u8][..], value].concat()
}

/// A world whose only backend is the test's, a call that runs on stream 1 of it, and the backend's number.
fn shared() -> (World, usize, usize) {
    let mut world = World::new(1);
    world.backends[0].wild = true;
    let client = world.client();
    let running = world.open(client, b"", false);
    world.run();
    let backend = world.wild_backend();
    world.say(backend, &greeting());
    world.run();
    world.say(backend, &raw(kinds::HEADERS, flags::END_HEADERS, 1, b"\x88"));
    world.run();
    (world, running, backend)
}

#[track_caller]
fn expect_running(world: &mut World, running: usize, backend: usize) {
    let before = world.calls[running].body.len();
    world.say(backend, &raw(kinds::DATA, 0, 1, b"still here"));
    world.run();
    assert_eq!(world.calls[running].body.len(), before + 10);
    assert!(!world.wilds[backend].over);
    assert_eq!(world.wilds[backend].goaway(), None);
}

#[test]
fn malformed_responses_fail_their_calls_and_no_other_on_the_connection() {
    let (mut world, running, backend) = shared();
    let other = world.client();
    for round in 0..2000 {
        let id = 2 * round + 3;
        let call = world.open(other, b"x", true);
        world.run();
        let wrong = match round % 4 {
            0 => raw(kinds::HEADERS, WHOLE, id, &response(b"a\0b")),
            1 => raw(kinds::HEADERS, WHOLE, id, &response(b"a\nb")),
            // A content-length of 7 without content, and a field without a name.
            2 => raw(kinds::HEADERS, WHOLE, id, b"\x88\x0f\x0d\x017"),
            _ => raw(kinds::HEADERS, WHOLE, id, b"\x88\x00\x00\x00"),
        };
        world.say(backend, &wrong);
        world.run();
        assert!(world.message(call).contains("sent a malformed response") || round % 4 == 2);
    }
    expect_running(&mut world, running, backend);
    let before = world.wilds[backend].heard.len();
    world.open(other, b"x", true);
    world.run();
    let heard = &world.wilds[backend].heard[before..];
    assert!(
        matches!(heard[0], Frame::Headers { .. }),
        "the endpoint is still used: {heard:?}"
    );
}

#[test]
fn informational_responses_without_end_fail_their_call_and_no_other_on_the_connection() {
    let (mut world, running, backend) = shared();
    let other = world.client();
    let call = world.open(other, b"x", true);
    world.run();
    for _ in 0..2000 {
        world.say(
            backend,
            &raw(kinds::HEADERS, flags::END_HEADERS, 3, b"\x08\x03102"),
        );
        world.run();
    }
    assert!(world.outcome(call).is_some());
    expect_running(&mut world, running, backend);
}

#[test]
fn an_error_text_that_ends_with_a_space_reaches_the_client_as_it_was_sent() {
    let (mut world, running, backend) = shared();
    let other = world.client();
    let call = world.open(other, b"x", true);
    world.run();
    let trailers = b"\x88\x00\x0bgrpc-status\x015\x00\x0cgrpc-message\x0eno such user: ";
    world.say(backend, &raw(kinds::HEADERS, WHOLE, 3, trailers));
    world.run();
    let told = Outcome::Status("200".into(), "5".into(), "no such user: ".into());
    assert_eq!(world.outcome(call), Some(&told));
    expect_running(&mut world, running, backend);
}

#[test]
fn a_backend_that_never_acknowledges_settings_serves_on_and_is_counted() {
    let mut world = World::new(1);
    world.backends[0].wild = true;
    let client = world.client();
    let running = world.open(client, b"", false);
    world.run();
    let backend = world.wild_backend();
    world.say(backend, &raw(kinds::SETTINGS, 0, 0, &[]));
    world.run();
    world.say(backend, &raw(kinds::HEADERS, flags::END_HEADERS, 1, b"\x88"));
    for minute in 0..10 {
        world.advance(std::time::Duration::from_mins(1));
        expect_running(&mut world, running, backend);
        let call = world.open(client, b"x", true);
        world.run();
        world.say(backend, &raw(kinds::HEADERS, WHOLE, 2 * minute + 3, b"\x88"));
        world.run();
        assert!(world.outcome(call).is_some());
    }
    let stats = world.splitter.stats().iter();
    let counted: Vec<_> = stats
        .filter(|(name, count)| name.starts_with("limit_") && *count > 0)
        .collect();
    assert_eq!(counted, [("limit_settings_time_backend".to_owned(), 1)]);
}
