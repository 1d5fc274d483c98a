//! The Kubernetes API as a source, run within a test.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use grpclb_tests::agents::snapshot_has;
use grpclb_tests::cluster::{Cluster, PATIENCE};
use grpclb_userspace::control::{self, Health, Source, kubernetes};
use grpclb_userspace::model::Desired;

/// The source of one node.
pub struct OnNode {
    pub watch: control::Watch,
}

impl OnNode {
    /// One that keeps its snapshot in this directory.
    pub fn new(cluster: &Cluster, node: &str, directory: &Scratch) -> Self {
        let options = kubernetes::Options {
            node: node.to_owned(),
            kubeconfig: Some(cluster.kubeconfig()),
            run_dir: directory.0.clone(),
        };
        Self {
            watch: control::watch(&Source::Kubernetes(options)).unwrap(),
        }
    }

    pub async fn health(&mut self, what: &str, until: impl Fn(&Health) -> bool) {
        let reached = self.watch.health.wait_for(|health| until(health));
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{what}: not in time");
    }

    pub async fn wait(
        &mut self,
        patience: Duration,
        mut until: impl FnMut(&Desired) -> bool,
    ) -> Arc<Desired> {
        let reached = self.watch.desired.wait_for(|desired| until(desired));
        tokio::time::timeout(patience, reached)
            .await
            .expect("in time")
            .unwrap()
            .clone()
    }
}

/// A directory that goes with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Waits until a snapshot is here that has all of these.
    pub async fn until_kept(&self, texts: Vec<String>) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let kept = std::fs::read(self.0.join("kubernetes.snapshot")).unwrap_or_default();
            if texts.iter().all(|text| snapshot_has(&kept, text)) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no snapshot has {texts:?}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub fn new(node: &str) -> Self {
        let path = std::env::temp_dir().join(format!("grpclb-cluster-source-{node}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
