//! Limits on what a peer may cost us, and who reached them.
//!
//! Almost all are ratios with a burst: an event that costs us more than the peer spends; work that serves somebody
//! (streams that end in good order, DATA that moves) earns it back, and time forgives slowly. So a busy client that
//! behaves is never cut off, however busy, and one that only costs is, after the burst. None is a plain rate.
//!
//! A limit that ends a connection does so with `ENHANCE_YOUR_CALM` (RFC 9113 §10.5), and GOAWAY's debug data names it.

use std::fmt;
use std::time::Duration;

use crate::Time;

/// Everything that is limited. [`Limit::name`] is what counters and GOAWAY's debug data say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Streams that the peer resets soon after opening them, unanswered (CVE-2023-44487).
    RapidReset,
    /// Stream errors that make us reset (`MadeYouReset`, CVE-2025-8671).
    StreamErrors,
    /// Streams beyond our `SETTINGS_MAX_CONCURRENT_STREAMS`, each refused.
    RefusedStreams,
    /// Frames for streams that have ended, but for what may cross their end on the way.
    ClosedStreams,
    /// CONTINUATION frames out of proportion to what they carry (CVE-2024-27316 and its kin).
    Continuation,
    /// Bytes of one field block.
    HeaderBlockSize,
    /// Time from the first to the last frame of a field block.
    HeaderBlockTime,
    /// Time from the first to the last byte of a frame other than DATA.
    FrameTime,
    /// Fields without a name (CVE-2019-9516).
    ZeroLengthNames,
    /// SETTINGS frames, and settings in them (CVE-2019-9515).
    Settings,
    /// DATA and HEADERS without content and `END_STREAM` (CVE-2019-9518).
    EmptyFrames,
    /// PRIORITY frames (CVE-2019-9513).
    Priority,
    /// `WINDOW_UPDATE` frames (CVE-2019-9511).
    WindowUpdate,
    /// Frames of unknown types.
    UnknownFrames,
    /// Answers that we owe and the peer does not read: PING and SETTINGS acknowledgements, `RST_STREAM` (CVE-2019-9512).
    ControlQueue,
}

impl Limit {
    pub const COUNT: usize = 15;

    pub const ALL: [Self; Self::COUNT] = [
        Self::RapidReset,
        Self::StreamErrors,
        Self::RefusedStreams,
        Self::ClosedStreams,
        Self::Continuation,
        Self::HeaderBlockSize,
        Self::HeaderBlockTime,
        Self::FrameTime,
        Self::ZeroLengthNames,
        Self::Settings,
        Self::EmptyFrames,
        Self::Priority,
        Self::WindowUpdate,
        Self::UnknownFrames,
        Self::ControlQueue,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::RapidReset => "rapid_reset",
            Self::StreamErrors => "stream_errors",
            Self::RefusedStreams => "refused_streams",
            Self::ClosedStreams => "closed_streams",
            Self::Continuation => "continuation",
            Self::HeaderBlockSize => "header_block_size",
            Self::HeaderBlockTime => "header_block_time",
            Self::FrameTime => "frame_time",
            Self::ZeroLengthNames => "zero_length_names",
            Self::Settings => "settings",
            Self::EmptyFrames => "empty_frames",
            Self::Priority => "priority",
            Self::WindowUpdate => "window_update",
            Self::UnknownFrames => "unknown_frames",
            Self::ControlQueue => "control_queue",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of one thing is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How many in a row.
    pub burst: u32,
    /// What a stream that ends in good order earns back.
    pub per_stream: u32,
    /// What a DATA frame with content earns back, in either direction.
    pub per_data: u32,
}

/// The limits of one connection. Every field may be set; the defaults serve clients and backends alike.
#[derive(Clone, Debug)]
pub struct Limits {
    rules: [Rule; Limit::COUNT],
    /// A stream that the peer resets before this age, without response headers, counts as [`Limit::RapidReset`].
    pub rapid_reset_age: Duration,
    /// [`Limit::HeaderBlockTime`].
    pub header_block_time: Duration,
    /// [`Limit::FrameTime`].
    pub frame_time: Duration,
    /// [`Limit::ControlQueue`]: frames.
    pub control_queue: usize,
}

impl Limits {
    pub fn set(&mut self, limit: Limit, rule: Rule) {
        self.rules[limit as usize] = rule;
    }

