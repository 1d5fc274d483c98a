//! Memory: the one owner of what is held for the pod, charged as it comes and discharged as it leaves ([`super::budget`] has the
//! pod's share). The measures against a want of it, from the mildest on, concern this pod alone: windows that do not grow,
//! credit that is held back on connections that hold much, new streams that are refused, calls that are ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Splitter;
use super::actions::{ConnId, UpstreamId};
use super::arena::Key;
use super::budget::{Budget, Pressure, Share};
use super::call::Place;
use super::calls::Outcome;
use super::link::Link;
use crate::Time;
use crate::connection::Output;
use crate::frame::ErrorCode;

/// Bytes that a connection costs beside what it buffers and its tables: its state, its task and its socket's record.
pub(super) const CONNECTION: usize = 8 << 10;

/// Up to so many bytes of a connection's own are a part of [`CONNECTION`]: most outputs come and go without a charge.
pub(super) const SMALL: usize = 4 << 10;

/// Bytes that a call costs beside its header lists and bodies: its record and its two streams.
pub(super) const CALL: usize = 2 << 10;

/// A connection that holds less than this is given credit even when memory is short: it is not to blame.
const MOST_BLAMELESS: usize = 256 << 10;
const LEAST_BLAMELESS: usize = 16 << 10;

/// Bytes of calls from which on chunks are copied out of the buffers that they were read into.
const OWN_FROM: usize = 4 << 20;

/// How often a connection without credit is looked at: other pods of the agent may have given memory back.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The age of a field block from which on its connection is ended rather than held. However often it was held and read on: a
/// pod at the edge of its share would begin anew each time.
const HOLD_PATIENCE: Duration = Duration::from_secs(10);

/// The bound of a connection's output while memory is short.
pub(super) const SHORT_OUTPUT: usize = 16 << 10;

/// Bytes that a connection itself holds, as they are charged to the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charged {
    /// Field blocks, queued header lists, its output.
    pub(super) pending: usize,
    /// HPACK tables.
    tables: usize,
}

/// What is held for one pod.
#[derive(Debug)]
pub(super) struct Memory {
    share: Share,
    /// Connections whose credit is held back.
    held: Vec<ConnId>,
}

impl Memory {
    pub(super) fn new(budget: Arc<Budget>, cap: usize) -> Self {
        Self {
            share: Share::new(budget, cap),
            held: Vec::new(),
        }
    }

    /// Receive windows should not grow.
    pub(super) fn is_tight(&self) -> bool {
        self.share.pressure() >= Pressure::Tight
    }

    pub(super) fn is_short(&self) -> bool {
        self.share.pressure() >= Pressure::Short
    }

    /// New streams are refused.
    pub(super) fn refuses_streams(&mut self) -> bool {
        self.share.pressure() >= Pressure::Refuse && self.share.measure() >= Pressure::Refuse
    }

    /// The pod holds more than its share though it was slowed and refused.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.share.pressure() == Pressure::Shed
    }

    /// New connections are not taken.
    pub(super) fn refuses_connections(&mut self) -> bool {
        self.share.measure().max(self.share.fixed_pressure()) >= Pressure::Shed
    }

    /// Charges bytes of a call.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.share.charge(bytes);
    }

    /// Charges bytes of a call if the pod's share has room for them.
    #[must_use]
    pub(super) fn try_charge(&mut self, bytes: usize) -> bool {
        self.share.try_charge(bytes)
    }

    /// Charges bytes that belong to no call.
    pub(super) fn charge_fixed(&mut self, bytes: usize) {
        self.share.charge_fixed(bytes);
    }

    pub(super) fn discharge_fixed(&mut self, bytes: usize) {
        self.share.discharge_fixed(bytes);
    }

    /// Bytes that are held for calls.
    pub(super) fn calls(&self) -> usize {
        self.share.calls()
    }

    /// All bytes that are held.
    pub(super) fn held(&self) -> usize {
        self.share.used()
    }

    /// All bytes that were held at most so far, to a step of 64 KiB.
    pub(super) fn peak(&self) -> usize {
        self.share.peak()
    }

    /// The chunk in memory of its own, once the pod holds enough for it to matter: a chunk that waits keeps the whole buffer that
    /// it was read into, which may be many times as large.
    #[inline]
    pub(super) fn own(&self, chunk: Bytes) -> Bytes {
        if self.share.calls() > OWN_FROM {
            Bytes::copy_from_slice(&chunk)
        } else {
            chunk
        }
    }

    /// The bound of an output that is to be filled.
    pub(super) fn output_bound(&self) -> usize {
        if self.is_short() {
            SHORT_OUTPUT
        } else {
            Output::BOUND
        }
    }

    /// So little that a connection is not to blame for the want of memory, where so many share the pod's.
    fn blameless(&self, connections: usize) -> usize {
        let fair = self.share.threshold() / (4 * connections.max(1));
        fair.clamp(LEAST_BLAMELESS, MOST_BLAMELESS)
    }

    /// Whether a call that holds so much is ended: the pod holds more than its share though it was slowed and refused, and
    /// this call more than an even part of a sixteenth of it.
    fn sheds(&mut self, bytes: u64, calls: usize) -> bool {
        self.share.measure() >= Pressure::Shed
            && bytes > (self.share.threshold() / (16 * calls.max(1))) as u64
    }
}

