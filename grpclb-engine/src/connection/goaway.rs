//! GOAWAY in both directions (RFC 9113 §6.8).

use std::time::Duration;

use bytes::Bytes;

use super::control::Control;
use super::{By, Cause, CloseReason, Connection, Event, PingKind, Role, State};
use crate::Time;
use crate::frame::{ErrorCode, StreamId};

/// How long a peer may take to answer each of the PINGs behind the first of two GOAWAYs before the second follows.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

/// What has been said about the end.
#[derive(Debug, Default)]
pub(super) struct GoAway {
    sent: Step,
    /// The last stream of ours that the peer processes.
    received: Option<StreamId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Nothing,
    /// "I will go": no stream is refused yet.
    Announced,
    /// The peer has read that. What it had begun before may still be on its way: the h2 crate answers a PING before it sends the
    /// HEADERS that wait in its buffer, and calls that are refused then are lost to clients that do not try again.
    Read,
    /// Streams above this one are ignored.
    Final(StreamId),
}

impl GoAway {
    pub(super) fn is_going_away(&self) -> bool {
        self.sent != Step::Nothing || self.received.is_some()
    }

    /// Whether a stream that the peer opens now comes too late.
    pub(super) fn ignores(&self, id: StreamId) -> bool {
        matches!(self.sent, Step::Final(last) if id > last)
    }
}

impl Connection {
    pub(super) fn begin_shutdown(&mut self, now: Time) {
        if self.closed || self.goaway.sent != Step::Nothing {
            return;
        }
        if self.role == Role::Client {
            self.final_goaway(ErrorCode::NO_ERROR, "");
            return;
        }
        self.goaway.sent = Step::Announced;
        self.control.push_back(Control::GoAway {
            last: StreamId::MAX,
            code: ErrorCode::NO_ERROR,
            debug: String::new(),
        });
        self.ping(now, PingKind::Shutdown, SHUTDOWN_PATIENCE);
    }

    /// The peer has answered the PING behind the first GOAWAY, or the one behind that: what it had begun before the first is here
    /// when it has answered both.
    pub(super) fn shutdown_answered(&mut self, now: Time) {
        if self.goaway.sent == Step::Announced {
            self.goaway.sent = Step::Read;
            self.ping(now, PingKind::Shutdown, SHUTDOWN_PATIENCE);
        } else {
            self.finish_shutdown();
        }
    }

    /// The peer has had its time.
    pub(super) fn finish_shutdown(&mut self) {
        self.final_goaway(ErrorCode::NO_ERROR, "");
    }

    pub(super) fn final_goaway(&mut self, code: ErrorCode, debug: &'static str) {
        if self.closed || matches!(self.goaway.sent, Step::Final(_)) {
            return;
        }
        let last = if self.role == Role::Server {
            self.last_id
        } else {
            StreamId::CONNECTION
        };
        self.goaway.sent = Step::Final(last);
        self.control.push_back(Control::GoAway {
            last,
            code,
            debug: debug.to_owned(),
        });
    }

    /// The peer's GOAWAY. The owner hears of it, then of each stream that it did not process.
    pub(super) fn recv_goaway(&mut self, last_stream: StreamId, code: ErrorCode, debug: Bytes) {
        // It must not rise (§6.8); where it does, what was said first holds.
        let last = self
            .goaway
            .received
            .map_or(last_stream, |earlier| earlier.min(last_stream));
        self.goaway.received = Some(last);
        self.events.push_back(Event::GoAway {
            last_stream: last,
            code,
            debug,
        });
        if self.role == Role::Server {
            return;
        }
        let lost: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, stream)| !stream.has_id() || stream.id > last)
            .map(|(key, stream)| (key, stream.tag, stream.has_id(), stream.state == State::ResetByUs))
            .collect();
        for (stream, tag, left, reset) in lost {
            self.streams.remove(stream, State::ResetByPeer);
            if !reset {
                let code = ErrorCode::REFUSED_STREAM;
                self.events.push_back(Event::Reset {
                    stream,
                    tag,
                    code,
                    cause: Cause::GoAway,
                    left,
                });
            }
        }
    }

    /// After the last GOAWAY and the last stream the connection is over; whether it is.
    pub(super) fn check_drained(&mut self) -> bool {
        let last_word = matches!(self.goaway.sent, Step::Final(_))
            || (self.role == Role::Client && self.goaway.received.is_some());
        if last_word && !self.closed && self.streams.len() == 0 {
            let by = if self.goaway.received.is_some() {
                By::Peer
            } else {
                By::Local
            };
            self.end(ErrorCode::NO_ERROR, CloseReason::Drained, by);
            return true;
        }
        false
    }
}
