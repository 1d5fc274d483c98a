//! What goes into the maps, in the agent's own types, and its form there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use grpclb_abi::{self as abi, Slot, pod_flags, text};

/// An enabled pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name, for people.
    pub name: String,
    /// The data worker that owns it; its heartbeat counts.
    pub worker: u32,
    /// The listener's port on the pod's loopback.
    pub port: u16,
    /// The listener stands on `[::1]` too.
    pub ipv6: bool,
    /// Hand its sockets to `sk_msg` (opt-in: no backpressure, see docs).
    pub accelerate: bool,
    /// The pod's own addresses: what getsockname answers on steered sockets. Without one it answers a loopback address.
    pub source4: Option<Ipv4Addr>,
    pub source6: Option<Ipv6Addr>,
}

/// One address and port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace, name and port, for people.
    pub name: Arc<str>,
    pub slot: Slot,
    /// Usable endpoints (draining ones count while none is ready); with none, connects are left alone.
    pub endpoints: u32,
    /// Declared to be HTTP/2; for people.
    pub http2: bool,
}

/// One endpoint, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub id: Arc<str>,
    pub address: SocketAddr,
    pub weight: u32,
    pub draining: bool,
}

impl Pod {
    /// `accelerate`: whether this kernel can. Where it cannot steer IPv6, no program looks at that flag.
    pub(super) fn to_abi(&self, accelerate: bool) -> abi::Pod {
        let mut flags = 0;
        if self.ipv6 {
            flags |= pod_flags::IPV6;
        }
        if self.accelerate && accelerate {
            flags |= pod_flags::ACCELERATE;
        }
        abi::Pod {
            source4: self
                .source4
                .map_or([0; 16], |address| abi::mapped_ipv4(address.octets())),
            source6: self.source6.map_or([0; 16], |address| address.octets()),
            worker: self.worker,
            port: self.port,
            flags,
            name: text(&self.name),
        }
    }
}

impl Service {
    pub(super) fn to_abi(&self) -> abi::Service {
        abi::Service {
            slot: self.slot.get(),
            endpoints: self.endpoints,
            flags: if self.http2 { abi::SERVICE_HTTP2 } else { 0 },
            name: text(&self.name),
        }
    }
}

impl Backend {
    pub(super) fn to_abi(&self) -> abi::Backend {
        abi::Backend {
            address: address(self.address.ip()),
            port: self.address.port(),
            draining: u16::from(self.draining),
            weight: self.weight,
            name: text(&self.id),
        }
    }
}

pub(super) fn service_key(ip: IpAddr, port: u16) -> abi::ServiceKey {
    abi::ServiceKey {
        address: address(ip),
        port,
        padding: 0,
    }
}

/// Both families in one form; an IPv4 address that comes mapped is the same Service.
fn address(ip: IpAddr) -> abi::Address {
    match ip {
        IpAddr::V4(ip) => abi::mapped_ipv4(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_the_same_by_its_ipv4_address_and_by_the_mapped_one() {
        let plain = service_key("10.96.7.1".parse().unwrap(), 50051);
        let mapped = service_key("::ffff:10.96.7.1".parse().unwrap(), 50051);
        assert_eq!(plain, mapped);
    }

    #[test]
    fn acceleration_is_off_where_the_kernel_has_none_though_the_pod_wants_it() {
        let pod = Pod {
            name: "shop/cart".into(),
            worker: 1,
            port: 15021,
            ipv6: true,
            accelerate: true,
            source4: None,
            source6: None,
        };
        assert_eq!(pod.to_abi(false).flags, pod_flags::IPV6);
        assert_eq!(pod.to_abi(true).flags, pod_flags::IPV6 | pod_flags::ACCELERATE);
    }
}
