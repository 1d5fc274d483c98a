//! The policies by the names that people write in the annotation `grpclb.io/policy`.

use std::fmt;
use std::str::FromStr;

/// How a Service's calls are spread over its endpoints. Every policy honours weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    /// Each once in a round, in an order that is drawn anew for each round; unequal weights are interleaved smoothly (`a a b a`
    /// instead of `a a a b`).
    #[default]
    RoundRobin,
    /// Independently at random, in proportion to the weights.
    Random,
    /// The one with fewer calls in flight, of two chosen at random (power of two choices).
    LeastRequest,
    /// The one with the lower expected latency, of two chosen at random: a moving average that follows peaks at once
    /// and forgets them slowly, times the calls in flight.
    PeakEwma,
}

impl Policy {
    /// Every policy, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::Random, Self::LeastRequest, Self::PeakEwma];

    /// The word that people write.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastRequest => "least_request",
            Self::PeakEwma => "peak_ewma",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(word: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str() == word)
            .ok_or_else(|| UnknownPolicy(word.to_owned()))
    }
}

/// A word that names no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy {0:?}: write round_robin, random, least_request or peak_ewma")]
pub struct UnknownPolicy(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_read_back_from_its_own_word() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
    }

    #[test]
    fn an_unknown_word_is_named_together_with_the_known_ones() {
        let error = "fastest".parse::<Policy>().unwrap_err().to_string();
        assert!(error.contains("\"fastest\""), "{error}");
        for policy in Policy::ALL {
            assert!(error.contains(policy.as_str()), "{error}");
        }
    }
}
