//! The harness of the tests from outside: a node with pods on this machine, a Service address, the agent, and gRPC
//! clients and servers in four languages.
//!
//! Pods are network namespaces that only reach each other and their node; nothing leaves the machine. Everything that a
//! run makes carries its prefix and goes when its guard drops, on Ctrl-C, and at the latest at the next start.
//! The harness checks nothing itself: what must hold is said in `tests/` and in the demo.

pub mod agent;
pub mod agents;
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
