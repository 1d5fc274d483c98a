//! Everything at once: calls, cancels, clients that vanish, backends that die and are replaced. Afterwards every call is
//! accounted for and nothing is left over.

use std::time::{Duration, Instant};

use bytes::Bytes;
use grpclb_engine::rng::Rng;
use grpclb_userspace::model::Protocol;

use crate::h2_peers::{Client, Echo, send};
use crate::rig::{Rig, SLOT};

const LASTS: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storm_every_call_has_ended_in_one_way_and_nothing_is_held() {
    let rig = Rig::start();
    let mut backends = vec![
        Echo::start("a").await,
        Echo::start("b").await,
        Echo::start("c").await,
    ];
    serve(&rig, &backends);
    let until = Instant::now() + LASTS;
    let mut clients = tokio::task::JoinSet::new();
    for seed in 0..8 {
        let address = (crate::rig::address_of(SLOT), rig.port);
        clients.spawn(client(address.into(), Rng::seeded(seed), until));
    }
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(150)).await;
        drop(backends.remove(0)); // its connections break, whatever runs on them
        backends.push(Echo::start("next").await);
        serve(&rig, &backends);
    }
    while let Some(client) = clients.join_next().await {
        client.expect("a client's task");
    }
    rig.until("nothing is held", |pod| {
        let idle = |endpoint: &grpclb_userspace::data::EndpointStatus| endpoint.streams == 0;
        pod.client_connections == 0
            && pod
                .services
                .iter()
                .all(|service| service.waiting == 0 && service.endpoints.iter().all(idle))
    })
    .await;
    let status = rig.status().await;
    assert_eq!(status.buffered, 0, "bytes of calls that have ended");
    let count = |name: &str| {
        status
            .counters
            .iter()
            .find(|(counter, _)| counter == name)
            .map_or(0, |(_, count)| *count)
    };
    let ends = [
        "completed",
        "cancelled",
        "unavailable",
        "refused",
        "broken",
        "oversized",
        "reset_by_backend",
    ];
    assert!(count("completed") > 100, "{:?}", status.counters);
    assert_eq!(
        count("calls"),
        ends.iter().map(|end| count(end)).sum::<u64>(),
        "{:?}",
        status.counters
    );
}

fn serve(rig: &Rig, backends: &[Echo]) {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    rig.serve(SLOT, Protocol::Http2, &addresses);
}

/// Connects again and again; on each connection some calls at once, some of which are given up half-way.
async fn client(address: std::net::SocketAddr, mut random: Rng, until: Instant) {
    while Instant::now() < until {
        let stream = tokio::net::TcpStream::connect(address).await.expect("accepted");
        let client = Client::over(stream).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (requests, length) = (client.requests.clone(), random.below(100_000) as usize);
            let given_up = random.below(4) == 0;
            calls.spawn(async move {
                let request = http::Request::post("http://service/test.Echo/Call")
                    .body(())
                    .expect("a request");
                let (response, mut to) = requests.ready().await.ok()?.send_request(request, false).ok()?;
                send(&mut to, Bytes::from(vec![7; length])).await.ok()?;
                if given_up {
                    return None; // dropped, which resets the stream
                }
                to.send_data(Bytes::new(), true).ok()?;
                let mut from = response.await.ok()?.into_body();
                while let Some(chunk) = from.data().await {
                    from.flow_control().release_capacity(chunk.ok()?.len()).ok()?;
                }
                Some(())
            });
        }
        let vanishes = random.below(8) == 0;
        while !vanishes && calls.join_next().await.is_some() {}
        client.connection.abort();
    }
}
