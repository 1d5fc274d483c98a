//! The pure half of grpclb: HTTP/2 frames, HPACK, streams, flow control, the splitter and its balancing policies.
//!
//! Bytes, time and random numbers come in; bytes, picks and deadlines come out. Nothing here performs IO, reads a clock
//! or draws a random number of its own, so every protocol case is a plain, fast, repeatable test.

#![forbid(unsafe_code)]
// Peers and the API choose windows, sizes, weights and times: arithmetic on them saturates or is checked. `+` and its kin are
// left to tests, to `Time`, which saturates, and to modules that say why.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod balance;
pub mod connection;
pub mod frame;
pub mod hpack;
pub mod message;
pub mod rng;
pub mod splitter;
pub mod time;

pub use time::Time;
