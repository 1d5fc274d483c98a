//! Which Service ports are left alone since what they carry proved not to be HTTP/2. Pure: what was seen and the time come in.
//!
//! A connection that is relayed byte by byte gains nothing from us and depends on us. A port that declares nothing is
//! looked at connection by connection; after [`ENOUGH`] in a row that were not HTTP/2 it goes plain, until its Service changes
//! or [`AGAIN`] has passed. A port that is declared HTTP/2 is never left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::{Protocol, ServiceId, ServicePort};

/// So many connections in a row: a stray health check over HTTP/1.1 must not decide for all others.
pub(super) const ENOUGH: u32 = 3;

/// When such a port is looked at again. Three detections cost nothing; a server that changed its protocol without a change of
/// its Service is found the same hour.
pub(super) const AGAIN: Duration = Duration::from_mins(30);

/// What is known of ports that declare nothing.
#[derive(Debug, Default)]
pub(super) struct Opaque {
    ports: BTreeMap<ServiceId, Port>,
    /// When those that are left alone are looked at again.
    due: BTreeSet<(Instant, ServiceId)>,
    found: u64,
}

#[derive(Debug, Default)]
struct Port {
    /// Connections in a row that were not HTTP/2.
    in_a_row: u32,
    left_alone_until: Option<Instant>,
}

impl Opaque {
    /// One more connection of this port has shown what it is; `true` if the port is left alone from now on.
    pub(super) fn saw(&mut self, service: &ServicePort, http2: bool, now: Instant) -> bool {
        if service.protocol != Protocol::Detect {
            return false;
        }
        if http2 {
            // The usual case keeps nothing. A connection that was under way when the port was left alone changes nothing.
            if self.until(&service.id).is_none() {
                self.ports.remove(&service.id);
            }
            return false;
        }
        let port = self.ports.entry(service.id.clone()).or_default();
        port.in_a_row = port.in_a_row.saturating_add(1);
        if port.in_a_row < ENOUGH || port.left_alone_until.is_some() {
            return false;
        }
        port.left_alone_until = Some(now + AGAIN);
        self.due.insert((now + AGAIN, service.id.clone()));
        self.found += 1;
        true
    }

    /// Until when this port is left alone.
    pub(super) fn until(&self, id: &ServiceId) -> Option<Instant> {
        self.ports.get(id)?.left_alone_until
    }

    /// The Service has changed or gone: what was seen says nothing of it now.
    pub(super) fn forget(&mut self, id: &ServiceId) {
        if let Some(until) = self.ports.remove(id).and_then(|port| port.left_alone_until) {
            self.due.remove(&(until, id.clone()));
        }
    }

    /// A port whose time has come: it is steered again.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<ServiceId> {
        let (until, id) = self.due.first()?.clone();
        if until > now {
            return None;
        }
        self.forget(&id);
        Some(id)
    }

    /// When [`Self::next_due`] has something.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    /// How often a port was found to be left alone, since the start.
    pub(super) fn found(&self) -> u64 {
        self.found
    }

    /// Every port that is left alone, and until when.
    pub(super) fn all(&self) -> BTreeMap<ServiceId, Instant> {
        self.due.iter().map(|(until, id)| (id.clone(), *until)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: Protocol) -> ServicePort {
        ServicePort {
            id: "shop/db:5432".into(),
            addresses: Vec::new(),
            port: 5432,
            protocol,
            policy: grpclb_engine::balance::Policy::RoundRobin,
            subset: 20,
            per_connection: false,
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn three_in_a_row_that_are_not_http2_leave_the_port_alone_for_a_while() {
        let (mut opaque, port, now) = (Opaque::default(), port(Protocol::Detect), Instant::now());
        assert!(!opaque.saw(&port, false, now));
        assert!(!opaque.saw(&port, false, now));
        assert_eq!(opaque.until(&port.id), None);
        assert!(opaque.saw(&port, false, now));
        assert_eq!(opaque.until(&port.id), Some(now + AGAIN));
        assert!(!opaque.saw(&port, false, now), "said once");
        assert!(
            !opaque.saw(&port, true, now),
            "of a connection that was under way"
        );
        assert_eq!((opaque.wake(), opaque.found()), (Some(now + AGAIN), 1));
        assert_eq!(opaque.next_due(now), None, "not yet");
        assert_eq!(opaque.next_due(now + AGAIN), Some(port.id.clone()));
        assert_eq!(opaque.until(&port.id), None);
        assert!(!opaque.saw(&port, false, now), "it takes three again");
    }

    #[test]
    fn an_http2_connection_in_between_starts_the_row_anew() {
        let (mut opaque, port, now) = (Opaque::default(), port(Protocol::Detect), Instant::now());
        for _ in 0..10 {
            assert!(!opaque.saw(&port, false, now) && !opaque.saw(&port, false, now));
            assert!(!opaque.saw(&port, true, now));
        }
    }

    #[test]
    fn a_port_declared_http2_is_never_left_alone() {
        let (mut opaque, port, now) = (Opaque::default(), port(Protocol::Http2), Instant::now());
        assert!((0..10).all(|_| !opaque.saw(&port, false, now)));
        assert_eq!(opaque.wake(), None);
    }

    #[test]
    fn a_service_that_changed_is_looked_at_again() {
        let (mut opaque, port, now) = (Opaque::default(), port(Protocol::Detect), Instant::now());
        for _ in 0..3 {
            opaque.saw(&port, false, now);
        }
        opaque.forget(&port.id);
        assert_eq!((opaque.until(&port.id), opaque.wake()), (None, None));
    }
}
