//! What a connection keeps, copies and refers to: the output's bound, small chunks of stalled streams, windows that grow.

use std::io::IoSlice;

use bytes::Bytes;
use grpclb_engine::connection::{Config, Output, REFERENCE_FROM};
use grpclb_engine::frame::{ErrorCode, Frame, SettingId, StreamId};

use crate::support::{Pair, REQUEST, Script, flags, kinds, raw};

/// How many others share the memory of `of`: it can be taken back only when none does.
fn is_shared(of: Bytes) -> bool {
    of.try_into_mut().is_err()
}

#[test]
fn an_output_refers_to_large_payloads_and_copies_small_ones() {
    let mut output = Output::default();
    let large = Bytes::from(vec![1; REFERENCE_FROM]);
    let small = Bytes::from(vec![2; REFERENCE_FROM - 1]);
    output.write(|out| out.extend_from_slice(b"head"));
    output.push(large.clone());
    output.push(small.clone());
    assert!(is_shared(large));
    assert!(!is_shared(small));
    let mut slices = [IoSlice::new(&[]); 8];
    let filled = output.slices(&mut slices);
    let lengths: Vec<_> = slices[..filled].iter().map(|slice| slice.len()).collect();
    assert_eq!(lengths, [4, REFERENCE_FROM, REFERENCE_FROM - 1]);
}

#[test]
fn an_output_yields_its_bytes_in_order_whatever_the_socket_takes() {
    for most in [1, 3, 100, 4095, 4096, 5000] {
        let (mut output, mut expected, mut written) = (Output::default(), Vec::new(), Vec::new());
        for round in 0..30_u8 {
            let len = [1, 50, 4095, 4096, 9000][usize::from(round) % 5];
            output.push(Bytes::from(vec![round; len]));
            output.write(|out| out.extend_from_slice(&[round]));
            expected.extend(std::iter::repeat_n(round, len + 1));
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = output.slices(&mut slices);
            let ready: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .take(most)
                .collect();
            output.advance(ready.len());
            written.extend(ready);
            assert_eq!(output.written(), written.len() as u64);
            assert_eq!(output.position(), expected.len() as u64);
        }
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 1];
            output.slices(&mut slices);
            let ready = slices[0].to_vec();
            output.advance(ready.len());
            written.extend(ready);
        }
        assert!(written == expected, "pieces of {most}");
    }
}

#[test]
fn a_transmit_stops_at_the_outputs_bound_and_goes_on_later() {
    let mut script = Script::client();
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 1 << 24)]);
    script.window_update(0, 1 << 24);
    script.headers(1, REQUEST, true);
    let stream = script.stream();
    script.side.respond(stream, false);
    script.side.data(stream, &vec![5; 2 << 20], true);
    script.side.connection.transmit(
        script.now,
        &mut script.side.fields,
        &mut script.side.output,
        &mut script.side.sent,
    );
    let bound = Output::BOUND;
    assert!(
        (bound..bound + 40_000).contains(&script.side.output.len()),
        "{}",
        script.side.output.len()
    );
    assert!(script.side.connection.wants_transmit());
    script.flush();
    let all: u32 = script.side.sent.iter().map(|sent| sent.bytes).sum();
    assert_eq!(all, 2 << 20);
}

#[test]
fn small_chunks_of_a_stalled_stream_let_go_of_the_buffer_that_they_came_in() {
    let mut script = Script::client();
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 1)]);
    script.headers(1, REQUEST, true);
    let stream = script.stream();
    script.side.respond(stream, false);
    let buffer = Bytes::from((0..64_000_u32).map(|at| at as u8).collect::<Vec<_>>());
    // Before the connection knows that it stalls, while it stalls, and many at once.
    script
        .side
        .connection
        .send_data(stream, buffer.slice(..10), false);
    script.flush();
    for at in (10..3000).step_by(10) {
        script
            .side
            .connection
            .send_data(stream, buffer.slice(at..at + 10), false);
    }
    let expected = buffer[..3000].to_vec();
    assert!(!is_shared(buffer), "a stalled stream holds on to the read buffer");
    script.window_update(1, 100_000);
    let sent: Vec<u8> = script
        .answers
        .iter()
        .filter_map(|frame| match frame {
            Frame::Data { chunk, .. } => Some(chunk.to_vec()),
            _ => None,
        })
        .flatten()
        .collect();
    assert!(sent == expected);
}

#[test]
fn streams_that_wait_for_the_socket_let_go_of_it_too() {
    let mut script = Script::client();
    script.settings(&[(SettingId::INITIAL_WINDOW_SIZE, 1 << 24)]);
    script.window_update(0, 1 << 24);
    script.headers(1, REQUEST, true);
    script.headers(3, REQUEST, true);
    let [first, second] = script.side.requests()[..] else {
        panic!("two requests")
    };
    script.side.respond(first, false);
    script.side.respond(second, false);
    script.flush();
    script.side.data(first, &vec![0; 1 << 20], false);
    let now = script.now;
    let buffer = Bytes::from(vec![9; 64_000]);
    // The first stream fills the output; the second's chunks come before and after.
    script.side.connection.transmit(
        now,
        &mut script.side.fields,
        &mut script.side.output,
        &mut script.side.sent,
    );
    script
        .side
        .connection
        .send_data(second, buffer.slice(..10), false);
    script.side.connection.transmit(
        now,
        &mut script.side.fields,
        &mut script.side.output,
        &mut script.side.sent,
    );
    script
        .side
        .connection
        .send_data(second, buffer.slice(10..20), false);
    assert!(
        !is_shared(buffer),
        "a stream behind a full output holds on to the read buffer"
    );
}

