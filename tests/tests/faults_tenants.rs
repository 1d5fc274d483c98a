//! What the clients of one pod do, or the servers that it calls, costs no other pod a call, and the agent no more memory than
//! that pod may hold.
#![allow(clippy::unwrap_used)] // also in what the tests share

mod tenants_support;

use std::time::{Duration, Instant};

use grpclb_tests::peers::Load;
use grpclb_tests::process::wait_until;
use tenants_support::Tenants;

/// Bytes of resident memory that come and go without any attack.
const NOISE: u64 = 32 << 20;

/// How long backoff after failed dials may take, and more.
const PATIENCE: Duration = Duration::from_mins(1);

/// Attacks on servers that behave: the server, the kind and its bounds.
const CLIENTS: [(&str, &str); 14] = [
    ("grpc", "header-references --seconds 2"),
    (
        "grpc",
        "header-references --seconds 2 --streams 10000 --fields 999",
    ),
    ("grpc", "unfinished-blocks --seconds 3"),
    ("grpc", "large-headers --seconds 3"),
    ("unread", "unread-body --seconds 4"),
    ("grpc", "unread-responses --seconds 3"),
    ("grpc", "rapid-reset --seconds 2"),
    ("grpc", "cancels --seconds 2 --rate 1000"),
    ("grpc", "abandon --seconds 2"),
    ("grpc", "unread-settings --seconds 2"),
    ("grpc", "oversized-blocks --seconds 2"),
    ("no-table", "expanding --seconds 2"),
    ("grpc", "pings --seconds 2"),
    ("grpc", "bad-fields --seconds 2"),
];

#[test]
fn attacking_clients_fail_no_call_of_other_pods_and_hold_no_more_than_their_pods_budget() {
    let mut tenants = Tenants::steered().unwrap();
    let mut loads = tenants.good_loads().unwrap();
    let budget = tenants.budget().unwrap();
    let idle = tenants.resident().unwrap().now().unwrap();
    for (server, words) in CLIENTS {
        tenants.serve(server).unwrap();
        let effect = tenants.attack(words).unwrap();
        assert!(effect.figures.connected > 0, "{words}: {:?}", effect.figures);
        assert!(
            effect.peak <= idle + budget / 4 * 5,
            "{words}: {} bytes resident, {idle} before: {effect:?}",
            effect.peak
        );
        for load in &mut loads {
            load.wait_for_more(50).unwrap();
        }
        assert_runs(&tenants, words);
    }
    assert_none_failed(loads);
    assert!(tenants.shrinks_to(idle + NOISE), "memory goes back to the system");
    tenants.serve("grpc").unwrap();
    assert!(tenants.other_answers());
    tenants.call_other(100).unwrap().assert_none_failed();
}

/// May fail: calls to the server that ends its connections, and those at the moment at which a server is replaced.
#[test]
fn misbehaving_servers_fail_no_call_of_other_pods_and_none_that_they_answer() {
    let mut tenants = Tenants::steered().unwrap();
    let loads = tenants.good_loads().unwrap();

    // The only server: its calls wait for it from the first on.
    tenants.serve("late-settings").unwrap();
    tenants.call_other(100).unwrap().assert_none_failed();

    tenants.serve("no-acknowledgement").unwrap();
    assert!(tenants.other_answers());
    tenants.call_other(100).unwrap().assert_none_failed();

    tenants.serve("trailing-spaces").unwrap();
    assert!(tenants.other_answers());
    let outcome = tenants.call_other(300).unwrap();
    assert_eq!(outcome.errors.get("NotFound"), Some(&300), "{outcome:?}");

    // Nobody sent a PING, yet each connection is told so 30 times.
    tenants.serve("too-many-pings").unwrap();
    assert!(wait_until(PATIENCE, || {
        tenants.call_other(1).unwrap();
        let status = tenants.agent.as_ref().unwrap().status().unwrap();
        status["counters"]["goaways"].as_u64() > Some(60)
    }));
    assert_runs(&tenants, "too-many-pings");

    tenants.serve("grpc").unwrap();
    assert!(tenants.other_answers());
    tenants.call_other(100).unwrap().assert_none_failed();
    assert_none_failed(loads);
}

fn assert_none_failed(loads: Vec<Load>) {
    for load in loads {
        load.finish().unwrap().assert_none_failed();
    }
}

fn assert_runs(tenants: &Tenants, words: &str) {
    let agent = tenants.agent.as_ref().unwrap();
    assert!(!agent.process.has_ended(), "{words}: {}", agent.process.errors());
    let status = agent.status().unwrap();
    assert_eq!(status["readiness"]["ready"], true, "{words}: {status:#}");
    assert_eq!(status["pid"], agent.process.pid(), "{words}");
}

/// Prints figures of attacks beside the good pods' loads, via kube-proxy and via the agent: they measure this machine.
/// `GRPCLB_ATTACKS` has other attacks than those above, as `SERVER:KIND BOUNDS`, separated by commas.
#[test]
fn figures_of_long_attacks() {
    if !grpclb_tests::long_form() {
        return;
    }
    let own = CLIENTS
        .map(|(server, words)| format!("{server}:{words} --seconds 10"))
        .join(",");
    let attacks = std::env::var("GRPCLB_ATTACKS").unwrap_or(own);
    let mut tenants = Tenants::steered().unwrap();
    for path in ["via grpclb", "via kube-proxy"] {
        for attack in attacks.split(',') {
            let (server, words) = attack.split_once(':').unwrap();
            tenants.serve(server).unwrap();
            print_figures(path, &tenants, words);
        }
        // Without an agent, new connections go via kube-proxy.
        tenants.agent = None;
    }
}

fn print_figures(path: &str, tenants: &Tenants, words: &str) {
    let loads = tenants.good_loads().unwrap();
    let effect = tenants.attack(words).unwrap();
    eprintln!("{path}: {words}");
    for load in loads {
        let outcome = load.finish().unwrap();
        let (failed, p99, max) = (outcome.failed(), outcome.p99_ms, outcome.max_ms);
        eprintln!(
            "    {failed} of {} failed, p99 {p99:.1} ms, max {max:.0} ms {:?}",
            outcome.calls, outcome.messages
        );
    }
    let ended = Instant::now();
    let back = tenants.shrinks_to(effect.before + NOISE);
    let mib = |bytes: u64| bytes >> 20;
    eprintln!(
        "    {} MiB resident, then +{} MiB, {} MiB held; back: {back}, after {:.1?}",
        mib(effect.before),
        mib(effect.peak.saturating_sub(effect.before)),
        mib(effect.held),
        ended.elapsed()
    );
    eprintln!("    {:?}", effect.figures);
    if let Some(agent) = &tenants.agent {
        let counters = agent.status().unwrap()["counters"].clone();
        let counted: Vec<String> = counters
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, count)| **count != 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        eprintln!("    pod {}\n    {}", effect.pod, counted.join(", "));
    }
}
