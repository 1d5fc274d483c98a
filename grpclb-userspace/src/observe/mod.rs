//! What people and machines see of a running agent: logs, the status and the metrics.
//!
//! This room is told, and asks nobody: no other room is imported here.
//!
//! - [`logging`] sets up `tracing`.
//! - [`status`] is the snapshot that `admin` serves and `cli` draws; `app` fills it in.
//! - [`explain`] is why one pod's calls to one Service are balanced or not, in the same way.
//! - [`metrics`] writes a snapshot as Prometheus text.
//! - [`process`] reads what the agent's process uses.

pub mod explain;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod status;

pub use status::Status;