impl Link {
    /// Notes what the connection itself holds; what it held before, and holds now, where that differs.
    #[inline]
    pub(super) fn recharge(&mut self) -> Option<(Charged, Charged)> {
        let pending = self.conn.pending() + self.output.len();
        let now = Charged {
            pending: if pending < SMALL { 0 } else { pending },
            tables: self.conn.tables(),
        };
        (now != self.charged).then(|| (std::mem::replace(&mut self.charged, now), now))
    }
}

impl Splitter {
    /// Charges bytes that are held for this pod outside of the engine: buffers of connections that are not HTTP/2, or not
    /// known to be yet. Each charge wants its [`Self::discharge_external`].
    pub fn charge_external(&mut self, bytes: usize) {
        self.memory.charge_fixed(bytes);
    }

    pub fn discharge_external(&mut self, bytes: usize) {
        self.memory.discharge_fixed(bytes);
    }

    /// The pod holds nearly all that it may, for calls or by its connections: whatever reads for it should slow down.
    pub fn is_short(&self) -> bool {
        let share = &self.memory.share;
        share.pressure().max(share.fixed_pressure()) >= Pressure::Short
    }

    /// The pod holds more than it may though it was slowed: new connections are not taken, and those that are not known
    /// to be anything yet may be reset.
    pub fn refuses_connections(&mut self) -> bool {
        self.memory.refuses_connections()
    }

    /// Charges DATA that came by this connection and is not sent on yet.
    pub(super) fn charge(&mut self, now: Time, id: ConnId, bytes: u32) {
        self.memory.charge(bytes as usize);
        let Some(link) = self.link_mut(id) else { return };
        link.buffered += u64::from(bytes);
        let (buffered, held) = (link.buffered, link.held.is_some());
        if !held && self.memory.is_short() && buffered >= self.blameless() {
            self.hold_credit(now, id);
        }
    }

    fn blameless(&self) -> u64 {
        self.memory.blameless(self.clients.len() + self.upstreams.len()) as u64
    }

    fn hold_credit(&mut self, now: Time, id: ConnId) {
        if let Some(link) = self.link_mut(id) {
            link.held = Some(now + LOOK_EVERY);
            link.conn.hold_connection_credit(true);
            self.memory.held.push(id);
            self.stats.credit_held += 1;
            self.arm(id);
        }
    }

    /// Reads no more of a connection that has begun a field block and not finished it, while memory is short: no window bounds
    /// field blocks.
    pub(super) fn hold_unfinished(&mut self, now: Time, id: ConnId) {
        let pressure = self.memory.share.pressure();
        if pressure < Pressure::Short {
            return;
        }
        let least = if pressure == Pressure::Short {
            LEAST_BLAMELESS
        } else {
            1
        };
        let Some(link) = self.link_mut(id) else { return };
        if link.input_held || link.conn.unfinished_block() < least {
            return;
        }
        link.input_held = true;
        link.conn.hold_input(now, true);
        link.note_paused();
        if link.held.is_none() {
            self.hold_credit(now, id);
        }
    }

    /// Discharges DATA that has left, or is not wanted any more.
    pub(super) fn uncharge(&mut self, id: ConnId, bytes: u64) {
        if let Some(link) = self.link_mut(id) {
            link.buffered = link.buffered.saturating_sub(bytes);
            if link.held.is_some() {
                self.relieve(id);
            }
        }
        self.discharge(bytes as usize);
    }

    /// Discharges bytes of a response whose call has left the connection that it came by.
    pub(super) fn uncharge_response(&mut self, from: Option<UpstreamId>, bytes: u64) {
        match from {
            Some(upstream) => self.uncharge(upstream.into(), bytes),
            None => self.discharge(bytes as usize),
        }
    }

