//! The data plane: workers that accept the pods' steered connections and relay them.
//!
//! ```text
//! accept ── which Service ── detect ─┬─ HTTP/2 ── leg ⇄ engine's splitter ⇄ leg ── dial ── backends
//!                                    └─ opaque ── relay (one endpoint for the connection) ──┘
//! ```
//!
//! A worker is a thread with a single-threaded runtime. A pod belongs to one worker, with all its connections, its
//! splitter and its sockets: no lock, no atomic and no task for a call; a task for a connection. What is wanted comes
//! in by [`DataPlane`]'s commands, in order, except that Services which no pod uses wake nobody ([`news`]); what is true goes
//! out by [`DataPlane::status`].
//!
//! Every relayed socket carries `SO_LINGER {1, 0}` from its first moment to its orderly end, so that whatever ends this
//! process resets the connections and never looks like a clean end of stream.
//!
//! A panic in a pod's turn ends that pod's connections and nothing else ([`panics`]).
//!
//! Not here: protocol (the engine), which pods and Services there are (`control`, `pods`), steering (`kernel`).

mod accept;
mod charge;
mod config;
mod detect;
mod dial;
mod driver;
mod leg;
mod legs;
mod news;
mod opaque;
mod panics;
mod plane;
mod pod;
mod relay;
mod services;
mod socket;
mod status;
mod ticks;
mod totals;
mod turns;
mod undetected;
mod wake;
mod worker;

pub use config::{Config, DialTimes, Leave, Listeners, StartError};
pub use panics::{OnPanic, OnTurn, Turn, install_panic_hook};
pub use plane::DataPlane;
pub use status::{AcceptCounters, EndpointStatus, OpaqueCounters, PodStatus, ServiceStatus, WorkerStatus};
pub use totals::{EndpointTotals, ServiceTotals, Totals};
