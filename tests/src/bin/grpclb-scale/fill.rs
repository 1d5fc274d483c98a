//! Ten thousand Services and a hundred thousand endpoints in a real API server. No pod stands behind them: the Services
//! have no selector, the slices are written as the endpoint slice controller would.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Client;
use serde_json::{Value, json};

/// The namespace that holds all of it; deleting it removes everything.
pub(crate) const NAMESPACE: &str = "grpclb-scale";

/// Requests under way at once: more only queue in etcd.
const CONCURRENCY: u32 = 32;

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) services: u32,
    pub(crate) endpoints_each: u32,
}

/// Makes what is missing, tells how far it is, and returns how long it took.
pub(crate) async fn fill(
    client: &Client,
    size: Size,
    progress: impl Fn(u32) + Send + Sync + 'static,
) -> Result<Duration> {
    let started = Instant::now();
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    create(client, "/api/v1/namespaces", &body).await?;
    let (next, progress) = (Arc::new(AtomicU32::new(0)), Arc::new(progress));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (client, next, progress) = (client.clone(), Arc::clone(&next), Arc::clone(&progress));
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= size.services {
                    return Ok(());
                }
                let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
                create(&client, &services, &service(number)).await?;
                let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
                create(&client, &slices, &slice(number, size.endpoints_each, 0)).await?;
                progress(number + 1);
            }
        });
    }
    while let Some(outcome) = workers.join_next().await {
        let outcome: Result<()> = outcome?;
        outcome?;
    }
    Ok(started.elapsed())
}

/// Puts other endpoints into one Service's slice; `version` tells one set from the next.
pub(crate) async fn change(client: &Client, number: u32, endpoints: u32, version: u32) -> Result<()> {
    let name = name(number);
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{name}");
    let body = serde_json::to_vec(&slice(number, endpoints, version))?;
    let request = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(body)?;
    let _: Value = client.request(request).await?;
    Ok(())
}

/// Removes everything and waits until it has gone.
pub(crate) async fn clear(client: &Client) -> Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}");
    let request = http::Request::delete(&path).body(Vec::new())?;
    match client.request::<Value>(request).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        outcome => outcome.map(drop).context("deleting the namespace")?,
    }
    loop {
        let request = http::Request::get(&path).body(Vec::new())?;
        match client.request::<Value>(request).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            outcome => outcome.map(drop)?,
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A Service's name, and its slice's.
pub(crate) fn name(number: u32) -> String {
    format!("service-{number:05}")
}

async fn create(client: &Client, path: &str, body: &Value) -> Result<()> {
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(body)?)?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        // Of an earlier run: it is there, which is all that is wanted.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("POST {path}")),
    }
}

fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name(number)},
        "spec": {"ports": [{"name": "grpc", "port": 50051, "appProtocol": "kubernetes.io/h2c"}]},
    })
}

fn slice(number: u32, endpoints: u32, version: u32) -> Value {
    let endpoint = |index: u32| {
        json!({
            "addresses": [address(number * endpoints + index, version)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node{}", index % 100),
            "zone": format!("zone-{}", index % 3),
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("pod-{number}-{index}-{version}"), "uid": uid(number, index, version)},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name(number),
            "labels": {"kubernetes.io/service-name": name(number), "endpointslice.kubernetes.io/managed-by": "grpclb-scale"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": 50051, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

/// In 172.16.0.0/12, which no pod or Service of the cluster has; each version has addresses of its own.
fn address(number: u32, version: u32) -> Ipv4Addr {
    let first = u32::from(Ipv4Addr::new(172, 16, 0, 1));
    Ipv4Addr::from(first + (number + version * 200_000) % 0x000f_fff0)
}

/// As long as a real one.
fn uid(number: u32, index: u32, version: u32) -> String {
    format!(
        "{number:08x}-{index:04x}-4{:03x}-8000-{:012x}",
        version & 0xfff,
        u64::from(number) << 16 | u64::from(index)
    )
}
