//! Random lives of a pod: calls, cancels, cuts, GOAWAYs, deaths, refusals and changes of endpoints in any order. Whatever
//! happens, no call runs twice, every call comes to an end that its client sees, and nothing is left behind.
//!
//! Seeds are committed: a failure names its own.

use std::time::Duration;

use grpclb_engine::balance::Policy;
use grpclb_engine::connection::Config;
use grpclb_engine::frame::ErrorCode;

use crate::support::{Behaviour, Outcome, World, millis};

const BEHAVIOURS: [Behaviour; 8] = [
    Behaviour::Echo,
    Behaviour::Echo,
    Behaviour::Echo,
    Behaviour::Refuse,
    Behaviour::Reset(ErrorCode::INTERNAL_ERROR),
    Behaviour::HeadersThenReset(ErrorCode::REFUSED_STREAM),
    Behaviour::Early,
    Behaviour::EarlyReset,
];

/// One life. `harsh`: faults that may fail calls, too.
fn live(seed: u64, harsh: bool) {
    let mut world = World::with(
        4,
        seed,
        grpclb_engine::splitter::Config::new("n1"),
        &std::sync::Arc::default(),
    );
    let mut rng = grpclb_engine::rng::Rng::seeded(seed);
    let mut dice = |sides: u64| rng.below(sides);
    world.policy = Policy::ALL[dice(4) as usize];
    world.per_connection = dice(4) == 0;
    world.delay = millis(dice(3));
    world.dial_delay = millis(dice(4));
    world.cut = [usize::MAX, 1000, 37][dice(3) as usize];
    for n in 0..4 {
        let streams = [1, 3, 100][dice(3) as usize];
        let window = [1, 100, 65_535][dice(3) as usize];
        let limits = Config {
            max_concurrent_streams: streams,
            initial_window: window,
            ..Config::to_client()
        };
        world.backends[n].config = limits;
    }
    world.publish();
    let mut members: Vec<usize> = (0..4).collect();
    let mut clients = vec![world.client(), world.client()];
    let mut open: Vec<usize> = Vec::new();
    let mut cancelled: Vec<usize> = Vec::new();
    for _ in 0..150 {
        match dice(20) {
            0..=7 => {
                let client = clients[dice(clients.len() as u64) as usize];
                if world.clients[client].over || !world.clients[client].side.connection.can_open() {
                    continue;
                }
                let size = [0, 5, 300, 5000][dice(4) as usize];
                let end = dice(3) > 0;
                let call = world.open(client, &vec![b'x'; size], end);
                if !end {
                    open.push(call);
                }
            }
            8..=9 => {
                if let Some(call) = open.pop() {
                    world.send(call, b"the rest", true);
                }
            }
            10 if harsh && !world.calls.is_empty() => {
                let call = dice(world.calls.len() as u64) as usize;
                if world.outcome(call).is_none() {
                    world.cancel(call);
                    cancelled.push(call);
                }
            }
            11 => {
                let backend = members[dice(members.len() as u64) as usize];
                world.shut_down(backend);
            }
            12 if harsh => world.break_one(),
            13 if harsh => {
                let backend = dice(world.backends.len() as u64) as usize;
                world.backends[backend].behaviour = BEHAVIOURS[dice(8) as usize];
            }
            14 if harsh => {
                let backend = dice(world.backends.len() as u64) as usize;
                world.backends[backend].accepts =
                    [Some(true), Some(true), Some(false), None][dice(4) as usize];
            }
            15 => {
                let new = world.add_backend();
                members.remove(0);
                members.push(new);
                world.publish_only(&members);
            }
            16 if harsh && dice(3) == 0 => {
                let client = clients[0];
                if !world.clients[client].over {
                    world.drop_client(client);
                    clients[0] = world.client();
                }
            }
            17 => {
                let time = dice(100);
                world.advance(millis(time));
            }
            _ => {
                for _ in 0..dice(6) {
                    world.step();
                }
            }
        }
    }
    for call in open {
        world.send(call, b"end", true);
    }
    for backend in &mut world.backends {
        backend.behaviour = Behaviour::Echo;
        backend.accepts = Some(true);
    }
    world.advance(Duration::from_secs(30));
    for call in 0..world.calls.len() {
        assert!(
            world.runs(call) <= 1,
            "seed {seed}: call {call} ran {} times",
            world.runs(call)
        );
        if cancelled.contains(&call) {
            continue;
        }
        let outcome = world.outcome(call);
        assert!(outcome.is_some(), "seed {seed}: call {call} never ended");
        let refused = outcome == Some(&Outcome::Reset(ErrorCode::REFUSED_STREAM));
        assert!(
            !refused || world.runs(call) == 0,
            "seed {seed}: call {call} ran and was handed back as if not"
        );
        assert!(
            harsh || world.is_ok(call),
            "seed {seed}: call {call}: {outcome:?}"
        );
    }
    for client in clients {
        if !world.clients[client].over {
            world.drop_client(client);
        }
    }
    world.advance(Duration::from_secs(30));
    assert!(world.splitter.is_idle(), "seed {seed}");
    assert_eq!(world.splitter.buffered(), 0, "seed {seed}: bytes are left");
    let open: usize = (0..world.backends.len())
        .map(|backend| world.connections(backend))
        .sum();
    assert_eq!(open, 0, "seed {seed}: connections are left");
}

/// `LIVES=n` runs n of them instead.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let lives = std::env::var("LIVES")
        .ok()
        .and_then(|lives| lives.parse().ok())
        .unwrap_or(count);
    first..first + lives
}

#[test]
fn orderly_changes_lose_no_call_and_run_none_twice() {
    for seed in seeds(0, 60) {
        live(seed, false);
    }
}

#[test]
fn whatever_happens_no_call_runs_twice_and_each_comes_to_an_end() {
    for seed in seeds(1000, 120) {
        live(seed, true);
    }
}
