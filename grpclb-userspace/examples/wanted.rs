//! Prints what a node's agent would want, as the Kubernetes API tells it, and each change. It steers nothing.
//!
//! `cargo run --example wanted -- NODE [KUBECONFIG]`

use std::path::PathBuf;
use std::time::Instant;

use grpclb_userspace::control::{self, Source, kubernetes};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), control::Error> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let options = kubernetes::Options {
        node: arguments.next().unwrap_or_default(),
        kubeconfig: arguments.next().map(PathBuf::from),
        run_dir: std::env::temp_dir(),
    };
    let start = Instant::now();
    let mut watch = control::watch(&Source::Kubernetes(options))?;
    let full = std::env::var_os("FULL").is_some();
    while watch.desired.changed().await.is_ok() {
        let wanted = watch.desired.borrow_and_update().clone();
        let health = watch.health.borrow().clone();
        let endpoints: usize = wanted.services.values().map(|port| port.endpoints.len()).sum();
        let rss = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss = rss
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap_or_default();
        println!(
            "{:?}: {} Service ports, {endpoints} endpoints, {} pods; left alone {} and {}; synced {}; {rss}",
            start.elapsed(),
            wanted.services.len(),
            wanted.pods.len(),
            wanted.left_alone.services.len(),
            wanted.left_alone.pods.len(),
            health.synced
        );
        if full {
            println!("{wanted:#?}");
        }
    }
    Ok(())
}
