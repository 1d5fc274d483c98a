//! Drives the source: starts a follower for each kind of object, has the state take up what they tell, and passes on what is
//! wanted when it is known as a whole.
//!
//! Services and their slices are followed only while a pod of this node is enabled, and for a while after: a node without
//! one costs the API server next to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Options;
use super::api::Api;
use super::clock;
use super::complaints::Writer;
use super::reflector::{Collection, Kind, Reflector, Told, escaped};
use super::snapshot::{Keeper, Place};
use super::state::{News, State};
use super::wire;
use crate::control::{Explainer, Health, Question, Watch};
use crate::model::Desired;

/// How much may wait to be taken up: a slice of 1000 endpoints is 300 KB.
const QUEUE: usize = 32;
/// The first lists of a starting agent are asked for within this time: a DaemonSet starts on many nodes at once.
const SPREAD: Duration = Duration::from_millis(300);
/// Services are followed for so long after the last enabled pod went: a Job's next pod need not wait for a list.
const LINGER: Duration = Duration::from_mins(5);
/// A starting agent that knows nothing after this time takes up what was known last.
const WARM_START: Duration = Duration::from_secs(2);

const NAMESPACES: Collection = Collection {
    kind: Kind::Namespaces,
    path: "/api/v1/namespaces",
    accept_list: wire::ACCEPT_METADATA_LIST,
    accept_watch: wire::ACCEPT_METADATA,
    spread: SPREAD,
    optional: false,
};
const NODES: Collection = Collection {
    kind: Kind::Nodes,
    path: "/api/v1/nodes",
    ..NAMESPACES
};
const PODS: Collection = Collection {
    kind: Kind::Pods,
    path: "/api/v1/pods",
    accept_list: wire::ACCEPT,
    accept_watch: wire::ACCEPT,
    spread: SPREAD,
    optional: false,
};
const SERVICES: Collection = Collection {
    kind: Kind::Services,
    path: "/api/v1/services",
    ..PODS
};
const SLICES: Collection = Collection {
    kind: Kind::EndpointSlices,
    path: "/apis/discovery.k8s.io/v1/endpointslices",
    ..PODS
};
const GRPC_ROUTES: Collection = Collection {
    kind: Kind::GrpcRoutes,
    path: "/apis/gateway.networking.k8s.io/v1/grpcroutes",
    accept_list: wire::json::ACCEPT,
    accept_watch: wire::json::ACCEPT,
    spread: SPREAD,
    optional: true,
};
const HTTP_ROUTES: Collection = Collection {
    kind: Kind::HttpRoutes,
    path: "/apis/gateway.networking.k8s.io/v1/httproutes",
    ..GRPC_ROUTES
};
/// Those that kube-proxy asks for. Services are asked for without: of one that another proxy serves, the reason is to be told.
const SLICE_LABELS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

pub(super) fn start(options: &Options, api: Api) -> Watch {
    let health = Health {
        origin: format!("nothing yet: waiting for the Kubernetes API at {}", api.server).into(),
        synced: false,
        read_at: Instant::now(),
        generation: 0,
        error: None,
        switched_off: None,
        bad_values: 0,
        undecodable_objects: 0,
    };
    let (desired_sender, desired) = watch::channel(Arc::default());
    let (health_sender, health) = watch::channel(health);
    let (ask, asked) = mpsc::channel(1);
    let source = Source::new(options, api, desired_sender, health_sender, asked);
    let events = Some(source.complaints.pod_events());
    let task = tokio::spawn(source.run());
    Watch {
        desired,
        health,
        explainer: Some(Explainer(ask)),
        events,
        task,
    }
}

struct Source {
    api: Api,
    node: String,
    state: State,
    /// The followers; they end with it.
    followers: JoinSet<()>,
    services: Following,
    tell: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    asked: mpsc::Receiver<Question>,
    /// Of each collection that fails: why.
    failing: BTreeMap<Kind, String>,
    in_force: InForce,
    /// `None` where none can be kept.
    snapshot: Option<Keeper>,
    complaints: Writer,
    desired: watch::Sender<Arc<Desired>>,
    health: watch::Sender<Health>,
}

/// What is wanted now, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InForce {
    Nothing,
    Snapshot,
    Live,
}

/// Whether Services and slices are followed.
enum Following {
    No,
    /// `idle`: since when no pod is enabled.
    Yes {
        _followers: JoinSet<()>,
        idle: Option<Instant>,
    },
}

