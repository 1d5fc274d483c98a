//! `RST_STREAMs` that this end sends: queued, paced towards a server ([`super::pacing`]), written. A stream that was reset
//! here keeps its record, and counts as one of the peer's open streams, until its `RST_STREAM` is written.
//! `RST_STREAMs` of the peer are `recv`'s.

use super::pacing::Verdict;
use super::settings;
use super::streams::Outcome;
use super::{Connection, Output, PingKind, Role, Sent, State, StreamEvent, StreamKey};
use crate::Time;
use crate::connection::control::Control;
use crate::frame::{self, ErrorCode};

// ---- Allowance ----
impl Connection {
    /// Number of streams that were reset by this end and whose `RST_STREAM` is not written yet.
    pub fn waiting_resets(&self) -> usize {
        self.streams.resetting()
    }

    /// Number of streams that could be opened now such that the bucket of [`super::ResetPacing`] suffices to reset them and all
    /// that are open. Client role.
    pub fn spare_resets(&self, now: Time) -> usize {
        (self.pacer.allowance(now) as usize).saturating_sub(self.streams.len())
    }

    /// Returns true if [`Self::spare_resets`] is more than `least`.
    pub fn has_spare_resets(&self, now: Time, least: usize) -> bool {
        let streams = self.streams.len().saturating_add(least);
        streams < self.pacer.least_allowance() as usize || streams < self.pacer.allowance(now) as usize
    }

    /// Returns true if three quarters of the bucket are left: few streams were reset lately.
    pub fn has_most_resets(&self, now: Time) -> bool {
        self.pacer.allowance(now)
            >= self
                .config
                .reset_pacing
                .burst
                .saturating_sub(self.config.reset_pacing.burst / 4)
    }

    /// The time at which [`Self::spare_resets`] will be more than 0 if the same streams are open; `None` if they exceed the
    /// whole bucket, or if the bucket sufficed when it was last updated.
    pub fn spare_resets_at(&self) -> Option<Time> {
        self.pacer.allows_at(self.streams.len())
    }
}

// ---- Queue and pace ----
impl Connection {
    pub(super) fn may_reset(&self) -> bool {
        self.role == Role::Server || self.pacer.may_try()
    }

    /// Ends waits of the pacing that are over, and sends its PING.
    pub(super) fn wake_pacer(&mut self, now: Time) {
        if self.pacer.wake(now)
            && let Some(payload) = self.pings.start(PingKind::Barrier, None)
        {
            self.control.push_back(Control::Ping(payload));
        }
    }

    /// Drops what is queued for the stream and queues its `RST_STREAM`.
    pub(super) fn queue_reset(&mut self, key: StreamKey, code: ErrorCode) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if let Outcome::To(state) = stream.state.on(StreamEvent::SendReset) {
            stream.ended = stream.state == State::HalfClosedLocal;
            stream.state = state;
            let dropped = stream.queued_headers();
            stream.queue.clear();
            stream.reset = Some(code);
            self.streams.queued_headers = self.streams.queued_headers.saturating_sub(dropped);
            self.streams.push_reset(key);
        }
    }

    /// Queues a reset with `NO_ERROR` that waited for what was queued before it.
    pub(super) fn finish_reset(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get(key)
            && let Some(code) = stream.reset
            && stream.state.is_active()
            && !stream.has_work()
        {
            self.queue_reset(key, code);
        }
    }

    /// Writes the resets that may leave now, and a barrier behind them where they need one.
    pub(super) fn write_resets(&mut self, now: Time, output: &mut Output, sent: &mut Vec<Sent>) {
        if self.streams.resets.is_empty() {
            return;
        }
        self.wake_pacer(now);
        for _ in 0..self.streams.resets.len() {
            if output.room() == 0 || !self.may_reset() {
                break;
            }
            let Some(key) = self.streams.resets.pop_front() else {
                break;
            };
            let Some(stream) = self.streams.get(key) else {
                continue;
            };
            let verdict = match self.role {
                Role::Server => Verdict::Go,
                Role::Client if output.written() < stream.headers_span.1 => {
                    self.pacer.not_written(now);
                    Verdict::Later
                }
                Role::Client => self.pacer.ask(now, stream.id, stream.answered, stream.opened),
            };
            match verdict {
                Verdict::Go => self.write_reset(key, output, sent),
                Verdict::Later => self.streams.resets.push_back(key),
                Verdict::Stop => {
                    self.streams.resets.push_front(key);
                    break;
                }
            }
        }
        if self.role == Role::Client && self.pacer.start_barrier(now, self.last_id) {
            self.unacknowledged.push(settings::Sent::Barrier, now);
            output.write(|out| frame::write_settings(out, &[]));
        }
    }

    fn write_reset(&mut self, key: StreamKey, output: &mut Output, sent: &mut Vec<Sent>) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let (id, tag) = (stream.id, stream.tag);
        let code = stream.reset.unwrap_or(ErrorCode::CANCEL);
        output.write(|out| frame::write_rst_stream(out, id, code));
        if code == ErrorCode::NO_ERROR {
            sent.push(Sent {
                tag,
                bytes: 0,
                end: true,
            });
        }
        self.streams.remove(key, State::ResetByUs);
        self.offer_capacity();
    }
}
