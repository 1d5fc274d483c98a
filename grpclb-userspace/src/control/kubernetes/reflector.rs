//! Follows one kind of object at the API server: a list, then a watch from where the list ended, for ever.
//!
//! What is told is never "all is gone": a watch that breaks is taken up where it broke; where the server has forgotten that
//! state (410) everything is listed again, and the store finds out by itself what is no longer there.
//!
//! A list is streamed where the server can (`sendInitialEvents`): it then holds one object at a time in memory, and so do we.
//! Else it is read in pages.

mod backoff;

use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::api::{Api, Failure};
use super::wire::{Event, ObjectMeta, Resource, Undecodable};
use backoff::Backoff;
pub(super) use backoff::random_up_to;

/// The server sends a bookmark about once a minute: a watch that is silent for longer hangs on a connection that is dead.
const SILENCE: Duration = Duration::from_secs(90);
/// How long one watch lasts, at least; up to twice this, so that the agents of a cluster do not come back together.
const WATCH: Duration = Duration::from_mins(4);
/// After a 410, agents list again within this time, not at once.
const RELIST_SPREAD: Duration = Duration::from_secs(1);
/// What is not installed, or may not be read, is asked for again after this time.
const NOT_INSTALLED: Duration = Duration::from_mins(2);
/// Objects a page.
const PAGE: usize = 500;

/// What is followed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Collection {
    pub(super) kind: Kind,
    /// `/api/v1/services`.
    pub(super) path: &'static str,
    pub(super) accept_list: &'static str,
    pub(super) accept_watch: &'static str,
    /// The first list is asked for within this time, not at once.
    pub(super) spread: Duration,
    /// A server need not have it, and an agent need not be allowed to read it: it is then as if there were none.
    pub(super) optional: bool,
}

/// The kinds of objects that are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Namespaces,
    Nodes,
    Pods,
    Services,
    EndpointSlices,
    GrpcRoutes,
    HttpRoutes,
}

/// What the store is told of a collection.
#[derive(Debug)]
pub(super) enum Told<R> {
    /// A list begins.
    Listing,
    /// An object, as it is now.
    Is(R),
    /// An object is no more: as it was last.
    Gone(R),
    /// An object was skipped because it cannot be decoded. If its name can, [`Gone`](Self::Gone) precedes.
    Skipped(Box<Undecodable>),
    /// The list was whole: what it did not have is no more.
    Listed,
    /// The server confirms: this is still all there is.
    Confirmed,
    /// Nothing is heard of the server; what is known stays.
    Failed(String),
}

/// Follows a collection and tells of it, until nobody listens.
pub(super) struct Reflector<R, M> {
    pub(super) api: Api,
    pub(super) collection: Collection,
    /// Selectors, escaped: `fieldSelector=spec.nodeName%3Dn1`.
    pub(super) selector: String,
    pub(super) tell: mpsc::Sender<M>,
    pub(super) wrap: fn(Told<R>) -> M,
}

/// Nobody listens any more.
struct Unheard;

enum Stop {
    Unheard,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Unheard> for Stop {
    fn from(_: Unheard) -> Self {
        Self::Unheard
    }
}

impl<R: Resource, M: Send + 'static> Reflector<R, M> {
    pub(super) async fn run(self) {
        tokio::time::sleep(random_up_to(self.collection.spread)).await;
        let mut backoff = Backoff::default();
        // Up to where everything was told; empty: nothing was, or the server has forgotten it.
        let mut version = String::new();
        let mut streams_lists = true;
        loop {
            let began = Instant::now();
            let outcome = if !version.is_empty() {
                self.watch(&mut version, false).await
            } else if streams_lists {
                self.watch(&mut version, true).await
            } else {
                self.list(&mut version).await
            };
            let kind = self.collection.kind;
            match outcome {
                Err(Stop::Unheard) => return,
                // A watch reached its end, or a list in pages is whole.
                Ok(()) => tokio::time::sleep(backoff.after_end(began.elapsed())).await,
                Err(Stop::Failed(failure))
                    if version.is_empty() && streams_lists && failure.is_of_the_request() =>
                {
                    tracing::info!(?kind, %failure, "lists are not streamed: reading them in pages");
                    streams_lists = false;
                }
                Err(Stop::Failed(Failure::Gone(message))) => {
                    tracing::info!(
                        ?kind,
                        reason = message,
                        "listing again; what is known stays in force"
                    );
                    version.clear();
                    tokio::time::sleep(random_up_to(RELIST_SPREAD) + backoff.after_end(began.elapsed()))
                        .await;
                }
                Err(Stop::Failed(failure)) if self.collection.optional && failure.is_of_the_resource() => {
                    tracing::debug!(?kind, %failure, "not installed, or not for this agent to read: as if there were none");
                    version.clear();
                    for told in [Told::Listing, Told::Listed] {
                        if self.tell(told).await.is_err() {
                            return;
                        }
                    }
                    tokio::time::sleep(NOT_INSTALLED + random_up_to(NOT_INSTALLED)).await;
                }
                Err(Stop::Failed(failure)) => {
                    let after = match failure {
                        Failure::Refused { after, .. } => after,
                        _ => None,
                    };
                    if self.tell(Told::Failed(failure.to_string())).await.is_err() {
                        return;
                    }
                    let pause = backoff.after_failure(began.elapsed());
                    tokio::time::sleep(pause.max(after.unwrap_or_default())).await;
                }
            }
        }
    }

