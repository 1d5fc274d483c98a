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
    expect_refused_without_reset(&mut script);

    let (mut script, _) = called("HEAD");
    script.headers(1, &[(":status", "200"), ("content-length", "4")], false);
    script.data(1, b"body", true);
    expect_refused_without_reset(&mut script);

    let (mut script, _) = called("HEAD");
    script.headers(1, &[(":status", "200"), ("content-length", "4")], false);
    script.data(1, b"body", false);
    script.now += crate::support::millis(5);
    script.flush();
    script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
}

/// A malformed response has ended a stream whose request had ended: the owner hears of it, and there is nothing to reset.
#[track_caller]
fn expect_refused_without_reset(script: &mut Script) {
    script.now += crate::support::millis(5);
    script.flush();
    let told = |event: &Event| {
        matches!(
            event,
            Event::Reset {
                tag: 1,
                code: ErrorCode::PROTOCOL_ERROR,
                ..
            }
        )
    };
    assert!(
        script.side.events.last().is_some_and(told),
        "{:?}",
        script.side.events
    );
    assert_eq!(script.side.connection.streams(), 0);
    script.expect_fine();
}

#[test]
fn s8_1_1_any_number_of_malformed_responses_cost_their_calls_and_nothing_else() {
    let wrong: &[(&str, &str)] = &[(":status", "200"), ("x-text", "a\nb")];
    let nul: &[(&str, &str)] = &[("grpc-status", "0"), ("grpc-message", "a\0b")];
    let mut script = Script::server();
    script.side.open(script.now, 0, true);
    script.flush();
    for round in 0..5000 {
        script.side.open(script.now, 1, true);
        script.flush();
        if round % 2 == 0 {
            script.headers(2 * round + 3, wrong, true);
        } else {
            script.headers(2 * round + 3, RESPONSE, false);
            script.headers(2 * round + 3, nul, true);
        }
        let told = |event: &Event| matches!(event, Event::Reset { tag: 1, .. });
        assert!(script.side.events.last().is_some_and(told));
        assert_eq!(script.side.connection.streams(), 1, "the other call goes on");
        script.side.events.clear();
    }
    assert!(script.side.connection.wants_input(), "others do not wait");
    script
        .answers
        .retain(|frame| !matches!(frame, grpclb_engine::frame::Frame::Headers { .. }));
    assert!(
        script.answers.is_empty(),
        "no reset is owed: {:?}",
        script.answers.first()
    );
    script.headers(1, RESPONSE, true);
    script.expect_fine();
}

#[test]
fn s8_2_1_spaces_and_tabs_at_the_ends_of_a_regular_value_pass_unchanged_both_ways() {
    let padded = ["a space behind: ", " before", "\tboth\t ", " ", "\t"];
    for value in padded {
        let request = with(REQUEST, &[("authorization", value), ("content-type", value)]);
        let mut script = Script::client();
        script.headers(1, &request, false);
        script.headers(1, &[("x-trailer", value)], true);
        let lists = headers_of(&script);
        assert_eq!(lists[0].get("authorization"), Some(value.as_bytes()));
        assert_eq!(lists[1].get("x-trailer"), Some(value.as_bytes()));
        script.expect_fine();

        let (mut script, _) = called("POST");
        script.headers(1, &with(RESPONSE, &[("x-header", value)]), false);
        script.headers(1, &[("grpc-status", "5"), ("grpc-message", value)], true);
        let lists = headers_of(&script);
        assert_eq!(lists[0].get("x-header"), Some(value.as_bytes()));
        assert_eq!(lists[1].get("grpc-message"), Some(value.as_bytes()));
        script.expect_fine();
    }
    for (name, value) in [
        (":path", "/echo "),
        (":authority", " echo"),
        ("te", "trailers "),
        ("content-length", "4\t"),
        ("x-nul", "a\0b"),
        ("x-cr", "a\rb"),
        ("x-lf", "\nab"),
    ] {
        let mut request: Vec<_> = REQUEST.iter().copied().filter(|field| field.0 != name).collect();
        let at = if name.starts_with(':') { 0 } else { request.len() };
        request.insert(at, (name, value));
        let mut script = Script::client();
        script.headers(1, &request, false);
        script.expect_reset(1, ErrorCode::PROTOCOL_ERROR);
    }
}

fn headers_of(script: &Script) -> Vec<std::rc::Rc<grpclb_engine::hpack::HeaderList>> {
    let lists = script.side.events.iter().filter_map(|event| match event {
        Event::Headers { headers, .. } => Some(std::rc::Rc::clone(headers)),
        _ => None,
    });
    lists.collect()
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
    // And whether they end the stream.
    type Act = fn(&mut Script);
    let wrong: [(bool, Act); 5] = [
        (true, |script| script.headers(1, &[(":status", "100")], true)),
        (false, |script| script.headers(1, &[(":status", "101")], false)),
        (true, |script| script.headers(1, &[("grpc-status", "0")], true)),
        (true, |script| script.headers(1, &[(":status", "20")], true)),
        (false, |script| script.data(1, b"no response yet", false)),
    ];
    for (ended, act) in wrong {
        let (mut script, _) = called("POST");
        script.now += crate::support::millis(5);
        act(&mut script);
        if ended {
            expect_refused_without_reset(&mut script);
            continue;
        }
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

#[test]
fn a_block_of_megabytes_fails_its_call_alone_and_the_table_goes_on() {
    let value = "v".repeat(3 << 20);
    let trailers: &[(&str, &str)] = &[
        ("grpc-status", "0"),
        ("x-before", "indexed"),
        ("x-large", &value),
        ("x-after", "indexed, too"),
    ];
    let mut script = Script::server();
    script.side.open(script.now, 1, false);
    script.side.open(script.now, 2, false);
    script.flush();
    script.headers(1, RESPONSE, false);
    let block = script.block(trailers);
    let mut chunks = block.chunks(16_384).peekable();
    let (mut kind, mut flag) = (kinds::HEADERS, flags::END_STREAM);
    let mut most = 0;
    while let Some(chunk) = chunks.next() {
        flag |= if chunks.peek().is_none() {
            flags::END_HEADERS
        } else {
            0
        };
        script.send(&raw(kind, flag, 1, chunk));
        most = most.max(script.side.connection.pending());
        (kind, flag) = (kinds::CONTINUATION, 0);
    }
    assert!(most < 5 << 19, "{most} bytes were held");
    let Some(Event::Headers { headers, .. }) = script.side.events.last() else {
        panic!("{:?}", script.side.events)
    };
    assert!(headers.oversized());
    // The table that both ends have now.
    script.headers(3, RESPONSE, false);
    let after = [
        ("grpc-status", "0"),
        ("x-before", "indexed"),
        ("x-after", "indexed, too"),
    ];
    script.headers(3, &after, true);
    let lists = headers_of(&script);
    assert_eq!(
        lists.last().and_then(|list| list.get("x-after")),
        Some(&b"indexed, too"[..])
    );
    script.expect_fine();
}
