//! From wanted Services to what the data plane and the kernel are told, in an order that loses no connection. Pure: the
//! changes are data, `app` carries them out.
//!
//! A connection must never be steered to a slot that the data plane does not know or cannot serve. So, always: the kernel
//! forgets first, then the data plane learns, then the kernel learns, then the data plane forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use grpclb_abi::Slot;
use imbl::OrdMap;

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
    /// The kernel's table for people.
    List {
        slot: Slot,
        endpoints: Vec<kernel::Backend>,
    },
    /// The data plane: this is what the slot stands for.
    Serve { slot: Slot, service: Arc<ServicePort> },
    /// The data plane: the slot stands for nothing.
    Retire { slot: Slot },
}

/// What clients dial.
pub(super) type Address = (IpAddr, u16);

/// What was told so far.
#[derive(Debug)]
pub(super) struct Services {
    served: BTreeMap<ServiceId, Served>,
    steered: BTreeMap<Address, kernel::Service>,
    next: u32,
}

#[derive(Clone, Debug)]
struct Served {
    slot: Slot,
    service: Arc<ServicePort>,
}

#[derive(Debug, thiserror::Error)]
#[error("every slot is taken: Service {0} is not steered")]
pub(super) struct NoSlot(ServiceId);

impl Services {
    pub(super) fn new() -> Self {
        Self {
            served: BTreeMap::new(),
            steered: BTreeMap::new(),
            next: Slot::FIRST.get(),
        }
    }

    /// The slot of each Service that is served.
    pub(super) fn slots(&self) -> BTreeMap<ServiceId, Slot> {
        self.served
            .iter()
            .map(|(id, served)| (id.clone(), served.slot))
            .collect()
    }

