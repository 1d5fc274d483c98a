//! Flow-control windows (RFC 9113 §5.2, §6.9): what we may send, and what the peer may.
//!
//! Both are plain sums; who is credited when is decided in `recv` (connection: on receipt) and by the owner
//! (stream: on [`super::Connection::release`]).

use crate::frame::MAX_WINDOW;

/// A window grew past 2^31-1 (RFC 9113 §6.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overflow;

/// The peer sent more than its window allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overrun;

/// What the peer lets us send. Below zero after its SETTINGS took back what we had used (RFC 9113 §6.9.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct SendWindow(i64);

impl SendWindow {
    pub(super) const fn new(size: u32) -> Self {
        Self(size as i64)
    }

    /// Bytes that may be sent now.
    pub(super) const fn available(self) -> u32 {
        if self.0 > 0 {
            self.0.unsigned_abs() as u32
        } else {
            0
        }
    }

    /// As it is, debts included.
    pub(super) const fn size(self) -> i64 {
        self.0
    }

    /// `n` is at most [`Self::available`].
    pub(super) const fn consume(&mut self, n: u32) {
        self.0 -= n as i64;
    }

    /// `WINDOW_UPDATE`.
    pub(super) const fn grow(&mut self, increment: u32) -> Result<(), Overflow> {
        self.shift(increment as i64)
    }

    /// A changed `SETTINGS_INITIAL_WINDOW_SIZE`.
    pub(super) const fn shift(&mut self, delta: i64) -> Result<(), Overflow> {
        if self.0 + delta > MAX_WINDOW as i64 {
            return Err(Overflow);
        }
        self.0 += delta;
        Ok(())
    }
}

/// What we let the peer send.
///
/// At any time `available + held + pending = target`, where `held` is what was received and not yet credited.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecvWindow {
    /// What the peer may send before it hears from us.
    available: i64,
    /// Credited, but not announced yet.
    pending: i64,
    /// The window's whole size.
    target: u32,
}

impl RecvWindow {
    pub(super) const fn new(size: u32) -> Self {
        Self {
            available: size as i64,
            pending: 0,
            target: size,
        }
    }

    pub(super) const fn target(self) -> u32 {
        self.target
    }

    pub(super) const fn available(self) -> i64 {
        self.available
    }

    /// Received and not credited yet.
    pub(super) const fn held(self) -> i64 {
        self.target as i64 - self.available - self.pending
    }

    /// `n` flow-controlled bytes came. None are right at any time, also below zero (RFC 9113 §6.9.1): an empty frame that ends
    /// the stream waits for no window.
    pub(super) const fn receive(&mut self, n: u32) -> Result<(), Overrun> {
        self.receive_within(n, 0)
    }

    /// The same where the peer may know of `slack` bytes more than the window says.
    pub(super) const fn receive_within(&mut self, n: u32, slack: u32) -> Result<(), Overrun> {
        if n > 0 && n as i64 > self.available + slack as i64 {
            return Err(Overrun);
        }
        self.available -= n as i64;
        Ok(())
    }

    /// `n` of the received bytes need no more memory here. More than was received is not credited: a peer's window
    /// must never overflow through a mistake of ours.
    pub(super) fn credit(&mut self, n: u32) {
        debug_assert!(i64::from(n) <= self.held(), "credit for bytes that never came");
        self.pending += i64::from(n).min(self.held());
    }

    /// Makes the window larger; it is never made smaller this way.
    pub(super) fn enlarge(&mut self, target: u32) {
        let target = target.min(MAX_WINDOW).max(self.target);
        self.pending += i64::from(target - self.target);
        self.target = target;
    }

    /// The peer has acknowledged another `SETTINGS_INITIAL_WINDOW_SIZE`.
    pub(super) fn shift(&mut self, from: u32, to: u32) {
        let delta = i64::from(to) - i64::from(from);
        self.available += delta;
        self.target = u32::try_from(i64::from(self.target) + delta)
            .unwrap_or(0)
            .min(MAX_WINDOW);
    }

    /// Whether an announcement is worth a frame: half of the window is used.
    pub(super) const fn is_due(self) -> bool {
        self.pending > 0 && self.pending * 2 >= self.target as i64
    }

    /// The increment to announce, if there is one.
    pub(super) fn take(&mut self) -> Option<u32> {
        let increment = u32::try_from(self.pending)
            .ok()
            .filter(|&increment| increment > 0)?;
        self.pending = 0;
        self.available += i64::from(increment);
        Some(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::DEFAULT_WINDOW;

    #[test]
    fn a_send_window_goes_below_zero_and_comes_back() {
        let mut window = SendWindow::new(DEFAULT_WINDOW);
        window.consume(DEFAULT_WINDOW);
        window.shift(-65_535).unwrap();
        assert_eq!((window.available(), window.size()), (0, -65_535));
        window.grow(65_536).unwrap();
        assert_eq!(window.available(), 1);
    }

    #[test]
    fn a_send_window_does_not_grow_past_its_maximum() {
        let mut window = SendWindow::new(1);
        assert_eq!(window.grow(MAX_WINDOW), Err(Overflow));
        window.grow(MAX_WINDOW - 1).unwrap();
        assert_eq!(window.available(), MAX_WINDOW);
    }

    #[test]
    fn credit_is_announced_when_half_of_the_window_is_used() {
        let mut window = RecvWindow::new(100);
        window.receive(60).unwrap();
        window.credit(49);
        assert!(!window.is_due());
        window.credit(1);
        assert!(window.is_due());
        assert_eq!(window.take(), Some(50));
        assert_eq!((window.available(), window.held()), (90, 10));
    }

    #[test]
    fn more_than_the_window_is_an_overrun() {
        let mut window = RecvWindow::new(100);
        assert_eq!(window.receive(101), Err(Overrun));
        window.receive(100).unwrap();
        assert_eq!(window.receive(1), Err(Overrun));
    }

    #[test]
    fn a_window_of_one_byte_is_announced_at_once() {
        let mut window = RecvWindow::new(1);
        window.receive(1).unwrap();
        window.credit(1);
        assert!(window.is_due());
    }

    #[test]
    fn an_enlarged_window_announces_the_difference() {
        let mut window = RecvWindow::new(100);
        window.enlarge(1000);
        assert_eq!(window.take(), Some(900));
        window.enlarge(10);
        assert_eq!((window.target(), window.take()), (1000, None));
    }
}
