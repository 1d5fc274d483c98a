//! Envelopes and frames, in whatever pieces they come.

use super::*;

/// The envelope as the API server makes it.
fn enveloped(message: &impl Message) -> Bytes {
    let unknown = Unknown {
        raw: message.encode_to_vec().into(),
    };
    [MAGIC, &unknown.encode_to_vec()].concat().into()
}

fn frame(kind: &str, object: &impl Message) -> Vec<u8> {
    let event = WatchEvent {
        kind: kind.to_owned().into(),
        object: Some(RawExtension {
            raw: enveloped(object),
        }),
    }
    .encode_to_vec();
    let mut frame = u32::try_from(event.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(event);
    frame
}

fn named(name: &str, version: &str) -> PartialObjectMetadata {
    PartialObjectMetadata {
        metadata: Some(ObjectMeta {
            name: name.to_owned(),
            resource_version: version.to_owned(),
            ..ObjectMeta::default()
        }),
    }
}

#[test]
fn events_come_out_whole_whatever_pieces_they_come_in() {
    let mut end = named("", "7");
    let metadata = end.metadata.get_or_insert_default();
    metadata
        .annotations
        .insert(INITIAL_EVENTS_END.to_owned(), "true".to_owned());
    let bytes = [
        frame("ADDED", &named("a", "5")),
        frame("DELETED", &named("b", "6")),
        frame("BOOKMARK", &end),
        frame("BOOKMARK", &named("", "8")),
    ]
    .concat();
    for size in [1, 3, 7, bytes.len()] {
        let (mut input, mut seen) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(size) {
            input.extend_from_slice(piece);
            while let Some(event) = PartialObjectMetadata::next_event(&mut input).unwrap() {
                seen.push(match event {
                    Event::Applied(object) => format!("applied {}", object.metadata().name),
                    Event::Deleted(object) => format!("deleted {}", object.metadata().name),
                    Event::Bookmark { version, ends_list } => format!("bookmark {version} {ends_list}"),
                    Event::Error(status) => status.message,
                });
            }
        }
        assert_eq!(
            seen,
            ["applied a", "deleted b", "bookmark 7 true", "bookmark 8 false"]
        );
        assert!(input.is_empty());
    }
}

#[test]
fn an_error_in_a_watch_says_its_code() {
    let gone = Status {
        message: "too old".to_owned(),
        reason: "Expired".to_owned(),
        code: 410,
    };
    let mut input = BytesMut::from(&frame("ERROR", &gone)[..]);
    let event = Pod::next_event(&mut input).unwrap();
    assert!(matches!(event, Some(Event::Error(Status { code: 410, .. }))));
}

#[test]
fn fields_that_are_not_named_here_are_skipped() {
    /// A Service with a field that ours does not know.
    #[derive(Clone, PartialEq, Message)]
    struct Other {
        #[prost(message, optional, tag = "1")]
        metadata: Option<ObjectMeta>,
        #[prost(string, tag = "3")]
        status: String,
    }
    let other = Other {
        metadata: named("a", "1").metadata,
        status: "whatever".to_owned(),
    };
    let service: Service = object(enveloped(&other)).unwrap();
    assert_eq!(service.metadata().name, "a");
}

#[test]
fn what_is_no_envelope_is_refused() {
    let json = Bytes::from_static(br#"{"kind":"ServiceList"}"#);
    assert!(matches!(Service::list(json), Err(Error::NoMagic)));
    let mut input = BytesMut::from(&b"\xff\xff\xff\xff...."[..]);
    assert!(matches!(
        Pod::next_event(&mut input),
        Err(Error::FrameTooLarge(_))
    ));
}
