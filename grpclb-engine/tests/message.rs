//! RFC 9113 §8: which header lists are well-formed requests, responses and trailers.

use grpclb_engine::hpack::{FieldFault, FieldKind, Fields, HeaderList};
use grpclb_engine::message::{Malformed, Message, Method, Summary, validate};

/// A list from lines of `name: value`; the value is everything after the first ": ".
fn list(lines: &[&str]) -> HeaderList {
    let pairs = lines.iter().map(|line| match line.strip_prefix(':') {
        Some(pseudo) => line.split_at(1 + pseudo.find(": ").expect("a value")),
        None => line.split_at(line.find(": ").expect("a value")),
    });
    let pairs: Vec<(&str, &str)> = pairs.map(|(name, value)| (name, &value[2..])).collect();
    HeaderList::from_pairs(&mut Fields::new(1 << 16, 1), pairs)
}

fn check(message: Message, lines: &[&str]) -> Result<Summary, Malformed> {
    validate(&list(lines), message)
}

const REQUEST: [&str; 3] = [
    ":method: POST",
    ":scheme: http",
    ":path: /helloworld.Greeter/SayHello",
];

fn request_with(more: &[&str]) -> Result<Summary, Malformed> {
    check(Message::Request, &[&REQUEST[..], more].concat())
}

#[test]
fn a_grpc_call_is_well_formed_in_all_its_sections() {
    let request = request_with(&[
        ":authority: greeter:50051",
        "content-type: application/grpc",
        "te: trailers",
        "grpc-timeout: 999970u",
        "x-bin: with spaces inside",
        "empty: ",
    ]);
    assert_eq!(request, Ok(Summary::default()));
    let response = check(
        Message::Response,
        &[":status: 200", "content-type: application/grpc"],
    );
    assert_eq!(
        response,
        Ok(Summary {
            status: 200,
            ..Summary::default()
        })
    );
    assert_eq!(
        check(Message::Trailers, &["grpc-status: 0", "grpc-message: "]),
        Ok(Summary::default())
    );
    assert_eq!(check(Message::Trailers, &[]), Ok(Summary::default()));
}

#[test]
fn section_8_2_1_field_names_and_values() {
    for name in [
        "Upper",
        "sp ace",
        "tab\tbed",
        "col:on",
        "del\x7f",
        "nul\0",
        "h\u{e9}",
        "new\nline",
        "brace{",
        "quo\"te",
        "slash/",
    ] {
        assert_eq!(
            request_with(&[&format!("{name}: x")]),
            Err(FieldFault::Name.into()),
            "{name:?}"
        );
    }
    for (name, fault) in [(":", FieldFault::UnknownPseudo), ("", FieldFault::EmptyName)] {
        let list = HeaderList::from_pairs(&mut Fields::new(1 << 16, 1), [(name, "x")]);
        assert_eq!(validate(&list, Message::Trailers), Err(fault.into()));
    }
    for value in [
        "nul\0inside",
        "cr\rinside",
        "lf\ninside",
        "lf\n",
        "\0",
        "soh\u{1}inside",
        "del\x7f",
    ] {
        assert_eq!(
            request_with(&[&format!("x: {value}")]),
            Err(FieldFault::Value.into()),
            "{value:?}"
        );
    }
    // Against the RFC, spaces and tabs at the ends of a regular value pass: gRPC's own stacks send and take them.
    for value in [" lead", "trail ", "\tlead", "trail\t", " ", "\t"] {
        for name in ["x", "content-type", "grpc-timeout", "grpc-status"] {
            assert!(
                request_with(&[&format!("{name}: {value}")]).is_ok(),
                "{name} {value:?}"
            );
        }
        for name in ["te", "content-length"] {
            let fault = Err(FieldFault::Value.into());
            assert_eq!(
                request_with(&[&format!("{name}: {value}")]),
                fault,
                "{name} {value:?}"
            );
        }
    }
    let path = [":method: GET", ":scheme: http", ":path: /a "];
    assert_eq!(check(Message::Request, &path), Err(FieldFault::Value.into()));
    // Bytes beyond ASCII pass, and tabs.
    assert!(request_with(&["x: \u{e9}\ta"]).is_ok());
    // Pseudo-fields' values obey the same rule.
    let path = [":method: GET", ":scheme: http", ":path: /a\r\nb"];
    assert_eq!(check(Message::Request, &path), Err(FieldFault::Value.into()));
}

#[test]
fn section_8_2_2_connection_specific_fields() {
    for field in [
        "connection: close",
        "proxy-connection: x",
        "keep-alive: x",
        "transfer-encoding: chunked",
        "upgrade: h2c",
    ] {
        assert_eq!(
            request_with(&[field]),
            Err(FieldFault::ConnectionSpecific.into()),
            "{field}"
        );
        let response = [":status: 200", field];
        assert_eq!(
            check(Message::Response, &response),
            Err(FieldFault::ConnectionSpecific.into()),
            "{field}"
        );
    }
    assert!(request_with(&["te: trailers"]).is_ok());
    assert!(request_with(&["te: Trailers"]).is_ok());
    for value in ["gzip", "trailers, deflate", "", "trailers;q=1"] {
        assert_eq!(
            request_with(&[&format!("te: {value}")]),
            Err(FieldFault::Te.into()),
            "{value:?}"
        );
    }
}

