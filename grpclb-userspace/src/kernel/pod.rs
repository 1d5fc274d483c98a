//! The records of `grpclb-abi` as plain bytes for aya: the only `unsafe impl Pod` of the project.
//!
//! aya's trait and the records are both foreign here, hence the wrapper.
#![allow(unsafe_code)]

use grpclb_abi as abi;

/// A record that may be copied to and from the kernel byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

macro_rules! plain {
    ($($record:ident),+ $(,)?) => {
        $(
            // SAFETY: `repr(transparent)` over a `repr(C)` struct of integers and byte arrays; that it has no padding is
            // asserted beside its definition in grpclb-abi, and every bit pattern is a valid value.
            unsafe impl aya::Pod for Plain<abi::$record> {}
        )+
    };
}

plain!(
    Accepted, Backend, BackendKey, Counters, Flow, Instance, Pod, Service, ServiceKey, Steered
);
