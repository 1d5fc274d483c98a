//! From wanted Services to what the data plane and the kernel are told, in an order that loses no connection. Pure: the
//! changes are data, `app` carries them out.
//!
//! A connection must never be steered to a slot that the data plane does not know or cannot serve. So, always: the kernel
//! forgets first, then the data plane learns, then the kernel learns, then the data plane forgets.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use grpclb_abi::Slot;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::opaque::{AGAIN, ENOUGH, Opaque};
use crate::kernel;
use crate::model::{EndpointState, Protocol, ServiceId, ServicePort};

/// What is told to whom.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// The kernel: this address is (now) this Service's.
    Steer {
        address: Address,
        service: kernel::Service,
    },
    /// The kernel: this address is nobody's.
    Unsteer { address: Address },
    /// The kernel's table for people: the endpoints of this Service, or none.
    List {
        slot: Slot,
        service: Option<Arc<ServicePort>>,
    },
    /// The data plane: this is what the slot stands for.
    Serve { slot: Slot, service: Arc<ServicePort> },
    /// The data plane: the slot stands for nothing.
    Retire { slot: Slot },
}

/// What clients dial.
pub(super) type Address = (IpAddr, u16);

/// What was told so far. An update costs as much as it differs from the last one, not as many Services as there are.
#[derive(Debug)]
pub(super) struct Services {
    /// What was wanted last.
    wanted: OrdMap<ServiceId, Arc<ServicePort>>,
    served: HashMap<ServiceId, Served>,
    /// The same for those who only read. It changes as Services come and go, and not with their endpoints: copies of a
    /// persistent map are cheap, but a change beside a copy is not.
    slots_of: OrdMap<ServiceId, Slot>,
    /// Who wants each address, by name. Of several Services the first has it.
    claims: BTreeMap<Address, Vec<ServiceId>>,
    /// The kernel's table, as it was told.
    steered: BTreeMap<Address, kernel::Service>,
    /// The kernel did not take these.
    not_told: BTreeSet<Address>,
    /// Ports that the kernel is not told of, since they carry something else.
    opaque: Opaque,
    slots: Slots,
}

/// A Service that the data plane knows.
#[derive(Clone, Debug, PartialEq)]
struct Served {
    slot: Slot,
    service: Arc<ServicePort>,
}

#[derive(Debug, thiserror::Error)]
#[error("every slot is taken: Service {0} is not steered")]
pub(super) struct NoSlot(ServiceId);

/// Changes of one update, by the order in which they are told.
#[derive(Default)]
struct Ordered {
    forget: Vec<Change>,
    serve: Vec<Change>,
    learn: Vec<Change>,
    list: Vec<Change>,
    retire: Vec<Change>,
}

impl Services {
    pub(super) fn new() -> Self {
        Self {
            wanted: OrdMap::new(),
            served: HashMap::new(),
            slots_of: OrdMap::new(),
            claims: BTreeMap::new(),
            steered: BTreeMap::new(),
            not_told: BTreeSet::new(),
            opaque: Opaque::default(),
            slots: Slots::new(),
        }
    }

    /// Every Service that is served, with its slot.
    pub(super) fn served(&self) -> OrdMap<ServiceId, Slot> {
        self.slots_of.clone()
    }

