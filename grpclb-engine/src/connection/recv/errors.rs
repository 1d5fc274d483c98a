//! `RST_STREAM`, frames for streams that do not live, and errors of one stream (RFC 9113 §5.1, §5.4.2, §6.4).

use super::Fatal;
use crate::Time;
use crate::connection::control::Control;
use crate::connection::streams::{Outcome, Stream};
use crate::connection::{Cause, CloseReason, Connection, Event, Limit, Role, State, StreamEvent, StreamKey};
use crate::frame::{self, ErrorCode, StreamId};

impl Connection {
    pub(super) fn recv_reset(
        &mut self,
        id: StreamId,
        code: ErrorCode,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        let Some(key) = self.streams.find(id) else {
            return self.recv_unknown(id, StreamEvent::RecvReset, now);
        };
        let Some(stream) = self.streams.get(key) else {
            return Ok(None);
        };
        let (tag, ours) = (stream.tag, stream.state == State::ResetByUs);
        let rapid = self.role == Role::Server
            && !stream.answered
            && now.since(stream.opened) < self.config.limits.rapid_reset_age;
        self.streams.remove(key, State::ResetByPeer);
        self.offer_capacity();
        if rapid {
            self.spend(Limit::RapidReset, 1, now)?;
        }
        if ours {
            // Both ends reset it; the owner knows.
            return Ok(None);
        }
        Ok(Some(Event::Reset {
            stream: key,
            tag,
            code,
            cause: Cause::Peer,
            left: true,
        }))
    }

    /// A frame for a stream that does not live.
    pub(super) fn recv_unknown(
        &mut self,
        id: StreamId,
        event: StreamEvent,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        if self.role == Role::Server && self.goaway.ignores(id) && id.is_client_initiated() {
            return Ok(None);
        }
        let state = self.state_of_unknown(id);
        let reason = match state {
            State::Idle | State::IdlePeer => "a frame for a stream that was never opened",
            _ => "a frame for a stream that has ended",
        };
        self.refuse(None, id, state.on(event), reason, now)
    }

    /// Whether such a frame for a stream that does not live is read and forgotten.
    pub(super) fn ignores(&self, id: StreamId, event: StreamEvent) -> bool {
        self.state_of_unknown(id).on(event) == Outcome::Ignore
    }

    fn state_of_unknown(&self, id: StreamId) -> State {
        let server = self.role == Role::Server;
        if server && id.is_client_initiated() {
            if id > self.last_id {
                State::IdlePeer
            } else {
                // Skipped by the peer: closed before it was used (RFC 9113 §5.1.1), and as wrong as an idle one.
                self.streams.closed_state(id).unwrap_or(State::Idle)
            }
        } else if !server && id.is_client_initiated() && id <= self.last_id {
            self.streams.closed_state(id).unwrap_or(State::Forgotten)
        } else {
            State::Idle
        }
    }

    /// DATA or HEADERS of a stream whose `RST_STREAM` of ours waits (it is paced). The peer cannot know, so neither
    /// content nor the end of the stream is held against it.
    pub(super) fn recv_after_reset(
        &mut self,
        key: StreamKey,
        content: bool,
        end_stream: bool,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        if end_stream && self.streams.get(key).is_some_and(|stream| stream.ended) {
            // Closed both ways: nothing is left to reset.
            self.streams.remove(key, State::Ended);
            self.offer_capacity();
        }
        if content || end_stream {
            return Ok(None);
        }
        self.spend(Limit::ClosedStreams, 1, now)
    }

    /// Carries out what the table of states says of a frame that is not simply right.
    pub(super) fn refuse(
        &mut self,
        key: Option<StreamKey>,
        id: StreamId,
        outcome: Outcome,
        reason: &'static str,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        match outcome {
            Outcome::To(_) | Outcome::Forbidden => Ok(None),
            Outcome::Ignore => self.spend(Limit::ClosedStreams, 1, now),
            Outcome::ConnectionError(code) => Err(Fatal::protocol(code, reason)),
            Outcome::StreamError(code) => {
                if let Some(key) = key {
                    return self.stream_error(key, code, Cause::Local(reason), now);
                }
                self.streams.set_closed_state(id, State::ResetByUs);
                self.spend_stream_error(now)?;
                self.owe(Control::Reset(id, code), now);
                Ok(None)
            }
        }
    }

    /// The peer's message is malformed (RFC 9113 §8.1.1), which the frame ends or not. Where that closes the stream on both sides
    /// nothing is left to reset: what an application answers costs the connection, which others share, no `RST_STREAM`.
    pub(super) fn malformed(
        &mut self,
        key: StreamKey,
        cause: Cause,
        end_stream: bool,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        let code = ErrorCode::PROTOCOL_ERROR;
        let closed = |stream: &&Stream| end_stream && stream.state == State::HalfClosedLocal;
        let Some(tag) = self.streams.get(key).filter(closed).map(|stream| stream.tag) else {
            return self.stream_error(key, code, cause, now);
        };
        self.streams.remove(key, State::Ended);
        self.offer_capacity();
        self.spend_stream_error(now)?;
        Ok(Some(Event::Reset {
            stream: key,
            tag,
            code,
            cause,
            left: true,
        }))
    }

    /// A stream error (RFC 9113 §5.4.2): `RST_STREAM`, and the owner hears of it.
    pub(super) fn stream_error(
        &mut self,
        key: StreamKey,
        code: ErrorCode,
        cause: Cause,
        now: Time,
    ) -> Result<Option<Event>, Fatal> {
        let tag = self.streams.get(key).map_or(0, |stream| stream.tag);
        self.account.earn_reset();
        self.queue_reset(key, code);
        self.spend_stream_error(now)?;
        Ok(Some(Event::Reset {
            stream: key,
            tag,
            code,
            cause,
            left: true,
        }))
    }

    /// A stream error has made us reset. A client opens streams as it likes, so it is slowed; of a server there are no more than
    /// streams that we opened, and the connection is shared by calls that are not to blame.
    pub(super) fn spend_stream_error(&mut self, now: Time) -> Result<Option<Event>, Fatal> {
        match self.role {
            Role::Server => self.spend(Limit::StreamErrors, 1, now),
            Role::Client => Ok(None),
        }
    }

    /// A frame that is wrong by itself.
    pub(super) fn recv_broken(&mut self, error: frame::Error, now: Time) -> Result<Option<Event>, Fatal> {
        let Some(id) = error.stream() else {
            return Err(Fatal {
                code: error.code(),
                reason: CloseReason::Frame(error),
            });
        };
        match self.streams.find(id) {
            Some(key)
                if self
                    .streams
                    .get(key)
                    .is_some_and(|stream| stream.state != State::ResetByUs) =>
            {
                self.stream_error(key, error.code(), Cause::Local("a broken frame"), now)
            }
            Some(_) => self.spend(Limit::ClosedStreams, 1, now),
            None => match error {
                frame::Error::PriorityLength { .. } => {
                    // Right in every state, so the stream may be idle; it is reset all the same (§6.3).
                    self.spend(Limit::Priority, 1, now)?;
                    self.owe(Control::Reset(id, error.code()), now);
                    Ok(None)
                }
                _ => self.recv_unknown(id, StreamEvent::RecvWindowUpdate, now),
            },
        }
    }
}