impl Source {
    fn new(
        options: &Options,
        api: Api,
        desired: watch::Sender<Arc<Desired>>,
        health: watch::Sender<Health>,
        asked: mpsc::Receiver<Question>,
    ) -> Self {
        let (tell, news) = mpsc::channel(QUEUE);
        let mut followers = JoinSet::new();
        let node = &options.node;
        let follow = |collection, selector| Follower {
            api: &api,
            tell: &tell,
            collection,
            selector,
        };
        follow(NAMESPACES, String::new()).start(&mut followers, News::Namespace);
        follow(
            NODES,
            format!("fieldSelector={}", escaped(&format!("metadata.name={node}"))),
        )
        .start(&mut followers, News::Node);
        follow(
            PODS,
            format!("fieldSelector={}", escaped(&format!("spec.nodeName={node}"))),
        )
        .start(&mut followers, News::Pod);
        Self {
            state: State::new(node),
            node: node.clone(),
            in_force: InForce::Nothing,
            snapshot: keeper(options),
            complaints: Writer::new(api.clone(), node.clone()),
            api,
            followers,
            services: Following::No,
            tell,
            news,
            asked,
            failing: BTreeMap::new(),
            desired,
            health,
        }
    }

    async fn run(mut self) {
        let mut batch = Vec::with_capacity(QUEUE);
        let mut look = tokio::time::interval(Duration::from_secs(1));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut warm_start = std::pin::pin!(tokio::time::sleep(WARM_START));
        let mut waits = true;
        loop {
            tokio::select! {
                _ = self.news.recv_many(&mut batch, QUEUE) => {
                    let heard_at = Instant::now();
                    for news in batch.drain(..) {
                        self.hear(&news);
                        self.state.take_up(news);
                    }
                    self.settle(heard_at);
                }
                Some((service, answer)) = self.asked.recv() => {
                    // Whoever asked may have gone.
                    let _gone = answer.send(self.state.judge(&service));
                }
                () = &mut warm_start, if waits => {
                    waits = false;
                    self.warm_start();
                }
                _ = look.tick() => {
                    self.unfollow_when_idle();
                    if let Some(snapshot) = &mut self.snapshot {
                        let desired = Arc::clone(&self.desired.borrow());
                        snapshot.look(&desired).await;
                    }
                }
                Some(ended) = self.followers.join_next() => {
                    // They run for as long as they are heard: only a panic ends one.
                    let error = format!("a follower of the Kubernetes API has ended: {ended:?}");
                    tracing::error!("{error}; restart the agent");
                    self.health.send_modify(|health| health.error = Some(error));
                }
                () = self.desired.closed() => return,
            }
        }
    }

    /// Notes whether the API server answers, and objects that were skipped.
    fn hear(&mut self, news: &News) {
        if let Some((kind, object)) = news.skipped() {
            self.health.send_modify(|health| health.undecodable_objects += 1);
            self.complaints.tell_skipped(kind, object);
        }
        let (kind, heard) = news.heard();
        let known = self.failing.remove(&kind);
        match (&known, heard) {
            (None, Err(error)) => {
                tracing::warn!(?kind, error, "not followed for now; what is known stays in force");
            }
            (Some(_), Ok(())) => tracing::info!(?kind, "followed again"),
            _ => {}
        }
        self.failing
            .extend(heard.err().map(|error| (kind, error.to_owned())));
        let error = self
            .failing
            .iter()
            .next()
            .map(|(kind, error)| format!("{kind:?}: {error}"));
        let confirmed = error.is_none() && self.in_force == InForce::Live;
        self.health.send_if_modified(|health| {
            if confirmed {
                health.read_at = Instant::now();
            }
            let changed = health.error != error;
            health.error = error;
            changed
        });
    }

    /// Decides what the news mean, and passes it on.
    fn settle(&mut self, heard_at: Instant) {
        let changed = self.state.settle();
        let switched_off = self.state.node_switched_off();
        self.health.send_if_modified(|health| {
            let changed = health.switched_off != switched_off;
            health.switched_off = switched_off;
            changed
        });
        if !self.state.knows_pods() {
            return;
        }
        let wanted = !self.state.desired().pods.is_empty();
        self.follow_services(wanted);
        let live = self.in_force == InForce::Live;
        // Once whole, it goes on in parts: a first pod that is enabled need not wait for the Services.
        if !live && wanted && !self.state.knows_services() {
            return;
        }
        if changed || !live {
            self.in_force = InForce::Live;
            let origin = format!(
                "the Kubernetes API at {}, for node {}",
                self.api.server, self.node
            );
            self.put_in_force(self.state.desired().clone(), live && changed, origin, heard_at);
            self.snapshot.as_mut().map(Keeper::changed);
        }
        self.complain();
    }

