//! Which endpoints a client pod uses: rendezvous hashing (Thaler and Ravishankar, 1998).
//!
//! Every pod ranks all endpoints by a hash of its own seed and the endpoint's identity, and uses the first of its
//! ranking. When an endpoint leaves, the next in rank takes its place and nothing else moves; pods rank differently, so
//! every endpoint has about as many pods, and pods begin their rounds with different endpoints.

use super::{Endpoint, State};
use crate::rng::mix;

/// The indices of `endpoints` in the order in which the pod with this seed prefers them: ready ones before draining ones.
pub(super) fn rank(endpoints: &[Endpoint], seed: u64) -> Vec<usize> {
    let mut ranked: Vec<(bool, u64, usize)> = endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| (endpoint.state == State::Draining, score(endpoint, seed), index))
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, index)| index).collect()
}

/// An even hash of (seed, id, address).
fn score(endpoint: &Endpoint, seed: u64) -> u64 {
    let mut hash = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
    for chunk in endpoint.id.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word));
    }
    let (ip, length) = match endpoint.address.ip() {
        std::net::IpAddr::V4(ip) => (u128::from(u32::from(ip)), 4),
        std::net::IpAddr::V6(ip) => (u128::from(ip), 16),
    };
    hash = mix(hash ^ (ip as u64) ^ length);
    hash = mix(hash ^ ((ip >> 64) as u64));
    mix(hash ^ u64::from(endpoint.address.port()) ^ ((endpoint.id.len() as u64) << 32))
}
