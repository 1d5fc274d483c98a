//! Other owners' programs at the same hook: before ours, behind ours, above us. None of them is ever put out of effect, and
//! where attaching would do that, grpclb stays off and says so.

#![allow(clippy::unwrap_used)] // what fails here is a test that fails

mod kernel_support;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use grpclb_userspace::kernel::{Error, Kernel};
use kernel_support::program::{self, ALLOW_MULTI, ALLOW_NONE, ALLOW_OVERRIDE, Does};
use kernel_support::*;

/// A pod that is enabled, and what it takes to steer it.
fn steered_pod(kernel: &mut Kernel) -> (Pod, Listeners) {
    let pod = Pod::new();
    let listeners = pod.listen();
    kernel.heartbeat().beat(0);
    pod.enable(kernel);
    put_service(kernel, 3);
    (pod, listeners)
}

fn dial(pod: &Pod, service: SocketAddr) -> io::Result<()> {
    pod.socket(service).connect(&service.into())
}

#[test]
fn a_load_balancer_before_ours_wins_and_we_leave_what_it_chose_alone() {
    let machine = Machine::new();
    let backend = Ipv4Addr::new(127, 0, 0, 9);
    let _other = program::attach(
        &machine.cgroup,
        Does::Rewrite {
            from: SERVICE4,
            to: backend,
        },
        ALLOW_MULTI,
    )
    .unwrap();
    let mut kernel = machine.attached("one");
    let (pod, _listeners) = steered_pod(&mut kernel);
    let chosen = pod
        .netns
        .run(|| TcpListener::bind((backend, SERVICE_PORT)).unwrap())
        .unwrap();
    let counted = moved(&mut kernel, |_| dial(&pod, service4()).unwrap());
    assert_eq!(counted, [("no_service", 1)]);
    chosen
        .accept()
        .expect("it arrived where the other program sent it");
}

#[test]
fn a_load_balancer_above_us_runs_behind_ours_and_we_win() {
    let machine = Machine::new();
    let backend = Ipv4Addr::new(127, 0, 0, 9);
    let _other = program::attach(
        &machine.cgroup,
        Does::Rewrite {
            from: SERVICE4,
            to: backend,
        },
        ALLOW_MULTI,
    )
    .unwrap();
    let below = machine.child("kubepods");
    let mut kernel = machine.attached_to(&below, "one");
    let (pod, listeners) = steered_pod(&mut kernel);
    enter(&below);
    kernel.heartbeat().beat(0);
    dial(&pod, service4()).unwrap();
    assert_eq!(
        arrival(&pod, &listeners, &kernel.identify()),
        Arrival::Agent(Some(slot()))
    );
}

#[test]
fn a_program_that_denies_still_denies_and_one_that_allows_changes_nothing() {
    let machine = Machine::new();
    let mut kernel = machine.attached("one");
    let (pod, listeners) = steered_pod(&mut kernel);
    {
        let _other = program::attach(&machine.cgroup, Does::Nothing, ALLOW_MULTI).unwrap();
        dial(&pod, service4()).unwrap();
        assert_eq!(
            arrival(&pod, &listeners, &kernel.identify()),
            Arrival::Agent(Some(slot()))
        );
    }
    let _other = program::attach(&machine.cgroup, Does::Deny, ALLOW_MULTI).unwrap();
    let error = dial(&pod, service4()).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(nix::libc::EPERM),
        "what the kernel says for a denied connect"
    );
}

#[test]
fn the_neighbours_are_named_in_the_order_in_which_they_run() {
    let machine = Machine::new();
    let _before = program::attach(&machine.cgroup, Does::Nothing, ALLOW_MULTI).unwrap();
    let kernel = machine.attached("one");
    let _after = program::attach(&machine.cgroup, Does::Nothing, ALLOW_MULTI).unwrap();
    let attached = kernel.attached();
    let connect = attached
        .programs
        .iter()
        .find(|program| program.hook == "connect4")
        .unwrap();
    assert!(connect.runs);
    assert_eq!((connect.before.len(), connect.after.len()), (1, 1), "{connect:?}");
    assert!(
        connect.before[0].starts_with("another_owner (") && connect.after[0].starts_with("another_owner (")
    );
}

