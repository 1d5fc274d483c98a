//! One HTTP/2 connection: against scripted peers (RFC 9113 section by section), against itself, and against the h2 crate.

#[path = "../support/mod.rs"]
mod support;

mod against_h2;
mod against_h2_fields;
mod against_h2_servers;
mod floods;
mod honest;
mod interleavings;
mod limits;
mod memory;
mod owner;
mod pausing;
mod pings;
mod resets;
mod rfc9113_3_4_frames;
mod rfc9113_5_streams;
mod rfc9113_6_definitions;
mod rfc9113_6_windows;
mod rfc9113_8_messages;
mod states;
