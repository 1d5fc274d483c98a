//! Limits on what a peer may cost us, and what becomes of one that reaches them.
//!
//! Almost all are ratios with a burst: an event that costs us more than the peer spends; work that serves somebody
//! (streams that end in good order, DATA that moves) earns it back, and time forgives at a pace of its own. So a busy client that
//! behaves is never slowed, however busy; one that only costs is slowed to that pace after the burst, for nothing is read from
//! it in between. What an application can put into its messages is no limit's business but of the stream that carries it.
//!
//! Few limits end a connection: framing that holds memory without end, and a peer that says over and over that it goes. They do
//! so with `ENHANCE_YOUR_CALM` (RFC 9113 §10.5), and GOAWAY's debug data names them.

use std::fmt;
use std::time::Duration;

use super::Role;
use crate::Time;

/// Everything that is limited. [`Limit::name`] is what counters and GOAWAY's debug data say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Streams that the peer resets soon after opening them, unanswered (CVE-2023-44487).
    RapidReset,
    /// Stream errors of a client, malformed requests included, that make us reset (`MadeYouReset`, CVE-2025-8671). A server
    /// can cause no more of them than we have opened streams.
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
    /// Header lists that are too long, each refused: one, and one more for every 4 KiB of its field block.
    OversizedLists,
    /// Informational responses (1xx) of one stream, which no window holds back: one, and one more for every 4 KiB of its
    /// fields. The stream is reset.
    Informational,
    /// SETTINGS frames, settings in them, and streams of the peer's whose windows they move (CVE-2019-9515).
    Settings,
    /// Time from a SETTINGS frame of ours to its acknowledgement (RFC 9113 §6.5.3). Only counted: a peer that works otherwise
    /// has done no harm, and a silent one is found by keepalive.
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
        Self::OversizedLists,
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
            Self::OversizedLists => "oversized_lists",
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

    /// Returns true if a peer that reaches it loses the connection. The others slow the peer, if anything: see each.
    pub const fn ends(self) -> bool {
        matches!(
            self,
            Self::Continuation
                | Self::HeaderBlockSize
                | Self::HeaderBlockTime
                | Self::FrameTime
                | Self::GoAway
        )
    }

    /// Whether a peer that plays this role can reach it: servers open no streams, and clients respond to nothing.
    pub const fn concerns(self, peer: Role) -> bool {
        match self {
            Self::RapidReset | Self::RefusedStreams | Self::StreamErrors => matches!(peer, Role::Client),
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
    /// What a DATA frame with content earns back, in either direction, unless the peer's window has cut it to a crumb.
    pub per_data: u32,
    /// What a stream that we reset earns back: frames of the peer's may be on their way to it.
    pub per_reset: u32,
    /// What time earns back in a second: the pace of a peer that has used up its burst, where it is slowed. At least one.
    pub per_second: u32,
}

impl Rule {
    /// So many in a row, and so many a second.
    pub const fn new(burst: u32, per_second: u32) -> Self {
        Self {
            burst,
            per_stream: 0,
            per_data: 0,
            per_reset: 0,
            per_second,
        }
    }

    /// The same, and more for work that serves somebody.
    #[must_use]
    pub const fn earning(self, per_stream: u32, per_data: u32) -> Self {
        Self {
            per_stream,
            per_data,
            ..self
        }
    }
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
            rules: [Rule::new(1000, 1000); Limit::COUNT],
            rapid_reset_age: Duration::from_millis(50),
            header_block_time: Duration::from_secs(10),
            frame_time: Duration::from_secs(10),
            settings_time: Duration::from_mins(1),
            control_queue: 1000,
        };
        // Twice what the busiest honest client cancels, and little work for us: a few microseconds each.
        limits.set(Limit::RapidReset, Rule::new(1000, 4000).earning(1, 0));
        limits.set(Limit::StreamErrors, Rule::new(1000, 4000).earning(1, 0));
        // A client may open many streams before it has read our SETTINGS.
        limits.set(Limit::RefusedStreams, Rule::new(20_000, 10_000).earning(2, 0));
        let closed = Rule::new(10_000, 10_000).earning(4, 1);
        limits.set(
            Limit::ClosedStreams,
            Rule {
                per_reset: 8,
                ..closed
            },
        );
        // Four megabytes a second of field blocks that are decoded for nothing.
        limits.set(Limit::OversizedLists, Rule::new(1000, 1000));
        // Peers that tune their windows send one for each round trip.
        limits.set(Limit::Settings, Rule::new(200, 100).earning(1, 1));
        limits.set(Limit::GoAway, Rule::new(50, 1));
        limits.set(Limit::EmptyFrames, Rule::new(1000, 10_000).earning(2, 1));
        // One for the stream and one for the connection with every DATA frame is honest.
        limits.set(Limit::WindowUpdate, Rule::new(10_000, 20_000).earning(8, 4));
        limits.set(Limit::Priority, Rule::new(10_000, 20_000).earning(8, 0));
        limits.set(Limit::UnknownFrames, Rule::new(10_000, 20_000).earning(8, 2));
        // Progress reports of a call that runs for hours.
        limits.set(Limit::Informational, Rule::new(1000, 10));
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
    resets: u32,
}

/// What was earned is looked at as often, at least.
const SETTLE_EVERY: Duration = Duration::from_secs(3);

