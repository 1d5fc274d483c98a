//! Addresses that change hands under a steady load of calls from an enabled pod: of servers that move, of pods of other Services,
//! of Services that are made again. Each test says which calls may fail, and counts them.
#![allow(clippy::unwrap_used)] // also in what the tests share

mod load_support;

use std::net::Ipv4Addr;

use grpclb_tests::cluster::{PATIENCE, TEST_IMAGE};
use grpclb_tests::long_form;
use grpclb_tests::process::wait_until;
use load_support::{CONCURRENCY, NODE, TARGET, end_unharmed, reaches, stage};

/// May fail: what runs on the server whose sandbox is killed. It keeps its name and its UID, and gets another address: that one
/// gets calls, and the old one none any more.
#[test]
fn a_server_whose_sandbox_is_killed_gets_calls_again_at_its_new_address() {
    let stage = stage("sandbox", 3);
    let servers = stage.namespace.pods("app=echo").unwrap();
    let server = servers.keys().next().unwrap();
    let pod = || stage.namespace.get(&["pod", server]).unwrap();
    let before = pod();
    let load = stage.load();
    stage.namespace.kill_sandbox(server).unwrap();
    let moved = wait_until(PATIENCE, || {
        let pod = pod();
        let container = &pod["status"]["containerStatuses"][0];
        container["restartCount"] == 1
            && container["ready"] == true
            && pod["status"]["podIP"] != before["status"]["podIP"]
    });
    assert!(moved, "{}", pod()["status"]);
    assert_eq!(pod()["metadata"]["uid"], before["metadata"]["uid"]);
    reaches(&stage.namespace, TARGET, 3);
    let outcome = load.finish().unwrap();
    println!("{} of {} calls failed", outcome.failed(), outcome.calls);
    assert!(
        outcome.failed() <= u64::from(CONCURRENCY),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
}

/// May fail: calls of the pod that is killed without grace. None may reach the pod that has its address next: that one
/// serves another Service.
#[test]
fn an_address_that_another_services_pod_gets_brings_it_no_calls() {
    let stage = stage("reuse", 2);
    stage.namespace.start_servers("other", 2).unwrap();
    let start = |name: &str, of: &str| {
        stage.namespace.apply(&server_pod(name, of)).unwrap();
        stage
            .namespace
            .wait_until_ready(&[&format!("pod/{name}")])
            .unwrap();
        let pod = stage.namespace.get(&["pod", name]).unwrap();
        let address = pod["status"]["podIP"].as_str().unwrap();
        address.parse::<Ipv4Addr>().unwrap()
    };
    let address = start("victim", "echo");
    reaches(&stage.namespace, TARGET, 3);
    let load = stage.load();
    let delete = ["delete", "pod", "victim", "--grace-period=0", "--force", "--wait"];
    stage.namespace.kubectl(&delete).unwrap();
    let held = format!("ls /run/cni-addresses/pods/{address} 2>/dev/null || true");
    let free = wait_until(PATIENCE, || {
        stage.on_node(&["bash", "-c", &held]).trim().is_empty()
    });
    assert!(free, "{address} is given back");
    // The CNI plugin gives addresses in turn: it is told that the one before was the last.
    let before = Ipv4Addr::from(u32::from(address) - 1);
    let script = format!("printf {before} >/run/cni-addresses/pods/last_reserved_ip.0");
    stage.on_node(&["bash", "-c", &script]);
    assert_eq!(
        start("heir", "other"),
        address,
        "the other Service's pod has the address now"
    );

    reaches(&stage.namespace, "other:50051", 3);
    let outcome = load.finish().unwrap();
    let stray = outcome.per_backend.get("heir");
    assert_eq!(stray, None, "calls to echo that another Service's pod answered");
    assert!(outcome.per_backend.contains_key("victim"));
    assert!(
        outcome.failed() <= u64::from(CONCURRENCY),
        "{:?} {:?}",
        outcome.errors,
        outcome.messages
    );
}

/// A server on `NODE` that no controller replaces, behind the Service `of`.
fn server_pod(name: &str, of: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {of}}}}}, spec: {{ \
          nodeSelector: {{kubernetes.io/hostname: {NODE}}}, terminationGracePeriodSeconds: 0, containers: [{{ \
          name: server, image: '{TEST_IMAGE}', imagePullPolicy: Never, \
          args: [server, --listen, '[::]:8080', --name, {name}, --executions, /tmp/executions], \
          ports: [{{name: grpc, containerPort: 8080}}], readinessProbe: {{tcpSocket: {{port: grpc}}, periodSeconds: 1}}}}]}}}}"
    )
}

/// May fail: none. One of two endpoints turns unready and ready again, as a readiness probe that flaps makes it.
#[test]
fn a_slice_that_flaps_fails_no_call() {
    let stage = stage("flaps", 2);
    let pods = stage.namespace.get(&["pods", "--selector=app=echo"]).unwrap();
    let addresses: Vec<&str> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|pod| pod["status"]["podIP"].as_str())
        .collect();
    let slice = |ready: bool| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
              metadata: {{name: flaps, labels: {{kubernetes.io/service-name: flaps}}}}, ports: [{{name: grpc, port: 8080}}], \
              endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}, {{addresses: [{}], conditions: {{ready: {ready}}}}}]}}",
            addresses[0], addresses[1]
        )
    };
    let service = "{apiVersion: v1, kind: Service, metadata: {name: flaps}, spec: {ports: [{name: grpc, port: 50051}]}}";
    stage.namespace.apply(service).unwrap();
    stage.namespace.apply(&slice(true)).unwrap();
    reaches(&stage.namespace, "flaps:50051", 2);
    let load = stage.load_of("flaps:50051");
    let times = if long_form() { 50 } else { 10 };
    for _ in 0..times {
        stage.namespace.apply(&slice(false)).unwrap();
        stage.namespace.apply(&slice(true)).unwrap();
    }
    end_unharmed(load);
}

/// May fail: none before the Service is deleted. Afterwards its name has another address, and that one is balanced.
#[test]
fn a_service_made_again_with_another_address_is_balanced_there() {
    let stage = stage("again", 3);
    let old = stage.address();
    reaches(&stage.namespace, &old, 3);
    stage.namespace.kubectl(&["delete", "service", "echo"]).unwrap();
    let manifest = |name: &str, address: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{address} selector: {{app: {name}}}, ports: [{{name: grpc, port: 50051, targetPort: grpc}}]}}}}"
        )
    };
    // Another Service has the old address before the first one is back.
    stage.namespace.start_servers("taker", 2).unwrap();
    stage.namespace.kubectl(&["delete", "service", "taker"]).unwrap();
    let (ip, _) = old.rsplit_once(':').unwrap();
    stage
        .namespace
        .apply(&manifest("taker", &format!("clusterIP: {ip},")))
        .unwrap();
    stage.namespace.apply(&manifest("echo", "")).unwrap();
    assert_ne!(stage.address(), old);
    reaches(&stage.namespace, TARGET, 3);
    reaches(&stage.namespace, &old, 2);
    let taken = stage.namespace.call("client", &old, 60, 1).unwrap();
    assert!(
        taken
            .per_backend
            .keys()
            .all(|backend| backend.starts_with("taker")),
        "the old address is the other Service's: {:?}",
        taken.per_backend
    );
}