#[test]
fn a_window_that_grows_is_announced_by_the_difference() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    let stream = script.stream();
    script.side.connection.grow_stream_window(stream, 1 << 20);
    script.flush();
    let increment = (1 << 20) - 65_535;
    assert_eq!(
        script.answers,
        [Frame::WindowUpdate {
            stream: StreamId::new(1),
            increment
        }]
    );
    script.side.connection.grow_stream_window(stream, 1000);
    script.flush();
    assert_eq!(script.answers.len(), 1, "it is never made smaller");
    assert_eq!(script.side.connection.stream_window(stream), Some(1 << 20));
}

#[test]
fn windows_of_one_byte_carry_a_call() {
    let tiny = |config: Config| Config {
        initial_window: 1,
        ..config
    };
    let mut pair = Pair::new(tiny(Config::to_backend()), tiny(Config::to_client()));
    pair.settle();
    let call = pair.client.open(pair.now, 1, false);
    pair.client.data(call, b"one byte at a time", true);
    let mut released = 0;
    for _ in 0..100 {
        pair.settle();
        let Some(stream) = pair.server.requests().first().copied() else {
            continue;
        };
        let all = pair.server.received(stream).len();
        pair.server.connection.release(stream, (all - released) as u32);
        released = all;
    }
    let stream = pair.server.requests()[0];
    assert_eq!(pair.server.received(stream), b"one byte at a time");
    assert!(pair.server.ended(stream));
}

#[test]
fn cuts_at_every_byte_change_nothing() {
    let run = |cut: usize| {
        let mut pair = Pair::new(Config::to_backend(), Config::to_client());
        pair.cut = cut;
        pair.settle();
        for tag in 0..5 {
            let call = pair.client.open(pair.now, tag, false);
            pair.client
                .data(call, &vec![tag as u8; 700 * tag as usize], tag % 2 == 0);
            if tag % 2 == 1 {
                pair.client.trailers(call);
            }
        }
        pair.settle();
        for stream in pair.server.requests() {
            let body = pair.server.received(stream);
            pair.server.connection.release(stream, body.len() as u32);
            pair.server.respond(stream, false);
            pair.server.data(stream, &body, false);
            pair.server.trailers(stream);
        }
        pair.settle();
        pair.client.connection.close(ErrorCode::NO_ERROR, "done");
        pair.settle();
        // Pieces of DATA differ with the cuts, their sum and all else does not.
        let bodies: Vec<_> = pair
            .server
            .requests()
            .into_iter()
            .map(|stream| pair.server.received(stream))
            .collect();
        let others = |events: &[grpclb_engine::connection::Event]| {
            let kept = events.iter().map(|event| format!("{event:?}"));
            kept.filter(|event| !event.starts_with("Data"))
                .collect::<Vec<_>>()
        };
        (bodies, others(&pair.client.events), others(&pair.server.events))
    };
    let whole = run(usize::MAX);
    assert_eq!(
        whole.0.iter().map(Vec::len).collect::<Vec<_>>(),
        [0, 700, 1400, 2100, 2800]
    );
    for cut in [1, 2, 3, 5, 8, 9, 10, 13, 100, 1023, 1024, 1025] {
        assert!(run(cut) == whole, "pieces of {cut}");
    }
}

#[test]
fn one_transmit_writes_no_header_block_once_the_output_is_full() {
    let mut script = Script::client();
    let large = "x".repeat(100_000);
    let list = script.side.headers(&[(":status", "103"), ("x-large", &large)]);
    for n in 0..4 {
        script.headers(2 * n + 1, REQUEST, true);
    }
    for stream in script.side.requests() {
        for _ in 0..10 {
            let connection = &mut script.side.connection;
            connection.send_headers(stream, std::rc::Rc::clone(&list), false);
        }
    }
    let (now, side) = (script.now, &mut script.side);
    side.connection
        .transmit(now, &mut side.fields, &mut side.output, &mut side.sent);
    let most = Output::BOUND + 100_000 + 1000;
    assert!(side.output.len() <= most, "{} bytes at once", side.output.len());
    script.answers.clear();
    script.flush();
    let blocks = script.answers.iter();
    let blocks = blocks.filter(|frame| matches!(frame, Frame::Headers { .. }));
    assert_eq!(blocks.count(), 40, "all of it leaves");
}

#[test]
fn an_unfinished_field_block_is_held_without_the_buffer_that_it_came_in_and_counted() {
    let mut script = Script::client();
    assert_eq!(script.side.connection.pending(), 0);
    let block = script.block(REQUEST);
    script.send(&raw(kinds::HEADERS, flags::END_STREAM, 1, &block[..5]));
    let held = script.side.connection.pending();
    assert!((5..=1024).contains(&held), "{held}");
    script.send(&raw(kinds::CONTINUATION, 0, 1, &[0x88; 16_000]));
    assert!((16_005..=64_000).contains(&script.side.connection.pending()));
    script.send(&raw(kinds::CONTINUATION, flags::END_HEADERS, 1, &block[5..]));
    assert_eq!(script.side.connection.pending(), 0);
}
