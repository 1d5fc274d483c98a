//! What the kernel programs count: one named figure for each outcome.
#![allow(clippy::doc_markdown)] // the texts are the help of metrics too

/// Declares the counters once: the struct that lies in the map, the index of each figure, and the names.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident, $variant:ident;)+) => {
        /// One CPU's figures, as they lie in the map; `bpftool map dump` prints them by name.
        #[repr(C)]
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        /// Which figure: its place in [`Counters`].
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[doc = $doc])+ $variant,)+
        }

        /// Every counter, in order.
        pub const COUNTERS: &[Counter] = &[$(Counter::$variant,)+];

        impl Counter {
            /// The name in metrics, in `grpclb status` and in the map.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($field),)+ }
            }

            /// What it counts, for the help text of metrics.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+),)+ }
            }
        }

        impl Counters {
            /// This counter's figure.
            pub const fn get(&self, counter: Counter) -> u64 {
                match counter { $(Counter::$variant => self.$field,)+ }
            }
        }
    };
}

counters! {
    /// Connects that were sent to the agent.
    steered, Steered;
    /// Connects left alone: not a TCP stream.
    not_tcp, NotTcp;
    /// Connects left alone: this network namespace is not enabled.
    not_enabled, NotEnabled;
    /// Connects of enabled pods left alone: no known Service has this address and port.
    no_service, NoService;
    /// Connects left alone: the agent's own socket.
    own_socket, OwnSocket;
    /// Connects left alone: the socket is bound to a device, which loopback is not.
    bound_device, BoundDevice;
    /// Connects left alone: the Service has no endpoint.
    no_endpoint, NoEndpoint;
    /// Connects left alone: the agent's worker has not beaten for 500 ms.
    stale_heartbeat, StaleHeartbeat;
    /// IPv6 connects left alone: this pod or this kernel cannot be steered over IPv6.
    no_ipv6, NoIpv6;
    /// Connects left alone: the record for the socket could not be made.
    no_record, NoRecord;
    /// Answers of getpeername(2) in which the Service's address was put back.
    peer_restored, PeerRestored;
    /// Answers of getsockname(2) in which the pod's own address was put back.
    name_restored, NameRestored;
    /// Steered connections whose handshake was completed.
    established, Established;
    /// Steered IPv6 connections whose Service could not be told to the listener.
    flow_lost, FlowLost;
    /// IPv6 connections accepted by the agent with their Service.
    flow_claimed, FlowClaimed;
    /// IPv6 connections to the agent's listener that nothing had steered there.
    flow_unknown, FlowUnknown;
    /// Sockets handed to sk_msg.
    accelerated, Accelerated;
    /// Sockets that sk_msg could not take; they use plain TCP.
    accelerate_failed, AccelerateFailed;
    /// Messages that sk_msg handed from socket to socket.
    redirected, Redirected;
    /// Messages that sk_msg left to TCP, since the other socket was not known.
    not_redirected, NotRedirected;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_the_place_of_its_field() {
        assert_eq!(size_of::<Counters>(), COUNTERS.len() * size_of::<u64>());
        assert_eq!(
            core::mem::offset_of!(Counters, steered),
            Counter::Steered as usize * 8
        );
        assert_eq!(
            core::mem::offset_of!(Counters, stale_heartbeat),
            Counter::StaleHeartbeat as usize * 8
        );
        assert_eq!(
            core::mem::offset_of!(Counters, not_redirected),
            Counter::NotRedirected as usize * 8
        );
    }

    #[test]
    fn a_figure_is_found_by_its_counter() {
        let figures = Counters {
            no_service: 7,
            ..Counters::default()
        };
        assert_eq!(figures.get(Counter::NoService), 7);
        assert_eq!(Counter::NoService.name(), "no_service");
        assert!(COUNTERS.iter().all(|counter| counter.help().ends_with('.')));
    }
}
