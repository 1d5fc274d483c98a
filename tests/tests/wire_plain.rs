//! The peers without grpclb: what fails here is the peers' fault, and not grpclb's.

use std::net::SocketAddr;

use grpclb_tests::peers::{Language, run_twice};
use grpclb_tests::service::ECHO;
use grpclb_tests::stage::Stage;

/// All but `keepalive`, which takes grpc-go half a minute, and the spread of connections, which is nftables' own.
const SCENARIOS: &[&str] = &[
    "unary",
    "client_stream",
    "server_stream",
    "bidi",
    "large",
    "concurrent",
    "metadata",
    "deadline",
    "cancel",
    "statuses",
    "trailers_only",
    "compression",
];

fn speaks_with_every_server(client: Language) {
    let stage = Stage::new(&Language::ALL).expect("a node with four servers");
    for (server, language) in stage.servers.iter().zip(Language::ALL) {
        let target = SocketAddr::from((server.pod.ipv4, ECHO.port));
        for outcome in stage.run(client, target, SCENARIOS).expect("the client runs") {
            assert!(
                outcome.ok,
                "{client:?} client, {language:?} server, {}: {:?}",
                outcome.scenario, outcome.error
            );
            assert!(
                outcome.peers.iter().all(|peer| *peer == stage.client.ipv4),
                "{:?}",
                outcome.peers
            );
        }
    }
    assert_eq!(run_twice(&stage.servers), Vec::<String>::new());
}

#[test]
fn the_tonic_client_speaks_with_every_server() {
    speaks_with_every_server(Language::Rust);
}

#[test]
fn the_grpcio_client_speaks_with_every_server() {
    speaks_with_every_server(Language::Python);
}

#[test]
fn the_grpc_js_client_speaks_with_every_server() {
    speaks_with_every_server(Language::Js);
}

#[test]
fn the_grpc_go_client_speaks_with_every_server() {
    speaks_with_every_server(Language::Go);
}
