//! Calls that wait for a connection: none waits longer than it must, and none for ever, though nothing else happens.

use std::time::Duration;

use grpclb_engine::connection;

use crate::support::{Behaviour, World, millis};

/// Backends that take one stream a connection, and hold it.
fn narrow(backends: usize) -> World {
    let mut world = World::new(backends);
    for backend in &mut world.backends {
        backend.behaviour = Behaviour::Hold;
        backend.config = connection::Config {
            max_concurrent_streams: 1,
            ..connection::Config::to_client()
        };
    }
    world
}

#[test]
fn a_call_whose_further_dial_failed_is_dialled_for_again_when_the_other_connection_ends_too() {
    let mut world = narrow(1);
    let client = world.client();
    world.call(client, b"held");
    world.backends[0].accepts = Some(false);
    let waiting = world.call(client, b"waits");
    world.kill(0);
    world.backends[0].accepts = Some(true);
    world.backends[0].behaviour = Behaviour::Echo;
    world.advance(millis(100));
    assert!(world.is_ok(waiting), "{:?}", world.outcome(waiting));
}

#[test]
fn a_further_dial_that_failed_is_tried_again_though_no_connection_says_anything() {
    let mut world = narrow(1);
    let client = world.client();
    world.call(client, b"held");
    world.backends[0].accepts = Some(false);
    let waiting = world.call(client, b"waits");
    world.advance(Duration::from_secs(3));
    let dials = world.backends[0].dials;
    assert!((3..=5).contains(&dials), "about once a second: {dials}");
    world.backends[0].accepts = Some(true);
    world.backends[0].behaviour = Behaviour::Echo;
    world.advance(Duration::from_millis(1100));
    assert!(world.is_ok(waiting), "{:?}", world.outcome(waiting));
}

#[test]
fn a_call_whose_further_dial_failed_goes_to_an_endpoint_that_takes_one() {
    let mut world = narrow(2);
    let client = world.client();
    for _ in 0..2 {
        world.call(client, b"held");
    }
    for backend in 0..2 {
        world.backends[backend].accepts = Some(backend == 1);
        world.backends[backend].behaviour = Behaviour::Echo;
    }
    // One of two is meant for the endpoint that takes no further connection.
    for _ in 0..2 {
        let call = world.call(client, b"");
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
    }
}

#[test]
fn connections_that_go_away_slowly_do_not_keep_new_calls_waiting() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::Hold;
    let client = world.client();
    for age in 0..50 {
        let watch = world.call(client, b"a watch that never ends");
        assert_eq!(world.runs(watch), 1, "after {age} connections of limited age");
        world.advance(Duration::from_secs(1));
        world.shut_down(0);
        world.run();
    }
}
