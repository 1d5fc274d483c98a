//! One endpoint in use by a client pod: what it is owed, how loaded it is, and whether it is out. Whose turn it is, the
//! [`Picker`](super::Picker) decides.

use super::{Backoff, Endpoint, Load};

/// Names a member of one picker; a key of a member that has left names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl MemberKey {
    /// A small number, unique among the members there are at one time: for tables beside the picker.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// An endpoint in use by this client pod.
#[derive(Clone, Debug)]
pub struct Member {
    pub(super) endpoint: Endpoint,
    /// Smooth weighted round robin: what this endpoint is owed, in units of weight.
    pub(super) credit: i64,
    pub(super) backoff: Backoff,
    pub(super) load: Load,
    pub(super) picks: u64,
    pub(super) errors: u64,
    pub(super) opaque: u32,
}

impl Member {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            credit: 0,
            backoff: Backoff::default(),
            load: Load::default(),
            picks: 0,
            errors: 0,
            opaque: 0,
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub fn backoff(&self) -> &Backoff {
        &self.backoff
    }

    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Calls given to this endpoint so far.
    pub fn picks(&self) -> u64 {
        self.picks
    }

    /// Calls that it lost or reset.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Opaque connections in flight.
    pub fn opaque(&self) -> u32 {
        self.opaque
    }

    pub(super) fn weight(&self) -> u32 {
        self.endpoint.weight.max(1)
    }
}
