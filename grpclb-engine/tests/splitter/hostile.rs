//! Hostile peers before a whole splitter: each attack ends the connection that it came by, with its own code and counter,
//! and the calls of others go on beside it as if nothing were. What each limit allows is the connection's tests' subject.

use std::time::Duration;

use grpclb_engine::connection::{Limit, Role};
use grpclb_engine::frame::{ErrorCode, Frame};
use grpclb_engine::rng::Rng;
use grpclb_engine::splitter::{Config, Stats};

use crate::attacks::{
    ATTACKS_OF_ANYBODY, Attack, FLOODS_OF_ANYBODY, FLOODS_OF_BACKENDS, FLOODS_OF_CLIENTS, REQUEST,
};
use crate::support::{Behaviour, World, flags, greeting, kinds, millis, raw};

/// A client whose calls nothing may disturb: one that runs on and on, and short ones.
struct Innocent {
    client: usize,
    running: usize,
    said: Vec<u8>,
}

impl Innocent {
    fn new(world: &mut World) -> Self {
        let client = world.client();
        let running = world.open(client, b"", false);
        world.run();
        Self {
            client,
            running,
            said: Vec::new(),
        }
    }

    #[track_caller]
    fn goes_on(&mut self, world: &mut World) {
        world.send(self.running, b"still here", false);
        self.said.extend(b"still here");
        world.run();
        assert_eq!(world.calls[self.running].body, self.said, "the call that runs on");
    }

    #[track_caller]
    fn calls(&mut self, world: &mut World) {
        let call = world.call(self.client, b"x");
        assert!(world.is_ok(call), "{:?}", world.outcome(call));
    }

    #[track_caller]
    fn ends_well(mut self, world: &mut World) {
        self.goes_on(world);
        self.calls(world);
        world.send(self.running, b"", true);
        world.run();
        assert!(world.is_ok(self.running), "{:?}", world.outcome(self.running));
        assert_eq!(world.clients[self.client].goaways, 0);
        assert_eq!(world.splitter.buffered(), 0, "what the attack left behind");
    }
}

/// Repeats the attack until it has reached its limit.
#[track_caller]
fn until_reached(world: &mut World, wild: usize, innocent: &mut Innocent, (limit, round): Attack) {
    let role = world.wilds[wild].role();
    for n in 0..100_000 {
        round(world, wild, n);
        if n % 64 == 0 {
            innocent.goes_on(world);
        }
        world.run();
        if counted(world.splitter.stats(), role, limit) > 0 {
            return;
        }
        world.wilds[wild].heard.clear();
    }
    panic!("{limit}: the attack was never noticed");
}

fn counted(stats: &Stats, role: Role, limit: Limit) -> u64 {
    let counts = match role {
        Role::Client => &stats.client_limits,
        Role::Server => &stats.backend_limits,
    };
    counts[limit as usize]
}

/// A flood that has reached its limit is read no faster than the limit says, and keeps its connection.
#[track_caller]
fn expect_slowed(world: &mut World, wild: usize, innocent: &mut Innocent, limit: Limit) {
    assert!(!world.wilds[wild].over, "{limit}");
    assert_eq!(world.wilds[wild].goaway(), None, "{limit}");
    if limit == Limit::SettingsTime || limit == Limit::Informational {
        return; // these slow nobody
    }
    world.say(wild, &raw(kinds::PING, 0, 0, b"later on"));
    innocent.goes_on(world);
    assert!(world.wilds[wild].unread() > 0, "{limit}: it is read on");
    let pong = |frame: &Frame| matches!(frame, Frame::Ping { ack: true, payload } if payload == b"later on");
    assert!(!world.wilds[wild].heard.iter().any(pong));
    world.wilds[wild].deaf = false;
    world.flush_wild_peer(wild);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.wilds[wild].unread(), 0, "{limit}: it is read again");
    assert!(world.wilds[wild].heard.iter().any(pong), "{limit}");
}

/// Exactly this limit has counted, on this side.
#[track_caller]
fn expect_counted(stats: &Stats, role: Role, limit: Limit) {
    let side = if role == Role::Client { "client" } else { "backend" };
    let counted: Vec<_> = stats
        .iter()
        .filter(|(name, count)| name.starts_with("limit_") && *count > 0)
        .collect();
    let name = format!("limit_{}_{side}", limit.name());
    assert!(
        matches!(&counted[..], [(only, _)] if *only == name),
        "{name}: {counted:?}"
    );
}

#[track_caller]
fn expect_goaway(world: &World, wild: usize, limit: Limit) {
    let code = ErrorCode::ENHANCE_YOUR_CALM;
    let said = world.wilds[wild].goaway();
    assert_eq!(said, Some((code, format!("limit reached: {}", limit.name()))));
}

fn greet(world: &mut World, wild: usize, limit: Limit) {
    match limit {
        Limit::SettingsTime => world.say(wild, &raw(kinds::SETTINGS, 0, 0, &[])),
        _ => world.say(wild, &greeting()),
    }
}

