//! Which connections to backends carry calls of one client connection: kept as calls come and go, so that a client's PING
//! costs the same with ten streams and with ten thousand.

use super::actions::UpstreamId;

/// The connections to backends that carry calls of one client connection.
///
/// A connection keeps its slot while it carries a call. There are never more slots than connections that carried calls at
/// the same time, so a search is bounded by the number of connections, as a pick is.
#[derive(Debug, Default)]
pub(super) struct Carriers {
    slots: Vec<Carrier>,
}

#[derive(Clone, Copy, Debug)]
struct Carrier {
    upstream: UpstreamId,
    /// Zero: the slot is free.
    calls: u32,
}

impl Carriers {
    /// Counts a call on `upstream` and returns its slot. `hint` is the slot that the connection had last, of whichever
    /// client: mostly the right one.
    #[inline]
    pub(super) fn start(&mut self, upstream: UpstreamId, hint: &mut u32) -> u32 {
        if let Some(carrier) = self.slots.get_mut(*hint as usize)
            && carrier.upstream == upstream
        {
            carrier.calls = carrier.calls.saturating_add(1);
            return *hint;
        }
        *hint = self.start_elsewhere(upstream);
        *hint
    }

    #[cold]
    fn start_elsewhere(&mut self, upstream: UpstreamId) -> u32 {
        let slot = self.find(upstream);
        let carrier = Carrier { upstream, calls: 1 };
        match self.slots.get_mut(slot as usize) {
            Some(known) if known.upstream == upstream => known.calls = known.calls.saturating_add(1),
            Some(free) => *free = carrier,
            None => self.slots.push(carrier),
        }
        slot
    }

    /// A call that was counted in `slot` has left its connection.
    pub(super) fn finish(&mut self, slot: u32) {
        if let Some(carrier) = self.slots.get_mut(slot as usize) {
            debug_assert!(carrier.calls > 0, "a call leaves a connection once");
            carrier.calls = carrier.calls.saturating_sub(1);
        }
    }

    /// The connections that carry a call now.
    pub(super) fn iter(&self) -> impl Iterator<Item = UpstreamId> + '_ {
        self.slots
            .iter()
            .filter(|carrier| carrier.calls > 0)
            .map(|carrier| carrier.upstream)
    }

    /// The slot of `upstream`, or a free one, or the next.
    fn find(&self, upstream: UpstreamId) -> u32 {
        let mut free = self.slots.len();
        for (slot, carrier) in self.slots.iter().enumerate() {
            if carrier.upstream == upstream {
                return slot as u32;
            }
            if carrier.calls == 0 {
                free = free.min(slot);
            }
        }
        free as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitter::arena::Arena;

    fn upstreams<const N: usize>() -> [UpstreamId; N] {
        let mut arena = Arena::new();
        [(); N].map(|()| UpstreamId(arena.insert(())))
    }

    #[test]
    fn a_connection_is_listed_once_while_it_carries_a_call() {
        let [a, b] = upstreams();
        let mut carriers = Carriers::default();
        let mut hints = [0; 2];
        let first = carriers.start(a, &mut hints[0]);
        let second = carriers.start(a, &mut hints[0]);
        let third = carriers.start(b, &mut hints[1]);
        assert_eq!(carriers.iter().collect::<Vec<_>>(), [a, b]);
        carriers.finish(first);
        assert_eq!(carriers.iter().count(), 2);
        carriers.finish(second);
        assert_eq!(carriers.iter().collect::<Vec<_>>(), [b]);
        carriers.finish(third);
        assert_eq!(carriers.iter().count(), 0);
    }

    #[test]
    fn a_connection_that_comes_back_finds_its_slot_whatever_the_hint() {
        let [a, b] = upstreams();
        let mut carriers = Carriers::default();
        let slot = carriers.start(b, &mut 0);
        carriers.start(a, &mut 0);
        carriers.finish(slot);
        assert_eq!(carriers.start(b, &mut 1), slot);
        let mut far = u32::MAX;
        assert_eq!(carriers.start(b, &mut far), slot);
        assert_eq!(carriers.iter().collect::<Vec<_>>(), [b, a]);
    }

    #[test]
    fn slots_are_as_many_as_connections_that_carry_calls_at_once() {
        let many: [UpstreamId; 1000] = upstreams();
        let mut carriers = Carriers::default();
        for upstream in many {
            let slot = carriers.start(upstream, &mut 0);
            carriers.finish(slot);
        }
        assert_eq!(carriers.slots.len(), 1);
    }
}
