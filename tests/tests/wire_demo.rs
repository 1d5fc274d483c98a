//! The demo itself, and that runs which are interrupted or killed leave nothing behind.
#![allow(clippy::unwrap_used)] // also in what the tests share

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use grpclb_tests::cleanup;
use grpclb_tests::process::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_grpclb-demo")));
    command
        .arg("--agent")
        .arg(grpclb_tests::agent::program().expect("the built agent"))
        .args(arguments);
    command.stdin(Stdio::null());
    command
}

/// Starts a demo and waits until its namespaces are there.
fn begun_demo() -> (Child, String) {
    let child = demo(&["--calls", "5000000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let own = cleanup::prefix_of(child.id());
    let up = wait_until(Duration::from_mins(1), || {
        !named(&own).is_empty() && cgroup_is_used(&own)
    });
    assert!(up, "the demo makes namespaces and runs servers in them");
    (child, own)
}

fn named(prefix: &str) -> Vec<String> {
    cleanup::all_names()
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .collect()
}

fn cgroup_is_used(prefix: &str) -> bool {
    let cgroups = named(prefix)
        .into_iter()
        .map(|name| cleanup::cgroup_root().join(name).join("cgroup.procs"));
    cgroups
        .filter_map(|procs| std::fs::read_to_string(procs).ok())
        .any(|pids| pids.lines().count() >= 3)
}

#[test]
fn the_demo_shows_in_json_what_each_act_did() {
    let output = demo(&["--json", "--calls", "300"]).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let shown: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object on standard output");
    let acts = shown["acts"].as_array().expect("acts");
    let names: Vec<_> = acts
        .iter()
        .map(|act| act["name"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(
        names,
        ["without grpclb", "with grpclb", "toggled off", "after kill -9"]
    );
    for (act, backends) in acts.iter().zip([1, 3, 1, 1]) {
        assert_eq!((&act["calls"], &act["errors"]), (&300.into(), &0.into()), "{act}");
        let calls = act["per_backend"].as_object().expect("calls by backend");
        assert_eq!(
            calls.values().filter(|calls| calls.as_u64() > Some(0)).count(),
            backends,
            "{act}"
        );
    }
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let (mut child, own) = begun_demo();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(
        child.wait().unwrap().code(),
        Some(130),
        "it ends as an interrupted program does"
    );
    assert_eq!(named(&own), Vec::<String>::new());
}

#[test]
fn what_a_killed_demo_leaves_is_removed_at_the_next_start() {
    let (mut child, own) = begun_demo();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(named(&own), Vec::<String>::new(), "kill -9 leaves its namespaces");
    cleanup::sweep();
    assert_eq!(named(&own), Vec::<String>::new());
}
