//! Several instances on one machine: each with maps and pins of its own, handing over without a gap, cleaning up after the
//! dead and never after the living.

#![allow(clippy::unwrap_used)] // what fails here is a test that fails

mod kernel_support;

use std::fs;
use std::path::Path;
use std::process::Command;

use grpclb_abi::{ABI_SECTION, ABI_VERSION, Slot, map};
use grpclb_userspace::kernel::{self, Error, Kernel};
use kernel_support::*;

const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/grpclb.bpf.o");

fn steer(kernel: &mut Kernel, pod: &Pod) {
    kernel.heartbeat().beat(0);
    pod.enable(kernel);
    put_service(kernel, 3);
}

#[test]
fn the_pins_are_there_while_the_instance_lives_and_gone_with_it() {
    let machine = Machine::new();
    let kernel = machine.attached("one");
    let directory = machine.pin_root.join("one");
    let mut found: Vec<String> = fs::read_dir(&directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut wanted: Vec<String> = map::PINS.iter().map(|(_, file)| (*file).to_owned()).collect();
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(
        fs::read_link(machine.pin_root.join("current")).unwrap(),
        Path::new("one")
    );

    drop(kernel);
    assert!(!machine.pin_root.exists(), "directory, link and root are gone");
}

/// Each dials from a cgroup of its own, and removes those of the dead.
#[test]
fn agents_that_attach_at_the_same_moment_all_prove_that_it_works() {
    let machine = Machine::new();
    let attach = |instance: &str| {
        let mut kernel = Kernel::load(&machine.options(instance)).unwrap();
        let attached = kernel.attach().unwrap();
        (kernel, attached)
    };
    for round in 0..10 {
        let all: Vec<_> = std::thread::scope(|scope| {
            let agents = ["one", "two", "three"].map(|instance| scope.spawn(|| attach(instance)));
            agents.map(|agent| agent.join().unwrap()).into()
        });
        for (_, attached) in &all {
            assert!(attached.verified, "round {round}: {:?}", attached.notes);
        }
    }
}

#[test]
fn nothing_of_ours_stays_in_the_kernel() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let pod = Pod::new();
    let listeners = pod.listen();
    steer(&mut kernel, &pod);
    pod.socket(service4()).connect(&service4().into()).unwrap();
    let programs: Vec<u32> = kernel
        .attached()
        .programs
        .iter()
        .map(|program| program.id)
        .collect();
    let maps: Vec<u32> = programs.iter().flat_map(|id| maps_of(*id)).collect();
    assert!(programs.len() >= 7 && maps.len() >= 7, "{programs:?} {maps:?}");
    drop((kernel, listeners, pod));
    // Programs and maps go a moment after their last reference, when the kernel's readers are through.
    wait_until("our programs are gone", || {
        !programs.iter().any(|id| exists("prog", *id))
    });
    wait_until("our maps are gone", || !maps.iter().any(|id| exists("map", *id)));
}

fn exists(kind: &str, id: u32) -> bool {
    bpftool(&[kind, "show", "id", &id.to_string()]).is_some()
}

fn maps_of(program: u32) -> Vec<u32> {
    let shown = bpftool(&["prog", "show", "id", &program.to_string()]).expect("the program is there");
    serde_json::from_value(shown["map_ids"].clone()).unwrap()
}

