//! Cancelled calls end at their backends soon, however many they are, and cost no call beside them; and no connection
//! gets more resets than a server takes.

use std::collections::VecDeque;
use std::time::Duration;

use grpclb_engine::connection::{Limit, Rule};
use grpclb_engine::frame::{ErrorCode, Frame};
use grpclb_engine::splitter::Config;

use crate::support::{Behaviour, Outcome, World, flags, greeting, kinds, millis, raw};

/// A world with a round trip of 1 ms, whose clients cancel as fast as they like.
fn world(backends: usize) -> World {
    let mut world = World::new(backends);
    world.delay = Duration::from_micros(500);
    world.dial_delay = millis(2);
    for backend in &mut world.backends {
        // SETTINGS confirm resets. Only servers of this engine limit them.
        let rule = Rule {
            burst: 10_000,
            ..backend.config.limits.rule(Limit::Settings)
        };
        backend.config.limits.set(Limit::Settings, rule);
    }
    let pacing = &mut world.client_config.reset_pacing;
    (pacing.unconfirmed, pacing.burst) = (1_000_000, 1_000_000);
    world
}

/// A call that lasts, of a client of its own.
struct Watch {
    client: usize,
    call: usize,
    said: Vec<u8>,
}

impl Watch {
    fn new(world: &mut World) -> Self {
        let client = world.client();
        let call = world.open(client, b"", false);
        world.advance(millis(100));
        Self {
            client,
            call,
            said: Vec::new(),
        }
    }

    /// An event comes by it within 20 ms, and another call of its client is answered as soon.
    #[track_caller]
    fn goes_on(&mut self, world: &mut World) {
        world.send(self.call, b"event", false);
        self.said.extend(b"event");
        let beside = world.open(self.client, b"", true);
        world.advance(millis(20));
        assert_eq!(world.calls[self.call].body, self.said, "the watch");
        assert!(world.is_ok(beside), "{:?}", world.outcome(beside));
    }
}

fn set(world: &mut World, behaviour: Behaviour) {
    for backend in &mut world.backends {
        backend.behaviour = behaviour;
    }
}

fn cancel_all(world: &mut World, calls: Vec<usize>) {
    for call in calls {
        world.cancel(call);
    }
}

/// What nghttp2's servers allow a connection by default: 1000 resets, and 33 a second.
#[track_caller]
fn expect_resets_within_nghttp2s_limit(world: &World) {
    for resets in world.resets() {
        let mut bucket = 1000.0;
        let mut last = None;
        for &at in resets {
            let since = last.replace(at).map_or(Duration::ZERO, |last| at.since(last));
            bucket = f64::min(bucket + 33.0 * since.as_secs_f64(), 1000.0) - 1.0;
            assert!(bucket >= 0.0, "a connection got {} resets", resets.len());
        }
    }
}

/// `each` calls begin every 10 ms, and are cancelled 60 ms later, unanswered. No cancelled call runs for longer than `soon`.
#[track_caller]
fn cancel_for(world: &mut World, watch: &mut Watch, each: usize, time: Duration, soon: Duration) {
    let client = world.client();
    let mut open = VecDeque::new();
    let mut cancelled = VecDeque::new();
    let ticks = time.as_millis() / 10;
    for tick in 0..ticks {
        set(world, Behaviour::Silent);
        open.push_back(
            (0..each)
                .map(|_| world.open(client, b"", true))
                .collect::<Vec<_>>(),
        );
        if open.len() > 6 {
            let calls = open.pop_front().expect("just seen");
            cancelled.push_back((world.now, calls.len()));
            cancel_all(world, calls);
        }
        world.advance(millis(5));
        set(world, Behaviour::Echo);
        if tick % 50 == 0 {
            watch.goes_on(world);
        } else {
            world.advance(millis(5));
        }
        while cancelled
            .front()
            .is_some_and(|(at, _)| world.now.since(*at) >= soon)
        {
            cancelled.pop_front();
        }
        let alive: usize = open.iter().map(Vec::len).sum();
        let ending: usize = cancelled.iter().map(|(_, calls)| calls).sum();
        let running = world.running();
        assert!(
            running <= 1 + alive + ending,
            "{running} run at {tick}, where {alive} are open and {ending} were cancelled a moment ago"
        );
    }
    for call in open.into_iter().flatten() {
        world.cancel(call);
    }
}

