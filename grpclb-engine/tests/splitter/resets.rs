//! `RST_STREAM` from one side to the other: codes that pass, and memory that is held for a stream that one end has reset.

use std::time::Duration;

use grpclb_engine::frame::{ErrorCode, Frame};
use grpclb_engine::splitter::Config;

use crate::support::{Behaviour, Outcome, World, flags, greeting, kinds, millis, raw};

/// The codes with which a wild backend was told of resets.
fn resets(world: &World, wild: usize) -> Vec<ErrorCode> {
    world.wilds[wild]
        .heard
        .iter()
        .filter_map(|frame| match frame {
            Frame::RstStream { code, .. } => Some(*code),
            _ => None,
        })
        .collect()
}

#[test]
fn client_reset_reaches_a_backend_without_credit_with_a_code_that_it_can_use() {
    for code in (0..=14).chain([0xdead_beef]).map(ErrorCode) {
        let mut world = World::new(1);
        world.backends[0].wild = true;
        let client = world.client();
        // More than the backend's window: the rest waits for credit that never comes.
        let call = world.open(client, &vec![1; 200_000], true);
        world.run();
        let wild = world.wild_backend();
        world.say(wild, &greeting());
        world.run();
        assert!(world.splitter.buffered() > 0, "the body waits");
        let stream = world.calls[call].stream;
        world.clients[client].side.connection.reset(stream, code);
        world.advance(Duration::from_secs(1));
        let expected = match code {
            ErrorCode::INTERNAL_ERROR | ErrorCode::CONNECT_ERROR => code,
            _ => ErrorCode::CANCEL,
        };
        assert_eq!(resets(&world, wild), [expected], "the client's {code}");
        assert_eq!(world.splitter.buffered(), 0);
        assert!(world.splitter.describe(world.now)[0].endpoints[0].streams == 0);
    }
}

#[test]
fn backend_reset_with_no_error_after_its_response_holds_no_more_than_the_budget_for_a_client_that_does_not_read()
 {
    let mut config = Config::new("n1");
    config.pod_budget = 1 << 20;
    let mut world = World::with(1, 7, config, &std::sync::Arc::default());
    let client = world.client();
    let warm = world.call(client, b"x");
    assert!(world.is_ok(warm));
    world.backends[0].behaviour = Behaviour::EarlyResetAfter(60_000);
    world.clients[client].deaf = true;
    let calls: Vec<_> = (0..300)
        .map(|_| {
            world.advance(millis(1));
            world.open(client, b"x", false)
        })
        .collect();
    world.advance(Duration::from_secs(1));
    // The budget, and what the window of the one connection let in after it was used up.
    let held = world.splitter.buffered();
    assert!(held <= (1 << 20) + (1 << 20) + (256 << 10), "{held} bytes");
    world.clients[client].deaf = false;
    world.advance(Duration::from_secs(10));
    let (whole, others): (Vec<_>, Vec<_>) = calls.into_iter().partition(|&call| world.is_ok(call));
    assert!(whole.len() >= 10, "{} calls", whole.len());
    for call in whole {
        assert_eq!(world.calls[call].body.len(), 60_000);
    }
    // Streams that the pod had no memory for.
    let refused = Some(&Outcome::Reset(ErrorCode::REFUSED_STREAM));
    assert!(others.iter().all(|&call| world.outcome(call) == refused));
    assert_eq!(world.splitter.buffered(), 0);
}

#[test]
fn backend_reset_with_no_error_amid_its_response_is_charged_until_the_client_has_read_it() {
    let mut world = World::new(1);
    world.backends[0].wild = true;
    world.client_config.initial_window = 0;
    let client = world.client();
    let call = world.open(client, b"x", true);
    world.run();
    let wild = world.wild_backend();
    world.say(wild, &greeting());
    world.run();
    let response = [
        raw(kinds::HEADERS, flags::END_HEADERS, 1, b"\x88"),
        raw(kinds::DATA, 0, 1, &[7; 16_384]),
        raw(kinds::RST_STREAM, 0, 1, &[0; 4]),
    ];
    world.say(wild, &response.concat());
    world.advance(millis(100));
    assert_eq!(world.outcome(call), None, "its content has not been read");
    // The content, and the record of the call.
    let held = world.splitter.buffered();
    assert!((16_384..20_000).contains(&held), "{held} bytes");
    let stream = world.calls[call].stream;
    world.clients[client]
        .side
        .connection
        .grow_stream_window(stream, 65_535);
    world.advance(millis(100));
    assert_eq!(world.outcome(call), Some(&Outcome::Reset(ErrorCode::NO_ERROR)));
    assert_eq!(world.calls[call].body.len(), 16_384);
    assert_eq!(world.splitter.buffered(), 0);
    assert_eq!(world.splitter.stats().reset_by_backend, 1);
    assert!(!world.splitter.is_idle(), "the client is still there");
}

#[test]
fn client_that_leaves_gives_back_what_a_backend_reset_had_left_for_it() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::EarlyResetAfter(60_000);
    world.client_config.initial_window = 0;
    let client = world.client();
    for _ in 0..3 {
        world.open(client, b"x", false);
    }
    world.run();
    let all = world.splitter.buffered();
    assert!(all >= 3 * 60_000, "{all} bytes");
    world.cancel(0);
    world.advance(millis(100));
    let rest = world.splitter.buffered();
    assert!((2 * 60_000..=all - 60_000).contains(&rest), "{rest} bytes");
    world.drop_client(client);
    assert_eq!(world.splitter.buffered(), 0);
    assert!(world.splitter.is_idle());
}
