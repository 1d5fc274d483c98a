//! Totals of one pod's splitter, each with a name for people.

use super::calls::Outcome;
use crate::connection::{Limit, Role};

/// Counters that only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that clients began.
    pub calls: u64,
    /// Calls whose response came to its end.
    pub completed: u64,
    /// Calls that the client reset, or whose connection it left.
    pub cancelled: u64,
    /// Calls that were sent again, which nobody had run.
    pub replayed: u64,
    /// Calls handed back with `REFUSED_STREAM`: nobody had run them, and they could not be sent again, or too many cancelled
    /// calls of the pod waited for their resets.
    pub refused: u64,
    /// Calls that we answered with UNAVAILABLE (or 503).
    pub unavailable: u64,
    /// Calls whose header list was too long.
    pub oversized: u64,
    /// Responses that broke off after their headers.
    pub broken: u64,
    /// Calls that backends reset, the code relayed.
    pub reset_by_backend: u64,
    /// Calls that were ended since the pod held more than its share of memory, and they much of it.
    pub out_of_memory: u64,
    /// Streams that were refused since the pod held its share of memory (counted as refused, too).
    pub refused_for_memory: u64,
    /// Calls that had to wait for a connection.
    pub queued: u64,
    /// Calls that found the queue full (counted as unavailable, too).
    pub queue_full: u64,
    /// Requests whose body outgrew what is kept for another try.
    pub replay_given_up: u64,
    /// Clients' connections that were reset since the pod held more than its share of memory.
    pub clients_refused: u64,
    pub clients_opened: u64,
    pub clients_closed: u64,
    pub dials: u64,
    pub dials_failed: u64,
    /// Connections to backends that ended without GOAWAY, or with an error.
    pub upstreams_lost: u64,
    /// GOAWAYs of backends.
    pub goaways: u64,
    /// Connections that were opened since another one's window was used up.
    pub stalls: u64,
    /// Connections that were closed to end cancelled calls: nothing else was on them, and their resets had to wait.
    pub closed_for_resets: u64,
    /// Keepalive PINGs that we sent for clients.
    pub pings_relayed: u64,
    /// Connections whose credit was held back for want of memory.
    pub credit_held: u64,
    /// Clients' connections that ended by a limit.
    pub client_limits: [u64; Limit::COUNT],
    /// Backends' connections that ended by a limit.
    pub backend_limits: [u64; Limit::COUNT],
}

impl Stats {
    /// Counts the result of one call.
    pub(super) fn count(&mut self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::Cancelled(_) => &mut self.cancelled,
            Outcome::ResetByBackend => &mut self.reset_by_backend,
            Outcome::Refused => &mut self.refused,
            Outcome::Unavailable => &mut self.unavailable,
            Outcome::Oversized => &mut self.oversized,
            Outcome::Broken => &mut self.broken,
            Outcome::OutOfMemory => &mut self.out_of_memory,
        };
        *counter += 1;
    }

    /// Every counter with its name; a limit's is followed by who reached it, where such a peer can.
    pub fn iter(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let limits = |who: &'static str, peer: Role, counts: &[u64; Limit::COUNT]| {
            let counts = *counts;
            Limit::ALL
                .into_iter()
                .filter(move |limit| limit.concerns(peer))
                .map(move |limit| (format!("limit_{}_{who}", limit.name()), counts[limit as usize]))
        };
        self.named()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .chain(limits("client", Role::Client, &self.client_limits))
            .chain(limits("backend", Role::Server, &self.backend_limits))
    }

    /// The counters but for limits.
    pub fn named(&self) -> [(&'static str, u64); 25] {
        [
            ("calls", self.calls),
            ("completed", self.completed),
            ("cancelled", self.cancelled),
            ("replayed", self.replayed),
            ("refused", self.refused),
            ("unavailable", self.unavailable),
            ("oversized", self.oversized),
            ("broken", self.broken),
            ("reset_by_backend", self.reset_by_backend),
            ("out_of_memory", self.out_of_memory),
            ("refused_for_memory", self.refused_for_memory),
            ("queued", self.queued),
            ("queue_full", self.queue_full),
            ("replay_given_up", self.replay_given_up),
            ("clients_refused", self.clients_refused),
            ("clients_opened", self.clients_opened),
            ("clients_closed", self.clients_closed),
            ("dials", self.dials),
            ("dials_failed", self.dials_failed),
            ("upstreams_lost", self.upstreams_lost),
            ("goaways", self.goaways),
            ("stalls", self.stalls),
            ("closed_for_resets", self.closed_for_resets),
            ("pings_relayed", self.pings_relayed),
            ("credit_held", self.credit_held),
        ]
    }
}