#[test]
fn cancels_reach_backend_within_100_ms_at_100_per_second() {
    for backends in [1, 3] {
        let mut world = world(backends);
        let mut watch = Watch::new(&mut world);
        let before = world.splitter.stats().queued;
        cancel_for(&mut world, &mut watch, 1, Duration::from_mins(1), millis(100));
        world.advance(millis(100));
        assert_eq!(world.running(), 1);
        watch.goes_on(&mut world);
        expect_resets_within_nghttp2s_limit(&world);
        let connections: usize = (0..backends).map(|n| world.connections(n)).sum();
        assert!(connections <= 2 + 4 * backends, "{connections}");
        let queued = world.splitter.stats().queued - before;
        assert!(queued <= 2 * backends as u64, "{queued} calls waited for a dial");
    }
}

#[test]
fn cancels_reach_backend_within_2_s_at_1000_per_second() {
    for backends in [1, 3] {
        let mut world = world(backends);
        let mut watch = Watch::new(&mut world);
        cancel_for(
            &mut world,
            &mut watch,
            10,
            Duration::from_secs(20),
            Duration::from_secs(2),
        );
        world.advance(Duration::from_secs(5));
        assert_eq!(world.running(), 1);
        watch.goes_on(&mut world);
        expect_resets_within_nghttp2s_limit(&world);
        assert_eq!(world.splitter.stats().unavailable, 0);
        assert_eq!(world.splitter.stats().refused, 0);
    }
}

#[test]
fn closed_client_leaves_no_call_running_after_10000_open_ones() {
    for (backends, rounds) in [(1, 3), (3, 10)] {
        let mut world = world(backends);
        let mut watch = Watch::new(&mut world);
        let before = world.splitter.buffered();
        let mut most = 0;
        for _ in 0..rounds {
            set(&mut world, Behaviour::Silent);
            let client = world.client();
            for _ in 0..10_000 {
                world.open(client, b"", true);
            }
            world.advance(millis(480));
            most = most.max(world.running());
            world.drop_client(client);
            set(&mut world, Behaviour::Echo);
            watch.goes_on(&mut world);
        }
        assert!(most >= 9000, "{most} ran at once");
        assert!(
            most <= 12_000,
            "{most} ran at once, while a client may have 10,000"
        );
        world.advance(Duration::from_secs(5));
        assert_eq!(world.running(), 1);
        watch.goes_on(&mut world);
        expect_resets_within_nghttp2s_limit(&world);
        let connections: usize = (0..backends).map(|n| world.connections(n)).sum();
        assert!(connections <= 16 * backends, "{connections}");
        let held = world.splitter.buffered();
        assert!(held < before + (1 << 20), "{held} bytes are held, {before} were");
        assert_eq!(world.splitter.stats().unavailable, 0);
    }
}

#[test]
fn few_cancels_keep_their_connection() {
    let mut world = world(1);
    set(&mut world, Behaviour::Silent);
    let client = world.client();
    for calls in [1, 2, 10, 40] {
        let calls: Vec<_> = (0..calls).map(|_| world.open(client, b"", true)).collect();
        world.advance(millis(20));
        cancel_all(&mut world, calls);
        world.advance(millis(100));
        assert_eq!((world.running(), world.connections(0)), (0, 1));
    }
    assert_eq!(world.splitter.stats().dials, 1);
}

#[test]
fn cancel_leaves_after_settle_pause_without_other_events() {
    let mut world = world(1);
    set(&mut world, Behaviour::Silent);
    let client = world.client();
    let calls: Vec<_> = (0..6).map(|_| world.open(client, b"", true)).collect();
    world.advance(millis(20));
    for &call in &calls[..5] {
        world.cancel(call);
    }
    // The resets are confirmed a round trip after they left, and then nothing may leave for 5 ms.
    world.advance(millis(3));
    assert_eq!(world.running(), 1);
    world.cancel(calls[5]);
    world.advance(millis(20));
    assert_eq!(world.running(), 0);
}

#[test]
fn connection_is_closed_when_only_many_resets_wait() {
    let mut world = world(1);
    set(&mut world, Behaviour::Silent);
    let (client, other) = (world.client(), world.client());
    for _ in 0..500 {
        world.open(client, b"", true);
    }
    world.advance(millis(20));
    assert_eq!(world.running(), 500);
    world.drop_client(client);
    world.advance(millis(1));
    assert_eq!(world.running(), 0);
    assert_eq!(world.splitter.stats().closed_for_resets, 1);
    set(&mut world, Behaviour::Echo);
    let next = world.open(other, b"x", true);
    world.advance(millis(20));
    assert!(world.is_ok(next), "the endpoint did nothing wrong");
}