    /// Takes up what is wanted and returns what has to be told, in order. The errors are of Services that stay unsteered.
    pub(super) fn update(
        &mut self,
        wanted: &OrdMap<ServiceId, Arc<ServicePort>>,
    ) -> (Vec<Change>, Vec<NoSlot>) {
        let before = std::mem::replace(&mut self.wanted, wanted.clone());
        let (mut ordered, mut errors) = (Ordered::default(), Vec::new());
        let mut touched = std::mem::take(&mut self.not_told);
        let mut come = Vec::new();
        for item in before.diff(wanted) {
            match item {
                DiffItem::Remove(id, _) => {
                    self.opaque.forget(id);
                    self.withdraw(id, &mut touched, &mut ordered);
                }
                DiffItem::Add(id, service)
                | DiffItem::Update {
                    new: (id, service), ..
                } => {
                    let before = self.served.get(id);
                    if before.is_some_and(|served| !served.service.same_but_for_endpoints(service)) {
                        self.opaque.forget(id);
                    }
                    if service.protocol == Protocol::Plain {
                        self.withdraw(id, &mut touched, &mut ordered);
                    } else {
                        come.push((id, service));
                    }
                }
            }
        }
        for (id, service) in come {
            if let Err(error) = self.serve(id, service, &mut touched, &mut ordered) {
                // Not wanted, as far as the next update is concerned: it is tried again.
                self.wanted.remove(id);
                errors.push(error);
            }
        }
        for address in touched {
            self.steer(address, &mut ordered);
        }
        // Only now: within one update what a slot stood for is retired after what takes its place is served.
        for change in &ordered.retire {
            if let Change::Retire { slot } = change {
                self.slots.give_back(*slot);
            }
        }
        let Ordered {
            forget,
            serve,
            learn,
            list,
            retire,
        } = ordered;
        let changes = [forget, serve, learn, list, retire].into_iter().flatten();
        (changes.collect(), errors)
    }

    /// A connection to this slot has shown what it is. A port that carries something else is left to plain Kubernetes for a
    /// while; its connections that are there run on.
    pub(super) fn detected(&mut self, slot: Slot, http2: bool, now: Instant) -> Vec<Change> {
        let Some(service) = self.slots.service(slot).and_then(|id| self.served.get(id)) else {
            return Vec::new();
        };
        let service = Arc::clone(&service.service);
        if !self.opaque.saw(&service, http2, now) {
            return Vec::new();
        }
        tracing::info!(
            service = %service.id,
            "{ENOUGH} connections in a row were not HTTP/2: new ones go the plain way until the Service changes, or for {AGAIN:?}"
        );
        self.steer_all(&service)
    }

    /// Steers ports again that were left alone for long enough.
    pub(super) fn look_again(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(id) = self.opaque.next_due(now) {
            if let Some(served) = self.served.get(&id) {
                let service = Arc::clone(&served.service);
                changes.extend(self.steer_all(&service));
            }
        }
        changes
    }

    /// What is left alone since it carries something else, when that is looked at again, how often it was found.
    pub(super) fn opaque(&self) -> &Opaque {
        &self.opaque
    }

    fn steer_all(&mut self, service: &ServicePort) -> Vec<Change> {
        let mut ordered = Ordered::default();
        for address in addresses(service) {
            self.steer(address, &mut ordered);
        }
        ordered.forget.into_iter().chain(ordered.learn).collect()
    }

    /// The kernel did not take this: it is told again with the next update.
    pub(super) fn not_told(&mut self, address: &Address) {
        self.steered.remove(address);
        self.not_told.insert(*address);
    }

    /// Serves a Service as it is now.
    fn serve(
        &mut self,
        id: &ServiceId,
        service: &Arc<ServicePort>,
        touched: &mut BTreeSet<Address>,
        ordered: &mut Ordered,
    ) -> Result<(), NoSlot> {
        let before = self.served.get(id).cloned();
        let slot = match &before {
            Some(served) => served.slot,
            None => self.slots.take(id).ok_or_else(|| NoSlot(id.clone()))?,
        };
        match &before {
            Some(before) if addresses(&before.service).eq(addresses(service)) => {
                touched.extend(addresses(service));
            }
            before => {
                for address in before.iter().flat_map(|served| addresses(&served.service)) {
                    self.unclaim(address, id, touched);
                }
                for address in addresses(service) {
                    self.claim(address, id);
                    touched.insert(address);
                }
            }
        }
        if before.is_none() {
            self.slots_of.insert(id.clone(), slot);
        }
        let service = Arc::clone(service);
        ordered.list.push(Change::List {
            slot,
            service: Some(Arc::clone(&service)),
        });
        ordered.serve.push(Change::Serve {
            slot,
            service: Arc::clone(&service),
        });
        self.served.insert(id.clone(), Served { slot, service });
        Ok(())
    }

