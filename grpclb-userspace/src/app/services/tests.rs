//! What is told when Services come, go and change.

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
        Change::List { slot, service } => {
            let endpoints = service.as_ref().map_or(0, |service| service.endpoints.len());
            format!("list {} {endpoints}", slot.get() - Slot::FIRST.get())
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
    services.slots.next = Slot::LAST.get();
    let b = service("b", "10.96.0.2", 1);
    let c = service("c", "10.96.0.3", 1);
    let d = service("d", "10.96.0.4", 1);
    services.update(&wanted(&[&a, &b, &c, &d]));
    let slots: Vec<u32> = services.served().values().map(|slot| slot.get()).collect();
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

#[test]
fn a_port_that_carries_something_else_is_unsteered_until_its_service_changes_or_its_time_has_come() {
    let now = std::time::Instant::now();
    let mut services = Services::new();
    let mut a = ServicePort {
        protocol: Protocol::Detect,
        ..(*service("a", "10.96.0.1", 3)).clone()
    };
    told(&mut services, &[&Arc::new(a.clone())]);
    let first = Slot::FIRST;
    let proves = |services: &mut Services| {
        assert_eq!(services.detected(first, false, now), []);
        assert_eq!(services.detected(first, false, now), []);
        let address = ("10.96.0.1".parse().unwrap(), 80);
        assert_eq!(
            services.detected(first, false, now),
            [Change::Unsteer { address }]
        );
        assert!(services.served().contains_key("a"), "its connections run on");
    };
    proves(&mut services);
    a.endpoints.pop();
    let less = told(&mut services, &[&Arc::new(a.clone())]);
    assert_eq!(
        less,
        ["serve 0 a", "list 0 2"],
        "endpoints come and go by themselves"
    );
    a.subset = 5;
    let changed = told(&mut services, &[&Arc::new(a.clone())]);
    assert_eq!(changed, ["serve 0 a", "steer 10.96.0.1 to 0 with 2", "list 0 2"]);

    proves(&mut services);
    assert_eq!(services.look_again(now), []);
    let again = services.look_again(services.opaque().wake().unwrap());
    assert!(matches!(again[..], [Change::Steer { .. }]), "{again:?}");
}

/// However Services change, the kernel's table is what a first look at the newest state would make of it, and at every moment
/// what it steers to is served.
#[test]
fn updates_by_difference_end_where_a_fresh_start_would() {
    for seed in 0..200 {
        let mut rng = grpclb_engine::rng::Rng::seeded(seed);
        let (mut services, mut kernel, mut data) = (Services::new(), BTreeMap::new(), BTreeMap::new());
        for _ in 0..30 {
            let mut all = OrdMap::new();
            for name in ["a", "b", "c", "d"] {
                if rng.below(4) == 0 {
                    continue;
                }
                let address = format!("10.96.0.{}", 1 + rng.below(3));
                let mut one = (*service(name, &address, rng.below(3) as usize)).clone();
                if rng.below(5) == 0 {
                    one.protocol = Protocol::Plain;
                }
                all.insert(one.id.clone(), Arc::new(one));
            }
            let (changes, errors) = services.update(&all);
            assert!(errors.is_empty());
            for change in changes {
                match change {
                    Change::Steer { address, service } => {
                        let usable: u32 = data
                            .get(&service.slot)
                            .map_or(0, |service: &Arc<ServicePort>| usable(service));
                        assert!(
                            service.endpoints == 0 || usable > 0,
                            "seed {seed}: steered before it is served"
                        );
                        kernel.insert(address, (service.name, service.endpoints));
                    }
                    Change::Unsteer { address } => assert!(kernel.remove(&address).is_some()),
                    Change::Serve { slot, service } => _ = data.insert(slot, service),
                    Change::Retire { slot } => assert!(data.remove(&slot).is_some()),
                    Change::List { .. } => {}
                }
            }
            let mut expected = BTreeMap::new();
            for service in all.values().filter(|service| service.protocol != Protocol::Plain) {
                let told = (Arc::clone(&service.id), usable(service));
                expected
                    .entry((service.addresses[0], service.port))
                    .or_insert(told);
            }
            assert_eq!(kernel, expected, "seed {seed}");
        }
    }
}
