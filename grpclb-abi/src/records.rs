//! Keys and values of the maps. Layouts are held by the assertions at the end: no hidden padding, no surprise.

use crate::Address;

/// Length of a text field.
pub const TEXT: usize = 64;

/// Text for people: bytes up to the first zero. Signed, because that is what `bpftool` prints as a string.
pub type Text = [i8; TEXT];

/// `text` cut to what fits with a zero behind it; never in the middle of a character. Control characters become `?`.
pub const fn text(text: &str) -> Text {
    let bytes = text.as_bytes();
    let mut out = [0; TEXT];
    let mut end = if bytes.len() < TEXT { bytes.len() } else { TEXT - 1 };
    while end < bytes.len() && end > 0 && bytes[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    let mut i = 0;
    while i < end {
        out[i] = if bytes[i] < 0x20 {
            b'?'.cast_signed()
        } else {
            bytes[i].cast_signed()
        };
        i += 1;
    }
    out
}

/// The bytes of a text field, without what follows the first zero.
pub fn text_bytes(text: &Text) -> impl Iterator<Item = u8> + '_ {
    text.iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| byte.cast_unsigned())
}

/// An enabled pod; its key is the cookie of its network namespace (`SO_NETNS_COOKIE`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Where the tests' version of the ABI has it.
    #[cfg(feature = "next-abi")]
    pub name: Text,
    /// What getsockname answers on steered IPv4 sockets, mapped; all zero where it is not known.
    pub source4: Address,
    /// What getsockname answers on steered IPv6 sockets; all zero where it is not known.
    pub source6: Address,
    /// The data worker whose heartbeat counts.
    pub worker: u32,
    /// The listener's port on the pod's loopback.
    pub port: u16,
    /// [`pod_flags`].
    pub flags: u16,
    /// Namespace and name, for people.
    #[cfg(not(feature = "next-abi"))]
    pub name: Text,
}

/// Bits of [`Pod::flags`].
pub mod pod_flags {
    /// The listener stands on `[::1]` too, and the Service can be told to it.
    pub const IPV6: u16 = 1;
    /// Hand this pod's sockets to `sk_msg` (opt-in: no backpressure).
    pub const ACCELERATE: u16 = 1 << 1;
}

/// What a client dials. Aligned to words, so that the kernel programs write the address in four stores.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    pub address: Address,
    /// Host order.
    pub port: u16,
    pub padding: u16,
}

/// One address and port of a Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where the tests' version of the ABI has it.
    #[cfg(feature = "next-abi")]
    pub name: Text,
    /// [`crate::Slot`].
    pub slot: u32,
    /// How many usable endpoints there are. None: connects are left alone.
    pub endpoints: u32,
    /// [`SERVICE_HTTP2`]; for people.
    pub flags: u32,
    /// Namespace, name and port, for people.
    #[cfg(not(feature = "next-abi"))]
    pub name: Text,
}

/// The port is declared to be HTTP/2.
pub const SERVICE_HTTP2: u32 = 1;

/// An endpoint of a Service, in the order that the agent keeps them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendKey {
    pub slot: u32,
    pub index: u32,
}

/// One endpoint, for people.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    pub address: Address,
    /// Host order.
    pub port: u16,
    /// 0 ready, 1 draining.
    pub draining: u16,
    pub weight: u32,
    /// Pod UID or the id from the file.
    pub name: Text,
}

/// What `connect` remembers about a client's socket, for as long as the socket lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steered {
    /// The Service's address, which the application dialled.
    pub service: Address,
    /// The listener's address, which the kernel dialled. While it is the socket's peer, this record holds.
    pub listener: Address,
    /// The pod's own address; all zero where it is not known.
    pub source: Address,
    pub service_port: u16,
    pub listener_port: u16,
    /// [`crate::Slot`].
    pub slot: u32,
    /// [`pod_flags`] at the time of the connect.
    pub flags: u32,
    pub padding: u32,
}

/// Which Service a connection is for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// [`crate::Slot`].
    pub slot: u32,
    /// [`pod_flags`] of the client's pod.
    pub flags: u32,
}

/// One end of a connection within one namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Namespace cookie.
    pub netns: u64,
    pub local: Address,
    pub remote: Address,
    /// Host order, both.
    pub local_port: u16,
    pub remote_port: u16,
    pub padding: u32,
}

/// Whose maps these are, for people.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    pub abi_version: u32,
    /// Of the agent, in the PID namespace that it runs in.
    pub pid: u32,
    pub name: Text,
}

/// Asserts that a record's fields fill it without a gap: padding bytes would be a key that never matches.
macro_rules! gapless {
    ($record:ident { $($field:ident),+ } = $size:literal) => {
        const _: () = {
            const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
                size_of::<F>()
            }
            assert!(size_of::<$record>() == $size);
            assert!(0 $(+ size_of_field(|record: &$record| &record.$field))+ == $size);
        };
    };
}

gapless!(
    Pod {
        source4,
        source6,
        worker,
        port,
        flags,
        name
    } = 104
);
gapless!(
    ServiceKey {
        address,
        port,
        padding
    } = 20
);
gapless!(
    Service {
        slot,
        endpoints,
        flags,
        name
    } = 76
);
gapless!(BackendKey { slot, index } = 8);
gapless!(
    Backend {
        address,
        port,
        draining,
        weight,
        name
    } = 88
);
gapless!(
    Steered {
        service,
        listener,
        source,
        service_port,
        listener_port,
        slot,
        flags,
        padding
    } = 64
);
gapless!(Accepted { slot, flags } = 8);
gapless!(
    Flow {
        netns,
        local,
        remote,
        local_port,
        remote_port,
        padding
    } = 48
);
gapless!(
    Instance {
        abi_version,
        pid,
        name
    } = 72
);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::mem::offset_of;
    use std::string::String;

    /// The version stands for these bytes: whoever moves a field changes this test and raises the version.
    #[test]
    #[cfg(not(feature = "next-abi"))]
    fn version_1_has_this_layout() {
        assert_eq!(crate::ABI_VERSION, 1);
        assert_eq!(
            (
                offset_of!(Pod, worker),
                offset_of!(Pod, port),
                offset_of!(Pod, flags)
            ),
            (32, 36, 38)
        );
        assert_eq!(offset_of!(ServiceKey, port), 16);
        assert_eq!(
            (offset_of!(Service, slot), offset_of!(Service, endpoints)),
            (0, 4)
        );
        assert_eq!((offset_of!(Backend, port), offset_of!(Backend, weight)), (16, 20));
        assert_eq!(
            (offset_of!(Steered, listener), offset_of!(Steered, source)),
            (16, 32)
        );
        assert_eq!(
            (offset_of!(Steered, service_port), offset_of!(Steered, slot)),
            (48, 52)
        );
        assert_eq!(
            (
                offset_of!(Flow, local),
                offset_of!(Flow, remote),
                offset_of!(Flow, local_port)
            ),
            (8, 24, 40)
        );
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let long = "é".repeat(40);
        let kept: std::vec::Vec<u8> = text_bytes(&text(&long)).collect();
        assert_eq!(
            kept.len(),
            62,
            "31 characters of two bytes, and at least one zero"
        );
        assert!(String::from_utf8(kept).unwrap().chars().all(|c| c == 'é'));
    }

    #[test]
    fn a_control_character_does_not_reach_the_terminal() {
        let kept: std::vec::Vec<u8> = text_bytes(&text("a\x1b[2J\nb")).collect();
        assert_eq!(kept, b"a?[2J?b");
    }
}