fn against_client((limit, round): Attack) {
    let mut config = Config::new("n1");
    if limit == Limit::RefusedStreams {
        config.client.max_concurrent_streams = 10;
    }
    let mut world = World::with(2, 7, config, &std::sync::Arc::default());
    let mut innocent = Innocent::new(&mut world);
    let wild = world.wild_client();
    greet(&mut world, wild, limit);
    if !matches!(
        limit,
        Limit::Continuation | Limit::HeaderBlockSize | Limit::HeaderBlockTime
    ) {
        world.say(wild, &raw(kinds::HEADERS, flags::END_HEADERS, 1, REQUEST));
    }
    until_reached(&mut world, wild, &mut innocent, (limit, round));
    if limit.ends() {
        expect_goaway(&world, wild, limit);
    } else {
        expect_slowed(&mut world, wild, &mut innocent, limit);
        world.leave(wild);
    }
    expect_counted(world.splitter.stats(), Role::Client, limit);
    innocent.ends_well(&mut world);
    assert_eq!(world.splitter.stats().upstreams_lost, 0, "no backend has minded");
}

fn against_backend((limit, round): Attack) {
    let mut world = World::new(2);
    world.backends[1].wild = true;
    // The innocent's call runs on a good backend; what follows meets the wild one.
    world.publish_only(&[0]);
    let mut innocent = Innocent::new(&mut world);
    world.publish_only(&[1]);
    let client = world.client();
    let calls: Vec<_> = (0..300).map(|_| world.open(client, b"x", true)).collect();
    world.run();
    let wild = world.wild_backend();
    greet(&mut world, wild, limit);
    world.run();
    until_reached(&mut world, wild, &mut innocent, (limit, round));
    if limit.ends() {
        expect_goaway(&world, wild, limit);
    } else {
        expect_slowed(&mut world, wild, &mut innocent, limit);
        world.leave(wild);
    }
    expect_counted(world.splitter.stats(), Role::Server, limit);
    assert!(
        calls.iter().all(|&call| world.outcome(call).is_some()),
        "no call hangs"
    );
    assert!(!world.clients[client].over, "and no client is to blame");
    world.publish_only(&[0]);
    innocent.ends_well(&mut world);
}

/// Every limit that a peer in this role can reach has an attack here.
#[track_caller]
fn expect_all(role: Role, attacks: &[Attack]) {
    let missing: Vec<_> = Limit::ALL
        .into_iter()
        .filter(|limit| limit.concerns(role))
        .filter(|limit| !attacks.iter().any(|(reached, _)| reached == limit))
        .collect();
    assert!(missing.is_empty(), "no attack reaches {missing:?}");
}

#[test]
fn each_limit_slows_or_ends_the_client_that_reaches_it_is_counted_and_hurts_nobody_else() {
    let attacks = [&ATTACKS_OF_ANYBODY[..], &FLOODS_OF_ANYBODY, &FLOODS_OF_CLIENTS].concat();
    expect_all(Role::Client, &attacks);
    attacks.into_iter().for_each(against_client);
}

#[test]
fn each_limit_slows_or_ends_the_backend_that_reaches_it_is_counted_and_hurts_no_call_elsewhere() {
    let attacks = [&ATTACKS_OF_ANYBODY[..], &FLOODS_OF_ANYBODY, &FLOODS_OF_BACKENDS].concat();
    expect_all(Role::Server, &attacks);
    attacks.into_iter().for_each(against_backend);
}

