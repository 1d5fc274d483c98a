//! Memory: what calls hold is counted ([`super::budget`]). When it runs short, connections that hold much of it get no more
//! credit, until they hold less or there is memory again. Others go on as if nothing were.

use std::time::Duration;

use super::Splitter;
use super::actions::ConnId;
use crate::Time;

/// A connection that holds less than this is given credit even when memory is short: it is not to blame.
const HOLD_FROM: u64 = 256 << 10;

/// How often a connection without credit is looked at: other pods of the agent may have given memory back.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Splitter {
    /// DATA came that is not sent on yet.
    pub(super) fn charge(&mut self, now: Time, id: ConnId, bytes: u32) {
        self.share.charge(bytes as usize);
        let short = self.share.is_short();
        let Some(link) = self.link_mut(id) else { return };
        link.buffered += u64::from(bytes);
        if short && link.held.is_none() && link.buffered >= HOLD_FROM {
            link.held = Some(now + LOOK_EVERY);
            link.conn.hold_connection_credit(true);
            self.held.push(id);
            self.stats.credit_held += 1;
            self.arm(id);
        }
    }

    /// It has left, or is not wanted any more.
    pub(super) fn uncharge(&mut self, id: ConnId, bytes: u64) {
        if let Some(link) = self.link_mut(id) {
            link.buffered = link.buffered.saturating_sub(bytes);
        }
        self.relieve(id);
        self.discharge(bytes as usize);
    }

    /// So many bytes less are here, of whichever connection.
    pub(super) fn discharge(&mut self, bytes: usize) {
        self.share.discharge(bytes);
        if !self.held.is_empty() && !self.share.is_short() {
            for id in std::mem::take(&mut self.held) {
                self.give_credit(id);
            }
        }
    }

    /// This connection may hold so little now that it is not to blame any more.
    pub(super) fn relieve(&mut self, id: ConnId) {
        if self
            .link(id)
            .is_some_and(|link| link.held.is_some() && link.buffered < HOLD_FROM / 2)
        {
            self.held.retain(|&other| other != id);
            self.give_credit(id);
        }
    }

    /// Time has passed: is there memory again?
    pub(super) fn look_at_held(&mut self, now: Time, id: ConnId) {
        if let Some(link) = self.link_mut(id)
            && let Some(look) = &mut link.held
            && *look <= now
        {
            *look = now + LOOK_EVERY;
            self.discharge(0);
        }
    }

    fn give_credit(&mut self, id: ConnId) {
        if let Some(link) = self.link_mut(id) {
            link.held = None;
            link.conn.hold_connection_credit(false);
        }
        self.touch_if_wanted(id);
    }
}
