//! How large the receive windows of streams are: as large as their messages need and their readers can use, under the
//! budget. What is granted may have to be kept in memory, so nothing is granted that does not drain.

use std::time::Duration;

use super::Splitter;
use super::actions::ConnId;
use super::arena::Key;
use super::config::Config;
use super::link::Link;
use crate::Time;
use crate::connection::StreamKey;

/// A stream whose window drains within this time gets a larger one, however short the round trip.
const LEAST_HORIZON: Duration = Duration::from_millis(10);

/// How much larger a window becomes that proves too small: from 64 KiB to 4 MiB in three round trips.
const FACTOR: u32 = 4;

/// From so many bytes on, and without an end in sight, a message is not small: a frame of the size that all stacks send.
const BULKY: u32 = 16 << 10;

/// What the streams of one connection may be granted together before their messages have shown that they drain.
const FORESEEN: u32 = 8 << 20;

/// The receive window of one stream, and how it drains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    window: u32,
    /// Bytes that came, until they are [`BULKY`].
    arrived: u32,
    /// Bytes that were passed on since the last whole window.
    drained: u32,
    since: Time,
}

/// What a stream's window should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Grow(u32),
    /// It has grown for nothing.
    TooLarge,
}

impl Growth {
    pub(super) const fn new(window: u32, now: Time) -> Self {
        Self {
            window,
            arrived: 0,
            drained: 0,
            since: now,
        }
    }

    /// `bytes` of the stream's were passed on. Its window, and the connection's, grow when a whole window has drained
    /// within about two round trips: then it was the window that kept more from coming.
    pub(super) fn pass_on(
        &mut self,
        now: Time,
        bytes: u32,
        stream: StreamKey,
        link: &mut Link,
        terms: &Terms<'_>,
    ) {
        link.conn.release(stream, bytes);
        match self.drain(now, bytes, terms) {
            Verdict::Keep => {}
            Verdict::Grow(size) => {
                link.bulk = link.bulk.max(size);
                grant(link, stream, size);
            }
            Verdict::TooLarge => link.bulk = 0,
        }
    }

    fn drain(&mut self, now: Time, bytes: u32, terms: &Terms<'_>) -> Verdict {
        self.drained = self.drained.saturating_add(bytes);
        if self.drained < self.window {
            return Verdict::Keep;
        }
        let fast = now.since(self.since) <= terms.horizon();
        self.drained = 0;
        self.since = now;
        if !fast && self.window > terms.config.client.initial_window {
            Verdict::TooLarge
        } else if fast && self.window < terms.config.window && !terms.tight {
            self.window = self.window.saturating_mul(FACTOR).min(terms.config.window);
            Verdict::Grow(self.window)
        } else {
            Verdict::Keep
        }
    }

    /// `bytes` came and are not the last: the window's new size, if the message is a big one and those of its
    /// connection `usually` need a larger window than it has.
    fn foresee(&mut self, bytes: u32, usually: u32) -> Option<u32> {
        if self.arrived >= BULKY {
            return None;
        }
        self.arrived = self.arrived.saturating_add(bytes);
        if self.arrived < BULKY || usually <= self.window {
            return None;
        }
        self.window = usually;
        Some(usually)
    }
}

/// What decides whether a window grows.
pub(super) struct Terms<'a> {
    pub(super) config: &'a Config,
    /// The backend's, as far as it is known.
    pub(super) round_trip: Option<Duration>,
    /// Memory is scarce.
    pub(super) tight: bool,
}

impl Terms<'_> {
    fn horizon(&self) -> Duration {
        self.round_trip.map_or(LEAST_HORIZON, |round_trip| {
            round_trip.saturating_mul(2).max(LEAST_HORIZON)
        })
    }
}

fn grant(link: &mut Link, stream: StreamKey, size: u32) {
    link.conn.grow_stream_window(stream, size);
    // So that one stream alone does not use all of it up.
    link.conn.grow_connection_window(size.saturating_mul(2));
}

impl Splitter {
    /// DATA came by this connection that is not the call's last. Big messages get the window at once that big messages of
    /// this connection have needed lately: the more streams there are, the less of it.
    pub(super) fn foresee(&mut self, key: Key, id: ConnId, stream: StreamKey, bytes: u32) {
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        let (link, growth) = match id {
            ConnId::Client(id) => (
                self.clients.get_mut(id.0).map(|client| &mut client.link),
                &mut call.upload,
            ),
            ConnId::Upstream(id) => (
                self.upstreams.get_mut(id.0).map(|upstream| &mut upstream.link),
                &mut call.download,
            ),
        };
        let Some(link) = link else { return };
        let streams = u32::try_from(link.conn.streams()).unwrap_or(u32::MAX).max(1);
        let usually = if self.memory.is_tight() {
            0
        } else {
            link.bulk.min(FORESEEN.checked_div(streams).unwrap_or(FORESEEN))
        };
        if let Some(size) = growth.foresee(bytes, usually) {
            grant(link, stream, size);
            self.touch(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: u32 = 65_535;

    fn terms(config: &Config) -> Terms<'_> {
        Terms {
            config,
            round_trip: None,
            tight: false,
        }
    }

    #[test]
    fn a_window_grows_only_when_it_drains_within_the_horizon() {
        let config = Config::new("n1");
        let mut growth = Growth::new(INITIAL, Time::ZERO);
        let later = |times: u32| Time::ZERO + times * LEAST_HORIZON;
        assert_eq!(
            growth.drain(later(1), INITIAL - 1, &terms(&config)),
            Verdict::Keep
        );
        assert_eq!(
            growth.drain(later(1), 1, &terms(&config)),
            Verdict::Grow(FACTOR * INITIAL)
        );
        assert_eq!(
            growth.drain(later(3), FACTOR * INITIAL, &terms(&config)),
            Verdict::TooLarge
        );
        let mut size = FACTOR * INITIAL;
        while let Verdict::Grow(larger) = growth.drain(later(3), size, &terms(&config)) {
            assert_eq!(larger, (FACTOR * size).min(config.window));
            size = larger;
        }
        assert_eq!(size, config.window);
    }

    #[test]
    fn a_window_does_not_grow_while_memory_is_scarce_and_does_afterwards() {
        let config = Config::new("n1");
        let mut growth = Growth::new(INITIAL, Time::ZERO);
        let scarce = Terms {
            tight: true,
            ..terms(&config)
        };
        assert_eq!(growth.drain(Time::ZERO, INITIAL, &scarce), Verdict::Keep);
        assert_eq!(
            growth.drain(Time::ZERO, INITIAL, &terms(&config)),
            Verdict::Grow(FACTOR * INITIAL)
        );
    }

    #[test]
    fn only_a_message_that_proves_big_gets_the_usual_window_and_gets_it_once() {
        let mut growth = Growth::new(INITIAL, Time::ZERO);
        assert_eq!(growth.foresee(BULKY - 1, 1 << 20), None);
        assert_eq!(growth.foresee(1, 1 << 20), Some(1 << 20));
        assert_eq!(growth.foresee(BULKY, 4 << 20), None);
        let mut growth = Growth::new(INITIAL, Time::ZERO);
        assert_eq!(growth.foresee(BULKY, INITIAL), None, "it is no larger");
    }
}