#[test]
fn a_program_without_multi_above_us_keeps_us_off_and_stays_in_effect() {
    for flags in [ALLOW_NONE, ALLOW_OVERRIDE] {
        let machine = Machine::new();
        let below = machine.child("kubepods");
        let _other = program::attach(&machine.cgroup, Does::Deny, flags).unwrap();
        let mut kernel = Kernel::load(&machine.options_for(&below, "one")).unwrap();
        let refused = kernel.attach().unwrap_err();
        assert!(
            matches!(&refused, Error::WouldOverride { hook: "connect4", .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("another_owner"), "{refused}");
        assert!(
            kernel.attached().programs.is_empty(),
            "nothing of ours is attached"
        );

        let (pod, _listeners) = steered_pod(&mut kernel);
        enter(&below);
        assert_eq!(
            dial(&pod, service4()).unwrap_err().raw_os_error(),
            Some(nix::libc::EPERM),
            "it still denies"
        );
    }
}

#[test]
fn a_program_without_multi_at_our_cgroup_keeps_us_off() {
    let machine = Machine::new();
    let _other = program::attach(&machine.cgroup, Does::Nothing, ALLOW_OVERRIDE).unwrap();
    let mut kernel = Kernel::load(&machine.options("one")).unwrap();
    assert!(matches!(kernel.attach(), Err(Error::WouldOverride { .. })));
}

#[test]
fn a_program_that_hides_ours_is_noticed_by_the_connect_of_our_own() {
    let machine = Machine::new();
    // It runs first and sends the documentation address elsewhere, so that ours never sees it.
    let to = Ipv4Addr::new(203, 0, 113, 1);
    let from = Ipv4Addr::new(192, 0, 2, 1);
    let _other = program::attach(&machine.cgroup, Does::Rewrite { from, to }, ALLOW_MULTI).unwrap();
    let mut kernel = Kernel::load(&machine.options("one")).unwrap();
    let refused = kernel.attach().unwrap_err();
    assert!(matches!(refused, Error::NotEffective { .. }), "{refused}");
    assert!(
        kernel.attached().programs.is_empty(),
        "nothing of ours is left attached"
    );
}

#[test]
fn without_the_capability_nothing_is_loaded_and_the_message_names_it() {
    let machine = Machine::new();
    // A thread's capabilities are its own; this one gives its up and ends.
    let refused = std::thread::scope(|scope| {
        let options = machine.options("one");
        scope
            .spawn(move || {
                program::drop_capabilities().unwrap();
                Kernel::load(&options).unwrap_err()
            })
            .join()
            .unwrap()
    });
    assert!(matches!(refused, Error::NotPermitted { .. }), "{refused}");
    assert!(refused.to_string().contains("CAP_BPF"), "{refused}");
}

#[test]
fn the_pods_cgroup_is_taken_where_there_is_one_and_our_listeners_outside_of_it_still_learn_their_service() {
    let machine = Machine::new();
    let below = machine.child("kubepods");
    let mut kernel = machine.attached_to(&below, "one");
    let (pod, listeners) = steered_pod(&mut kernel);

    dial(&pod, service4()).unwrap();
    assert_eq!(
        arrival(&pod, &listeners, &kernel.identify()),
        Arrival::Plain,
        "we ourselves are no pod"
    );

    enter(&below);
    kernel.heartbeat().beat(0);
    for service in [service4(), service6()] {
        dial(&pod, service).unwrap();
        assert_eq!(
            arrival(&pod, &listeners, &kernel.identify()),
            Arrival::Agent(Some(slot()))
        );
    }
}

#[test]
fn the_check_at_attach_leaves_no_cgroup_behind() {
    let machine = Machine::new();
    let _kernel = machine.attached("one");
    let left = fs::read_dir(&machine.cgroup)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .count();
    assert_eq!(left, 0);
}
