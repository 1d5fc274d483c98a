//! A Service address, spread over its backends once per connection by nftables, with the rules that kube-proxy writes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::node::{Node, Pod};

/// The address and port that clients dial.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    pub port: u16,
}

/// The Service of most tests.
pub const ECHO: Service = Service {
    ipv4: Ipv4Addr::new(10, 96, 7, 1),
    ipv6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 7, 1),
    port: 50_051,
};

/// A second Service, of servers that other clients do not need.
pub const OTHER: Service = Service {
    ipv4: Ipv4Addr::new(10, 96, 7, 2),
    ipv6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 7, 2),
    port: 50_052,
};

impl Service {
    pub fn ipv4(&self) -> SocketAddr {
        (self.ipv4, self.port).into()
    }

    pub fn ipv6(&self) -> SocketAddr {
        (self.ipv6, self.port).into()
    }

    /// Makes `backends` what plain Kubernetes would spread new connections over; none means refused.
    pub fn publish(&self, node: &Node, backends: &[&Pod]) -> Result<()> {
        let mut rules = String::new();
        for (family, address) in [("ip", IpAddr::from(self.ipv4)), ("ip6", IpAddr::from(self.ipv6))] {
            self.write_table(&mut rules, family, address, backends)?;
        }
        node.inside(&format!("nft -f - <<'RULES'\n{rules}\nRULES"))?;
        Ok(())
    }

    fn write_table(&self, out: &mut String, family: &str, address: IpAddr, backends: &[&Pod]) -> Result<()> {
        let table = format!("services-{}", self.port);
        let matched = format!("{family} daddr {address} tcp dport {}", self.port);
        writeln!(
            out,
            "table {family} {table} {{}}\ndelete table {family} {table}\ntable {family} {table} {{"
        )?;
        for (number, pod) in backends.iter().enumerate() {
            let backend = SocketAddr::new(pod.address(address), self.port);
            writeln!(
                out,
                "  chain endpoint-{number} {{ meta l4proto tcp dnat to {backend}; }}"
            )?;
        }
        if backends.is_empty() {
            writeln!(
                out,
                "  chain forward {{ type filter hook forward priority 0; {matched} reject; }}"
            )?;
            writeln!(
                out,
                "  chain local {{ type filter hook output priority 0; {matched} reject; }}"
            )?;
        } else {
            let choices: Vec<String> = (0..backends.len())
                .map(|number| format!("{number} : goto endpoint-{number}"))
                .collect();
            let choices = choices.join(", ");
            writeln!(
                out,
                "  chain service {{ numgen random mod {} vmap {{ {choices} }}; }}",
                backends.len()
            )?;
            for hook in ["prerouting", "output"] {
                writeln!(
                    out,
                    "  chain {hook} {{ type nat hook {hook} priority -100; {matched} goto service; }}"
                )?;
            }
        }
        writeln!(out, "}}")?;
        Ok(())
    }
}
