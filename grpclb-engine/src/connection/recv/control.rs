//! Frames of the connection itself: SETTINGS and PING (RFC 9113 §6.5, §6.7). GOAWAY's are in `goaway`.

use super::Fatal;
use crate::Time;
use crate::connection::control::Control;
use crate::connection::preface::Expect;
use crate::connection::{Connection, Event, Limit, PingKind, Role, settings};
use crate::frame::{ErrorCode, MAX_WINDOW, SettingId, SettingsPayload};

/// Streams whose windows may be moved for the cost of one SETTINGS frame.
const STREAMS_A_SETTING: u32 = 256;

impl Connection {
    pub(super) fn recv_settings(
        &mut self,
        settings: &SettingsPayload,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        self.spend(
            Limit::Settings,
            (settings.len() as u32 / 8).saturating_add(1),
            now,
        )?;
        let window = self.peer.initial_window;
        let mut widest = window;
        for (id, value) in settings.iter() {
            if id == SettingId::ENABLE_PUSH && value != 0 && self.role == Role::Client {
                return Err(Fatal::protocol(
                    ErrorCode::PROTOCOL_ERROR,
                    "a server set SETTINGS_ENABLE_PUSH",
                ));
            }
            self.peer.apply(id, value);
            match id {
                SettingId::INITIAL_WINDOW_SIZE => widest = widest.max(value),
                SettingId::HEADER_TABLE_SIZE => self.encoder.set_max_table_size(value),
                _ => {}
            }
        }
        self.shift_send_windows(window, widest, now)?;
        self.owe(Control::SettingsAck, now);
        if self.expect == Expect::Settings {
            self.expect = Expect::Nothing;
            return Ok(Some(Event::Ready));
        }
        self.offer_capacity();
        Ok(None)
    }

    /// The peer's `SETTINGS_INITIAL_WINDOW_SIZE` moves the windows of all streams (RFC 9113 §6.9.2), from `before` to what
    /// it is now, at most to `widest` in between: once for each frame, since it is work for every stream.
    fn shift_send_windows(&mut self, before: u32, widest: u32, now: Time) -> Result<(), Fatal> {
        let delta = i64::from(self.peer.initial_window).saturating_sub(i64::from(before));
        if delta == 0 && widest == before {
            return Ok(());
        }
        if self.role == Role::Server {
            // Streams that the peer has opened. Those that wait for our reset, and all of a client's, are our doing.
            let theirs = self.streams.active().saturating_sub(self.streams.resets.len());
            self.spend(Limit::Settings, theirs as u32 / STREAMS_A_SETTING, now)?;
        }
        let most = i64::from(widest).saturating_sub(i64::from(before));
        let mut open = Vec::new();
        for (key, stream) in self.streams.iter_mut() {
            if stream.send.size().saturating_add(most) > i64::from(MAX_WINDOW)
                || stream.send.shift(delta).is_err()
            {
                return Err(Fatal::protocol(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "SETTINGS_INITIAL_WINDOW_SIZE makes a stream's window exceed 2^31-1",
                ));
            }
            if delta > 0 && stream.has_work() {
                open.push(key);
            }
        }
        for key in open {
            self.streams.schedule(key);
        }
        Ok(())
    }

    pub(super) fn recv_settings_ack(&mut self, now: Time) -> Result<Option<Event>, Fatal> {
        match self.unacknowledged.acknowledge() {
            Some(settings::Sent::First) => {
                self.decoder.set_max_table_size(self.config.header_table_size);
                self.shift_recv_windows(self.config.initial_window);
            }
            Some(settings::Sent::InitialWindow(size)) => self.shift_recv_windows(size),
            Some(settings::Sent::Barrier) => self.pacer.confirm(now),
            None => {
                return Err(Fatal::protocol(
                    ErrorCode::PROTOCOL_ERROR,
                    "the peer acknowledges SETTINGS that were never sent",
                ));
            }
        }
        Ok(None)
    }

    /// The peer has taken up our `SETTINGS_INITIAL_WINDOW_SIZE`.
    fn shift_recv_windows(&mut self, size: u32) {
        let before = std::mem::replace(&mut self.initial_window, size);
        if before != size {
            for (_, stream) in self.streams.iter_mut() {
                stream.recv.shift(before, size);
            }
        }
    }

    pub(super) fn recv_pong(&mut self, payload: [u8; 8], now: Time) -> Option<Event> {
        let (kind, waiting) = self.pings.acknowledge(payload)?;
        if kind == PingKind::Shutdown {
            self.shutdown_answered(now);
            return None;
        }
        if kind == PingKind::Barrier {
            self.pacer.passed_barrier(now);
            return None;
        }
        let (round_trip, received) = (
            waiting.round_trip(now),
            self.received.saturating_sub(waiting.received),
        );
        Some(Event::Pong {
            kind,
            round_trip,
            received,
        })
    }
}
