//! Endpoints that take long to connect, fail and come back: who is dialled when, and which endpoints stand in.

use std::time::Duration;

use grpclb_engine::splitter::{Config, ServiceView};

use crate::support::{Behaviour, World, millis};

/// Whether the endpoint is out of the pick.
fn is_out(world: &World, backend: usize) -> bool {
    let view = world.splitter.describe(world.now);
    let mut views = view[0].endpoints.iter();
    views
        .find(|view| view.endpoint.is_same(&world.backends[backend].endpoint))
        .is_some_and(|view| view.out_for.is_some())
}

#[test]
fn silent_endpoint_leaves_the_pick_after_a_second_and_has_failed_after_twenty() {
    for accepts in [None, Some(true)] {
        let mut world = World::new(2);
        world.backends[0].accepts = accepts;
        world.backends[0].frozen = true; // connected, perhaps, but its SETTINGS never come
        let client = world.client();
        let calls: Vec<_> = (0..10).map(|_| world.open(client, b"x", true)).collect();
        world.advance(millis(51));
        assert!(
            calls.iter().all(|&call| world.is_ok(call)),
            "after the grace the connected one serves all"
        );
        assert!(!is_out(&world, 0));
        world.advance(Duration::from_secs(1));
        assert!(is_out(&world, 0));
        assert_eq!(world.splitter.stats().dials_failed, 0, "it may still come");
        for _ in 0..180 {
            world.advance(millis(100));
            let call = world.call(client, b"x");
            assert!(world.is_ok(call));
        }
        assert_eq!(
            (world.backends[0].dials, world.splitter.stats().dials_failed),
            (1, 0)
        );
        world.advance(Duration::from_secs(1));
        assert_eq!(world.splitter.stats().dials_failed, 1);
        assert!(is_out(&world, 0));
    }
}

#[test]
fn slow_dial_goes_on_beside_other_endpoints_and_its_endpoint_is_used_when_it_is_up() {
    let mut world = World::new(2);
    world.backends[0].slow = Duration::from_secs(3);
    let client = world.client();
    for _ in 0..10 {
        let call = world.call(client, b"x");
        world.advance(millis(200));
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
    }
    assert_eq!(world.spread(), [0, 10]);
    world.advance(Duration::from_millis(1100));
    for _ in 0..10 {
        world.call(client, b"x");
    }
    assert!(world.spread()[0] >= 5, "{:?}", world.spread());
    assert_eq!(world.backends[0].dials, 1);
}

#[test]
fn only_endpoint_may_take_as_long_to_connect_and_to_greet_as_their_timeouts_allow() {
    // A SYN that was lost once, or four times; SETTINGS after 1.5 s, and after 15 s.
    for (connect, greet) in [(1010, 0), (15_010, 0), (0, 1500), (0, 15_000), (15_010, 15_000)] {
        for backends in [1, 3] {
            let mut world = World::new(backends);
            for backend in &mut world.backends {
                backend.slow = millis(connect);
                backend.frozen = greet > 0;
            }
            let client = world.client();
            let calls: Vec<_> = (0..5).map(|_| world.open(client, b"x", true)).collect();
            world.advance(millis(connect + greet));
            for backend in &mut world.backends {
                backend.frozen = false;
            }
            world.advance(millis(100));
            for call in calls {
                assert!(
                    world.is_ok(call),
                    "{backends} backends, {connect} and {greet} ms: {:?}",
                    world.outcome(call)
                );
            }
        }
    }
}

#[test]
fn black_holes_fail_calls_after_the_connect_timeout_and_not_at_once_for_ever() {
    for backends in [1, 2, 30] {
        let mut world = World::new(backends);
        for backend in &mut world.backends {
            backend.accepts = None;
        }
        let client = world.client();
        let first = world.open(client, b"x", true);
        world.advance(millis(19_900));
        assert_eq!(world.outcome(first), None, "{backends} backends");
        world.advance(Duration::from_secs(3));
        assert!(world.message(first).contains("no answer in time"), "{backends}");
        let next = world.open(client, b"x", true);
        world.advance(Duration::from_secs(10));
        assert_eq!(world.outcome(next), None, "waits for another try: {backends}");
        for backend in &mut world.backends {
            backend.accepts = Some(true);
        }
        world.advance(Duration::from_secs(30));
        assert!(world.outcome(next).is_some());
        let last = world.open(client, b"x", true);
        world.advance(Duration::from_secs(2));
        assert!(world.is_ok(last), "{:?}", world.outcome(last));
    }
}

#[test]
fn slow_endpoint_gets_no_call_while_a_new_one_may_be_dialled() {
    let mut world = World::new(1);
    world.backends[0].accepts = None;
    let client = world.client();
    let waiting = world.open(client, b"x", true);
    world.advance(Duration::from_secs(5));
    assert_eq!(world.outcome(waiting), None);
    world.add_backend();
    world.publish();
    world.run();
    assert!(world.is_ok(waiting), "{:?}", world.outcome(waiting));
}