#[test]
fn section_8_3_pseudo_fields_come_first_once_and_where_they_belong() {
    let cases: [(&[&str], Malformed); 5] = [
        (&["a: b", ":authority: late"], Malformed::PseudoAfterRegular),
        (&[":path: /again"], Malformed::DuplicatePseudo),
        (&[":status: 200"], Malformed::MisplacedPseudo),
        (&[":protocol: websocket"], Malformed::MisplacedPseudo),
        (&[":unknown: x"], Malformed::Field(FieldFault::UnknownPseudo)),
    ];
    for (more, fault) in cases {
        assert_eq!(request_with(more), Err(fault), "{more:?}");
    }
    for field in REQUEST.iter().copied().chain([":authority: a", ":protocol: p"]) {
        assert_eq!(
            check(Message::Response, &[":status: 200", field]),
            Err(Malformed::MisplacedPseudo),
            "{field}"
        );
        assert_eq!(
            check(Message::Trailers, &[field]),
            Err(Malformed::MisplacedPseudo),
            "{field}"
        );
    }
    assert_eq!(
        check(Message::Trailers, &["a: b", ":status: 200"]),
        Err(Malformed::PseudoAfterRegular)
    );
    assert_eq!(
        check(Message::Trailers, &[":status: 200"]),
        Err(Malformed::MisplacedPseudo)
    );
}

#[test]
fn section_8_3_1_requests_have_method_scheme_and_path() {
    for missing in 0..REQUEST.len() {
        let mut lines = REQUEST.to_vec();
        lines.remove(missing);
        assert_eq!(
            check(Message::Request, &lines),
            Err(Malformed::MissingPseudo),
            "{lines:?}"
        );
    }
    let request = |method: &str, scheme: &str, path: &str| {
        let lines = [
            format!(":method: {method}"),
            format!(":scheme: {scheme}"),
            format!(":path: {path}"),
        ];
        check(Message::Request, &lines.each_ref().map(String::as_str))
    };
    assert!(request("GET", "http", "/").is_ok());
    assert!(request("OPTIONS", "https", "*").is_ok());
    assert!(request("GET", "coap", "anything").is_ok());
    for (method, scheme, path) in [
        ("", "http", "/"),
        ("GET", "", "/"),
        ("GET", "http", ""),
        ("GET", "HTTPS", ""),
        ("GET", "http", "*"),
        ("GET", "http", "no-slash"),
    ] {
        assert_eq!(
            request(method, scheme, path),
            Err(Malformed::PseudoValue),
            "{method:?} {scheme:?} {path:?}"
        );
    }
}

#[test]
fn section_8_3_2_responses_have_a_status_of_three_digits() {
    for status in [100, 103, 200, 599, 999] {
        let summary = check(Message::Response, &[&format!(":status: {status}")]).expect("a right status");
        assert_eq!(
            (summary.status, summary.is_informational()),
            (status, status < 200)
        );
    }
    for status in ["", "20", "2000", "099", "2x0", "+20", "200 OK"] {
        let response = check(Message::Response, &[&format!(":status: {status}")]);
        assert_eq!(response, Err(Malformed::Status), "{status:?}");
    }
    assert_eq!(check(Message::Response, &["a: b"]), Err(Malformed::MissingPseudo));
}

#[test]
fn section_8_5_connect_has_an_authority_and_nothing_else() {
    let connect = |more: &[&str]| check(Message::Request, &[&[":method: CONNECT"], more].concat());
    let summary = connect(&[":authority: host:443"]).expect("a right CONNECT");
    assert_eq!(summary.method, Method::Connect);
    for more in [
        &[][..],
        &[":authority: "],
        &[":authority: a", ":path: /"],
        &[":authority: a", ":scheme: http"],
        &[":authority: a", ":scheme: http", ":path: /"],
    ] {
        assert_eq!(connect(more), Err(Malformed::Connect), "{more:?}");
    }
}

#[test]
fn content_length_is_one_number() {
    let length = |more: &[&str]| request_with(more).map(|summary| summary.content_length);
    assert_eq!(length(&[]), Ok(None));
    assert_eq!(length(&["content-length: 0"]), Ok(Some(0)));
    assert_eq!(
        length(&["content-length: 18446744073709551615"]),
        Ok(Some(u64::MAX))
    );
    assert_eq!(length(&["content-length: 5", "content-length: 5"]), Ok(Some(5)));
    for wrong in [
        "",
        "-1",
        "+1",
        "1 2",
        "5, 5",
        "0x1",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        let field = format!("content-length: {wrong}");
        assert_eq!(length(&[&field]), Err(Malformed::ContentLength), "{wrong:?}");
    }
    assert_eq!(
        length(&["content-length: 5", "content-length: 6"]),
        Err(Malformed::ContentLength)
    );
}

#[test]
fn a_head_request_is_known_as_such() {
    let request = [":method: HEAD", ":scheme: http", ":path: /"];
    assert_eq!(
        check(Message::Request, &request).map(|summary| summary.method),
        Ok(Method::Head)
    );
}

#[test]
fn lists_find_fields_by_name_and_by_kind() {
    let list = list(&[":path: /a", "x: 1", "x: 2", "content-type: application/grpc"]);
    assert_eq!(list.get("x"), Some(&b"1"[..]));
    assert_eq!(list.get("y"), None);
    assert_eq!(
        list.find(FieldKind::Path).map(|field| field.value()),
        Some(&b"/a"[..])
    );
    assert_eq!(list.find(FieldKind::Te).map(|field| field.value()), None);
    let bytes = ":path/a".len() + 2 * "x1".len() + "content-typeapplication/grpc".len();
    assert_eq!(list.size(), bytes + 4 * 32);
}
