//! What calls may hold in memory, that all of it comes back, and that a want of it stops nobody for ever.

use std::sync::Arc;
use std::time::Duration;

use grpclb_engine::splitter::{Budget, Config};

use crate::support::{Behaviour, World, millis};

/// A world whose one client has stopped reading, and has as many calls under way, with 60,000 bytes each way.
fn deaf(calls: usize, budget: &Arc<Budget>) -> (World, usize, Vec<usize>) {
    let mut config = Config::new("n1");
    config.client.connection_window = 16 << 20;
    let mut world = World::with(1, 7, config, budget);
    // It cancels without waiting for what it does not read.
    world.client_config.reset_pacing.unconfirmed = 1000;
    let client = world.client();
    let warm = world.call(client, b"x");
    assert!(world.is_ok(warm));
    world.clients[client].deaf = true;
    let calls = (0..calls)
        .map(|_| world.open(client, &vec![1; 60_000], true))
        .collect();
    world.advance(millis(20));
    (world, client, calls)
}

#[test]
fn credit_that_was_held_back_comes_back_when_the_calls_that_held_it_are_cancelled() {
    // The agent has no memory left: other pods have it all.
    let (mut world, client, calls) = deaf(99, &Arc::new(Budget::new(0)));
    assert!(world.splitter.stats().credit_held > 0);
    assert_eq!(world.server(0).connection.send_window(), 0, "all of it is held");
    for call in calls.into_iter().rev() {
        world.cancel(call);
    }
    world.run();
    assert_eq!(world.splitter.buffered().0, 0);
    let window = world.server(0).connection.send_window();
    assert!(window > 256 << 10, "{window} bytes of window");
    world.clients[client].deaf = false;
    world.backends[0].behaviour = Behaviour::Early;
    let next = world.call(client, b"");
    assert!(world.is_ok(next), "{:?}", world.outcome(next));
}

#[test]
fn credit_that_was_held_back_comes_back_when_another_pod_gives_memory_back() {
    let budget = Arc::new(Budget::new(4 << 20));
    let (mut greedy, its_client, _calls) = deaf(99, &budget);
    let (mut world, ..) = deaf(99, &budget);
    world.backends[0].behaviour = Behaviour::Early;
    let other = world.client();
    let call = world.call(other, b"");
    assert_eq!(
        world.outcome(call),
        None,
        "it shares the connection that holds too much"
    );
    world.advance(Duration::from_secs(5));
    assert_eq!(world.outcome(call), None);
    greedy.drop_client(its_client);
    greedy.run();
    world.advance(Duration::from_secs(1));
    assert!(world.is_ok(call), "{:?}", world.outcome(call));
}
