//! RFC 9113 section 8: messages. What a list of fields must be is tested with `message`; this is about what follows.
//! (h2spec 8.1, 8.1.2.x, 8.2)

use grpclb_engine::connection::{Cause, Event, HeadersKind, StreamKey};
use grpclb_engine::frame::ErrorCode;

use crate::support::{REQUEST, RESPONSE, Script, TRAILERS, flags, kinds, raw};

fn with<'a>(pairs: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [pairs, more].concat()
}

/// A client under test that has sent one request on stream 1.
fn called(method: &str) -> (Script, StreamKey) {
    let mut script = Script::server();
    let mut pairs = REQUEST.to_vec();
    pairs[0].1 = method;
    let headers = script.side.headers(&pairs);
    let stream = script
        .side
        .connection
        .open(script.now, 1, headers, true)
        .expect("room");
    script.flush();
    script.answers.clear();
    (script, stream)
}

#[test]
fn s8_1_1_malformed_requests_are_reset_and_never_heard_of() {
    let without_path: Vec<_> = REQUEST
        .iter()
        .copied()
        .filter(|(name, _)| *name != ":path")
        .collect();
    for pairs in [
        with(REQUEST, &[("X-Upper", "case")]),
        with(REQUEST, &[(":unknown", "x")]),
        with(REQUEST, &[(":status", "200")]),
        with(REQUEST, &[(":path", "/after/regular")]),
        with(REQUEST, &[("connection", "keep-alive")]),
        with(REQUEST, &[("te", "gzip")]),
        without_path,
    ] {
        let mut script = Script::client();
        script.headers(1, &pairs, true);
        script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
        assert!(
            script.side.events.is_empty(),
            "{pairs:?}: {:?}",
            script.side.events
        );
        script.answers.clear();
        script.headers(3, REQUEST, true);
        script.expect_fine();
        assert_eq!(script.side.requests().len(), 1);
    }
}

#[test]
fn s8_1_trailers_have_end_stream_and_no_pseudo_fields() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.headers(1, TRAILERS, false);
    script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);

    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.headers(1, &[(":path", "/")], true);
    script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
    assert!(matches!(
        script.side.events.last(),
        Some(Event::Reset {
            cause: Cause::Malformed(_),
            ..
        })
    ));

    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.data(1, b"body", false);
    script.headers(1, TRAILERS, true);
    assert!(matches!(
        script.side.events.last(),
        Some(Event::Headers {
            kind: HeadersKind::Trailers,
            end_stream: true,
            ..
        })
    ));
    script.expect_fine();
}

#[test]
fn s8_1_1_content_length_and_data_must_agree() {
    let announced = with(REQUEST, &[("content-length", "4")]);
    // Too much, too little, nothing at all, nothing but trailers.
    for (pieces, end) in [
        (vec![&b"12345"[..]], true),
        (vec![b"12", b"3"], true),
        (vec![b"123", b"45"], false),
    ] {
        let mut script = Script::client();
        script.headers(1, &announced, false);
        let last = pieces.len() - 1;
        for (at, piece) in pieces.iter().enumerate() {
            script.data(1, piece, end && at == last);
        }
        script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
    }
    let mut script = Script::client();
    script.headers(1, &announced, true);
    script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
    let mut script = Script::client();
    script.headers(1, &announced, false);
    script.headers(1, TRAILERS, true);
    script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);

    let mut script = Script::client();
    script.headers(1, &announced, false);
    script.data(1, b"12", false);
    script.data(1, b"34", true);
    let stream = script.stream();
    assert!(script.side.ended(stream));
    script.expect_fine();
}

