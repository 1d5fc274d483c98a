//! What is sent again, and what never is.

use std::time::Duration;

use grpclb_engine::frame::ErrorCode;

use crate::support::{Behaviour, Outcome, World, millis};

#[test]
fn a_refused_call_goes_to_another_endpoint() {
    let mut world = World::new(2);
    world.backends[0].behaviour = Behaviour::Refuse;
    let client = world.client();
    for _ in 0..20 {
        let call = world.call(client, b"body");
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
        assert_eq!(world.calls[call].body, b"body");
        assert_eq!(world.runs(call), 1);
    }
    assert!(world.splitter.stats().replayed >= 9);
}

#[test]
fn a_call_is_sent_three_times_at_most_and_then_handed_back() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Refuse;
    let client = world.client();
    let call = world.call(client, b"body");
    assert_eq!(
        world.outcome(call),
        Some(&Outcome::Reset(ErrorCode::REFUSED_STREAM))
    );
    assert_eq!(world.splitter.stats().replayed, 2);
    assert_eq!(world.splitter.stats().refused, 1);
}

#[test]
fn a_body_beyond_the_cap_gives_up_the_right_to_replay_but_not_the_call() {
    let mut world = World::new(2);
    let client = world.client();
    for n in 0..2 {
        world.call(client, b"warm");
        world.backends[n].behaviour = Behaviour::Silent;
    }
    let call = world.open(client, &vec![1; 200_000], false);
    world.run();
    assert_eq!(world.splitter.stats().replay_given_up, 1);
    // It was processed by nobody, says the GOAWAY; we cannot send it again.
    let backend = world.backend_of(call).unwrap();
    let side = world.server(backend);
    let streams: Vec<_> = side.connection.tags().map(|(stream, _)| stream).collect();
    for stream in streams {
        side.connection.reset(stream, ErrorCode::REFUSED_STREAM);
    }
    world.run();
    assert_eq!(
        world.outcome(call),
        Some(&Outcome::Reset(ErrorCode::REFUSED_STREAM))
    );
    assert_eq!(world.runs(call), 1);
}

#[test]
fn a_call_that_has_left_is_not_sent_again_when_its_backend_dies() {
    let mut world = World::new(2);
    for backend in &mut world.backends {
        backend.behaviour = Behaviour::Silent;
    }
    let client = world.client();
    let call = world.call(client, b"pay 100");
    let ran_on = world.backend_of(call).unwrap();
    world.kill(ran_on);
    world.run();
    assert!(
        world.message(call).starts_with("grpclb-agent/n1: 10.0.0."),
        "{}",
        world.message(call)
    );
    assert!(
        matches!(world.outcome(call), Some(Outcome::Status(http, grpc, _)) if http == "200" && grpc == "14")
    );
    assert_eq!(world.runs(call), 1);
    assert_eq!(world.splitter.stats().replayed, 0);
}

#[test]
fn a_call_that_never_left_goes_elsewhere_when_its_dial_fails() {
    let mut world = World::new(3);
    world.dial_delay = millis(5);
    world.backends[0].accepts = Some(false);
    world.backends[1].accepts = Some(false);
    let client = world.client();
    let calls: Vec<_> = (0..9).map(|_| world.open(client, b"x", true)).collect();
    world.advance(millis(20));
    assert!(calls.iter().all(|&call| world.is_ok(call)));
    assert_eq!(world.spread(), [0, 0, 9]);
    assert_eq!(
        world.splitter.stats().replayed,
        0,
        "what never left was not sent twice"
    );
}

#[test]
fn streams_above_the_last_id_of_a_goaway_are_sent_again() {
    let mut world = World::new(2);
    world.delay = millis(1);
    let client = world.client();
    for _ in 0..4 {
        world.open(client, b"x", true);
        world.advance(millis(10));
    }
    // The final GOAWAY at once, while calls are on the wire.
    let calls: Vec<_> = (0..20).map(|_| world.open(client, b"x", true)).collect();
    world.step();
    world.step();
    for backend in 0..2 {
        world.server(backend).connection.go_away(ErrorCode::NO_ERROR, "");
    }
    world.advance(millis(50));
    assert!(calls.iter().all(|&call| world.is_ok(call)));
    assert!(calls.iter().all(|&call| world.runs(call) == 1));
    assert!(world.splitter.stats().replayed > 0);
}

#[test]
fn after_response_headers_nothing_is_refused_and_nothing_is_sent_again() {
    let mut world = World::new(2);
    for backend in &mut world.backends {
        backend.behaviour = Behaviour::HeadersThenReset(ErrorCode::REFUSED_STREAM);
    }
    let client = world.client();
    let call = world.call(client, b"x");
    assert!(
        matches!(world.outcome(call), Some(Outcome::Status(http, grpc, _)) if http == "200" && grpc == "14")
    );
    assert_eq!(world.runs(call), 1);
    let plain = world.open_as(client, "text/plain", b"x", true);
    world.run();
    assert_eq!(
        world.outcome(plain),
        Some(&Outcome::Reset(ErrorCode::INTERNAL_ERROR))
    );
    assert_eq!(world.splitter.stats().broken, 2);
}

#[test]
fn other_resets_keep_their_code() {
    for code in [
        ErrorCode::INTERNAL_ERROR,
        ErrorCode::CANCEL,
        ErrorCode::NO_ERROR,
        ErrorCode::ENHANCE_YOUR_CALM,
    ] {
        for behaviour in [Behaviour::Reset(code), Behaviour::HeadersThenReset(code)] {
            let mut world = World::new(1);
            world.backends[0].behaviour = behaviour;
            let client = world.client();
            let call = world.call(client, b"x");
            assert_eq!(world.outcome(call), Some(&Outcome::Reset(code)), "{behaviour:?}");
            assert_eq!(world.runs(call), 1);
        }
    }
}

#[test]
fn a_cancelled_call_is_cancelled_at_its_backend_and_nowhere_else() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Hold;
    let client = world.client();
    let (one, other) = (world.call(client, b"x"), world.call(client, b"x"));
    world.cancel(one);
    world.advance(millis(50));
    assert_eq!(world.server(0).connection.streams(), 1);
    world.finish(other);
    world.run();
    assert!(world.is_ok(other));
    assert_eq!(world.splitter.stats().cancelled, 1);
}

#[test]
fn a_storm_of_cancels_fails_no_call_of_another_client() {
    let mut world = World::new(2);
    world.delay = millis(1);
    let (calm, wild) = (world.client(), world.client());
    let mut calls = Vec::new();
    for _ in 0..300 {
        for _ in 0..20 {
            let call = world.open(wild, b"x", true);
            if world.rng.below(2) == 0 {
                world.step();
            }
            world.cancel(call);
        }
        calls.push(world.open(calm, b"x", true));
        world.advance(millis(3));
        if world.clients[wild].over {
            break;
        }
    }
    world.advance(Duration::from_secs(5));
    let failed: Vec<_> = calls
        .iter()
        .filter(|&&call| !world.is_ok(call))
        .map(|&call| world.outcome(call))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(world.splitter.stats().upstreams_lost, 0);
}