    /// A watch from `version` on, or of a list first; until its end.
    async fn watch(&self, version: &mut String, mut listing: bool) -> Result<(), Stop> {
        let seconds = (WATCH + random_up_to(WATCH)).as_secs();
        let from = if listing {
            // No version: all that is so by now.
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned()
        } else {
            format!("resourceVersion={version}")
        };
        let query = format!("watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&{from}");
        let mut answer = self
            .api
            .get(&self.path(&query), self.collection.accept_watch)
            .await?;
        let heard = if listing { Told::Listing } else { Told::Confirmed };
        self.tell(heard).await?;
        let mut input = BytesMut::new();
        let mut position = 0;
        while let Some(piece) = answer.next(SILENCE).await? {
            input.extend_from_slice(&piece);
            while let Some(event) = R::next_event(&mut input).map_err(Failure::from)? {
                position += 1;
                match event {
                    Event::Applied(object) => {
                        advance(version, object.metadata(), listing);
                        self.tell(Told::Is(object)).await?;
                    }
                    Event::Deleted(object) => {
                        advance(version, object.metadata(), listing);
                        self.tell(Told::Gone(object)).await?;
                    }
                    Event::Undecodable(object) => {
                        advance(version, &object.metadata, listing);
                        self.skip(object, position).await?;
                    }
                    Event::Bookmark {
                        version: reached,
                        ends_list,
                    } => {
                        if listing && ends_list {
                            listing = false;
                            self.tell(Told::Listed).await?;
                        } else if !listing {
                            self.tell(Told::Confirmed).await?;
                        }
                        if !listing {
                            *version = reached;
                        }
                    }
                    Event::Error(status) => {
                        let code = u16::try_from(status.code).unwrap_or_default();
                        return Err(Failure::refused(code, status.message, None).into());
                    }
                }
            }
        }
        Ok(())
    }

    /// A list in pages.
    async fn list(&self, version: &mut String) -> Result<(), Stop> {
        self.tell(Told::Listing).await?;
        let mut next = String::new();
        loop {
            let query = format!("limit={PAGE}{next}");
            let answer = self
                .api
                .get(&self.path(&query), self.collection.accept_list)
                .await?;
            let (metadata, page) = R::list(answer.whole().await?).map_err(Failure::from)?;
            for (object, position) in page.into_iter().zip(1..) {
                match object {
                    Ok(object) => self.tell(Told::Is(object)).await?,
                    Err(object) => self.skip(object, position).await?,
                }
            }
            if metadata.next.is_empty() {
                self.tell(Told::Listed).await?;
                *version = metadata.resource_version;
                return Ok(());
            }
            next = format!("&continue={}", escaped(&metadata.next));
        }
    }

    /// Passes over an object that cannot be decoded: what was known of it is no longer so.
    async fn skip(&self, mut object: Box<Undecodable>, position: u64) -> Result<(), Unheard> {
        object.position = position;
        if !object.metadata.name.is_empty() {
            let gone = R::from_metadata(object.metadata.clone());
            self.tell(Told::Gone(gone)).await?;
        }
        self.tell(Told::Skipped(object)).await
    }

    fn path(&self, query: &str) -> String {
        let separator = if self.selector.is_empty() { "" } else { "&" };
        format!("{}?{query}{separator}{}", self.collection.path, self.selector)
    }

    async fn tell(&self, told: Told<R>) -> Result<(), Unheard> {
        self.tell.send((self.wrap)(told)).await.map_err(|_| Unheard)
    }
}

/// Notes how far a watch has come. While a list is streamed its objects come in no order: only its end says how far it is.
/// An object whose version cannot be read leaves the watch where it was: it is sent again if the watch breaks here.
fn advance(version: &mut String, metadata: &ObjectMeta, listing: bool) {
    if !listing && !metadata.resource_version.is_empty() {
        version.clone_from(&metadata.resource_version);
    }
}

/// A value within a query.
pub(super) fn escaped(value: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let escape = |byte: u8| {
        if plain(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    value.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests;