#[test]
fn a_storm_of_resets_leaves_no_trace_at_the_backends() {
    let mut world = World::new(2);
    let mut innocent = Innocent::new(&mut world);
    let wild = world.wild_client();
    world.say(wild, &greeting());
    let storm: fn(&mut World, usize, u32) = |world, wild, round| {
        // The HEADERS never leave before their RST_STREAM is here.
        let storm = (20 * round..20 * round + 20).flat_map(|n| {
            let open = raw(kinds::HEADERS, flags::END_HEADERS, 2 * n + 1, REQUEST);
            [open, raw(kinds::RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        });
        let storm: Vec<u8> = storm.collect();
        world.say(wild, &storm);
    };
    until_reached(&mut world, wild, &mut innocent, (Limit::RapidReset, storm));
    assert_eq!(world.splitter.stats().cancelled, 1001, "streams until the limit");
    world.leave(wild);
    let seen = world
        .backends
        .iter()
        .any(|backend| backend.ran.contains_key(&12_345));
    assert!(!seen, "no trace at the backends");
    innocent.ends_well(&mut world);
}

#[test]
fn whoever_breaks_flow_control_is_ended_with_its_code() {
    type Break = fn(&mut World, usize);
    let breaks: [Break; 3] = [
        |world, wild| world.say(wild, &raw(kinds::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        |world, wild| world.say(wild, &raw(kinds::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        // A megabyte and more, on streams that have had their 64 KiB: it does not read, so it has no new credit.
        |world, wild| {
            world.wilds[wild].deaf = true;
            (0..128).for_each(|_| world.say(wild, &raw(kinds::DATA, 0, 1, &[0; 16_384])));
        },
    ];
    for act in breaks {
        let mut world = World::new(2);
        let mut innocent = Innocent::new(&mut world);
        let wild = world.wild_client();
        world.say(wild, &greeting());
        world.say(wild, &raw(kinds::HEADERS, flags::END_HEADERS, 1, REQUEST));
        world.run();
        act(&mut world, wild);
        innocent.goes_on(&mut world);
        let (code, _) = world.wilds[wild].goaway().expect("GOAWAY");
        assert_eq!(code, ErrorCode::FLOW_CONTROL_ERROR);
        innocent.ends_well(&mut world);
    }
}

#[test]
fn more_data_than_a_streams_window_costs_that_stream_and_holds_no_more_than_the_window() {
    let mut world = World::new(1);
    world.backends[0].behaviour = Behaviour::NoCredit;
    let innocent = Innocent::new(&mut world);
    let wild = world.wild_client();
    world.say(wild, &greeting());
    world.say(wild, &raw(kinds::HEADERS, flags::END_HEADERS, 1, REQUEST));
    world.run();
    (0..20).for_each(|_| world.say(wild, &raw(kinds::DATA, 0, 1, &[0; 16_384])));
    world.run();
    let resets: Vec<_> = world.wilds[wild]
        .heard
        .iter()
        .filter_map(|frame| match frame {
            Frame::RstStream { stream, code } => Some((stream.get(), *code)),
            _ => None,
        })
        .collect();
    assert_eq!(resets, [(1, ErrorCode::FLOW_CONTROL_ERROR)]);
    assert!(!world.wilds[wild].over);
    let peak = world.splitter.held_peak();
    assert!(
        peak <= 3 * 65_536,
        "{peak} bytes: the window, and as much kept for another try"
    );
    innocent.ends_well(&mut world);
}

#[test]
fn a_header_bomb_is_answered_on_its_stream_and_its_fields_are_not_kept() {
    let mut world = World::new(2);
    let mut innocent = Innocent::new(&mut world);
    let wild = world.wild_client();
    world.say(wild, &greeting());
    // A field of 4000 bytes goes to the table, and is then named 16,000 times: 64 MB from 20 KB.
    let value = [&b"\x40\x01b\x7f\xa1\x1e"[..], &[b'v'; 4000]].concat();
    let bomb = [REQUEST, &value, &[0xbe; 16_000 - 4200]].concat();
    for n in 0..100 {
        world.say(wild, &raw(kinds::HEADERS, flags::END_HEADERS, 2 * n + 1, &bomb));
        innocent.goes_on(&mut world);
    }
    assert_eq!(world.splitter.stats().oversized, 100);
    assert!(!world.wilds[wild].over, "each was answered");
    let ran = world
        .backends
        .iter()
        .any(|backend| backend.ran.contains_key(&12_345));
    assert!(!ran, "none was passed on");
    innocent.ends_well(&mut world);
}

#[test]
fn a_body_that_trickles_in_reaches_the_backend_in_pieces_worth_a_frame() {
    let mut world = World::new(1);
    world.backends[0].wild = true;
    let client = world.wild_client();
    world.say(client, &greeting());
    world.say(client, &raw(kinds::HEADERS, flags::END_HEADERS, 1, REQUEST));
    world.run();
    let backend = world.wild_backend();
    world.say(backend, &greeting());
    world.run();
    for byte in raw(kinds::DATA, flags::END_STREAM, 1, &[7; 10_000]) {
        world.say(client, &[byte]);
        world.advance(millis(1));
    }
    let pieces: Vec<_> = world.wilds[backend]
        .heard
        .iter()
        .filter_map(|frame| match frame {
            Frame::Data { chunk, .. } => Some(chunk.len()),
            _ => None,
        })
        .collect();
    assert_eq!(pieces.iter().sum::<usize>(), 10_000);
    assert!(pieces.len() <= 10_000 / 1024 + 1, "{pieces:?}");
}

#[test]
fn garbage_hurts_nobody_else() {
    let mut world = World::new(2);
    let mut innocent = Innocent::new(&mut world);
    let mut rng = Rng::seeded(3);
    let mut ended = 0;
    for round in 0..300 {
        let wild = world.wild_client();
        world.say(wild, &greeting());
        // Half of it has a frame's form.
        let mut garbage: Vec<u8> = (0..200).map(|_| rng.below(256) as u8).collect();
        if round % 2 == 0 {
            garbage = raw(garbage[0] % 10, garbage[1], u32::from(garbage[2] % 8), &garbage);
        }
        world.say(wild, &garbage);
        innocent.goes_on(&mut world);
        ended += usize::from(world.wilds[wild].goaway().is_some());
    }
    assert!(ended > 200, "only {ended} were told that they are wrong");
    // Field blocks that were begun and never finished have had their time.
    world.advance(std::time::Duration::from_secs(11));
    innocent.ends_well(&mut world);
}
