//! Calls that wait for a connection: none waits longer than it must, and none for ever, though nothing else happens.

use std::time::Duration;

use grpclb_engine::connection;

use crate::support::{Behaviour, SERVICE, World, millis};

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

/// Calls on all that the backends take, and one that waits.
fn one_waits(world: &mut World) -> (usize, usize) {
    let client = world.client();
    let room = 4 * world.backends.len();
    for _ in 0..room {
        world.call(client, b"held");
    }
    let waiting = world.call(client, b"waits");
    world.advance(Duration::from_secs(5));
    assert_eq!(world.runs(waiting), 0);
    (client, waiting)
}

#[test]
fn waiting_call_has_an_endpoint_dialled_that_a_snapshot_brings() {
    for per_connection in [false, true] {
        let mut world = narrow(1);
        world.per_connection = per_connection;
        world.publish();
        let (_, waiting) = one_waits(&mut world);
        world.add_backend();
        world.publish();
        world.run();
        assert_eq!(world.backends[1].dials, 1);
        assert!(world.is_ok(waiting), "{:?}", world.outcome(waiting));
    }
}

#[test]
fn waiting_calls_go_to_as_many_endpoints_as_they_need() {
    let mut world = narrow(1);
    let (client, first) = one_waits(&mut world);
    let mut waiting: Vec<usize> = (0..11).map(|_| world.call(client, b"waits")).collect();
    waiting.insert(0, first);
    for _ in 0..3 {
        let new = world.add_backend();
        world.backends[new].behaviour = Behaviour::Hold;
        world.backends[new].config = world.backends[0].config.clone();
    }
    world.publish();
    world.advance(millis(100));
    for call in waiting {
        assert_eq!(world.runs(call), 1);
    }
}

#[test]
fn waiting_call_has_a_failed_endpoint_dialled_when_its_backoff_is_over() {
    for per_connection in [false, true] {
        let mut world = narrow(2);
        world.per_connection = per_connection;
        world.backends[1].accepts = Some(false);
        world.publish();
        let client = world.client();
        for _ in 0..4 {
            world.call(client, b"held");
        }
        let waiting = world.call(client, b"waits");
        assert_eq!(world.runs(waiting), 0);
        world.advance(Duration::from_secs(3));
        assert_eq!(world.outcome(waiting), None);
        let dials = world.backends[1].dials;
        assert!((2..=4).contains(&dials), "as its backoff has it: {dials}");
        world.backends[1].accepts = Some(true);
        world.backends[1].behaviour = Behaviour::Echo;
        world.advance(Duration::from_secs(4));
        assert!(world.is_ok(waiting), "{:?}", world.outcome(waiting));
    }
}

#[test]
fn waiting_call_goes_to_an_endpoint_that_has_lost_its_connections() {
    for goaway in [false, true] {
        let mut world = narrow(2);
        let (_, waiting) = one_waits(&mut world);
        let queue = (0..2)
            .map(|backend| world.backends[backend].dials)
            .collect::<Vec<_>>();
        assert_eq!(queue, [4, 4]);
        // Both, one after the other: the call waits for one of them, and must not mind which.
        for backend in 0..2 {
            world.backends[backend].behaviour = Behaviour::Echo;
            if goaway {
                world.shut_down(backend);
            } else {
                world.kill(backend);
            }
            world.advance(millis(10));
            assert!(world.is_ok(waiting), "{backend}: {:?}", world.outcome(waiting));
        }
    }
}

#[test]
fn waiting_call_goes_to_the_endpoint_that_replaces_a_failed_one() {
    let mut world = narrow(3);
    world.subset = 2;
    world.publish();
    let client = world.client();
    for _ in 0..8 {
        world.call(client, b"held");
    }
    let waiting = world.call(client, b"waits");
    let (used, spare): (Vec<usize>, Vec<usize>) = (0..3).partition(|&backend| world.connections(backend) > 0);
    assert_eq!((used.len(), world.runs(waiting)), (2, 0));
    world.backends[spare[0]].behaviour = Behaviour::Echo;
    for &backend in &used {
        world.backends[backend].accepts = Some(false);
    }
    world.kill(used[0]);
    world.advance(millis(100));
    assert!(world.is_ok(waiting), "{:?}", world.outcome(waiting));
}

#[test]
fn waiting_calls_of_all_clients_go_to_an_endpoint_that_one_has_found_alive() {
    let mut world = narrow(3);
    world.per_connection = true;
    world.backends[1].accepts = Some(false);
    world.backends[2].accepts = Some(false);
    world.backends[2].config.max_concurrent_streams = 100;
    world.publish();
    let clients = [world.client(), world.client()];
    let mut waiting = Vec::new();
    for client in clients {
        for _ in 0..4 {
            world.call(client, b"held");
        }
        waiting.extend((0..5).map(|_| world.call(client, b"waits")));
    }
    world.advance(Duration::from_mins(5));
    world.backends[1].accepts = Some(true);
    world.backends[2].accepts = Some(true);
    while world.connections(1) + world.connections(2) == 0 {
        world.advance(millis(100));
    }
    // One of them is back first; a dial in the background, for one client, finds the other.
    world.advance(Duration::from_secs(1));
    for call in waiting {
        assert_eq!(world.runs(call), 1, "call {call}: {:?}", world.outcome(call));
    }
}

#[test]
fn waiting_call_goes_to_an_endpoint_that_a_connection_without_http2_has_found_alive() {
    let mut world = narrow(2);
    world.backends[1].accepts = Some(false);
    world.publish();
    let client = world.client();
    for _ in 0..4 {
        world.call(client, b"held");
    }
    let waiting = world.call(client, b"waits");
    world.advance(Duration::from_mins(5));
    world.backends[1].accepts = Some(true);
    let endpoint = world.backends[1].endpoint.clone();
    world.splitter.opaque_connected(world.now, SERVICE, &endpoint);
    world.advance(millis(10));
    assert_eq!(world.runs(waiting), 1, "{:?}", world.outcome(waiting));
}

/// A backend that takes no further connection ends it in good order, at once.
#[test]
fn endpoint_that_says_goodbye_to_further_connections_is_dialled_once_a_second() {
    for per_connection in [false, true] {
        let mut world = narrow(1);
        world.per_connection = per_connection;
        world.publish();
        let client = world.client();
        world.call(client, b"held");
        world.backends[0].farewell = true;
        let waiting = world.call(client, b"waits");
        world.advance(Duration::from_secs(5));
        let dials = world.backends[0].dials - 1;
        assert!((5..=7).contains(&dials), "{dials}");
        let out_for = world.splitter.describe(world.now)[0].endpoints[0].out_for;
        assert_eq!(out_for, None, "its other connection is up");
        world.backends[0].farewell = false;
        world.advance(Duration::from_secs(2));
        assert_eq!(world.runs(waiting), 1, "{:?}", world.outcome(waiting));
    }
}

#[test]
fn cancelled_calls_that_waited_cause_no_dials() {
    let mut world = narrow(1);
    let (client, waiting) = one_waits(&mut world);
    world.cancel(waiting);
    world.run();
    let dials = world.backends[0].dials;
    world.drop_client(client);
    world.advance(Duration::from_mins(10));
    assert_eq!(world.backends[0].dials, dials);
    assert_eq!(world.splitter.held(), 0);
}
