//! One endpoint that a client pod knows: what it is owed, how loaded it is, and whether it is out. Whose turn it is, the
//! [`Picker`](super::Picker) decides.

use super::{Backoff, Endpoint, Load};
use crate::time::Time;

/// The rank of an endpoint that the snapshot does not have any more, or that drains beside ready ones.
pub(super) const UNRANKED: u32 = u32::MAX;

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

/// The use that a picker makes of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It may be picked.
    Picked,
    /// It belongs to the subset but has failed, or takes long to connect.
    Out,
    /// It is beyond the subset, or not in the snapshot any more: no new calls. Its state is kept.
    Resting,
}

/// An endpoint that this client pod uses or has used.
#[derive(Clone, Debug)]
pub struct Member {
    pub(super) endpoint: Endpoint,
    /// Its place in this pod's ranking of the snapshot.
    pub(super) rank: u32,
    pub(super) used: Use,
    /// Its dial has taken longer than others should wait for; until when it may still take.
    pub(super) slow_until: Option<Time>,
    /// It is dialled ahead of its time: a failure says nothing new.
    pub(super) probed: bool,
    /// Smooth weighted round robin: what this endpoint is owed, in units of weight.
    pub(super) credit: i64,
    pub(super) backoff: Backoff,
    pub(super) load: Load,
    pub(super) picks: u64,
    pub(super) errors: u64,
    pub(super) opaque: u32,
}

impl Member {
    pub(super) fn new(endpoint: Endpoint, rank: u32) -> Self {
        Self {
            endpoint,
            rank,
            used: Use::Resting,
            slow_until: None,
            probed: false,
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

    /// Until when the endpoint is out of the pick, if it is: it has failed, or its dial takes long.
    pub fn out_until(&self, now: Time) -> Option<Time> {
        let slow = self.slow_until.filter(|&until| now < until);
        slow.max(self.backoff.until(now))
    }

    /// Its dial is under way and has taken longer than calls should wait for while there are others.
    pub(super) fn is_slow(&self, now: Time) -> bool {
        self.slow_until.is_some_and(|until| now < until)
    }

    /// Nothing speaks against it: it has not failed, or has been connected since.
    pub(super) fn is_sound(&self) -> bool {
        self.slow_until.is_none() && !self.backoff.is_suspect()
    }

    pub(super) fn weight(&self) -> u32 {
        self.endpoint.weight.max(1)
    }
}
