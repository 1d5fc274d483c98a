//! Frames that belong to no turn of a stream: SETTINGS, PING, GOAWAY and what is owed to the peer. They leave first, in order.

use super::{Connection, Output, Role, settings};
use crate::Time;
use crate::frame::{self, ErrorCode, PREFACE, SettingId, StreamId};

/// A frame that belongs to no turn of a stream.
#[derive(Debug)]
pub(super) enum Control {
    /// A client's 24 bytes, and our first SETTINGS.
    Preface,
    SettingsAck,
    InitialWindow(u32),
    Ping([u8; 8]),
    PingAck([u8; 8]),
    /// For a stream that is not kept any more.
    Reset(StreamId, ErrorCode),
    GoAway {
        last: StreamId,
        code: ErrorCode,
        debug: String,
    },
}

impl Connection {
    /// A frame that the peer made us owe. Bounded: when too many wait, the peer's frames are not read until they have left.
    pub(super) fn owe(&mut self, control: Control, now: Time) {
        self.control.push_back(control);
        if self.control.len() >= self.config.limits.control_queue {
            self.note_control_queue(now);
        }
    }

    pub(super) fn write_control(&mut self, now: Time, output: &mut Output) {
        while output.room() > 0 || self.closed {
            let Some(control) = self.control.pop_front() else {
                break;
            };
            match control {
                Control::Preface => self.unacknowledged.first_left(now),
                Control::InitialWindow(size) => {
                    self.unacknowledged.push(settings::Sent::InitialWindow(size), now);
                }
                _ => {}
            }
            let at = output.position();
            output.write(|out| match control {
                Control::Preface => {
                    let server = self.role == Role::Server;
                    if !server {
                        out.extend_from_slice(PREFACE);
                    }
                    frame::write_settings(out, &settings::first(&self.config, server));
                }
                Control::SettingsAck => frame::write_settings_ack(out),
                Control::InitialWindow(size) => {
                    frame::write_settings(out, &[(SettingId::INITIAL_WINDOW_SIZE, size)]);
                }
                Control::Ping(payload) => {
                    self.pings.sent(payload, now, self.received, at);
                    frame::write_ping(out, false, payload);
                }
                Control::PingAck(payload) => frame::write_ping(out, true, payload),
                Control::Reset(stream, code) => frame::write_rst_stream(out, stream, code),
                Control::GoAway { last, code, debug } => {
                    frame::write_goaway(out, last, code, debug.as_bytes());
                }
            });
        }
        if self.pause.is_on() {
            self.note_control_queue(now);
        }
    }
}