#[test]
fn s8_1_1_responses_without_content_may_announce_one() {
    for (method, status) in [("HEAD", "200"), ("GET", "304")] {
        let (mut script, stream) = called(method);
        script.headers(1, &[(":status", status), ("content-length", "1000")], true);
        assert!(script.side.ended(stream), "{method} {status}");
        script.expect_fine();
    }
    let (mut script, _) = called("GET");
    script.headers(1, &[(":status", "200"), ("content-length", "1000")], true);
    script.now += crate::support::millis(5);
    script.flush();
    script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);

    let (mut script, _) = called("HEAD");
    script.headers(1, &[(":status", "200"), ("content-length", "4")], false);
    script.data(1, b"body", true);
    script.now += crate::support::millis(5);
    script.flush();
    script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn s8_1_informational_responses_come_before_the_final_one() {
    let (mut script, _) = called("POST");
    script.headers(1, &[(":status", "100")], false);
    script.headers(1, &[(":status", "103"), ("link", "</style>")], false);
    script.headers(1, RESPONSE, false);
    script.headers(1, TRAILERS, true);
    let kinds: Vec<_> = script
        .side
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Headers { kind, .. } => Some(*kind),
            _ => None,
        })
        .collect();
    assert_eq!(
        kinds,
        [
            HeadersKind::Informational,
            HeadersKind::Informational,
            HeadersKind::Response,
            HeadersKind::Trailers
        ]
    );
    script.expect_fine();
}

#[test]
fn s8_1_wrong_responses_are_stream_errors() {
    let wrong: [&dyn Fn(&mut Script); 5] = [
        &|script| script.headers(1, &[(":status", "100")], true),
        &|script| script.headers(1, &[(":status", "101")], false),
        &|script| script.headers(1, &[("grpc-status", "0")], true),
        &|script| script.headers(1, &[(":status", "20")], true),
        &|script| script.data(1, b"no response yet", false),
    ];
    for act in wrong {
        let (mut script, _) = called("POST");
        script.now += crate::support::millis(5);
        act(&mut script);
        script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
        assert!(matches!(
            script.side.events.last(),
            Some(Event::Reset { tag: 1, .. })
        ));
    }
}

#[test]
fn s8_1_data_after_trailers_is_a_stream_error() {
    let mut script = Script::client();
    script.headers(1, REQUEST, false);
    script.headers(1, TRAILERS, true);
    script.data(1, b"late", true);
    script.expect_reset(1, ErrorCode::STREAM_CLOSED);
}

#[test]
fn s6_5_2_a_list_that_is_too_long_is_told_and_the_table_is_kept() {
    let mut script = Script::client();
    let value = "v".repeat(60_000);
    let many: Vec<_> = (0..20).map(|n| (format!("x-{n}"), value.clone())).collect();
    let mut pairs = REQUEST.to_vec();
    pairs.extend(many.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    pairs.push(("x-after", "indexed behind the limit"));
    let block = script.block(&pairs);
    let mut chunks = block.chunks(16_000);
    script.send(&raw(kinds::HEADERS, flags::END_STREAM, 1, chunks.next().unwrap()));
    let rest: Vec<_> = chunks.collect();
    for (at, chunk) in rest.iter().enumerate() {
        let end = if at + 1 == rest.len() {
            flags::END_HEADERS
        } else {
            0
        };
        script.send(&raw(kinds::CONTINUATION, end, 1, chunk));
    }
    let Some(Event::Headers { headers, .. }) = script.side.events.last() else {
        panic!("{:?}", script.side.events)
    };
    assert!(headers.oversized());
    let stream = script.stream();
    let answer = script.side.headers(&[(":status", "431")]);
    script.side.connection.send_headers(stream, answer, true);
    script.flush();
    script.headers(
        3,
        &with(REQUEST, &[("x-after", "indexed behind the limit")]),
        true,
    );
    let Some(Event::Headers { headers, .. }) = script.side.events.last() else {
        panic!("{:?}", script.side.events)
    };
    assert_eq!(headers.get("x-after"), Some(&b"indexed behind the limit"[..]));
    assert!(!headers.oversized());
    script.expect_fine();
}