    /// Discharges bytes of calls, of whichever connection.
    #[inline]
    pub(super) fn discharge(&mut self, bytes: usize) {
        self.memory.share.discharge(bytes);
        if !self.memory.held.is_empty() {
            self.give_credits();
        }
    }

    /// Gives all credit back once memory is not short any more.
    fn give_credits(&mut self) {
        if !self.memory.is_short() {
            for id in std::mem::take(&mut self.memory.held) {
                self.give_credit(id);
            }
        }
    }

    /// Gives a connection its credit back once it holds so little that it is not to blame any more.
    pub(super) fn relieve(&mut self, id: ConnId) {
        if self
            .link(id)
            .is_some_and(|link| link.held.is_some() && link.buffered < self.blameless() / 2)
        {
            self.memory.held.retain(|&other| other != id);
            self.give_credit(id);
        }
    }

    /// Gives credit back where there is memory again, now that time has passed.
    pub(super) fn look_at_held(&mut self, now: Time, id: ConnId) {
        let Some(link) = self.link_mut(id) else { return };
        let Some(look) = link.held.as_mut().filter(|look| **look <= now) else {
            return;
        };
        *look = now + LOOK_EVERY;
        let held = link.input_held;
        let age = link.conn.block_began().map(|began| now.since(began));
        if self.memory.share.measure() < Pressure::Short {
            if held {
                self.release_input(now, id);
            } else {
                self.discharge(0);
            }
        } else if held && age.is_none_or(|age| age >= HOLD_PATIENCE) {
            // Nobody was helped by leaving the rest of the block unread.
            if let Some(link) = self.link_mut(id) {
                link.conn.close(ErrorCode::ENHANCE_YOUR_CALM, "memory");
            }
            self.touch(id);
        }
    }

    fn give_credit(&mut self, id: ConnId) {
        let Some(link) = self.link_mut(id) else { return };
        link.conn.hold_connection_credit(false);
        if link.input_held {
            // Until it is looked at next.
            self.memory.held.push(id);
        } else {
            link.held = None;
        }
        self.touch_if_wanted(id);
    }

    /// Reads the connection's input again.
    fn release_input(&mut self, now: Time, id: ConnId) {
        self.memory.held.retain(|&other| other != id);
        let Some(link) = self.link_mut(id) else { return };
        link.input_held = false;
        link.conn.hold_input(now, false);
        self.resume_input(id);
        self.give_credit(id);
    }

    /// Charges what the connection itself holds by now: tables, field blocks, queued header lists, its output.
    pub(super) fn charge_connection(&mut self, id: ConnId) {
        if let Some(link) = self.link_mut(id)
            && let Some((before, now)) = link.recharge()
        {
            self.charge_difference(before, now);
        }
    }

    /// Charges what a connection holds now, and discharges what it held before.
    pub(super) fn charge_difference(&mut self, before: Charged, now: Charged) {
        self.memory.share.charge_fixed(now.tables);
        self.memory.share.discharge_fixed(before.tables);
        // The difference alone: all of both, for a moment, would look like a want of memory.
        if now.pending > before.pending {
            self.memory.share.charge(now.pending - before.pending);
        } else {
            self.discharge(before.pending - now.pending);
        }
    }

    /// Ends the call if it is among those that hold the most; whether it did. For a pod that is [`Memory::is_over`].
    #[cold]
    pub(super) fn shed(&mut self, now: Time, key: Key) -> bool {
        let Some(call) = self.calls.get(key) else {
            return false;
        };
        let client = self.clients.get(call.client.0);
        let mut lists =
            call.kept.lists() + client.map_or(0, |client| client.link.conn.queued_headers(call.stream));
        if let Place::Sent { upstream, stream } = call.place
            && let Some(upstream) = self.upstreams.get(upstream.0)
        {
            lists += upstream.link.conn.queued_headers(stream);
        }
        // Those of ordinary calls are not to blame, however many calls there are.
        let lists = if lists < SMALL { 0 } else { lists as u64 };
        let bytes = call.pending + call.unsent() + lists;
        let sheds = self.memory.sheds(bytes, self.calls.len());
        if sheds {
            // Which gRPC clients report as RESOURCE_EXHAUSTED.
            self.reset_client(now, key, ErrorCode::ENHANCE_YOUR_CALM, Outcome::OutOfMemory);
        }
        sheds
    }

    /// Discharges all that a connection itself held, which is gone.
    pub(super) fn forget_memory(&mut self, id: ConnId, charged: Charged) {
        self.memory.held.retain(|&other| other != id);
        self.memory.discharge_fixed(CONNECTION + charged.tables);
        self.discharge(charged.pending);
    }
}