#[test]
fn open_streams_run_on_one_endpoint_at_10000_and_20000() {
    let mut world = world(1);
    set(&mut world, Behaviour::Hold);
    let mut calls = Vec::new();
    for clients in 1..=2 {
        let client = world.client();
        calls.extend((0..10_000).map(|_| world.open(client, b"", false)));
        world.advance(Duration::from_secs(1));
        assert_eq!(world.running(), 10_000 * clients);
        assert!(world.connections(0) <= 16, "{}", world.connections(0));
    }
    for call in calls {
        world.send(call, b"x", false);
    }
    world.advance(Duration::from_secs(1));
    assert!(world.calls.iter().all(|call| call.body == b"x"));
}

#[test]
fn calls_do_not_wait_for_dial_when_allowance_runs_out() {
    let mut world = world(1);
    world.dial_delay = millis(50);
    set(&mut world, Behaviour::Hold);
    let client = world.client();
    world.open(client, b"", false);
    world.advance(millis(100));
    let queued = world.splitter.stats().queued;
    for n in 2..=3000 {
        world.open(client, b"", false);
        world.advance(millis(1));
        assert!(world.running() + 1 >= n, "{} of {n} run", world.running());
    }
    assert_eq!(world.splitter.stats().queued, queued);
    assert_eq!(world.connections(0), 5, "one of them is ahead");
}

#[test]
fn open_streams_exceed_allowance_when_further_dials_fail() {
    let mut world = world(1);
    set(&mut world, Behaviour::Hold);
    let client = world.client();
    world.open(client, b"", false);
    world.advance(millis(20));
    world.backends[0].accepts = Some(false);
    for _ in 0..2000 {
        world.open(client, b"", false);
    }
    world.advance(Duration::from_secs(1));
    assert_eq!(world.running(), 2001);
    assert_eq!(world.connections(0), 1);
    let dials = world.splitter.stats().dials;
    assert!(dials <= 4, "{dials}: about once a second");
}

#[test]
fn waiting_calls_continue_when_allowance_refills() {
    let mut config = Config::new("n1");
    (config.pool, config.pool_total) = (1, 1);
    config.backend.reset_pacing.burst = 10;
    let mut world = World::with(1, 7, config, &std::sync::Arc::default());
    let watch = Watch::new(&mut world);
    let client = world.client();
    set(&mut world, Behaviour::Silent);
    let calls: Vec<_> = (0..9).map(|_| world.open(client, b"", true)).collect();
    world.advance(millis(20));
    cancel_all(&mut world, calls);
    world.advance(millis(30));
    assert_eq!(world.running(), 1);
    set(&mut world, Behaviour::Echo);
    let calls: Vec<_> = (0..20).map(|_| world.open(client, b"", true)).collect();
    world.run();
    assert!(
        calls.iter().any(|&call| world.outcome(call).is_none()),
        "some wait"
    );
    world.advance(Duration::from_secs(2));
    for call in calls {
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
    }
    assert_eq!(world.outcome(watch.call), None);
    assert_eq!(world.connections(0), 1);
}

#[test]
fn new_streams_are_refused_while_too_many_resets_wait() {
    let mut config = Config::new("n1");
    config.client.max_concurrent_streams = 300;
    // One call at a time is reset here, to make many wait.
    config.backend.reset_pacing.unconfirmed = 1;
    config.backend.reset_pacing.accepted_after = Duration::from_hours(1);
    let mut world = World::with(1, 7, config, &std::sync::Arc::default());
    world.delay = millis(20);
    world.client_config.reset_pacing.unconfirmed = 1000;
    let watch = Watch::new(&mut world);
    let client = world.client();
    set(&mut world, Behaviour::Silent);
    let calls: Vec<_> = (0..300).map(|_| world.open(client, b"", true)).collect();
    world.advance(millis(200));
    cancel_all(&mut world, calls);
    world.run();
    let calls: Vec<_> = (0..100).map(|_| world.open(client, b"", true)).collect();
    world.advance(millis(200));
    let refused = calls
        .iter()
        .filter(|&&call| world.outcome(call) == Some(&Outcome::Reset(ErrorCode::REFUSED_STREAM)))
        .count();
    assert!((20..=60).contains(&refused), "{refused} of 100");
    assert_eq!(world.splitter.stats().refused, refused as u64);
    world.advance(Duration::from_secs(30));
    set(&mut world, Behaviour::Echo);
    let calls: Vec<_> = (0..100).map(|_| world.open(client, b"", true)).collect();
    world.advance(Duration::from_secs(1));
    assert!(
        calls.iter().all(|&call| world.is_ok(call)),
        "all were reset meanwhile"
    );
    assert_eq!(world.outcome(watch.call), None);
}

/// The streams that a wild backend was told to reset.
fn received_resets(world: &World, wild: usize) -> usize {
    let resets = world.wilds[wild]
        .heard
        .iter()
        .filter(|frame| matches!(frame, Frame::RstStream { .. }));
    resets.count()
}

