//! The agent and the command line of grpclb. `main` only calls [`cli`]; the rooms and who may use whom stand in
//! ARCHITECTURE.md.
//!
//! `kernel` steers, `pods` keeps a listener in each pod, `data` relays, `control` says what is wanted, `admin` and
//! `observe` answer questions, `app` wires them together.

pub mod admin;
pub mod app;
mod claim;
pub mod cli;
pub mod control;
pub mod data;
pub mod kernel;
pub mod leftovers;
pub mod model;
pub mod netns;
pub mod observe;
pub mod pods;
