//! The data plane with real sockets, without the kernel room: clients dial the listener's `127.S.S.S` addresses
//! themselves, as the connect hooks would make them do. Needs root (entering network namespaces).

mod beats;
mod bytes;
mod calls;
mod charges;
mod deaths;
mod dials;
mod ends;
mod fairness;
mod h2_peers;
mod namespaces;
mod panics;
mod pauses;
mod rig;
mod steering;
mod storm;
