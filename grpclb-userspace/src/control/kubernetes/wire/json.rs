//! What the API server sends in JSON: routes of the Gateway API, which it has in no other form.
//!
//! A watch is a row of lines, each `{"type": …, "object": …}`.

mod values;

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{
    Error, Event, INITIAL_EVENTS_END, ListMeta, MAX_FRAME, ObjectMeta, Page, Resource, Status, Undecodable,
};

pub(in super::super) const ACCEPT: &str = "application/json";

/// A `GRPCRoute` or an `HTTPRoute`: what it is attached to.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Route {
    metadata: ObjectMeta,
    pub(in super::super) parents: Vec<Parent>,
}

/// `spec.parentRefs[]` of a route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(in super::super) struct Parent {
    /// Without one: of the Gateway API.
    group: Option<String>,
    kind: Option<String>,
    /// Without one: the route's own.
    pub(in super::super) namespace: Option<String>,
    pub(in super::super) name: String,
}

impl Parent {
    pub(in super::super) fn is_service(&self) -> bool {
        self.group.as_deref() == Some("") && self.kind.as_deref() == Some("Service")
    }
}

impl Resource for Route {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn from_metadata(metadata: ObjectMeta) -> Self {
        Self {
            metadata,
            parents: Vec::new(),
        }
    }

    fn list(bytes: Bytes) -> Result<Page<Self>, Error> {
        let Outline { metadata } = parse(&bytes)?;
        let metadata = ListMeta {
            resource_version: metadata.resource_version,
            next: metadata.next,
        };
        let items = match parse::<List>(&bytes) {
            Ok(list) => list
                .items
                .into_iter()
                .map(|object| Ok(object.into_route()))
                .collect(),
            Err(cause) => values::items(&bytes).ok_or(cause)?.map(route).collect(),
        };
        Ok((metadata, items))
    }

    fn next_event(input: &mut BytesMut) -> Result<Option<Event<Self>>, Error> {
        let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
            return if input.len() > MAX_FRAME {
                Err(Error::FrameTooLarge(input.len()))
            } else {
                Ok(None)
            };
        };
        let line = input.split_to(end + 1);
        let event: WatchEvent = match parse(&line) {
            Ok(event) => event,
            Err(cause) => return undecodable(&line, cause).map(Some),
        };
        let object = event.object;
        Ok(Some(match event.kind.as_str() {
            "ADDED" | "MODIFIED" => Event::Applied(object.into_route()),
            "DELETED" => Event::Deleted(object.into_route()),
            "BOOKMARK" => Event::Bookmark {
                ends_list: object.metadata.annotations.contains_key(INITIAL_EVENTS_END),
                version: object.metadata.resource_version,
            },
            _ => Event::Error(Status {
                message: object.message,
                reason: object.reason,
                code: object.code,
            }),
        }))
    }
}

/// Decodes a route on its own.
fn route(object: &[u8]) -> Result<Route, Box<Undecodable>> {
    match serde_json::from_slice::<Object>(object) {
        Ok(object) => Ok(object.into_route()),
        Err(cause) => Err(Undecodable::json(object, cause)),
    }
}

/// Returns the event of a line that cannot be decoded as a whole: of an object, if nothing else is wrong with it.
fn undecodable(line: &[u8], cause: Error) -> Result<Event<Route>, Error> {
    let Kind { kind } = parse(line)?;
    match (kind.as_str(), values::member(line, "object")) {
        ("ADDED" | "MODIFIED" | "DELETED", Some(object)) => match route(object) {
            Err(undecodable) => Ok(Event::Undecodable(undecodable)),
            Ok(_) => Err(cause),
        },
        _ => Err(cause),
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(Error::Json)
}

/// A list without its objects.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Object>,
}

/// An event without its object.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct WatchEvent {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

/// A route, or the reason of a refusal.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Metadata,
    spec: Spec,
    message: String,
    reason: String,
    code: i32,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(deserialize_with = "or_default")]
    parent_refs: Vec<Parent>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
    annotations: BTreeMap<String, String>,
}

impl Object {
    fn into_route(self) -> Route {
        Route {
            metadata: ObjectMeta {
                name: self.metadata.name,
                namespace: self.metadata.namespace,
                resource_version: self.metadata.resource_version,
                ..ObjectMeta::default()
            },
            parents: self.spec.parent_refs,
        }
    }
}

