//! A Service port's number in one agent instance, and the loopback address that carries it to the listener.

use core::net::Ipv4Addr;

/// A Service port as a number of 24 bits, handed to the listener as the address `127.S.S.S`.
///
/// Slots are given out by the agent in rising order and not soon again: a socket that lingers must not reach another
/// Service. `127.0.x.x` (where people and Debian keep addresses of their own), `127.255.255.255` (the broadcast
/// address) and the two below it are never given out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Slot(u32);

/// A number that is not a Service's slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidSlot(pub u32);

impl Slot {
    /// The smallest slot, `127.1.0.0`.
    pub const FIRST: Self = Self(0x01_00_00);
    /// The largest slot, `127.255.255.252`.
    pub const LAST: Self = Self(0xff_ff_fc);
    /// Reserved for the listener's probe, `127.255.255.254`: never a Service's.
    pub const PROBE: Self = Self(0xff_ff_fe);
    /// Reserved for the check at attach, `127.255.255.253`: never a Service's.
    pub const VERIFY: Self = Self(0xff_ff_fd);

    /// The slot with this number, if a Service may have it.
    pub const fn new(number: u32) -> Result<Self, InvalidSlot> {
        if number < Self::FIRST.0 || number > Self::LAST.0 {
            Err(InvalidSlot(number))
        } else {
            Ok(Self(number))
        }
    }

    /// The number, 24 bits.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// `127.S.S.S`.
    pub const fn to_ipv4(self) -> Ipv4Addr {
        let [_, a, b, c] = self.0.to_be_bytes();
        Ipv4Addr::new(127, a, b, c)
    }

    /// The slot that an accepted connection's local address names: a Service's, or [`Slot::PROBE`] or [`Slot::VERIFY`].
    pub const fn from_ipv4(address: Ipv4Addr) -> Option<Self> {
        let [127, a, b, c] = address.octets() else {
            return None;
        };
        let number = u32::from_be_bytes([0, a, b, c]);
        if number < Self::FIRST.0 || number > Self::PROBE.0 {
            None
        } else {
            Some(Self(number))
        }
    }
}

impl core::fmt::Display for InvalidSlot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{:#x} is no slot of a Service: {:#x} to {:#x}",
            self.0,
            Slot::FIRST.0,
            Slot::LAST.0
        )
    }
}

impl core::error::Error for InvalidSlot {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_survives_its_way_through_the_address() {
        for slot in [
            Slot::FIRST,
            Slot(0x12_34_56),
            Slot::LAST,
            Slot::VERIFY,
            Slot::PROBE,
        ] {
            assert_eq!(Slot::from_ipv4(slot.to_ipv4()), Some(slot));
        }
        assert_eq!(Slot::FIRST.to_ipv4(), Ipv4Addr::new(127, 1, 0, 0));
        assert_eq!(Slot::PROBE.to_ipv4(), Ipv4Addr::new(127, 255, 255, 254));
    }

    #[test]
    fn addresses_that_people_use_are_no_slots() {
        for address in [
            [127, 0, 0, 1],
            [127, 0, 1, 1],
            [127, 255, 255, 255],
            [10, 1, 2, 3],
        ] {
            assert_eq!(Slot::from_ipv4(address.into()), None, "{address:?}");
        }
    }

    #[test]
    fn reserved_numbers_are_not_given_to_services() {
        for number in [
            0,
            1,
            0xff_ff,
            Slot::VERIFY.0,
            Slot::PROBE.0,
            0xff_ff_ff,
            0x0100_0000,
        ] {
            assert_eq!(Slot::new(number), Err(InvalidSlot(number)));
        }
        assert_eq!(Slot::new(0x01_00_00), Ok(Slot::FIRST));
    }
}
