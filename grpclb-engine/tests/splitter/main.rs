//! The splitter between clients and backends under a virtual clock: each decision of its design with its test.

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod calls;
mod cancels;
mod draining;
mod endpoints;
mod errors;
mod faults;
mod header_limits;
mod hostile;
mod local_replies;
mod memory;
mod pausing;
mod pings;
mod recovery;
mod replay;
mod resets;
mod shared;
mod storms;
mod upkeep;
mod waiting;