fn bpftool(args: &[&str]) -> Option<serde_json::Value> {
    let output = Command::new("bpftool")
        .arg("--json")
        .args(args)
        .output()
        .expect("bpftool");
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_dead_instances_pins_are_removed_and_a_live_ones_are_not() {
    let machine = Machine::new();
    let living = machine.attached("living");
    let dead = machine.pin_root.join("dead");
    fs::create_dir(&dead).unwrap();
    let pin = dead.join("pods");
    let made = Command::new("bpftool")
        .args([
            "map",
            "create",
            pin.to_str().unwrap(),
            "type",
            "array",
            "key",
            "4",
            "value",
            "4",
            "entries",
            "1",
        ])
        .args(["name", "dead"])
        .status();
    assert!(made.unwrap().success() && pin.exists());

    let next = Kernel::load(&machine.options("next")).unwrap();
    assert!(!dead.exists(), "nobody held it");
    assert!(machine.pin_root.join("living/pods").exists(), "somebody holds it");
    assert_eq!(
        fs::read_link(machine.pin_root.join("current")).unwrap(),
        Path::new("living"),
        "not attached yet"
    );
    drop(living);
    assert!(machine.pin_root.join("next/pods").exists());
    drop(next);
}

#[test]
fn an_instances_name_cannot_be_taken_while_it_lives() {
    let machine = Machine::new();
    let _first = Kernel::load(&machine.options("same")).unwrap();
    let refused = Kernel::load(&machine.options("same")).unwrap_err();
    assert!(matches!(refused, Error::InstanceAlive(..)), "{refused}");
    assert!(
        machine.pin_root.join("same/pods").exists(),
        "the first one's pins are untouched"
    );
}

#[test]
fn two_instances_at_once_steer_each_its_own_pods() {
    let machine = Machine::new();
    let (mut first, mut second) = (machine.attached("first"), machine.attached("second"));
    let (one, two) = (Pod::new(), Pod::new());
    let (at_one, at_two) = (one.listen(), two.listen());
    steer(&mut first, &one);
    steer(&mut second, &two);
    for service in [service4(), service6()] {
        one.socket(service).connect(&service.into()).unwrap();
        assert_eq!(
            arrival(&one, &at_one, &first.identify()),
            Arrival::Agent(Some(slot()))
        );
        two.socket(service).connect(&service.into()).unwrap();
        assert_eq!(
            arrival(&two, &at_two, &second.identify()),
            Arrival::Agent(Some(slot()))
        );
    }
    assert_eq!((counter(&first, "steered"), counter(&second, "steered")), (2, 2));
}

#[test]
fn the_successor_takes_over_new_connections_and_the_first_ones_sockets_keep_their_names() {
    let machine = Machine::new();
    let pod = Pod::new();
    let old_listeners = pod.listen();
    let mut old = machine.attached("old");
    steer(&mut old, &pod);
    let mut clients = Vec::new();
    for service in [service4(), service6()] {
        let client = pod.socket(service);
        client.connect(&service.into()).unwrap();
        let (server, _) = old_listeners.accept(&old.identify()).expect("the old one's");
        clients.push((service, client, server));
    }

    // The successor listens on another port and gives the Service another slot.
    let mut new = machine.attached("new");
    let new_slot = Slot::new(0x22_22_22).unwrap();
    let new_listeners = pod.listen_on(LISTENER_PORT + 1);
    new.heartbeat().beat(0);
    let service = kernel::Service {
        name: "shop/orders:grpc".into(),
        slot: new_slot,
        endpoints: 1,
        http2: true,
    };
    for address in [SERVICE4.into(), SERVICE6.into()] {
        new.put_service(address, SERVICE_PORT, &service).unwrap();
    }
    pod.enable_as(
        &mut new,
        &kernel::Pod {
            port: LISTENER_PORT + 1,
            ..pod.entry()
        },
    );
    assert_eq!(
        fs::read_link(machine.pin_root.join("current")).unwrap(),
        Path::new("new")
    );

    for service in [service4(), service6()] {
        old.heartbeat().beat(0);
        pod.socket(service).connect(&service.into()).unwrap();
        let (_, slot) = old_listeners
            .accept(&old.identify())
            .expect("the first to see it wins: still the old one");
        assert_eq!(slot, Some(kernel_support::slot()));
    }
    old.detach_connect();
    for service in [service4(), service6()] {
        new.heartbeat().beat(0);
        let client = pod.socket(service);
        client.connect(&service.into()).unwrap();
        let (_, slot) = new_listeners.accept(&new.identify()).expect("now the new one's");
        assert_eq!(slot, Some(new_slot));
        assert_eq!(names(&client).1, service);
    }
    for (service, client, server) in &mut clients {
        assert_eq!(
            names(client).1,
            *service,
            "the old one's programs still answer for its sockets"
        );
        exchange(client, server);
    }
    drop(old);
    assert_eq!(
        fs::read_link(machine.pin_root.join("current")).unwrap(),
        Path::new("new"),
        "it was not the old one's"
    );
}

#[test]
fn a_late_handshake_after_the_handover_still_finds_its_service() {
    let machine = Machine::new();
    let pod = Pod::new();
    let listeners = pod.listen();
    let mut kernel = machine.attached("one");
    steer(&mut kernel, &pod);
    // The first SYN is lost, as on a pod that is throttled; the kernel sends it again a second later.
    pod.command("nft", &["add", "table", "inet", "t"]);
    pod.command(
        "nft",
        &["add chain inet t c { type filter hook input priority 0; }"],
    );
    pod.command("nft", &["add rule inet t c tcp dport 15021 drop"]);
    kernel.heartbeat().beat(0);
    let client = pod.socket(service6());
    client.set_nonblocking(true).unwrap();
    assert_eq!(
        client.connect(&service6().into()).unwrap_err().raw_os_error(),
        Some(nix::libc::EINPROGRESS)
    );
    kernel.detach_connect();
    pod.command("nft", &["delete", "table", "inet", "t"]);
    let identify = kernel.identify();
    let mut arrived = None;
    wait_until("the second SYN arrives", || {
        arrived = listeners.accept(&identify);
        arrived.is_some()
    });
    assert_eq!(arrived.unwrap().1, Some(slot()));
    assert_eq!(names(&client).1, service6());
}

#[test]
fn kernel_programs_of_another_abi_version_are_refused_before_anything_is_touched() {
    let machine = Machine::new();
    let mut object = fs::read(OBJECT).expect("cargo xtask build-ebpf makes it");
    let place = position_of_section(&object);
    object[place..place + 4].copy_from_slice(&(ABI_VERSION + 1).to_le_bytes());
    let refused = Kernel::load_object(&machine.options("one"), &object).unwrap_err();
    assert!(
        matches!(refused, Error::AbiMismatch { found: Some(found), expected: ABI_VERSION } if found == ABI_VERSION + 1),
        "{refused}"
    );
    assert!(refused.to_string().contains("cargo xtask build-ebpf"));
    assert!(!machine.pin_root.exists());
}

/// Where the version lies in the file: by the section's header (ELF64, little endian).
fn position_of_section(elf: &[u8]) -> usize {
    let word = |at: usize, size: usize| {
        elf[at..at + size]
            .iter()
            .rev()
            .fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (headers, size, count, names) = (word(40, 8), word(58, 2), word(60, 2), word(62, 2));
    let names = word(headers + names * size + 24, 8);
    (0..count)
        .map(|index| headers + index * size)
        .find(|header| elf[names + word(*header, 4)..].starts_with(ABI_SECTION.as_bytes()))
        .map(|header| word(header + 24, 8))
        .expect("the section")
}

#[test]
fn the_maps_have_types_so_that_bpftool_prints_fields_by_name_and_names_as_text() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let pod = Pod::new();
    steer(&mut kernel, &pod);
    let dump = |file: &str| machine.dump(file);
    let pods = dump("pods");
    assert!(
        pods.contains(&format!("\"key\": {}", pod.cookie())) && pods.contains("\"name\": \"shop/cart\""),
        "{pods}"
    );
    let services = dump("services");
    assert!(
        services.contains("\"port\": 50051") && services.contains("\"name\": \"shop/orders:grpc\""),
        "{services}"
    );
    assert!(
        dump("counters").contains("\"stale_heartbeat\": "),
        "each figure has its name"
    );
    assert!(dump("instance").contains("\"name\": \"one\""));
}

#[test]
fn the_endpoints_that_people_see_are_the_ones_that_there_are() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let endpoint = |n: u8, draining| kernel::Backend {
        id: format!("pod-{n}").into(),
        address: ([10, 244, 2, n], 8080).into(),
        weight: 1,
        draining,
    };
    let shown = || {
        let text = machine.dump("backends");
        (1..=3)
            .filter(|n| text.contains(&format!("\"name\": \"pod-{n}\"")))
            .collect::<Vec<_>>()
    };
    kernel
        .put_endpoints(
            slot(),
            &[endpoint(1, false), endpoint(2, true), endpoint(3, false)],
        )
        .unwrap();
    assert_eq!(shown(), [1, 2, 3]);
    kernel.put_endpoints(slot(), &[endpoint(3, false)]).unwrap();
    assert_eq!(shown(), [3]);
    kernel.put_endpoints(slot(), &[]).unwrap();
    assert!(shown().is_empty());
}