#[test]
fn recovered_endpoint_has_the_others_dialled_once_each_within_half_a_second() {
    let mut world = World::new(5);
    let client = world.client();
    for _ in 0..10 {
        world.call(client, b"x");
    }
    for backend in 0..5 {
        world.backends[backend].accepts = Some(false);
        world.kill(backend);
    }
    for _ in 0..240 {
        world.call(client, b"x");
        world.advance(millis(500));
    }
    for backend in &mut world.backends {
        backend.accepts = Some(true);
        backend.dials = 0;
    }
    world.advance(Duration::from_secs(1));
    let first = world.open(client, b"x", true);
    world.run();
    assert!(world.is_ok(first), "{:?}", world.outcome(first));
    let dials = |world: &World| -> Vec<u32> { world.backends.iter().map(|backend| backend.dials).collect() };
    assert_eq!(dials(&world).iter().sum::<u32>(), 1, "not all in one moment");
    let mut moments = 0;
    for _ in 0..50 {
        let before: u32 = dials(&world).iter().sum();
        world.advance(millis(10));
        moments += u32::from(dials(&world).iter().sum::<u32>() > before);
    }
    assert_eq!(dials(&world), [1; 5]);
    assert!(moments >= 3, "spread: {moments}");
    let before = world.spread();
    for _ in 0..50 {
        let call = world.call(client, b"x");
        assert!(world.is_ok(call));
    }
    let gained: Vec<usize> = world
        .spread()
        .iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    assert!(gained.iter().all(|&calls| calls >= 5), "{gained:?}");
}

#[test]
fn probe_that_fails_does_not_lengthen_the_backoff() {
    let mut world = World::new(2);
    let client = world.client();
    for _ in 0..4 {
        world.call(client, b"x");
    }
    for backend in 0..2 {
        world.backends[backend].accepts = Some(false);
        world.kill(backend);
    }
    for _ in 0..100 {
        world.call(client, b"x");
        world.advance(millis(300));
    }
    let out_for = |world: &World, backend: usize| {
        let view = world.splitter.describe(world.now);
        let endpoint = &world.backends[backend].endpoint;
        let view = view[0]
            .endpoints
            .iter()
            .find(|view| view.endpoint.is_same(endpoint));
        view.and_then(|view| view.out_for).map(|out| world.now + out)
    };
    world.backends[0].accepts = Some(true);
    while !world.spread().iter().any(|&calls| calls > 4) && world.connections(0) == 0 {
        world.call(client, b"x");
        world.advance(millis(100));
    }
    let (until, dials) = (out_for(&world, 1), world.backends[1].dials);
    assert!(until.is_some());
    world.advance(millis(500));
    assert!(world.backends[1].dials <= dials + 1);
    assert!(out_for(&world, 1) == until || world.now >= until.expect("seen"));
}

#[test]
fn subset_is_filled_up_while_usable_endpoints_exist() {
    for seed in 0..50 {
        let mut world = World::with(10, seed, Config::new("n1"), &std::sync::Arc::default());
        world.subset = 1;
        // All but two refuse: which of them rank first differs by the pod.
        for backend in 0..8 {
            world.backends[backend].accepts = Some(false);
        }
        world.publish();
        let client = world.client();
        for _ in 0..20 {
            let call = world.call(client, b"x");
            assert!(world.is_ok(call), "seed {seed}: {:?}", world.outcome(call));
        }
        let used = (0..10).filter(|&backend| world.connections(backend) > 0).count();
        assert_eq!(used, 1, "seed {seed}");
    }
}

#[test]
fn endpoint_that_moves_up_again_keeps_its_connection() {
    let mut world = World::new(2);
    world.subset = 1;
    world.publish();
    let client = world.client();
    let first = world.call(client, b"x");
    let first = world.backend_of(first).expect("it ran");
    let second = 1 - first;
    world.backends[second].behaviour = Behaviour::Hold;
    for _ in 0..3 {
        world.backends[first].accepts = Some(false);
        world.kill(first);
        let held = world.call(client, b"x");
        assert_eq!(world.backend_of(held), Some(second));
        assert_eq!(world.connections(second), 1);
        // The first of the ranking is back, and a snapshot sends the second away again, with its running call.
        world.backends[first].accepts = Some(true);
        world.advance(Duration::from_secs(3));
        for _ in 0..4 {
            world.call(client, b"x");
        }
        assert_eq!(world.connections(first), 1);
        world.publish();
        let call = world.call(client, b"x");
        assert_eq!(world.backend_of(call), Some(first));
        assert_eq!(world.connections(second), 1);
    }
}

#[test]
fn snapshot_that_says_the_same_again_changes_nothing() {
    let mut world = World::new(4);
    world.subset = 2;
    world.publish();
    let client = world.client();
    world.call(client, b"x");
    world.call(client, b"x");
    let dead = (0..4)
        .find(|&backend| world.connections(backend) > 0)
        .expect("one is used");
    world.backends[dead].accepts = Some(false);
    world.kill(dead);
    for _ in 0..4 {
        world.call(client, b"x");
    }
    let before = world.splitter.describe(world.now);
    let dials = world.backends[dead].dials;
    for _ in 0..2 {
        world.publish();
        for _ in 0..4 {
            let call = world.call(client, b"x");
            assert!(world.is_ok(call));
        }
    }
    assert_eq!(world.backends[dead].dials, dials, "its failure is not forgotten");
    let after = world.splitter.describe(world.now);
    let known = |view: &ServiceView| -> Vec<_> {
        let mut known: Vec<_> = view
            .endpoints
            .iter()
            .map(|view| (view.endpoint.address, view.out_for))
            .collect();
        known.sort();
        known
    };
    assert_eq!(known(&before[0]), known(&after[0]));
}
