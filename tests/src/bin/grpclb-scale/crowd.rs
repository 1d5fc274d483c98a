//! Many nodes' agents, as the API server sees them: they ask for what an agent asks for, read the answers and keep nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::task::JoinSet;

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
const WATCH: &str = "watch=1&allowWatchBookmarks=true&timeoutSeconds=600&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";

/// Nothing more came for so long: the first lists are read.
const QUIET: Duration = Duration::from_secs(3);

/// Agents that are connected. They go when this does.
#[derive(Debug)]
pub(crate) struct Crowd {
    bytes: Arc<AtomicU64>,
    watches: JoinSet<Result<()>>,
}

impl Crowd {
    /// Connects `count` agents, each with connections of its own; returns when all have read their first lists.
    pub(crate) async fn connect(kubeconfig: &Path, count: u32) -> Result<Self> {
        let bytes = Arc::new(AtomicU64::new(0));
        let mut watches = JoinSet::new();
        for _ in 0..count {
            let client = crate::client(kubeconfig).await?;
            for (accept, path) in REQUESTS {
                let path = format!("{}{WATCH}", path.replace("NODE", "node1"));
                watches.spawn(watch(client.clone(), accept, path, Arc::clone(&bytes)));
            }
        }
        let mut crowd = Self { bytes, watches };
        crowd.quiet().await?;
        Ok(crowd)
    }

    /// How much all of them have read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until nothing comes any more.
    pub(crate) async fn quiet(&mut self) -> Result<()> {
        let (mut known, mut since) = (self.bytes(), Instant::now());
        while known == 0 || since.elapsed() < QUIET {
            tokio::select! {
                Some(ended) = self.watches.join_next() => bail!("a watch has ended: {ended:?}"),
                () = tokio::time::sleep(QUIET / 10) => {}
            }
            if self.bytes() != known {
                (known, since) = (self.bytes(), Instant::now());
            }
        }
        Ok(())
    }
}

async fn watch(client: kube::Client, accept: &str, path: String, bytes: Arc<AtomicU64>) -> Result<()> {
    let request = http::Request::get(&path)
        .header(http::header::ACCEPT, accept)
        .body(Body::empty())?;
    let answer = client.send(request).await.with_context(|| path.clone())?;
    if !answer.status().is_success() {
        bail!("{path}: {}", answer.status());
    }
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}
