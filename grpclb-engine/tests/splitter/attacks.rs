//! What hostile peers do, one round at a time, and the limit that each attack reaches: see `hostile`.

use std::time::Duration;

use grpclb_engine::connection::{Limit, Role};

use crate::support::{World, flags, kinds, raw};

/// A POST that names call 12345, with a name and value that no table holds.
pub(crate) const REQUEST: &[u8] = b"\x83\x86\x84\x01\x01a\x0f\x10\x10application/grpc\x00\x04call\x0512345";

/// `:status` 200, 100, and a field without a name.
const OK: &[u8] = b"\x88";
const CONTINUE: &[u8] = b"\x08\x03100";
const NAMELESS: &[u8] = b"\x00\x00\x00";

/// A limit and one round of the attack that reaches it: the world, the attacker, and the number of the round.
pub(crate) type Attack = (Limit, fn(&mut World, usize, u32));

/// What any peer can do once it has a stream, number 1.
pub(crate) const ATTACKS_OF_ANYBODY: [Attack; 5] = [
    (Limit::Continuation, |world, wild, round| {
        let kind = if round == 0 {
            kinds::HEADERS
        } else {
            kinds::CONTINUATION
        };
        world.say(wild, &raw(kind, 0, 1, &[]));
    }),
    (Limit::HeaderBlockSize, |world, wild, round| {
        let kind = if round == 0 {
            kinds::HEADERS
        } else {
            kinds::CONTINUATION
        };
        world.say(wild, &raw(kind, 0, 1, &[0; 16_384]));
    }),
    (Limit::HeaderBlockTime, |world, wild, round| {
        let kind = if round == 0 {
            kinds::HEADERS
        } else {
            kinds::CONTINUATION
        };
        world.say(wild, &raw(kind, 0, 1, OK));
        world.advance(Duration::from_secs(1));
    }),
    (Limit::FrameTime, |world, wild, round| {
        world.say(wild, &raw(kinds::HEADERS, 0, 1, &[0; 100])[round as usize..][..1]);
        world.advance(Duration::from_secs(1));
    }),
    (Limit::GoAway, |world, wild, _| {
        world.say(
            wild,
            &raw(kinds::GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        );
    }),
];

/// Floods that slow their sender, who keeps its connection.
pub(crate) const FLOODS_OF_ANYBODY: [Attack; 8] = [
    (Limit::ClosedStreams, |world, wild, _| {
        world.say(wild, &raw(kinds::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    }),
    (Limit::Settings, |world, wild, _| {
        world.say(wild, &raw(kinds::SETTINGS, 0, 0, &[]));
    }),
    (Limit::EmptyFrames, |world, wild, round| {
        if round == 0 && world.wilds[wild].role() == Role::Server {
            world.say(wild, &raw(kinds::HEADERS, flags::END_HEADERS, 1, OK));
        }
        world.say(wild, &raw(kinds::DATA, 0, 1, &[]));
    }),
    (Limit::Priority, |world, wild, _| {
        world.say(wild, &raw(kinds::PRIORITY, 0, 1, &[0; 5]));
    }),
    (Limit::WindowUpdate, |world, wild, _| {
        world.say(wild, &raw(kinds::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    }),
    (Limit::UnknownFrames, |world, wild, _| {
        world.say(wild, &raw(0x77, 0, 0, b"?"));
    }),
    (Limit::ControlQueue, |world, wild, _| {
        world.wilds[wild].deaf = true;
        world.say(wild, &raw(kinds::PING, 0, 0, b"12345678"));
    }),
    // The greeting of this one leaves the acknowledgement out.
    (Limit::SettingsTime, |world, _, _| {
        world.advance(Duration::from_secs(5));
    }),
];

pub(crate) const FLOODS_OF_CLIENTS: [Attack; 4] = [
    (Limit::RapidReset, |world, wild, round| {
        world.say(
            wild,
            &raw(kinds::HEADERS, flags::END_HEADERS, 2 * round + 3, REQUEST),
        );
        world.say(wild, &raw(kinds::RST_STREAM, 0, 2 * round + 3, &[0, 0, 0, 8]));
    }),
    // MadeYouReset: no RST_STREAM of theirs, but ways to cause one of ours.
    (Limit::StreamErrors, |world, wild, round| {
        let stream = 2 * round + 3;
        let whole = flags::END_HEADERS | flags::END_STREAM;
        if round % 4 == 0 {
            let block = [REQUEST, NAMELESS].concat();
            return world.say(wild, &raw(kinds::HEADERS, whole, stream, &block));
        }
        world.say(wild, &raw(kinds::HEADERS, whole, stream, REQUEST));
        let cause = match round % 4 {
            1 => raw(kinds::WINDOW_UPDATE, 0, stream, &[0; 4]),
            2 => raw(kinds::WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
            _ => raw(kinds::DATA, 0, stream, b"more"),
        };
        world.say(wild, &cause);
    }),
    (Limit::RefusedStreams, |world, wild, round| {
        world.say(
            wild,
            &raw(kinds::HEADERS, flags::END_HEADERS, 2 * round + 3, REQUEST),
        );
    }),
    (Limit::OversizedLists, |world, wild, round| {
        let block = [REQUEST, &[0x88; 16_000]].concat();
        let whole = flags::END_HEADERS | flags::END_STREAM;
        world.say(wild, &raw(kinds::HEADERS, whole, 2 * round + 3, &block));
    }),
];

/// These need a call for each round: `hostile` opens them.
pub(crate) const FLOODS_OF_BACKENDS: [Attack; 2] = [
    (Limit::OversizedLists, |world, wild, round| {
        let block = [OK; 16_000].concat();
        world.say(
            wild,
            &raw(kinds::HEADERS, flags::END_HEADERS, 2 * round + 1, &block),
        );
    }),
    (Limit::Informational, |world, wild, _| {
        world.say(wild, &raw(kinds::HEADERS, flags::END_HEADERS, 1, CONTINUE));
    }),
];
