//! Addresses as both sides write them: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
//!
//! One form for both families means one table of Services and one source of logic in the kernel.

/// An IPv6 address, or an IPv4 address mapped into one.
pub type Address = [u8; 16];

/// `::1`, where steered IPv6 connections go.
pub const LOOPBACK_V6: Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// `::ffff:a.b.c.d`.
#[inline(always)]
#[allow(clippy::inline_always)] // the kernel programs have no calls to spare
pub const fn mapped_ipv4(octets: [u8; 4]) -> Address {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, octets[0], octets[1], octets[2], octets[3],
    ]
}

/// Whether this is an IPv4 address in disguise.
pub const fn is_mapped_ipv4(address: &Address) -> bool {
    matches!(address, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_what_the_standard_library_makes() {
        let octets = [10, 96, 7, 1];
        assert_eq!(
            mapped_ipv4(octets),
            core::net::Ipv4Addr::from(octets).to_ipv6_mapped().octets()
        );
        assert!(is_mapped_ipv4(&mapped_ipv4(octets)));
    }

    #[test]
    fn the_loopback_address_is_not_a_mapped_one() {
        assert_eq!(LOOPBACK_V6, core::net::Ipv6Addr::LOCALHOST.octets());
        assert!(!is_mapped_ipv4(&LOOPBACK_V6));
    }
}