/// What is `null` is as good as missing.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + DeserializeOwned,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = r#"{"kind":"GRPCRoute","metadata":{"name":"split","namespace":"shop","resourceVersion":"7","uid":"u"},
        "spec":{"parentRefs":[{"group":"","kind":"Service","name":"cart"},{"name":"gateway"}],"rules":[]}}"#;

    #[test]
    fn a_list_has_routes_with_what_they_are_attached_to() {
        let list = format!(r#"{{"metadata":{{"resourceVersion":"9","continue":"c"}},"items":[{ROUTE}]}}"#);
        let (metadata, routes) = Route::list(list.into()).unwrap();
        assert_eq!((&*metadata.resource_version, &*metadata.next), ("9", "c"));
        let routes: Vec<Route> = routes.into_iter().map(Result::unwrap).collect();
        let services: Vec<bool> = routes[0].parents.iter().map(Parent::is_service).collect();
        assert_eq!(services, [true, false]);
        assert_eq!(routes[0].metadata().namespace, "shop");
    }

    #[test]
    fn a_watch_is_read_line_by_line() {
        let route = ROUTE.replace('\n', " ");
        let lines = format!(
            "{{\"type\":\"ADDED\",\"object\":{route}}}\n\
             {{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"8\",\"annotations\":\
             {{\"k8s.io/initial-events-end\":\"true\"}}}},\"spec\":{{\"parentRefs\":null}}}}}}\n\
             {{\"type\":\"ERROR\",\"object\":{{\"code\":410,\"message\":\"too old\"}}}}\n"
        );
        let (mut input, mut seen) = (BytesMut::new(), Vec::new());
        for piece in lines.as_bytes().chunks(10) {
            input.extend_from_slice(piece);
            while let Some(event) = Route::next_event(&mut input).unwrap() {
                seen.push(match event {
                    Event::Applied(route) => route.metadata().name.clone(),
                    Event::Bookmark { version, ends_list } => format!("{version} {ends_list}"),
                    Event::Error(status) => status.code.to_string(),
                    Event::Deleted(_) | Event::Undecodable(_) => "other".to_owned(),
                });
            }
        }
        assert_eq!(seen, ["split", "8 true", "410"]);
    }

    /// Routes that cannot be decoded, each with the name by which it is told.
    fn undecodable() -> Vec<(Vec<u8>, &'static str)> {
        let specs = [
            r#"{"parentRefs":[{"name":7}]}"#,
            r#"{"parentRefs":[{"name":"\ud800"}]}"#,
            r#"{"parentRefs":[{"name":1e999}]}"#,
            "7",
        ];
        let route = |spec: &[u8]| {
            let metadata =
                br#"{"metadata":{"name":"split","namespace":"shop","resourceVersion":"42"},"spec":"#;
            [metadata, spec, b"}"].concat()
        };
        let deep = [
            &br#"{"parentRefs":[{"name":"#[..],
            &[b'['; 1_000],
            &[b']'; 1_000],
            b"}]}",
        ]
        .concat();
        let not_utf8 = br#"{"parentRefs":[{"name":"#.iter().chain(b"\"\xff\"}]}").copied();
        let mut all: Vec<_> = specs
            .iter()
            .map(|spec| (route(spec.as_bytes()), "shop/split"))
            .collect();
        all.push((route(&deep), "shop/split"));
        all.push((route(&not_utf8.collect::<Vec<_>>()), "shop/split"));
        all.push((br#"{"metadata":{"name":["x"]}}"#.to_vec(), "object 0"));
        all
    }

    #[test]
    fn list_and_watch_skip_routes_that_cannot_be_decoded() {
        for (object, name) in undecodable() {
            let good = ROUTE.replace('\n', " ");
            let list = [
                &br#"{"metadata":{"resourceVersion":"9"},"items":["#[..],
                &object,
                b",",
                good.as_bytes(),
                b"]}",
            ]
            .concat();
            let (metadata, routes) = Route::list(list.into()).unwrap();
            assert_eq!(metadata.resource_version, "9");
            let skipped = routes[0].as_ref().unwrap_err().to_string();
            assert!(skipped.starts_with(&format!("{name}: ")), "{skipped}");
            assert_eq!(routes[1].as_ref().unwrap().parents.len(), 2);

            let line = [&br#"{"type":"MODIFIED","object":"#[..], &object, b"}\n"].concat();
            let event = Route::next_event(&mut BytesMut::from(&line[..])).unwrap();
            let Some(Event::Undecodable(undecodable)) = event else {
                panic!("{event:?}");
            };
            assert!(
                undecodable.to_string().starts_with(&format!("{name}: ")),
                "{undecodable}"
            );
        }
    }
}
