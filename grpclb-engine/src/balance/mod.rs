//! Which endpoint a call goes to: policies, weights, the subset of a client pod, and backoff of failed endpoints.
//!
//! Values ([`Service`], [`Endpoint`], [`Policy`]) come from the control plane as immutable snapshots. A [`Picker`] holds
//! the state of one (client pod, Service): picks are shared by all connections of that pod, so that a client that makes
//! a connection for every call is spread as evenly as one that keeps a single connection.
//!
//! Not here: connections and queues. The splitter tells the picker which endpoints are connected when it asks.

mod backoff;
mod load;
mod member;
mod members;
mod picker;
mod policy;
mod subset;

use std::net::SocketAddr;
use std::sync::Arc;

pub use backoff::Backoff;
pub use load::Load;
pub use member::{Member, MemberKey};
pub use picker::{Choice, Picker, Standing};
pub use policy::{Policy, UnknownPolicy};

/// One port of one Service as one client pod balances over it; an immutable snapshot that is swapped as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// For people: error messages and status, `namespace/name:port`.
    pub name: Arc<str>,
    pub policy: Policy,
    /// How many endpoints one client pod uses at most; at least 1; 20 unless the Service says another.
    pub subset: usize,
    /// Upstream connections belong to one client connection instead of the whole pod.
    pub per_connection: bool,
    pub endpoints: Arc<[Endpoint]>,
}

/// One backend. Its identity is (id, address): a new pod that was given an old address is another endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's UID, or an id of the operator's choosing.
    pub id: Arc<str>,
    pub address: SocketAddr,
    /// Relative share of the calls, 1 to 65,535; zero counts as 1.
    pub weight: u32,
    pub state: State,
}

impl Endpoint {
    /// Whether both are the same backend, whatever their weights and states.
    pub fn is_same(&self, other: &Self) -> bool {
        self.address == other.address && self.id == other.id
    }
}

/// What the control plane says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Ready,
    /// Gets new streams only while no endpoint is ready; those it has run on.
    Draining,
}
