//! Connections that are not HTTP/2: one endpoint for the whole connection, from the same picker.

use super::arena::Key;
use super::recovery::ProbeBy;
use super::{ServiceKey, Splitter};
use crate::Time;
use crate::balance::{Endpoint, MemberKey, Standing};

impl Splitter {
    /// An endpoint for a connection. It counts as one call in flight until [`Self::opaque_failed`] or
    /// [`Self::opaque_closed`] is called, once. `None`: there is no endpoint, or all have failed a moment ago.
    pub fn pick_opaque(&mut self, now: Time, service: ServiceKey) -> Option<Endpoint> {
        let group = self.groups.get_mut(*self.by_service.get(&service)?)?;
        let choice = group.picker.pick(now, &mut self.rng, &[], |_| Standing::Room)?;
        group.picker.start_opaque(choice.member);
        group
            .picker
            .get(choice.member)
            .map(|member| member.endpoint().clone())
    }

    /// The endpoint is connected; the connection is still in flight. What is known of it after failures is mended.
    pub fn opaque_connected(&mut self, now: Time, service: ServiceKey, endpoint: &Endpoint) {
        if let Some((key, member)) = self.opaque_member(service, endpoint) {
            self.endpoint_connected(now, key, member, ProbeBy::Pick);
        }
    }

    /// Whether another endpoint than this one may be picked: a dial that takes long is then better given up.
    pub fn has_other_endpoint(&mut self, now: Time, service: ServiceKey, endpoint: &Endpoint) -> bool {
        let Some(group) = self
            .by_service
            .get(&service)
            .and_then(|&key| self.groups.get_mut(key))
        else {
            return false;
        };
        match group.picker.find(endpoint) {
            Some(member) => group.picker.has_other(now, member),
            None => group.picker.picked().next().is_some(),
        }
    }

    /// The endpoint could not be connected.
    pub fn opaque_failed(&mut self, now: Time, service: ServiceKey, endpoint: &Endpoint) {
        let Some((key, member)) = self.opaque_member(service, endpoint) else {
            return;
        };
        if let Some(group) = self.groups.get_mut(key) {
            // First the failure: an endpoint that is over and not in the snapshot is forgotten.
            group.picker.fail(member, now, &mut self.rng);
            group.picker.finish_opaque(member);
        }
        self.relocate(now, key);
    }

    /// The connection is over, or was given up before there was one.
    pub fn opaque_closed(&mut self, _now: Time, service: ServiceKey, endpoint: &Endpoint) {
        if let Some((key, member)) = self.opaque_member(service, endpoint)
            && let Some(group) = self.groups.get_mut(key)
        {
            group.picker.finish_opaque(member);
        }
    }

    fn opaque_member(&self, service: ServiceKey, endpoint: &Endpoint) -> Option<(Key, MemberKey)> {
        let key = *self.by_service.get(&service)?;
        let member = self.groups.get(key)?.picker.find(endpoint)?;
        Some((key, member))
    }
}