    /// Serves a Service no more; nothing happens if it was not served.
    fn withdraw(&mut self, id: &ServiceId, touched: &mut BTreeSet<Address>, ordered: &mut Ordered) {
        let Some(Served { slot, service }) = self.served.remove(id) else {
            return;
        };
        self.slots_of.remove(id);
        for address in addresses(&service) {
            self.unclaim(address, id, touched);
        }
        ordered.retire.push(Change::List { slot, service: None });
        ordered.retire.push(Change::Retire { slot });
    }

    fn claim(&mut self, address: Address, id: &ServiceId) {
        let claims = self.claims.entry(address).or_default();
        if let Err(at) = claims.binary_search(id) {
            claims.reserve_exact(1); // hardly ever is there another
            claims.insert(at, Arc::clone(id));
        }
    }

    fn unclaim(&mut self, address: Address, id: &ServiceId, touched: &mut BTreeSet<Address>) {
        if let Some(claims) = self.claims.get_mut(&address) {
            claims.retain(|claim| claim != id);
            if claims.is_empty() {
                self.claims.remove(&address);
            }
        }
        touched.insert(address);
    }

    /// Brings the kernel's entry for one address up to date.
    fn steer(&mut self, address: Address, ordered: &mut Ordered) {
        let owner = self.claims.get(&address).and_then(|claims| claims.first());
        let owner = owner.filter(|id| self.opaque.until(id).is_none());
        let Some((id, served)) = owner.and_then(|id| Some((id, self.served.get(id)?))) else {
            if self.steered.remove(&address).is_some() {
                ordered.forget.push(Change::Unsteer { address });
            }
            return;
        };
        let service = kernel::Service {
            name: Arc::clone(id),
            slot: served.slot,
            endpoints: usable(&served.service),
            http2: served.service.protocol == Protocol::Http2,
        };
        if self.steered.get(&address) == Some(&service) {
            return;
        }
        self.steered.insert(address, service.clone());
        let when = if service.endpoints == 0 {
            &mut ordered.forget
        } else {
            &mut ordered.learn
        };
        when.push(Change::Steer { address, service });
    }
}

/// Numbers for Services: rising, and from the start again after the last, so that one that was given back rests for as long
/// as possible.
#[derive(Debug)]
struct Slots {
    next: u32,
    taken: HashMap<Slot, ServiceId>,
}

impl Slots {
    fn new() -> Self {
        Self {
            next: Slot::FIRST.get(),
            taken: HashMap::new(),
        }
    }

    fn take(&mut self, id: &ServiceId) -> Option<Slot> {
        let range = Slot::LAST.get() - Slot::FIRST.get() + 1;
        for _ in 0..=self.taken.len() {
            let slot = Slot::new(self.next).ok()?;
            self.next = Slot::FIRST.get() + (self.next - Slot::FIRST.get() + 1) % range;
            if let Entry::Vacant(free) = self.taken.entry(slot) {
                free.insert(id.clone());
                return Some(slot);
            }
        }
        None
    }

    fn service(&self, slot: Slot) -> Option<&ServiceId> {
        self.taken.get(&slot)
    }

    fn give_back(&mut self, slot: Slot) {
        self.taken.remove(&slot);
    }
}

fn addresses(service: &ServicePort) -> impl Iterator<Item = Address> {
    service.addresses.iter().map(|address| (*address, service.port))
}

/// How many endpoints may get new calls: the ready ones, or, while there is none, the draining ones.
pub(super) fn usable(service: &ServicePort) -> u32 {
    let ready = service
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.state == EndpointState::Ready)
        .count();
    let usable = if ready == 0 {
        service.endpoints.len()
    } else {
        ready
    };
    u32::try_from(usable).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
