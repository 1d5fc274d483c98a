//! What the followers of all kinds of objects tell, as one stream.

use crate::control::kubernetes::reflector::{Kind, Told};
use crate::control::kubernetes::wire;

/// One thing that the API server told.
#[derive(Debug)]
pub(in super::super) enum News {
    Namespace(Told<wire::PartialObjectMetadata>),
    Node(Told<wire::PartialObjectMetadata>),
    Pod(Told<wire::Pod>),
    Service(Told<wire::Service>),
    Slice(Told<wire::EndpointSlice>),
    GrpcRoute(Told<wire::json::Route>),
    HttpRoute(Told<wire::json::Route>),
}

impl News {
    /// Returns the object that was skipped, if that is what is told, and its kind.
    pub(in super::super) fn skipped(&self) -> Option<(Kind, &wire::Undecodable)> {
        fn of<R>(told: &Told<R>) -> Option<&wire::Undecodable> {
            match told {
                Told::Skipped(object) => Some(object),
                _ => None,
            }
        }
        let object = match self {
            Self::Namespace(told) | Self::Node(told) => of(told),
            Self::Pod(told) => of(told),
            Self::Service(told) => of(told),
            Self::Slice(told) => of(told),
            Self::GrpcRoute(told) | Self::HttpRoute(told) => of(told),
        };
        object.map(|object| (self.heard().0, object))
    }

    /// Which collection it is of, and whether it was heard of at all: an error, or that all is well.
    pub(in super::super) fn heard(&self) -> (Kind, Result<(), &str>) {
        fn of<R>(kind: Kind, told: &Told<R>) -> (Kind, Result<(), &str>) {
            match told {
                Told::Failed(error) => (kind, Err(error)),
                _ => (kind, Ok(())),
            }
        }
        match self {
            Self::Namespace(told) => of(Kind::Namespaces, told),
            Self::Node(told) => of(Kind::Nodes, told),
            Self::Pod(told) => of(Kind::Pods, told),
            Self::Service(told) => of(Kind::Services, told),
            Self::Slice(told) => of(Kind::EndpointSlices, told),
            Self::GrpcRoute(told) => of(Kind::GrpcRoutes, told),
            Self::HttpRoute(told) => of(Kind::HttpRoutes, told),
        }
    }
}
