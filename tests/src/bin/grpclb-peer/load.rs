//! A steady load of unary calls: a number of them, or until standard input ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tonic::{Request, Status};

use crate::client::{Client, Tally, client, endpoint, pattern};
use crate::probe::Call;

/// A progress line is printed each so many calls.
const PROGRESS: u64 = 100;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    #[arg(long)]
    target: SocketAddr,
    /// 0: until standard input ends.
    #[arg(long)]
    calls: u64,
    #[arg(long)]
    concurrency: u32,
    #[arg(long)]
    connections: u32,
    #[arg(long)]
    deadline_ms: u64,
    #[arg(long)]
    delay_ms: u32,
    /// Calls begun a second; 0: each as another one ends.
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

#[derive(Default)]
struct Found {
    tally: Tally,
    errors: BTreeMap<String, u64>,
    messages: Vec<String>,
    latencies: Vec<Duration>,
}

impl Found {
    /// The latency in milliseconds that all but 1 of `calls` did not exceed: 100 for the 99th percentile.
    fn slowest_but_one_of(&mut self, calls: usize) -> f64 {
        self.latencies.sort_unstable();
        let above = self.latencies.len() / calls + 1;
        let at = self.latencies.len().checked_sub(above);
        let latency = at.and_then(|at| self.latencies.get(at).copied());
        latency.unwrap_or_default().as_secs_f64() * 1000.0
    }
}

#[derive(Default)]
struct Run {
    next: AtomicU64,
    ended: AtomicU64,
    enough: AtomicBool,
    found: Mutex<Found>,
}

pub(crate) async fn run(plan: Plan) -> anyhow::Result<()> {
    let run = Arc::new(Run::default());
    if plan.calls == 0 {
        let run = Arc::clone(&run);
        tokio::spawn(async move {
            let mut ignored = [0; 64];
            while tokio::io::stdin()
                .read(&mut ignored)
                .await
                .is_ok_and(|count| count > 0)
            {}
            run.enough.store(true, Ordering::Relaxed);
        });
    }
    let clients = (0..plan.connections)
        .map(|_| Ok(client(endpoint(plan.target)?.connect_lazy())))
        .collect::<anyhow::Result<Vec<Client>>>()?;
    let (mut callers, begun) = (JoinSet::new(), Instant::now());
    for caller in 0..plan.concurrency {
        let client = clients[caller as usize % clients.len()].clone();
        callers.spawn(call_until_enough(client, plan.clone(), begun, Arc::clone(&run)));
    }
    while callers.join_next().await.is_some() {}

    let mut found = run.found.lock().unwrap_or_else(PoisonError::into_inner);
    let (p99, slowest) = (
        found.slowest_but_one_of(100),
        found.slowest_but_one_of(usize::MAX),
    );
    let outcome = json!({
        "scenario": "load", "language": "rust", "ok": true, "calls": run.ended.load(Ordering::Relaxed),
        "per_backend": found.tally.per_backend, "peers": found.tally.peers,
        "errors": found.errors, "messages": found.messages, "max_ms": slowest, "p99_ms": p99,
    });
    println!("{outcome}");
    Ok(())
}

async fn call_until_enough(mut client: Client, plan: Plan, begun: Instant, run: Arc<Run>) {
    loop {
        let number = run.next.fetch_add(1, Ordering::Relaxed);
        if run.enough.load(Ordering::Relaxed) || (plan.calls > 0 && number >= plan.calls) {
            return;
        }
        let mut started = Instant::now();
        if plan.rate > 0 {
            // A call that begins late, since all callers waited, has waited too.
            started = begun + Duration::from_secs_f64(number as f64 / f64::from(plan.rate));
            tokio::time::sleep_until(started.into()).await;
        }
        let result = one_call(&mut client, &plan, number).await;
        let slept = {
            let mut found = run.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.latencies.push(started.elapsed());
            note(&mut found, result)
        };
        let ended = run.ended.fetch_add(1, Ordering::Relaxed) + 1;
        if ended.is_multiple_of(PROGRESS) {
            println!("{{\"progress\":{ended}}}");
        }
        if slept {
            // A path that refuses at once must not be asked ten thousand times a second.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn one_call(client: &mut Client, plan: &Plan, number: u64) -> Result<Tally, Status> {
    let id = format!("load-{}-{number}", std::process::id());
    let payload = pattern(number, 100);
    let call = Call {
        id: id.clone(),
        payload: payload.clone(),
        delay_ms: plan.delay_ms,
        ..Call::default()
    };
    let mut request = Request::new(call);
    let deadline = Duration::from_millis(plan.deadline_ms);
    request.set_timeout(deadline);
    // tonic's own deadline covers a call only up to the head of its response; what comes after may take for ever.
    let reply = tokio::time::timeout(deadline, client.unary(request))
        .await
        .map_err(|_| Status::deadline_exceeded("the whole call took too long"))??
        .into_inner();
    if reply.payload != payload {
        return Err(Status::data_loss(format!("{id}: other bytes came back")));
    }
    let mut tally = Tally::default();
    tally
        .add(&id, &reply)
        .map_err(|error| Status::data_loss(error.to_string()))?;
    Ok(tally)
}

/// Counts one result; true when it was an error.
fn note(found: &mut Found, result: Result<Tally, Status>) -> bool {
    match result {
        Ok(tally) => {
            for (backend, calls) in tally.per_backend {
                *found.tally.per_backend.entry(backend).or_default() += calls;
            }
            found.tally.peers.extend(tally.peers);
            false
        }
        Err(status) => {
            *found.errors.entry(format!("{:?}", status.code())).or_default() += 1;
            let cause = std::error::Error::source(&status).map(|cause| format!(" ({cause:?})"));
            let message = format!(
                "{:?}: {}{}",
                status.code(),
                status.message(),
                cause.unwrap_or_default()
            );
            if found.messages.len() < 5 && !found.messages.contains(&message) {
                found.messages.push(message);
            }
            true
        }
    }
}
