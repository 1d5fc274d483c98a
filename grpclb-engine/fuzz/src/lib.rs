//! What must hold for any bytes that reach the engine, one module a target.

pub mod frames;
pub mod hpack;
pub mod splitter;