    /// Takes up what is wanted and returns what has to be told, in order. The errors are of Services that stay unsteered.
    pub(super) fn update(
        &mut self,
        wanted: &OrdMap<ServiceId, Arc<ServicePort>>,
    ) -> (Vec<Change>, Vec<NoSlot>) {
        let (mut serve, mut list, mut retire, mut errors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let wanted: BTreeMap<_, _> = wanted
            .iter()
            .filter(|(_, service)| service.protocol != Protocol::Plain)
            .collect();

        let gone: Vec<ServiceId> = self
            .served
            .keys()
            .filter(|id| !wanted.contains_key(id))
            .cloned()
            .collect();
        for id in gone {
            if let Some(Served { slot, .. }) = self.served.remove(&id) {
                retire.push(Change::List {
                    slot,
                    endpoints: Vec::new(),
                });
                retire.push(Change::Retire { slot });
            }
        }
        for (id, service) in wanted {
            let before = self.served.get(id);
            if before.is_some_and(|served| served.service == *service) {
                continue;
            }
            let Some(slot) = before.map(|served| served.slot).or_else(|| self.next_slot()) else {
                errors.push(NoSlot(id.clone()));
                continue;
            };
            self.served.insert(
                id.clone(),
                Served {
                    slot,
                    service: Arc::clone(service),
                },
            );
            serve.push(Change::Serve {
                slot,
                service: Arc::clone(service),
            });
            list.push(Change::List {
                slot,
                endpoints: backends(service),
            });
        }

        let steer = self.steerable();
        let mut changes = Vec::new();
        let mut learn = Vec::new();
        for address in self
            .steered
            .keys()
            .filter(|address| !steer.contains_key(*address))
        {
            changes.push(Change::Unsteer { address: *address });
        }
        for (address, service) in &steer {
            if self.steered.get(address) != Some(service) {
                let change = Change::Steer {
                    address: *address,
                    service: service.clone(),
                };
                if service.endpoints == 0 {
                    changes.push(change);
                } else {
                    learn.push(change);
                }
            }
        }
        self.steered = steer;
        for part in [serve, learn, list, retire] {
            changes.extend(part);
        }
        (changes, errors)
    }

    /// The kernel did not take this: it is told again with the next update.
    pub(super) fn not_told(&mut self, address: &Address) {
        self.steered.remove(address);
    }

    /// The kernel's table as it must be. Of two Services with one address the first by name has it.
    fn steerable(&self) -> BTreeMap<Address, kernel::Service> {
        let mut table = BTreeMap::new();
        for (id, Served { slot, service }) in &self.served {
            for address in &service.addresses {
                table
                    .entry((*address, service.port))
                    .or_insert_with(|| kernel::Service {
                        name: id.to_string(),
                        slot: *slot,
                        endpoints: usable(service),
                        http2: service.protocol == Protocol::Http2,
                    });
            }
        }
        table
    }

    /// Rising, and from the start again after the last: a number that was given back rests for as long as possible.
    fn next_slot(&mut self) -> Option<Slot> {
        let taken: BTreeSet<Slot> = self.served.values().map(|served| served.slot).collect();
        let range = Slot::LAST.get() - Slot::FIRST.get() + 1;
        for _ in 0..=taken.len() {
            let slot = Slot::new(self.next).ok()?;
            self.next = Slot::FIRST.get() + (self.next - Slot::FIRST.get() + 1) % range;
            if !taken.contains(&slot) {
                return Some(slot);
            }
        }
        None
    }
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

fn backends(service: &ServicePort) -> Vec<kernel::Backend> {
    let backend = |endpoint: &crate::model::Endpoint| kernel::Backend {
        id: endpoint.id.to_string(),
        address: endpoint.address,
        weight: endpoint.weight,
        draining: endpoint.state == EndpointState::Draining,
    };
    service.endpoints.iter().map(backend).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;

    fn service(id: &str, address: &str, endpoints: usize) -> Arc<ServicePort> {
        let endpoint = |number| Endpoint {
            id: format!("pod-{number}").into(),
            address: ([10, 0, 0, number as u8], 50051).into(),
            weight: 1,
            state: EndpointState::Ready,
        };
        Arc::new(ServicePort {
            id: id.into(),
            addresses: vec![address.parse().unwrap()],
            port: 80,
            protocol: Protocol::Http2,
            policy: grpclb_engine::balance::Policy::RoundRobin,
            subset: 20,
            per_connection: false,
            endpoints: (1..=endpoints).map(endpoint).collect(),
        })
    }

    fn wanted(services: &[&Arc<ServicePort>]) -> OrdMap<ServiceId, Arc<ServicePort>> {
        services
            .iter()
            .map(|service| (service.id.clone(), Arc::clone(service)))
            .collect()
    }

    /// The order of changes, in words.
    fn told(services: &mut Services, all: &[&Arc<ServicePort>]) -> Vec<String> {
        let (changes, errors) = services.update(&wanted(all));
        assert!(errors.is_empty(), "{errors:?}");
        let word = |change: &Change| match change {
            Change::Steer { address, service } => {
                format!(
                    "steer {} to {} with {}",
                    address.0,
                    service.slot.get() - Slot::FIRST.get(),
                    service.endpoints
                )
            }
            Change::Unsteer { address } => format!("unsteer {}", address.0),
            Change::List { slot, endpoints } => {
                format!("list {} {}", slot.get() - Slot::FIRST.get(), endpoints.len())
            }
            Change::Serve { slot, service } => {
                format!("serve {} {}", slot.get() - Slot::FIRST.get(), service.id)
            }
            Change::Retire { slot } => format!("retire {}", slot.get() - Slot::FIRST.get()),
        };
        changes.iter().map(word).collect()
    }

    #[test]
    fn the_data_plane_learns_first_and_forgets_last() {
        let mut services = Services::new();
        let a = service("a", "10.96.0.1", 3);
        assert_eq!(
            told(&mut services, &[&a]),
            ["serve 0 a", "steer 10.96.0.1 to 0 with 3", "list 0 3"]
        );
        assert_eq!(
            told(&mut services, &[&a]),
            Vec::<String>::new(),
            "nothing changed"
        );
        assert_eq!(
            told(&mut services, &[]),
            ["unsteer 10.96.0.1", "list 0 0", "retire 0"]
        );
    }

    #[test]
    fn a_service_that_loses_its_last_endpoint_is_left_alone_before_the_data_plane_hears_of_it() {
        let mut services = Services::new();
        told(&mut services, &[&service("a", "10.96.0.1", 3)]);
        let emptied = told(&mut services, &[&service("a", "10.96.0.1", 0)]);
        assert_eq!(emptied, ["steer 10.96.0.1 to 0 with 0", "serve 0 a", "list 0 0"]);
        let back = told(&mut services, &[&service("a", "10.96.0.1", 1)]);
        assert_eq!(back, ["serve 0 a", "steer 10.96.0.1 to 0 with 1", "list 0 1"]);
    }

    #[test]
    fn an_address_that_moves_to_another_service_is_never_nobodys() {
        let mut services = Services::new();
        told(&mut services, &[&service("a", "10.96.0.1", 3)]);
        let moved = told(&mut services, &[&service("b", "10.96.0.1", 2)]);
        assert_eq!(
            moved,
            [
                "serve 1 b",
                "steer 10.96.0.1 to 1 with 2",
                "list 1 2",
                "list 0 0",
                "retire 0"
            ]
        );
    }

    #[test]
    fn a_changed_address_is_unsteered_and_the_slot_stays() {
        let mut services = Services::new();
        told(&mut services, &[&service("a", "10.96.0.1", 3)]);
        let changed = told(&mut services, &[&service("a", "10.96.0.2", 3)]);
        assert_eq!(
            changed,
            [
                "unsteer 10.96.0.1",
                "serve 0 a",
                "steer 10.96.0.2 to 0 with 3",
                "list 0 3"
            ]
        );
    }

    #[test]
    fn a_service_that_says_it_is_something_else_is_not_steered_at_all() {
        let mut services = Services::new();
        let http2 = service("a", "10.96.0.1", 3);
        let plain = Arc::new(ServicePort {
            protocol: Protocol::Plain,
            ..(*http2).clone()
        });
        assert_eq!(told(&mut services, &[&plain]), Vec::<String>::new());
        told(&mut services, &[&http2]);
        assert_eq!(
            told(&mut services, &[&plain]),
            ["unsteer 10.96.0.1", "list 0 0", "retire 0"]
        );
    }

    #[test]
    fn draining_endpoints_are_usable_while_none_is_ready() {
        let mut one = (*service("a", "10.96.0.1", 3)).clone();
        one.endpoints[0].state = EndpointState::Draining;
        assert_eq!(usable(&one), 2);
        for endpoint in &mut one.endpoints {
            endpoint.state = EndpointState::Draining;
        }
        assert_eq!(usable(&one), 3);
        one.endpoints.clear();
        assert_eq!(usable(&one), 0);
    }

    #[test]
    fn of_two_services_with_one_address_the_first_by_name_has_it() {
        let mut services = Services::new();
        let (a, b) = (service("a", "10.96.0.1", 1), service("b", "10.96.0.1", 2));
        let first = told(&mut services, &[&b, &a]);
        assert!(
            first.contains(&"steer 10.96.0.1 to 0 with 1".to_owned()),
            "{first:?}"
        );
        let then = told(&mut services, &[&b]);
        assert!(
            then.contains(&"steer 10.96.0.1 to 1 with 2".to_owned()),
            "{then:?}"
        );
    }

    #[test]
    fn slots_rise_and_a_number_given_back_rests() {
        let mut services = Services::new();
        let a = service("a", "10.96.0.1", 1);
        told(&mut services, &[&a]);
        told(&mut services, &[]);
        assert_eq!(told(&mut services, &[&a])[0], "serve 1 a");
        services.next = Slot::LAST.get();
        let b = service("b", "10.96.0.2", 1);
        let c = service("c", "10.96.0.3", 1);
        let d = service("d", "10.96.0.4", 1);
        services.update(&wanted(&[&a, &b, &c, &d]));
        let slots: Vec<u32> = services.slots().values().map(|slot| slot.get()).collect();
        let first = Slot::FIRST.get();
        assert_eq!(
            slots,
            [first + 1, Slot::LAST.get(), first, first + 2],
            "it wraps and passes over a taken one"
        );
    }

    #[test]
    fn what_the_kernel_did_not_take_is_told_again() {
        let mut services = Services::new();
        let a = service("a", "10.96.0.1", 1);
        told(&mut services, &[&a]);
        services.not_told(&("10.96.0.1".parse().unwrap(), 80));
        assert_eq!(told(&mut services, &[&a]), ["steer 10.96.0.1 to 0 with 1"]);
    }
}
