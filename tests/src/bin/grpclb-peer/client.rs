//! A tonic channel of exactly one connection, and what is counted about the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::{Channel, Endpoint};

use crate::probe::Reply;
use crate::probe::probe_client::ProbeClient;
use crate::{MAX_HEADER_LIST, MAX_MESSAGE};

pub(crate) type Client = ProbeClient<Channel>;

pub(crate) fn endpoint(target: SocketAddr) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{target}"))?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(10))
        .http2_max_header_list_size(MAX_HEADER_LIST))
}

pub(crate) async fn connect(target: SocketAddr) -> Result<Client> {
    Ok(client(endpoint(target)?.connect().await?))
}

pub(crate) fn client(channel: Channel) -> Client {
    // grpcio and grpc-js servers that compress do so for every client.
    ProbeClient::new(channel)
        .accept_compressed(Gzip)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// Who answered how often, seen from whom.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    pub(crate) per_backend: BTreeMap<String, u64>,
    pub(crate) peers: BTreeSet<String>,
}

impl Tally {
    /// Counts a call by its (first) reply, which must be for the call `id`.
    pub(crate) fn add(&mut self, id: &str, reply: &Reply) -> Result<()> {
        ensure!(reply.id == id, "asked as {id}, answered as {}", reply.id);
        self.calls += 1;
        *self.per_backend.entry(reply.backend.clone()).or_default() += 1;
        self.peers.insert(reply.peer.clone());
        Ok(())
    }
}

/// Bytes that differ from call to call and along the payload.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}
