//! Errors that we answer ourselves, in the form that the client's protocol has for them.

use grpclb_engine::frame::ErrorCode;

use crate::support::{Behaviour, Outcome, World};

/// A world in which no endpoint can be reached.
fn unreachable() -> World {
    let mut world = World::new(1);
    world.backends[0].accepts = Some(false);
    world
}

fn call_as(world: &mut World, content_type: &str) -> usize {
    let client = world.client();
    let call = world.open_as(client, content_type, b"x", true);
    world.run();
    call
}

/// Decodes base64 (RFC 4648).
fn unbase64(text: &[u8]) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} in base64"),
    };
    assert!(text.len().is_multiple_of(4));
    let bits = text.iter().filter(|&&byte| byte != b'=').map(|&byte| value(byte));
    let (mut bytes, mut held, mut count) = (Vec::new(), 0u32, 0);
    for sextet in bits {
        (held, count) = (held << 6 | u32::from(sextet), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((held >> count) as u8);
            held &= (1 << count) - 1;
        }
    }
    bytes
}

#[test]
fn grpc_replies_have_the_requests_own_content_type() {
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc+json",
    ] {
        let mut world = unreachable();
        let call = call_as(&mut world, content_type);
        assert!(world.message(call).starts_with("grpclb-agent/n1: "));
        assert_eq!(world.calls[call].content_type, content_type);
        assert_eq!(world.calls[call].body, b"");
    }
}

#[test]
fn grpc_web_replies_have_their_trailers_in_the_body() {
    for content_type in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/grpc-web-text+proto",
    ] {
        let mut world = unreachable();
        let call = call_as(&mut world, content_type);
        let http = Outcome::Status("200".into(), String::new(), String::new());
        assert_eq!(world.outcome(call), Some(&http), "{content_type}");
        assert_eq!(world.calls[call].content_type, content_type);
        let body = &world.calls[call].body;
        let body = if content_type.contains("text") {
            unbase64(body)
        } else {
            body.clone()
        };
        let (head, trailers) = body.split_at(5);
        assert_eq!(head[0], 0x80);
        assert_eq!(head[1..], (trailers.len() as u32).to_be_bytes());
        let trailers = String::from_utf8(trailers.to_vec()).unwrap();
        let start = "grpc-status: 14\r\ngrpc-message: grpclb-agent/n1: no endpoint of ";
        assert!(trailers.starts_with(start), "{trailers}");
        assert!(trailers.ends_with("\r\n"), "{trailers}");
    }
}

#[test]
fn types_that_only_begin_like_grpc_get_a_plain_reply() {
    for content_type in [
        "application/grpcfoo",
        "application/grpc-foo",
        "application/grpc-webby",
    ] {
        let mut world = unreachable();
        let call = call_as(&mut world, content_type);
        assert!(
            matches!(world.outcome(call), Some(Outcome::Status(http, grpc, _)) if http == "503" && grpc.is_empty()),
            "{content_type}: {:?}",
            world.outcome(call)
        );
        assert_eq!(world.calls[call].content_type, "text/plain; charset=utf-8");
    }
}

#[test]
fn a_grpc_web_response_that_breaks_off_is_reset() {
    for content_type in ["application/grpc-web", "application/grpc-web-text"] {
        let mut world = World::new(1);
        world.backends[0].behaviour = Behaviour::Hold;
        let call = call_as(&mut world, content_type);
        assert_eq!(world.calls[call].status.as_deref(), Some("200"), "it has begun");
        world.kill(0);
        world.run();
        let reset = Outcome::Reset(ErrorCode::INTERNAL_ERROR);
        assert_eq!(world.outcome(call), Some(&reset), "{content_type}");
    }
}

#[test]
fn replies_are_no_longer_than_the_client_takes() {
    // As small as that an error without a message fits, and one in which a part of the message does.
    for (limit, message) in [(150, ""), (210, "grpclb-agent/n1: ")] {
        let mut world = unreachable();
        world.client_config.max_header_list_size = limit;
        let call = call_as(&mut world, "application/grpc");
        assert_eq!(world.calls[call].content_type, "application/grpc");
        assert!(
            matches!(world.outcome(call), Some(Outcome::Status(_, grpc, said))
                if grpc == "14" && said.starts_with(message) && said.len() < 60),
            "{:?}",
            world.outcome(call)
        );
    }
}

#[test]
fn a_client_that_takes_no_header_list_at_all_gets_a_reset() {
    for content_type in ["application/grpc", "application/grpc-web", "text/html"] {
        let mut world = unreachable();
        world.client_config.max_header_list_size = 10;
        let call = call_as(&mut world, content_type);
        let reset = Outcome::Reset(ErrorCode::INTERNAL_ERROR);
        assert_eq!(world.outcome(call), Some(&reset), "{content_type}");
    }
}
