//! What an owner sees of a connection, both ends being ours.

use grpclb_engine::connection::{Event, HeadersKind};

use crate::support::{Pair, millis};

#[test]
fn a_call_goes_through_and_leaves_nothing_behind() {
    let mut pair = Pair::connected();
    let call = pair.client.open(pair.now, 1, false);
    pair.client.data(call, b"hello", true);
    pair.settle();
    let stream = pair.server.requests()[0];
    assert_eq!(pair.server.received(stream), b"hello");
    assert!(pair.server.ended(stream));

    pair.server.connection.set_tag(stream, 5);
    pair.server.respond(stream, false);
    pair.server.data(stream, b"world", false);
    pair.server.trailers(stream);
    pair.settle();
    assert_eq!(pair.client.received(call), b"world");
    let kinds: Vec<_> = pair
        .client
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Headers {
                kind,
                end_stream,
                tag,
                ..
            } => Some((*kind, *end_stream, *tag)),
            _ => None,
        })
        .collect();
    assert_eq!(
        kinds,
        [
            (HeadersKind::Response, false, 1),
            (HeadersKind::Trailers, true, 1)
        ]
    );
    assert_eq!(
        (pair.client.connection.streams(), pair.server.connection.streams()),
        (0, 0)
    );
    assert_eq!(
        pair.server
            .sent
            .last()
            .map(|sent| (sent.tag, sent.bytes, sent.end)),
        Some((5, 5, true))
    );
    pair.run(pair.now + millis(100));
}
