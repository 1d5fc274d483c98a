//! Random numbers from a seed that the caller gives: picks and jitter repeat in tests. Not for secrets.

/// `SplitMix64` (Steele, Lea, Flood 2014): one multiply-xor chain a number, no state worth guarding.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in `0..bound` by multiply-shift (Lemire); its bias is below `bound / 2^64`. Zero for a bound of zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        (u128::from(self.next_u64()).wrapping_mul(u128::from(bound)) >> 64) as u64
    }
}

/// `SplitMix64`'s finaliser: spreads any 64 bits evenly. Also used to hash for rendezvous subsets.
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
