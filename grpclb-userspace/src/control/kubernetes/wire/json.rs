//! What the API server sends in JSON: routes of the Gateway API, which it has in no other form.
//!
//! A watch is a row of lines, each `{"type": …, "object": …}`.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Error, Event, INITIAL_EVENTS_END, ListMeta, MAX_FRAME, ObjectMeta, Resource, Status};

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

    fn list(bytes: Bytes) -> Result<(ListMeta, Vec<Self>), Error> {
        let list: List = parse(&bytes)?;
        let metadata = ListMeta {
            resource_version: list.metadata.resource_version,
            next: list.metadata.next,
        };
        Ok((metadata, list.items.into_iter().map(Object::into_route).collect()))
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
        let event: WatchEvent = parse(&line)?;
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

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(Error::Json)
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: Metadata,
    items: Vec<Object>,
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
                    Event::Deleted(_) => "deleted".to_owned(),
                });
            }
        }
        assert_eq!(seen, ["split", "8 true", "410"]);
    }
}
