//! The end of a connection: its socket's, or an error's. Its end in order is [`super::goaway`]'s.

use super::control::Control;
use super::{By, CloseReason, Connection, Event, Role, SocketError};
use crate::frame::{ErrorCode, StreamId};

impl Connection {
    /// The peer closed its side of the socket. [`Event::Closed`] follows from `poll_event`.
    pub fn handle_eof(&mut self) {
        self.handle_lost(CloseReason::Eof);
    }

    /// The socket failed. [`Event::Closed`] follows from `poll_event`.
    pub fn handle_socket_error(&mut self, error: SocketError) {
        self.handle_lost(CloseReason::Socket(error));
    }

    fn handle_lost(&mut self, reason: CloseReason) {
        if !self.closed {
            self.control.clear();
            self.end(ErrorCode::NO_ERROR, reason, By::Peer);
        }
    }

    /// A connection error (RFC 9113 §5.4.1): GOAWAY leaves with the next transmit, and nothing else does.
    pub(super) fn fail(&mut self, code: ErrorCode, reason: CloseReason, by: By) {
        if self.closed {
            return;
        }
        let last = if self.role == Role::Server {
            self.last_id
        } else {
            StreamId::CONNECTION
        };
        self.control.clear();
        self.control.push_back(Control::GoAway {
            last,
            code,
            debug: reason.to_string(),
        });
        self.end(code, reason, by);
    }

    pub(super) fn end(&mut self, code: ErrorCode, reason: CloseReason, by: By) {
        self.closed = true;
        self.streams.clear_work();
        self.events.push_back(Event::Closed { code, reason, by });
    }
}
