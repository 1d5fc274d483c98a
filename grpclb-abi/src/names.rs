//! Names of maps and programs: the symbols in the kernel object, which are also the names that `bpftool` shows (cut at 15
//! characters by the kernel, so none is longer), and the files below `/sys/fs/bpf/grpclb/<instance>/`.

/// Maps. The first of each pair is the symbol in the object, the second the pin's file name.
pub mod map {
    /// Key: namespace cookie (u64). Value: [`crate::Pod`].
    pub const PODS: &str = "grpclb_pods";
    /// Key: [`crate::ServiceKey`]. Value: [`crate::Service`].
    pub const SERVICES: &str = "grpclb_services";
    /// Key: [`crate::BackendKey`]. Value: [`crate::Backend`]. Read by people only.
    pub const BACKENDS: &str = "grpclb_backends";
    /// Key: worker (u32). Value: the machine's `CLOCK_MONOTONIC` in nanoseconds (u64), whatever time namespace the agent is in.
    pub const HEARTBEATS: &str = "grpclb_beats";
    /// Key: 0. Value, per CPU: [`crate::Counters`].
    pub const COUNTERS: &str = "grpclb_counters";
    /// Key: a client's socket. Value: [`crate::Steered`].
    pub const STEERED: &str = "grpclb_steered";
    /// Key: a socket that the agent accepted. Value: [`crate::Accepted`].
    pub const ACCEPTED: &str = "grpclb_accepted";
    /// Key: [`crate::Flow`] as the client sees it. Value: [`crate::Accepted`].
    pub const FLOWS: &str = "grpclb_flows";
    /// Key: [`crate::Flow`] as the socket's owner sees it. Value: the socket.
    pub const SOCKETS: &str = "grpclb_sockets";
    /// Key: 0. Value: [`crate::Instance`]. Read by people only.
    pub const INSTANCE: &str = "grpclb_instance";

    /// Every map and the file that it is pinned as.
    pub const PINS: [(&str, &str); 10] = [
        (PODS, "pods"),
        (SERVICES, "services"),
        (BACKENDS, "backends"),
        (HEARTBEATS, "heartbeats"),
        (COUNTERS, "counters"),
        (STEERED, "steered"),
        (ACCEPTED, "accepted"),
        (FLOWS, "flows"),
        (SOCKETS, "sockets"),
        (INSTANCE, "instance"),
    ];
}

/// Programs.
pub mod program {
    pub const CONNECT4: &str = "grpclb_connect4";
    pub const CONNECT6: &str = "grpclb_connect6";
    pub const PEERNAME4: &str = "grpclb_peer4";
    pub const PEERNAME6: &str = "grpclb_peer6";
    pub const SOCKNAME4: &str = "grpclb_name4";
    pub const SOCKNAME6: &str = "grpclb_name6";
    pub const SOCK_OPS: &str = "grpclb_sockops";
    pub const SK_MSG: &str = "grpclb_skmsg";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_cuts_no_name() {
        let programs = [
            program::CONNECT4,
            program::CONNECT6,
            program::PEERNAME4,
            program::PEERNAME6,
            program::SOCKNAME4,
            program::SOCKNAME6,
            program::SOCK_OPS,
            program::SK_MSG,
        ];
        for name in map::PINS.iter().map(|(name, _)| name).chain(&programs) {
            assert!(name.len() <= 15, "{name} is longer than BPF_OBJ_NAME_LEN - 1");
        }
    }

    #[test]
    fn no_pin_has_a_dot_which_bpffs_reserves() {
        assert!(map::PINS.iter().all(|(_, file)| !file.contains('.')));
    }
}
