//! The h2 crate ends a connection for what it cannot make a field of. So no request that passes here may hold such bytes: connections
//! to backends are shared.

use std::rc::Rc;

use bytes::Bytes;
use grpclb_engine::connection::{Config, Event, Role};
use grpclb_engine::hpack::{Fields, HeaderList};
use grpclb_engine::message::{Message, validate};

use crate::against_h2::{pump, run};
use crate::support::{REQUEST, Side};

/// Requests with each byte in a field's name, its value, and each pseudo-field's value.
fn requests(fields: &mut Fields) -> Vec<HeaderList> {
    let mut requests = Vec::new();
    for byte in 0..=u8::MAX {
        for place in [":method", ":scheme", ":authority", ":path", "name", "value"] {
            let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = REQUEST
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect();
            match place {
                "name" => pairs.push((vec![b'x', byte, b'x'], b"x".to_vec())),
                "value" => pairs.push((b"x".to_vec(), vec![b'x', byte, b'x'])),
                pseudo => {
                    for (_, value) in pairs.iter_mut().filter(|(name, _)| name == pseudo.as_bytes()) {
                        value.insert(1, byte);
                    }
                }
            }
            requests.push(HeaderList::from_pairs(
                fields,
                pairs.iter().map(|(name, value)| (name, value)),
            ));
        }
    }
    for len in [0xffff, 0x10000] {
        let name = "x".repeat(len);
        let long = [REQUEST, &[(name.as_str(), "x")]].concat();
        requests.push(HeaderList::from_pairs(fields, long.iter().copied()));
    }
    requests
}

#[test]
fn no_well_formed_request_ends_h2_servers_connection() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(100_000);
        let server = tokio::task::spawn_local(async move {
            let mut connection = h2::server::handshake(theirs).await?;
            while let Some(accepted) = connection.accept().await {
                let (_, mut respond) = accepted?;
                respond.send_response(http::Response::new(()), true)?;
            }
            Ok::<_, h2::Error>(Bytes::new())
        });
        let mut side = Side::new(Role::Client, Config::to_backend());
        let mut waiting = requests(&mut side.fields);
        waiting.retain(|request| validate(request, Message::Request).is_ok());
        assert!(waiting.len() > 600, "{}", waiting.len());
        pump(side, ours, |side, now, event| match event {
            None => {
                while side.connection.can_open()
                    && side.connection.streams() < 50
                    && let Some(request) = waiting.pop()
                {
                    let opened = side.connection.open(now, 0, Rc::new(request), true);
                    opened.expect("the peer has room");
                }
                if waiting.is_empty() && side.connection.streams() == 0 {
                    side.connection.shutdown(now);
                }
            }
            Some(Event::GoAway { code, debug, .. }) => panic!("{code} {debug:?}"),
            _ => {}
        })
        .await;
        server.await.expect("no panic").expect("a clean end");
    });
}
