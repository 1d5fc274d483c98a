//! The calls of one pod: the one owner of their records, and the one place where a call ends, with its [`Outcome`].
//! Other modules look calls up and change them; only this one removes them.

use super::actions::{ClientId, UpstreamId};
use super::arena::{Arena, Key};
use super::call::{Call, Place};
use super::stats::Stats;
use super::{NO_CALL, Splitter, memory};
use crate::Time;
use crate::connection::{StreamKey, Tag};
use crate::frame::ErrorCode;

/// The result of a call, as its client sees it. Every call has exactly one, noted by [`Splitter::conclude`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The backend's response came to its end, whatever its status.
    Completed,
    /// The client reset the call with this code, or its connection ended (`CANCEL`).
    Cancelled(ErrorCode),
    /// The backend reset the call; the client got the same reset.
    ResetByBackend,
    /// `REFUSED_STREAM`: nobody has run the call, and it could not be sent again.
    Refused,
    /// A local reply: UNAVAILABLE, or 503.
    Unavailable,
    /// A local reply: a header list is longer than a limit.
    Oversized,
    /// The response broke off after its headers.
    Broken,
    /// The pod held more than its share of memory, and this call much of it.
    OutOfMemory,
}

/// All calls that are not over, by the key that their streams carry as a tag.
#[derive(Debug)]
pub(super) struct Calls {
    arena: Arena<Call>,
}

impl Calls {
    pub(super) const fn new() -> Self {
        Self { arena: Arena::new() }
    }

    pub(super) fn insert(&mut self, call: Call) -> Key {
        self.arena.insert(call)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Call> {
        self.arena.get(key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Call> {
        self.arena.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Call)> {
        self.arena.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.arena.len()
    }

    /// The call that a stream's tag names.
    pub(super) fn tagged(&self, tag: Tag) -> Option<Key> {
        self.arena.key_at(tag).filter(|_| tag != NO_CALL)
    }

    /// The call whose client stream this is.
    pub(super) fn of_client(&self, id: ClientId, stream: StreamKey, tag: Tag) -> Option<Key> {
        let key = self.tagged(tag)?;
        self.get(key)
            .filter(|call| call.client == id && call.stream == stream)
            .map(|_| key)
    }

    /// The call that is on this stream of a backend's connection.
    pub(super) fn of_upstream(&self, id: UpstreamId, stream: StreamKey, tag: Tag) -> Option<Key> {
        let key = self.tagged(tag)?;
        let here = Place::Sent { upstream: id, stream };
        self.get(key).filter(|call| call.place == here).map(|_| key)
    }

    /// The calls for which `which` holds. Costs a look at every call of the pod.
    pub(super) fn keys_where(&self, which: impl Fn(&Call) -> bool) -> Vec<Key> {
        self.iter()
            .filter(|(_, call)| which(call))
            .map(|(key, _)| key)
            .collect()
    }
}

impl Call {
    /// See [`Splitter::conclude`].
    #[inline]
    pub(super) fn conclude(&mut self, outcome: Outcome, stats: &mut Stats) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
            stats.count(outcome);
        }
    }
}

impl Splitter {
    /// Notes and counts the call's result; the first one stands. The record stays until both ends have said all.
    pub(super) fn conclude(&mut self, key: Key, outcome: Outcome) {
        if let Some(call) = self.calls.get_mut(key) {
            call.conclude(outcome, &mut self.stats);
        }
    }

    /// Ends the call: its backend's stream is reset where it still runs, and all that was held for it is given back.
    /// `outcome` counts unless the call was concluded before.
    pub(super) fn end_call(&mut self, now: Time, key: Key, outcome: Outcome) {
        let Some(call) = self.calls.get_mut(key) else {
            debug_assert!(false, "a call ends once");
            return;
        };
        call.conclude(outcome, &mut self.stats);
        let replay = call.kept.is_whole();
        let code = match outcome {
            Outcome::Cancelled(code) => code,
            _ => ErrorCode::CANCEL,
        };
        match call.place {
            Place::Waiting(_) => self.leave_queue(key),
            Place::Sent { .. } | Place::Nowhere => self.leave_backend(now, key, Some(code)),
        }
        if replay {
            self.discard_replay(key);
        }
        let Some(call) = self.calls.get(key) else {
            debug_assert!(false, "a call ends once");
            return;
        };
        debug_assert!(call.member.is_none(), "a call that is over is nobody's load");
        let (id, stream, unsent) = (call.client, call.stream, call.unsent());
        let (from, pending) = (call.pending_from, call.pending);
        self.calls.arena.discard(key);
        if unsent > 0 {
            self.uncharge(id.into(), unsent);
        }
        let mut held = memory::CALL;
        match from {
            Some(upstream) => self.uncharge(upstream.into(), pending),
            None => held = held.saturating_add(pending as usize),
        }
        self.discharge(held);
        if let Some(client) = self.clients.get_mut(id.0) {
            client.link.conn.set_tag(stream, NO_CALL);
            debug_assert!(client.link.calls > 0, "a connection counts its calls");
            client.link.calls = client.link.calls.saturating_sub(1);
        }
    }

    /// Gives up the right to send the call again, and the memory that is held for it.
    pub(super) fn discard_replay(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        let (bytes, request) = call.kept.discard(&mut self.bodies);
        if let Some(request) = request {
            self.fields.give_back_list(request);
            self.discharge(bytes);
        }
    }
}
