//! The harness of the tests from outside: a node with pods on this machine, a Service address, the agent, and gRPC
//! clients and servers in four languages.
//!
//! Pods are network namespaces that only reach each other and their node; nothing leaves the machine. Everything that a
//! run makes carries its prefix and goes when its guard drops, on Ctrl-C, and at the latest at the next start.
//! What must hold is said in `tests/` and in the demo; here is how to ask for it.

pub mod agent;
pub mod agents;
pub mod attack;
pub mod cleanup;
pub mod cluster;
pub mod helm;
pub mod install;
pub mod load;
pub mod manifests;
pub mod monitoring;
pub mod node;
pub mod openapi;
pub mod peers;
pub mod process;
pub mod service;
pub mod stage;
pub mod usage;

/// Whether the long forms of tests are wanted (`GRPCLB_LONG=1`): more updates, more replicas, more pods.
pub fn long_form() -> bool {
    std::env::var_os("GRPCLB_LONG").is_some()
}
