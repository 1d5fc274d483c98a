//! Limits on what a peer may cost us, and who reached them.
//!
//! Almost all are ratios with a burst: an event that costs us more than the peer spends; work that serves somebody
//! (streams that end in good order, DATA that moves) earns it back, and time forgives slowly. So a busy client that
//! behaves is never cut off, however busy, and one that only costs is, after the burst. None is a plain rate.
//!
//! A limit that ends a connection does so with `ENHANCE_YOUR_CALM` (RFC 9113 §10.5), and GOAWAY's debug data names it.
//! [`Limit::SettingsTime`] alone has a code of its own, `SETTINGS_TIMEOUT`.

use std::fmt;
use std::time::Duration;

use super::Role;
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
    /// Informational responses (1xx), which no window holds back: one, and one more for every 4 KiB of its fields.
    Informational,
    /// SETTINGS frames, settings in them, and streams whose windows they move (CVE-2019-9515).
    Settings,
    /// Time from a SETTINGS frame of ours to its acknowledgement (RFC 9113 §6.5.3).
    SettingsTime,
    /// GOAWAY frames: a peer that goes needs two.
    GoAway,
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
    pub const COUNT: usize = 18;

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
        Self::Informational,
        Self::Settings,
        Self::SettingsTime,
        Self::GoAway,
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
            Self::Informational => "informational",
            Self::Settings => "settings",
            Self::SettingsTime => "settings_time",
            Self::GoAway => "goaway",
            Self::EmptyFrames => "empty_frames",
            Self::Priority => "priority",
            Self::WindowUpdate => "window_update",
            Self::UnknownFrames => "unknown_frames",
            Self::ControlQueue => "control_queue",
        }
    }

    /// Whether a peer that goes on beyond it loses the connection. Otherwise it is slowed: nothing is read from it for a while.
    pub const fn ends(self) -> bool {
        !matches!(self, Self::ControlQueue)
    }

    /// Whether a peer that plays this role can reach it: servers open no streams, and clients respond to nothing.
    pub const fn concerns(self, peer: Role) -> bool {
        match self {
            Self::RapidReset | Self::RefusedStreams => matches!(peer, Role::Client),
            Self::Informational => matches!(peer, Role::Server),
            _ => true,
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
    /// [`Limit::SettingsTime`]. Generous: a peer that is stopped for a while has done nothing wrong.
    pub settings_time: Duration,
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
            settings_time: Duration::from_mins(1),
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
        limits.set(
            Limit::GoAway,
            Rule {
                burst: 50,
                per_stream: 0,
                per_data: 0,
            },
        );
        limits.set(
            Limit::Informational,
            Rule {
                burst: 1000,
                per_stream: 2,
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

/// What one connection's peer has cost so far. Spending is an increment and two comparisons; what was earned meanwhile is
/// only looked at now and then, and when a burst is used up.
#[derive(Debug)]
pub(super) struct Account {
    spent: [Spent; Limit::COUNT],
    /// Streams that ended in good order, and DATA frames with content: since the connection began, wrapping.
    earned: Earned,
}

#[derive(Clone, Copy, Debug)]
struct Spent {
    cost: u32,
    /// Up to when time has forgiven, and what had been earned then. It pays for nothing that was spent later.
    since: Time,
    earned: Earned,
}

#[derive(Clone, Copy, Debug)]
struct Earned {
    streams: u32,
    data: u32,
}

/// Time forgives a twentieth of a burst in each of these: a whole one in a minute.
const FORGIVES_EVERY: Duration = Duration::from_secs(3);

impl Account {
    pub(super) const fn new() -> Self {
        let earned = Earned { streams: 0, data: 0 };
        Self {
            spent: [Spent {
                cost: 0,
                since: Time::ZERO,
                earned,
            }; Limit::COUNT],
            earned,
        }
    }

    /// A stream ended in good order.
    pub(super) const fn earn_stream(&mut self) {
        self.earned.streams = self.earned.streams.wrapping_add(1);
    }

    /// A DATA frame with content came or went.
    pub(super) const fn earn_data(&mut self) {
        self.earned.data = self.earned.data.wrapping_add(1);
    }

    /// Counts `cost` against `limit`; an error when that is too much.
    pub(super) fn spend(&mut self, limits: &Limits, limit: Limit, cost: u32, now: Time) -> Result<(), Limit> {
        let (rule, spent) = (limits.rule(limit), &mut self.spent[limit as usize]);
        if spent.cost == 0 || now.since(spent.since) >= FORGIVES_EVERY {
            spent.settle(rule, self.earned, now);
        }
        spent.cost = spent.cost.saturating_add(cost);
        if spent.cost > rule.burst {
            spent.settle(rule, self.earned, now);
        }
        if spent.cost <= rule.burst {
            Ok(())
        } else {
            Err(limit)
        }
    }
}

impl Spent {
    /// Takes off what was earned since the last time, and what time has forgiven.
    fn settle(&mut self, rule: Rule, earned: Earned, now: Time) {
        let streams = earned.streams.wrapping_sub(self.earned.streams);
        let data = earned.data.wrapping_sub(self.earned.data);
        let paid = streams
            .saturating_mul(rule.per_stream)
            .saturating_add(data.saturating_mul(rule.per_data));
        let twentieths = now.since(self.since).as_nanos() / FORGIVES_EVERY.as_nanos();
        let twentieths = u32::try_from(twentieths).unwrap_or(u32::MAX);
        let forgiven = u32::try_from(u64::from(rule.burst) * u64::from(twentieths) / 20).unwrap_or(u32::MAX);
        self.cost = self.cost.saturating_sub(paid).saturating_sub(forgiven);
        self.earned = earned;
        self.since = if self.cost == 0 {
            now
        } else {
            self.since + FORGIVES_EVERY * twentieths
        };
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
    fn what_was_earned_before_pays_for_nothing() {
        let (limits, mut account) = (Limits::default(), Account::new());
        (0..5000).for_each(|_| account.earn_stream());
        let allowed = (0..100_000)
            .take_while(|_| account.spend(&limits, Limit::RapidReset, 1, Time::ZERO).is_ok())
            .count();
        assert_eq!(allowed, limits.rule(Limit::RapidReset).burst as usize);
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
    fn the_first_burst_is_no_longer_than_the_others_however_late_it_comes() {
        let (limits, mut account) = (Limits::default(), Account::new());
        let late = Time::ZERO + Duration::from_hours(1);
        let allowed = (0..100_000)
            .take_while(|_| account.spend(&limits, Limit::RapidReset, 1, late).is_ok())
            .count();
        assert_eq!(allowed, limits.rule(Limit::RapidReset).burst as usize);
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