#[test]
fn resets_continue_without_settings_acknowledgement() {
    // A server that never acknowledges SETTINGS. It answers a later call, or the PING that asks.
    for (answers_calls, cancels) in [(true, 40), (false, 200)] {
        let mut world = World::new(1);
        world.backends[0].wild = true;
        world.client_config.reset_pacing.unconfirmed = 1000;
        let client = world.client();
        let calls: Vec<_> = (0..=cancels).map(|_| world.open(client, b"", true)).collect();
        world.run();
        let wild = world.wild_backend();
        world.say(wild, &raw(kinds::SETTINGS, 0, 0, &[]));
        world.advance(millis(100));
        for &call in &calls[1..] {
            world.cancel(call);
        }
        world.advance(millis(100));
        assert_eq!(received_resets(&world, wild), 5);
        if answers_calls {
            world.open(client, b"", true);
            world.run();
            let whole = flags::END_HEADERS | flags::END_STREAM;
            world.say(wild, &raw(kinds::HEADERS, whole, 2 * cancels as u32 + 3, b"\x88"));
        } else {
            world.advance(Duration::from_secs(1));
            let ping = world.wilds[wild].heard.iter().find_map(|frame| match frame {
                Frame::Ping { ack: false, payload } => Some(*payload),
                _ => None,
            });
            world.say(wild, &raw(kinds::PING, flags::ACK, 0, &ping.expect("a PING")));
        }
        world.advance(millis(250));
        assert_eq!(received_resets(&world, wild), cancels);
        assert_eq!(world.outcome(calls[0]), None, "and the call beside them goes on");
        assert!(!world.wilds[wild].over);
    }
}

#[test]
fn silent_backend_is_closed_when_resets_wait_for_a_second() {
    let mut world = World::new(1);
    world.backends[0].wild = true;
    let client = world.client();
    let calls: Vec<_> = (0..20).map(|_| world.open(client, b"", true)).collect();
    world.run();
    let wild = world.wild_backend();
    world.say(wild, &greeting());
    world.advance(millis(100));
    cancel_all(&mut world, calls);
    world.advance(millis(500));
    assert!(!world.wilds[wild].over);
    world.advance(millis(600));
    assert!(world.wilds[wild].over);
    let (code, _) = world.wilds[wild].goaway().expect("GOAWAY");
    assert_eq!(code, ErrorCode::NO_ERROR);
}

#[test]
fn resets_leave_in_batches_until_streams_count_as_accepted() {
    // With a round trip of 50 ms, twice as many leave at once.
    for (delay, most) in [(Duration::from_micros(500), 5), (millis(25), 10)] {
        let mut world = world(1);
        world.delay = delay;
        let _watch = Watch::new(&mut world);
        set(&mut world, Behaviour::Silent);
        let client = world.client();
        let calls: Vec<_> = (0..300).map(|_| world.open(client, b"", true)).collect();
        world.advance(millis(500));
        cancel_all(&mut world, calls);
        let cancelled = world.now;
        world.advance(Duration::from_secs(2));
        let resets = world.resets().next().expect("a connection").to_vec();
        assert_eq!(resets.len(), 300);
        // Until the server has had a quarter of a second to accept what it is known to have read.
        let early = resets.iter().filter(|at| at.since(cancelled) < millis(250));
        let mut rounds: Vec<(grpclb_engine::Time, usize)> = Vec::new();
        for &at in early {
            match rounds.last_mut() {
                Some((round, n)) if *round == at => *n += 1,
                _ => rounds.push((at, 1)),
            }
        }
        assert!(rounds.iter().all(|(_, n)| *n <= most), "{rounds:?}");
        assert!(
            rounds.windows(2).all(|two| two[1].0.since(two[0].0) >= millis(5)),
            "{rounds:?}"
        );
        let last = resets.last().expect("some").since(cancelled);
        assert!(last < millis(500), "{last:?}");
    }
}

#[test]
fn cancel_storm_fails_no_call_of_other_clients() {
    let mut world = world(2);
    let mut watches: Vec<_> = (0..4).map(|_| Watch::new(&mut world)).collect();
    let client = world.client();
    for _ in 0..20 {
        set(&mut world, Behaviour::Silent);
        let calls: Vec<_> = (0..1000).map(|_| world.open(client, b"", true)).collect();
        world.advance(millis(60));
        cancel_all(&mut world, calls);
        set(&mut world, Behaviour::Echo);
        for watch in &mut watches {
            watch.goes_on(&mut world);
        }
    }
    assert_eq!(world.splitter.stats().upstreams_lost, 0);
    assert!(world.clients.iter().all(|client| !client.over));
    expect_resets_within_nghttp2s_limit(&world);
}
