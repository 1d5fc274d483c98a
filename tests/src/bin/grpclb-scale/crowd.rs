//! Many nodes' agents, as the API server sees them: they ask for what an agent asks for, read the answers and keep nothing.
//! As an agent does, they go on where a watch has ended, which a server may do at any time.

mod frames;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http::StatusCode;
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::task::JoinSet;

use frames::{Expired, Progress};

/// Accepted answers, and what is asked for: an agent's requests (`control/kubernetes` in grpclb-userspace) on a node that
/// has an enabled pod. `NODE` becomes the node's name.
const REQUESTS: [(&str, &str); 5] = [
    (METADATA, "/api/v1/namespaces?"),
    (METADATA, "/api/v1/nodes?fieldSelector=metadata.name%3DNODE&"),
    (WHOLE, "/api/v1/pods?fieldSelector=spec.nodeName%3DNODE&"),
    (WHOLE, "/api/v1/services?"),
    (
        WHOLE,
        "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name&",
    ),
];
const WHOLE: &str = "application/vnd.kubernetes.protobuf";
const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const WATCH: &str = "watch=1&allowWatchBookmarks=true&timeoutSeconds=600&";
const LIST_FIRST: &str = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";

/// Nothing more came for so long: all is told.
const QUIET: Duration = Duration::from_secs(3);
/// Until a watch that has ended is asked for again, at first and at most: it doubles with each try that brought nothing.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// So many tries in a row that brought nothing, and the run fails.
const REFUSALS: u32 = 10;

/// Agents that are connected. They go when this does.
#[derive(Debug)]
pub(crate) struct Crowd {
    counts: Arc<Counts>,
    watches: JoinSet<anyhow::Error>,
}

/// What all of them have seen together.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    /// Lists that are under way.
    listing: AtomicU64,
    /// Watches that the server has ended, and those of them that had no version to go on from.
    ended: AtomicU64,
    listed_anew: AtomicU64,
}

impl Crowd {
    /// Connects `count` agents, each with connections of its own; returns when all have read their first lists.
    pub(crate) async fn connect(kubeconfig: &Path, count: u32) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let mut watches = JoinSet::new();
        for _ in 0..count {
            let client = crate::client(kubeconfig).await?;
            for (accept, path) in REQUESTS {
                let watch = Watch {
                    client: client.clone(),
                    accept,
                    path: format!("{}{WATCH}", path.replace("NODE", "node1")),
                    counts: Arc::clone(&counts),
                };
                counts.listing.fetch_add(1, Ordering::Relaxed);
                watches.spawn(watch.follow());
            }
        }
        let mut crowd = Self { counts, watches };
        crowd.quiet().await?;
        Ok(crowd)
    }

    /// How much all of them have read.
    pub(crate) fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn watches(&self) -> u64 {
        self.watches.len() as u64
    }

    /// How often the server has ended one of them.
    pub(crate) fn ended(&self) -> u64 {
        self.counts.ended.load(Ordering::Relaxed)
    }

    /// How often there was no version to go on from then: the list was read from its start again.
    pub(crate) fn listed_anew(&self) -> u64 {
        self.counts.listed_anew.load(Ordering::Relaxed)
    }

    /// Waits until every list is whole and nothing comes any more.
    pub(crate) async fn quiet(&mut self) -> Result<()> {
        let (mut known, mut since) = (self.bytes(), Instant::now());
        while self.counts.listing.load(Ordering::Relaxed) > 0 || since.elapsed() < QUIET {
            tokio::select! {
                Some(ended) = self.watches.join_next() => bail!("{:#}", ended?),
                () = tokio::time::sleep(QUIET / 10) => {}
            }
            if self.bytes() != known {
                (known, since) = (self.bytes(), Instant::now());
            }
        }
        Ok(())
    }
}

/// One collection, as one agent follows it.
struct Watch {
    client: kube::Client,
    accept: &'static str,
    path: String,
    counts: Arc<Counts>,
}

impl Watch {
    /// Goes on for ever; returns why it cannot.
    async fn follow(self) -> anyhow::Error {
        let (mut progress, mut in_vain) = (Progress::default(), 0);
        loop {
            let from = progress.version.clone();
            let error = self.once(&mut progress).await.err();
            in_vain = if progress.version == from { in_vain + 1 } else { 1 };
            if let Some(error) = &error
                && error.is::<Expired>()
                && !progress.version.is_empty()
            {
                progress = Progress::default();
                self.counts.listing.fetch_add(1, Ordering::Relaxed);
            }
            if in_vain > REFUSALS {
                let error = error.unwrap_or_else(|| anyhow::anyhow!("the server ends it"));
                return error.context(format!("{}: {REFUSALS} tries in a row were in vain", self.path));
            }
            self.counts.ended.fetch_add(1, Ordering::Relaxed);
            if progress.version.is_empty() {
                self.counts.listed_anew.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep((PAUSE * 2_u32.pow(in_vain - 1)).min(LONGEST_PAUSE)).await;
        }
    }

    /// From where it stands until the server ends it.
    async fn once(&self, progress: &mut Progress) -> Result<()> {
        progress.goes_on();
        let path = match &*progress.version {
            "" => format!("{}{LIST_FIRST}", self.path),
            version => format!("{}resourceVersion={version}", self.path),
        };
        let request = http::Request::get(&path)
            .header(http::header::ACCEPT, self.accept)
            .body(Body::empty())?;
        let answer = self.client.send(request).await.with_context(|| path.clone())?;
        match answer.status() {
            StatusCode::GONE => return Err(Expired.into()),
            status if !status.is_success() => bail!("{path}: {status}"),
            _ => {}
        }
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame?.into_data() else { continue };
            self.counts.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            let listing = progress.version.is_empty();
            progress.read(&piece)?;
            if listing && !progress.version.is_empty() {
                self.counts.listing.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
