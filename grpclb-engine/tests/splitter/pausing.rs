//! Connections that are not read for a while: their bytes stay with the owner of the socket until the splitter asks for them.

use grpclb_engine::frame::{ErrorCode, Frame};
use grpclb_engine::splitter::Config;

use crate::support::{World, flags, greeting, kinds, raw};

const REQUEST: &[u8] = b"\x83\x86\x84\x01\x01a\x0f\x10\x10application/grpc\x00\x04call\x0512345";

/// Frames of streams `from..to`, all in one read.
fn requests(from: u32, to: u32) -> Vec<u8> {
    (from..to)
        .flat_map(|n| {
            let whole = flags::END_HEADERS | flags::END_STREAM;
            raw(kinds::HEADERS, whole, 2 * n + 1, REQUEST)
        })
        .collect()
}

#[test]
fn a_client_that_opens_more_streams_than_it_may_before_it_reads_settings_keeps_its_connection() {
    let mut config = Config::new("n1");
    config.client.max_concurrent_streams = 100;
    let mut world = World::with(1, 7, config, &std::sync::Arc::default());
    let wild = world.wild_client();
    world.say(wild, &[greeting(), requests(0, 3000)].concat());
    assert!(
        world.wilds[wild].unread() > 0,
        "more answers wait than the queue holds, so the rest is not read"
    );
    world.run();
    assert_eq!(world.wilds[wild].unread(), 0);
    let refused =
        |frame: &&Frame| matches!(frame, Frame::RstStream { code, .. } if *code == ErrorCode::REFUSED_STREAM);
    let ended = |frame: &&Frame| matches!(frame, Frame::Headers { end_stream: true, .. });
    let heard = &world.wilds[wild].heard;
    let (refused, ended) = (
        heard.iter().filter(refused).count(),
        heard.iter().filter(ended).count(),
    );
    assert_eq!(refused + ended, 3000, "each stream got its answer");
    assert!(
        ended >= 100 && refused > 1000,
        "{ended} were served, {refused} refused"
    );
    assert_eq!(world.wilds[wild].goaway(), None);
    assert!(!world.wilds[wild].over);
}

#[test]
fn a_client_that_reads_nothing_is_not_read_and_costs_others_nothing() {
    let mut world = World::new(1);
    let client = world.client();
    let wild = world.wild_client();
    world.say(wild, &greeting());
    world.run();
    world.wilds[wild].deaf = true;
    let ping = raw(kinds::PING, 0, 0, b"12345678");
    for _ in 0..10 {
        world.say(wild, &ping.repeat(500));
        world.run();
        let call = world.call(client, b"x");
        assert!(world.is_ok(call));
    }
    assert_eq!(world.wilds[wild].unread(), 4000 * ping.len());
    assert!(!world.wilds[wild].over);
    let stats = world.splitter.stats().iter();
    let counted: Vec<_> = stats
        .filter(|(name, count)| name.starts_with("limit_") && *count > 0)
        .collect();
    assert_eq!(counted, [("limit_control_queue_client".to_owned(), 1)]);
    // It reads after all.
    world.wilds[wild].deaf = false;
    world.flush_wild_peer(wild);
    world.run();
    assert_eq!(world.wilds[wild].unread(), 0);
    let pongs = world.wilds[wild].heard.iter();
    let pongs = pongs.filter(|frame| matches!(frame, Frame::Ping { ack: true, .. }));
    assert_eq!(pongs.count(), 5000);
}