impl Account {
    pub(super) const fn new() -> Self {
        let earned = Earned {
            streams: 0,
            data: 0,
            resets: 0,
        };
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

    /// We reset a stream.
    pub(super) const fn earn_reset(&mut self) {
        self.earned.resets = self.earned.resets.wrapping_add(1);
    }

    /// Counts `cost` against `limit`. Where that is too much: after which time it will not be.
    pub(super) fn spend(&mut self, limits: &Limits, limit: Limit, cost: u32, now: Time) -> Option<Duration> {
        let (rule, spent) = (limits.rule(limit), &mut self.spent[limit as usize]);
        if spent.cost == 0 || now.since(spent.since) >= SETTLE_EVERY {
            spent.settle(rule, self.earned, now);
        }
        spent.cost = spent.cost.saturating_add(cost);
        if spent.cost > rule.burst {
            spent.settle(rule, self.earned, now);
        }
        let excess = spent.cost.saturating_sub(rule.burst);
        (excess > 0).then(|| time_for(excess, rule.per_second))
    }
}

impl Spent {
    /// Takes off what was earned since the last time, and what time has forgiven.
    fn settle(&mut self, rule: Rule, earned: Earned, now: Time) {
        let streams = earned.streams.wrapping_sub(self.earned.streams);
        let data = earned.data.wrapping_sub(self.earned.data);
        let resets = earned.resets.wrapping_sub(self.earned.resets);
        let paid = streams
            .saturating_mul(rule.per_stream)
            .saturating_add(data.saturating_mul(rule.per_data))
            .saturating_add(resets.saturating_mul(rule.per_reset));
        let pace = rule.per_second.max(1);
        let forgiven = u64::try_from(now.since(self.since).as_millis())
            .unwrap_or(u64::MAX)
            .saturating_mul(pace.into())
            / 1000;
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.cost = self.cost.saturating_sub(paid).saturating_sub(forgiven);
        self.earned = earned;
        self.since = if self.cost == 0 {
            now
        } else {
            self.since + time_for(forgiven, pace)
        };
    }
}

/// The time in which so many are forgiven, at so many a second.
fn time_for(count: u32, per_second: u32) -> Duration {
    Duration::from_secs(count.into())
        .checked_div(per_second)
        .unwrap_or(Duration::from_secs(count.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_one_more_is_not() {
        let (limits, mut account) = (Limits::default(), Account::new());
        let burst = limits.rule(Limit::StreamErrors).burst;
        for _ in 0..burst {
            assert_eq!(account.spend(&limits, Limit::StreamErrors, 1, Time::ZERO), None);
        }
        let pace = limits.rule(Limit::StreamErrors).per_second;
        assert_eq!(
            account.spend(&limits, Limit::StreamErrors, 1, Time::ZERO),
            Some(Duration::from_secs(1) / pace)
        );
    }

    #[test]
    fn a_peer_that_earns_as_much_as_it_spends_is_never_limited() {
        let (limits, mut account) = (Limits::default(), Account::new());
        for _ in 0..1_000_000 {
            assert_eq!(account.spend(&limits, Limit::RapidReset, 1, Time::ZERO), None);
            account.earn_stream();
        }
    }

    #[test]
    fn what_was_earned_before_pays_for_nothing() {
        let (limits, mut account) = (Limits::default(), Account::new());
        (0..5000).for_each(|_| account.earn_stream());
        let allowed = (0..100_000)
            .take_while(|_| account.spend(&limits, Limit::RapidReset, 1, Time::ZERO).is_none())
            .count();
        assert_eq!(allowed, limits.rule(Limit::RapidReset).burst as usize);
    }

    #[test]
    fn time_forgives_at_the_rules_pace_and_no_more_than_was_spent() {
        let (limits, mut account) = (Limits::default(), Account::new());
        let Rule {
            burst, per_second, ..
        } = limits.rule(Limit::Settings);
        let mut spend = |cost, at| account.spend(&limits, Limit::Settings, cost, Time::ZERO + at);
        assert_eq!(spend(burst, Duration::ZERO), None);
        let second = Duration::from_secs(1);
        assert_eq!(spend(per_second, second), None);
        assert!(spend(1, second).is_some());
        assert_eq!(spend(burst, Duration::from_hours(1)), None);
        assert!(spend(1, Duration::from_hours(1)).is_some());
    }

    #[test]
    fn a_peer_that_waits_as_long_as_it_is_told_keeps_to_the_pace() {
        let (limits, mut account) = (Limits::default(), Account::new());
        let Rule {
            burst, per_second, ..
        } = limits.rule(Limit::RapidReset);
        let (mut now, mut spent) = (Time::ZERO, 0);
        while now < Time::ZERO + Duration::from_secs(10) {
            spent += 1;
            if let Some(excess) = account.spend(&limits, Limit::RapidReset, 1, now) {
                now += excess.max(Duration::from_millis(10));
            }
        }
        let most = burst + 10 * per_second;
        assert!(spent <= most + 50 && spent > most * 9 / 10, "{spent} of {most}");
    }

    #[test]
    fn the_first_burst_is_no_longer_than_the_others_however_late_it_comes() {
        let (limits, mut account) = (Limits::default(), Account::new());
        let late = Time::ZERO + Duration::from_hours(1);
        let allowed = (0..100_000)
            .take_while(|_| account.spend(&limits, Limit::RapidReset, 1, late).is_none())
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
