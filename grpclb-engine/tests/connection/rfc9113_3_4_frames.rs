//! RFC 9113 sections 3 and 4: the preface, and frames whatever their type. (h2spec 3.5, 4.1, 4.2, 4.3)

use grpclb_engine::connection::{By, CloseReason, Config, Event, Role};
use grpclb_engine::frame::{ErrorCode, Frame, PREFACE, SettingId};

use crate::support::{REQUEST, RESPONSE, Script, flags, kinds, raw};

#[test]
fn s3_4_a_server_reads_the_preface_and_says_its_settings() {
    let mut script = Script::raw(Role::Server, Config::to_client());
    script.flush();
    let Frame::Settings(settings) = &script.answers[0] else {
        panic!("{:?}", script.answers)
    };
    let settings: Vec<_> = settings.iter().collect();
    assert!(settings.contains(&(SettingId::MAX_CONCURRENT_STREAMS, 10_000)));
    assert!(settings.contains(&(SettingId::INITIAL_WINDOW_SIZE, 65_535)));
    assert!(settings.contains(&(SettingId::HEADER_TABLE_SIZE, 4096)));
    assert!(settings.contains(&(SettingId::MAX_HEADER_LIST_SIZE, 1 << 20)));
    assert!(
        settings
            .iter()
            .all(|(id, _)| *id != SettingId::ENABLE_CONNECT_PROTOCOL)
    );
    script.send(PREFACE);
    script.settings(&[]);
    assert!(script.answers.contains(&Frame::SettingsAck));
    script.expect_fine();
}

#[test]
fn s3_4_a_client_sends_the_preface_and_allows_no_push() {
    let mut script = Script::raw(Role::Client, Config::to_backend());
    let bytes = script.side.transmit(script.now);
    assert!(bytes.starts_with(PREFACE));
    script.side.output = grpclb_engine::connection::Output::default();
    assert_eq!(bytes[PREFACE.len() + 3], kinds::SETTINGS);
    let push = [0, 2, 0, 0, 0, 0];
    assert!(bytes.windows(6).any(|setting| setting == push), "ENABLE_PUSH 0");
}

#[test]
fn s3_4_a_preface_that_is_none_ends_the_connection_at_its_first_wrong_byte() {
    for (at, wrong) in [
        (0, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        (4, b"PRI X".to_vec()),
        (23, {
            let mut bytes = PREFACE.to_vec();
            bytes[23] = b'X';
            bytes
        }),
    ] {
        let mut script = Script::raw(Role::Server, Config::to_client());
        for byte in &wrong[..=at] {
            script.send(&[*byte]);
        }
        script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn s3_4_a_first_frame_other_than_settings_is_an_error_in_both_roles() {
    let mut script = Script::raw(Role::Server, Config::to_client());
    script.send(PREFACE);
    script.headers(1, REQUEST, true);
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);

    let mut script = Script::raw(Role::Client, Config::to_backend());
    script.send(&raw(kinds::PING, 0, 0, &[0; 8]));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);

    let mut script = Script::raw(Role::Client, Config::to_backend());
    script.send(&raw(kinds::SETTINGS, flags::ACK, 0, &[]));
    script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn the_end_of_the_socket_is_told_once() {
    let mut script = Script::client();
    script.side.connection.handle_eof();
    script.send(&[]);
    assert!(matches!(
        script.side.take_events()[..],
        [Event::Closed {
            code: ErrorCode::NO_ERROR,
            reason: CloseReason::Eof,
            by: By::Peer
        }]
    ));
    script.send(b"more");
    assert!(script.side.events.is_empty());
    assert!(script.answers.is_empty(), "there is nobody to say GOAWAY to");
}

#[test]
fn s4_1_unknown_types_are_ignored() {
    let mut script = Script::client();
    script.send(&raw(0x16, 0, 0, b"what is this"));
    script.send(&raw(0xff, 0xff, 77, &[]));
    script.expect_fine();
}

#[test]
fn s4_1_undefined_flags_are_ignored() {
    let mut script = Script::client();
    script.send(&raw(kinds::PING, 0x16, 0, &[3; 8]));
    assert_eq!(
        script.answers,
        [Frame::Ping {
            ack: true,
            payload: [3; 8]
        }]
    );
    script.expect_fine();
}

#[test]
fn s4_1_the_reserved_bit_is_ignored() {
    let mut script = Script::client();
    let block = script.block(REQUEST);
    script.send(&raw(
        kinds::HEADERS,
        flags::END_HEADERS | flags::END_STREAM,
        1 | 1 << 31,
        &block,
    ));
    assert_eq!(script.side.requests().len(), 1);
    script.expect_fine();
}

#[test]
fn s4_2_a_frame_of_the_maximum_size_is_taken() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.data(1, &vec![7; 16_384], true);
    assert_eq!(script.side.received(script.stream()).len(), 16_384);
    script.expect_fine();
}

#[test]
fn s4_2_a_longer_frame_ends_the_connection() {
    for kind in [kinds::DATA, kinds::HEADERS, kinds::SETTINGS] {
        let mut script = Script::client();
        script.headers(1, REQUEST, false);
        let stream = u32::from(kind != kinds::SETTINGS);
        script.send(&raw(kind, flags::END_HEADERS, stream, &vec![0; 16_386]));
        script.expect_goaway(ErrorCode::FRAME_SIZE_ERROR);
    }
}

#[test]
fn s4_3_a_broken_field_block_ends_the_connection() {
    let mut script = Script::client();
    // A literal that promises more bytes than there are.
    script.send(&raw(
        kinds::HEADERS,
        flags::END_HEADERS | flags::END_STREAM,
        1,
        &[0x40, 0x7f, 0x00],
    ));
    script.expect_goaway(ErrorCode::COMPRESSION_ERROR);
}

#[test]
fn s4_3_nothing_may_come_between_the_frames_of_a_field_block() {
    let mut other = Script::client();
    let block = other.block(REQUEST);
    let (first, rest) = block.split_at(5);
    let between = [
        raw(kinds::PRIORITY, 0, 1, &[0; 5]),
        raw(kinds::HEADERS, flags::END_HEADERS, 3, rest),
        raw(kinds::CONTINUATION, flags::END_HEADERS, 3, rest),
        raw(kinds::PING, 0, 0, &[0; 8]),
        raw(0x16, 0, 1, &[]),
    ];
    for frame in between {
        let mut script = Script::client();
        script.send(&raw(kinds::HEADERS, 0, 1, first));
        script.send(&frame);
        script.expect_goaway(ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn s4_3_blocks_of_streams_that_are_gone_still_reach_the_table() {
    let mut script = Script::server();
    let now = script.now;
    let call = script.side.open(now, 1, true);
    script.flush();
    script.headers(1, RESPONSE, false);
    script.side.connection.reset(call, ErrorCode::CANCEL);
    script.now += crate::support::millis(5);
    script.flush();
    // Indexed by the block that is ignored, referred to by the next.
    script.headers(
        1,
        &[
            ("grpc-status", "0"),
            ("x-only-here", "indexed by an ignored block"),
        ],
        true,
    );
    let next = script.side.open(now, 2, true);
    script.flush();
    script.headers(
        3,
        &[(":status", "200"), ("x-only-here", "indexed by an ignored block")],
        false,
    );
    let headers = script.side.events.iter().find_map(|event| match event {
        Event::Headers { stream, headers, .. } if *stream == next => Some(headers.clone()),
        _ => None,
    });
    assert_eq!(
        headers.unwrap().get("x-only-here"),
        Some(&b"indexed by an ignored block"[..])
    );
    script.expect_alive();
}
