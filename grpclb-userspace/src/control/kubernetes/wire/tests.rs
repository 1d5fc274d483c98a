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
                    Event::Undecodable(object) => object.to_string(),
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

/// A Service with a string that is not UTF-8, as protobuf.
fn not_utf8(name: &[u8]) -> Vec<u8> {
    let name_length = u8::try_from(name.len()).unwrap();
    let metadata = [
        &[0x0a, name_length][..],
        name,
        b"\x1a\x04shop\x32\x0242",
        b"\x62\x09\x0a\x01k\x12\x04\xff\xfe\xfd\xfc",
    ]
    .concat();
    [&[0x0a, u8::try_from(metadata.len()).unwrap()], &metadata[..]].concat()
}

/// Objects that cannot be decoded, each with the name by which it is told.
fn undecodable() -> [(Vec<u8>, &'static str); 5] {
    let named = named("cart", "42").encode_to_vec();
    [
        (not_utf8(b"cart"), "shop/cart"),
        (not_utf8(b"\xff"), "object 0"),
        // The spec is a number, ends too early, or nests too deeply in a field that is skipped.
        ([&named[..], &[0x10, 1]].concat(), "cart"),
        ([&named[..], &[0x12, 9, 1]].concat(), "cart"),
        ([&named[..], &[0x7b; 1_000]].concat(), "cart"),
    ]
}

#[test]
fn list_skips_objects_that_cannot_be_decoded() {
    for (object, name) in undecodable() {
        let list = List {
            metadata: Some(ListMeta {
                resource_version: "9".to_owned(),
                ..ListMeta::default()
            }),
            items: vec![object.into(), named("other", "2").encode_to_vec().into()],
        };
        let (metadata, objects) = Service::list(enveloped(&list)).unwrap();
        assert_eq!(metadata.resource_version, "9");
        let undecodable = objects[0].as_ref().unwrap_err();
        assert!(
            undecodable.to_string().starts_with(&format!("{name}: ")),
            "{undecodable}"
        );
        assert_eq!(objects[1].as_ref().unwrap().metadata().name, "other");
    }
}

#[test]
fn watch_skips_objects_that_cannot_be_decoded() {
    for (object, name) in undecodable() {
        for kind in ["ADDED", "MODIFIED", "DELETED"] {
            let raw = Unknown {
                raw: object.clone().into(),
            }
            .encode_to_vec();
            let event = WatchEvent {
                kind: kind.to_owned().into(),
                object: Some(RawExtension {
                    raw: [MAGIC, &raw].concat().into(),
                }),
            }
            .encode_to_vec();
            let mut input = BytesMut::from(&u32::try_from(event.len()).unwrap().to_be_bytes()[..]);
            input.extend(event);
            input.extend(frame(kind, &named("other", "43")));
            let event = Service::next_event(&mut input).unwrap();
            let Some(Event::Undecodable(undecodable)) = event else {
                panic!("{event:?}");
            };
            assert!(
                undecodable.to_string().starts_with(&format!("{name}: ")),
                "{undecodable}"
            );
            assert_eq!(undecodable.metadata.resource_version, "42");
            let next = Service::next_event(&mut input).unwrap();
            assert!(
                matches!(next, Some(Event::Applied(_) | Event::Deleted(_))),
                "{next:?}"
            );
        }
    }
}