    /// `changed`: whether this is known to differ from what the source told last; if not, it is compared.
    fn put_in_force(&self, desired: Desired, changed: bool, origin: String, read_at: Instant) {
        self.desired.send_if_modified(|known| {
            let changed = changed || **known != desired;
            *known = Arc::new(desired);
            changed
        });
        self.health.send_modify(|health| {
            if *health.origin != *origin {
                tracing::info!(origin, "in force");
                health.origin = origin.into();
            }
            health.synced = true;
            health.read_at = read_at;
            health.generation += 1;
        });
    }

    /// Takes up what was known last, where nothing is known yet.
    fn warm_start(&mut self) {
        let Some(snapshot) = self
            .snapshot
            .as_ref()
            .filter(|_| self.in_force == InForce::Nothing)
        else {
            return;
        };
        let path = snapshot.place().path().display();
        match snapshot.place().read() {
            Ok((desired, written)) => {
                let age = SystemTime::now().duration_since(written).unwrap_or_default();
                let age_seconds = age.as_secs();
                tracing::warn!(%path, age_seconds, "the Kubernetes API has not answered yet: steering by what was known last");
                let origin = format!(
                    "snapshot of {} UTC ({path}): the Kubernetes API at {} does not answer",
                    clock::time_of_day(written),
                    self.api.server
                );
                let now = Instant::now();
                self.put_in_force(desired, false, origin, now.checked_sub(age).unwrap_or(now));
                self.in_force = InForce::Snapshot;
            }
            Err(error) => {
                tracing::warn!("the Kubernetes API has not answered yet, and the snapshot {path} {error}");
            }
        }
    }

    /// Tells of bad values that were seen since.
    fn complain(&mut self) {
        let (found, complaints) = self.state.take_complaints();
        if found == 0 {
            return;
        }
        self.health.send_modify(|health| health.bad_values += found);
        for complaint in complaints {
            let concerned = self.state.concerns_this_node(&complaint);
            self.complaints.tell(complaint, concerned, Instant::now());
        }
    }

    fn follow_services(&mut self, wanted: bool) {
        match &mut self.services {
            Following::No if wanted => {
                let mut followers = JoinSet::new();
                let follow = |collection, selector| Follower {
                    api: &self.api,
                    tell: &self.tell,
                    collection,
                    selector,
                };
                follow(SERVICES, String::new()).start(&mut followers, News::Service);
                let selector = format!("labelSelector={}", escaped(SLICE_LABELS));
                follow(SLICES, selector).start(&mut followers, News::Slice);
                follow(GRPC_ROUTES, String::new()).start(&mut followers, News::GrpcRoute);
                follow(HTTP_ROUTES, String::new()).start(&mut followers, News::HttpRoute);
                self.services = Following::Yes {
                    _followers: followers,
                    idle: None,
                };
            }
            Following::No => {}
            Following::Yes { idle, .. } => {
                *idle = if wanted {
                    None
                } else {
                    idle.or(Some(Instant::now()))
                };
            }
        }
    }

    fn unfollow_when_idle(&mut self) {
        let Following::Yes {
            idle: Some(since), ..
        } = self.services
        else {
            return;
        };
        if since.elapsed() < LINGER {
            return;
        }
        tracing::info!("no pod of this node is enabled: Services are not followed any more");
        self.services = Following::No;
        // What they told last belongs to the past.
        while self.news.try_recv().is_ok_and(|news| {
            if matches!(news, News::Namespace(_) | News::Node(_) | News::Pod(_)) {
                self.state.take_up(news);
            }
            true
        }) {}
        self.failing
            .retain(|kind, _| matches!(kind, Kind::Namespaces | Kind::Nodes | Kind::Pods));
        self.state.forget_services();
        self.state.settle();
        self.desired.send_replace(Arc::new(self.state.desired().clone()));
        self.snapshot.as_mut().map(Keeper::changed);
    }
}

fn keeper(options: &Options) -> Option<Keeper> {
    match Place::new(&options.run_dir, &options.node) {
        Ok(place) => Some(Keeper::new(place)),
        Err(error) => {
            tracing::warn!(%error, "no snapshot can be kept: it is not known which boot this is");
            None
        }
    }
}

/// A collection to be followed.
struct Follower<'a> {
    api: &'a Api,
    tell: &'a mpsc::Sender<News>,
    collection: Collection,
    selector: String,
}

impl Follower<'_> {
    fn start<R: wire::Resource>(self, followers: &mut JoinSet<()>, wrap: fn(Told<R>) -> News) {
        let reflector = Reflector {
            api: self.api.clone(),
            collection: self.collection,
            selector: self.selector,
            tell: self.tell.clone(),
            wrap,
        };
        followers.spawn(reflector.run());
    }
}