#[test]
fn logs_of_the_kernel_programs_come_only_when_asked_for() {
    let machine = Machine::new();
    // Level 5 has a reader thread, level 0 has none; both steer.
    for log_level in [0, 5] {
        let options = kernel::Options {
            log_level,
            ..machine.options("one")
        };
        let mut kernel = Kernel::load(&options).unwrap();
        kernel.attach().unwrap();
        let pod = Pod::new();
        let listeners = pod.listen();
        steer(&mut kernel, &pod);
        pod.socket(service4()).connect(&service4().into()).unwrap();
        assert_eq!(
            arrival(&pod, &listeners, &kernel.identify()),
            Arrival::Agent(Some(slot()))
        );
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        let readers = threads
            .filter(|task| {
                fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "kernel-logs")
            })
            .count();
        assert_eq!(readers, usize::from(log_level > 0));
    }
}

#[test]
fn a_cgroup_that_was_replaced_is_noticed_and_attached_to_again() {
    let machine = Machine::new();
    let pods = machine.child("kubepods");
    let mut kernel = machine.attached_to(&pods, "one");
    assert!(!kernel.is_cgroup_replaced());
    std::fs::remove_dir(&pods).unwrap();
    assert!(!kernel.is_cgroup_replaced(), "there is no other yet");
    machine.child("kubepods");
    assert!(kernel.is_cgroup_replaced());
    let attached = kernel.attach().unwrap();
    assert!(
        attached.verified,
        "a connect from the new one is steered: {attached:?}"
    );
    assert!(attached.programs.iter().all(|program| program.runs));
    assert!(!kernel.is_cgroup_replaced());
}
