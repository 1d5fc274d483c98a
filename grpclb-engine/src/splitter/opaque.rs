//! Connections that are not HTTP/2: one endpoint for the whole connection, from the same picker.

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

    /// The endpoint could not be connected.
    pub fn opaque_failed(&mut self, now: Time, service: ServiceKey, endpoint: &Endpoint) {
        if let Some((group, member)) = self.opaque_over(service, endpoint)
            && let Some(group) = self.groups.get_mut(group)
        {
            group.picker.fail(member, now, &mut self.rng);
        }
    }

    /// The connection is over.
    pub fn opaque_closed(&mut self, _now: Time, service: ServiceKey, endpoint: &Endpoint) {
        self.opaque_over(service, endpoint);
    }

    fn opaque_over(&mut self, service: ServiceKey, endpoint: &Endpoint) -> Option<(super::Key, MemberKey)> {
        let key = *self.by_service.get(&service)?;
        let group = self.groups.get_mut(key)?;
        let member = group.picker.find(endpoint)?;
        group.picker.finish_opaque(member);
        Some((key, member))
    }
}