    pub fn rule(&self, limit: Limit) -> Rule {
        self.rules[limit as usize]
    }
}

impl Default for Limits {
    fn default() -> Self {
        let mut limits = Self {
            rules: [Rule {
                burst: 1000,
                per_stream: 1,
                per_data: 0,
            }; Limit::COUNT],
            rapid_reset_age: Duration::from_millis(50),
            header_block_time: Duration::from_secs(10),
            frame_time: Duration::from_secs(10),
            control_queue: 1000,
        };
        // Honest peers make next to none of these.
        limits.set(
            Limit::StreamErrors,
            Rule {
                burst: 200,
                per_stream: 1,
                per_data: 0,
            },
        );
        limits.set(
            Limit::ZeroLengthNames,
            Rule {
                burst: 20,
                per_stream: 0,
                per_data: 0,
            },
        );
        // A client may open many streams before it has read our SETTINGS.
        limits.set(
            Limit::RefusedStreams,
            Rule {
                burst: 20_000,
                per_stream: 2,
                per_data: 0,
            },
        );
        limits.set(
            Limit::ClosedStreams,
            Rule {
                burst: 10_000,
                per_stream: 4,
                per_data: 1,
            },
        );
        // Peers that tune their windows send one for each round trip.
        limits.set(
            Limit::Settings,
            Rule {
                burst: 200,
                per_stream: 1,
                per_data: 1,
            },
        );
        // One for the stream and one for the connection with every DATA frame is honest.
        limits.set(
            Limit::WindowUpdate,
            Rule {
                burst: 10_000,
                per_stream: 8,
                per_data: 4,
            },
        );
        limits.set(
            Limit::Priority,
            Rule {
                burst: 10_000,
                per_stream: 8,
                per_data: 0,
            },
        );
        limits.set(
            Limit::UnknownFrames,
            Rule {
                burst: 10_000,
                per_stream: 8,
                per_data: 2,
            },
        );
        limits.set(
            Limit::EmptyFrames,
            Rule {
                burst: 1000,
                per_stream: 2,
                per_data: 1,
            },
        );
        limits
    }
}

/// What one connection's peer has cost so far. Spending is an increment and a comparison; what was earned meanwhile is
/// only looked at when a burst is used up.
#[derive(Debug)]
pub(super) struct Account {
    spent: [u32; Limit::COUNT],
    streams: u32,
    data: u32,
    settled: Time,
}

impl Account {
    pub(super) const fn new() -> Self {
        Self {
            spent: [0; Limit::COUNT],
            streams: 0,
            data: 0,
            settled: Time::ZERO,
        }
    }

    /// A stream ended in good order.
    pub(super) const fn earn_stream(&mut self) {
        self.streams = self.streams.saturating_add(1);
    }

    /// A DATA frame with content came or went.
    pub(super) const fn earn_data(&mut self) {
        self.data = self.data.saturating_add(1);
    }

    /// Counts `cost` against `limit`; an error when that is too much.
    pub(super) fn spend(&mut self, limits: &Limits, limit: Limit, cost: u32, now: Time) -> Result<(), Limit> {
        let index = limit as usize;
        let burst = limits.rules[index].burst;
        self.spent[index] = self.spent[index].saturating_add(cost);
        if self.spent[index] <= burst {
            return Ok(());
        }
        self.settle(limits, now);
        if self.spent[index] <= burst {
            Ok(())
        } else {
            Err(limit)
        }
    }

    /// Takes what was earned off all that was spent. Time forgives a whole burst in a minute.
    fn settle(&mut self, limits: &Limits, now: Time) {
        let seconds = now.since(self.settled).as_secs();
        for (spent, rule) in self.spent.iter_mut().zip(&limits.rules) {
            let earned = self
                .streams
                .saturating_mul(rule.per_stream)
                .saturating_add(self.data.saturating_mul(rule.per_data));
            let forgiven =
                u32::try_from(u64::from(rule.burst).saturating_mul(seconds) / 60).unwrap_or(u32::MAX);
            *spent = spent.saturating_sub(earned).saturating_sub(forgiven);
        }
        self.streams = 0;
        self.data = 0;
        if seconds > 0 {
            self.settled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_one_more_is_not() {
        let (limits, mut account) = (Limits::default(), Account::new());
        let burst = limits.rule(Limit::StreamErrors).burst;
        for _ in 0..burst {
            account
                .spend(&limits, Limit::StreamErrors, 1, Time::ZERO)
                .unwrap();
        }
        assert_eq!(
            account.spend(&limits, Limit::StreamErrors, 1, Time::ZERO),
            Err(Limit::StreamErrors)
        );
    }

    #[test]
    fn a_peer_that_earns_as_much_as_it_spends_is_never_cut() {
        let (limits, mut account) = (Limits::default(), Account::new());
        for _ in 0..1_000_000 {
            account.spend(&limits, Limit::RapidReset, 1, Time::ZERO).unwrap();
            account.earn_stream();
        }
    }

    #[test]
    fn what_was_earned_once_does_not_pay_twice() {
        let (limits, mut account) = (Limits::default(), Account::new());
        (0..5000).for_each(|_| account.earn_stream());
        let allowed = (0..100_000)
            .take_while(|_| account.spend(&limits, Limit::RapidReset, 1, Time::ZERO).is_ok())
            .count();
        assert_eq!(
            allowed, 2001,
            "one burst, forgiven once by what was earned, and another"
        );
    }

    #[test]
    fn time_forgives_a_burst_in_a_minute() {
        let (limits, mut account) = (Limits::default(), Account::new());
        let burst = limits.rule(Limit::Settings).burst;
        account
            .spend(&limits, Limit::Settings, burst, Time::ZERO)
            .unwrap();
        let later = Time::ZERO + Duration::from_mins(1);
        account.spend(&limits, Limit::Settings, burst, later).unwrap();
        assert!(account.spend(&limits, Limit::Settings, 2, later).is_err());
    }

    #[test]
    fn every_limit_has_its_own_name() {
        let names: std::collections::HashSet<_> = Limit::ALL.iter().map(|limit| limit.name()).collect();
        assert_eq!(names.len(), Limit::COUNT);
        for (index, limit) in Limit::ALL.iter().enumerate() {
            assert_eq!(*limit as usize, index);
        }
    }
}
