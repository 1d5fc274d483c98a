//! One call: a client's stream and, one at a time, the stream of a backend that answers it.
//!
//! What happens to a call when its backend's stream ends early is decided here, by one table, and carried out elsewhere.

use std::rc::Rc;

use super::actions::{ClientId, UpstreamId};
use super::arena::Key;
use super::calls::Outcome;
use super::growth::Growth;
use super::replay::Kept;
use crate::Time;
use crate::balance::MemberKey;
use crate::connection::StreamKey;
use crate::frame::ErrorCode;
use crate::hpack::{Field, FieldKind, HeaderList};

/// A call from the client's HEADERS until both ends have said all.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Call {
    pub(super) client: ClientId,
    pub(super) stream: StreamKey,
    pub(super) group: Key,
    pub(super) place: Place,
    /// Where its client counts it among the [`super::carriers::Carriers`], while it is sent.
    pub(super) carrier: u32,
    /// Whose load it counts to.
    pub(super) member: Option<MemberKey>,
    /// The request's `content-type`: local replies speak the client's protocol.
    pub(super) content_type: Option<Rc<Field>>,
    /// The request's method is HEAD.
    pub(super) head: bool,
    pub(super) kept: Kept,
    pub(super) outcome: Option<Outcome>,
    pub(super) response: Response,
    /// The client has ended its side, or is not listened to any more.
    pub(super) request_ended: bool,
    /// The request's end has left to the backend, or nobody wants it.
    pub(super) request_sent: bool,
    /// The response's end has left to the client.
    pub(super) answered: bool,
    /// How often it was sent.
    pub(super) tries: u8,
    /// Who refused it.
    pub(super) avoid: Vec<MemberKey>,
    /// When it came to where it is.
    pub(super) since: Time,
    /// Request: bytes from the client, bytes sent in this try, and bytes that the client got its credit for.
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) released: u64,
    /// Response: bytes from the backend that have not left to the client.
    pub(super) pending: u64,
    /// The connection that goes on being charged for `pending` after the call has left it.
    pub(super) pending_from: Option<UpstreamId>,
    pub(super) upload: Growth,
    pub(super) download: Growth,
}

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this pool's queue.
    Waiting(Key),
    /// On a stream of this connection.
    Sent { upstream: UpstreamId, stream: StreamKey },
    /// No backend is concerned: not yet, or not any more.
    Nowhere,
}

/// How much of the response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    Nothing,
    /// 1xx: somebody is at work.
    Informed,
    Headers,
    /// With its end.
    Ended,
}

/// How a backend's stream ended before its response did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// No byte of its HEADERS was handed to a socket.
    NeverLeft,
    /// The backend has said that it did not process it: above the last id of a GOAWAY.
    NotProcessed,
    Reset(ErrorCode),
    /// The connection broke, or the backend broke the protocol.
    Broken,
}

/// What becomes of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it again: nobody has run it.
    Again,
    /// `REFUSED_STREAM` to the client: nobody has run it, but we cannot send it again.
    Refuse,
    /// An answer of our own: somebody may have run it.
    Unavailable,
    /// Trailers of our own after response headers. `REFUSED_STREAM` would make grpc-go run the call twice.
    Break,
    /// The backend's reset is the client's.
    Relay(ErrorCode),
    /// The response is complete. The rest of the request is of no use.
    Settle,
}

/// The table: rows are what has come of the response, columns how the stream was lost.
///
/// ```text
///            NeverLeft, NotProcessed,   Reset(other)   Broken
///            Reset(REFUSED_STREAM)
/// Nothing    Again or Refuse            Relay          Unavailable
/// Informed   Unavailable                Relay          Unavailable
/// Headers    Break                      Relay          Break
/// Ended      Settle                     Settle         Settle
/// ```
pub(super) fn verdict(response: Response, loss: Loss, can_repeat: bool) -> Verdict {
    let unprocessed = matches!(
        loss,
        Loss::NeverLeft | Loss::NotProcessed | Loss::Reset(ErrorCode::REFUSED_STREAM)
    );
    match (response, loss) {
        (Response::Ended, _) => Verdict::Settle,
        (Response::Nothing, _) if unprocessed => {
            if can_repeat {
                Verdict::Again
            } else {
                Verdict::Refuse
            }
        }
        (_, Loss::Reset(code)) if !unprocessed => Verdict::Relay(code),
        (Response::Headers, _) => Verdict::Break,
        (Response::Nothing | Response::Informed, _) => Verdict::Unavailable,
    }
}

impl Call {
    pub(super) fn new(
        client: ClientId,
        stream: StreamKey,
        group: Key,
        request: Rc<HeaderList>,
        ended: bool,
        now: Time,
        window: u32,
    ) -> Self {
        Self {
            client,
            stream,
            group,
            place: Place::Nowhere,
            carrier: 0,
            member: None,
            content_type: request.find(FieldKind::ContentType).cloned(),
            head: request
                .find(FieldKind::Method)
                .is_some_and(|method| method.value() == b"HEAD"),
            kept: Kept::new(request),
            outcome: None,
            response: Response::Nothing,
            request_ended: ended,
            request_sent: false,
            answered: false,
            tries: 0,
            avoid: Vec::new(),
            since: now,
            received: 0,
            sent: 0,
            released: 0,
            pending: 0,
            pending_from: None,
            upload: Growth::new(window, now),
            download: Growth::new(window, now),
        }
    }

    /// Bytes of the request that have not left to a backend for the first time.
    pub(super) fn unsent(&self) -> u64 {
        self.received.saturating_sub(self.released)
    }

    /// Whether it may be sent once more. What never left costs no try: each such failure takes its endpoint out of the pick.
    pub(super) fn can_repeat(&self, loss: Loss, tries: u8) -> bool {
        self.kept.is_whole() && (loss == Loss::NeverLeft || self.tries < tries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every (response, loss) with its outcome: a change of this table is a change of what clients see.
    #[test]
    fn every_loss_has_one_outcome_for_each_state_of_the_response() {
        use Loss::{Broken, NeverLeft, NotProcessed, Reset};
        use Response::{Ended, Headers, Informed, Nothing};
        use Verdict::{Again, Break, Refuse, Relay, Settle, Unavailable};
        let (refused, cancel) = (ErrorCode::REFUSED_STREAM, ErrorCode::CANCEL);
        let losses = [NeverLeft, NotProcessed, Reset(refused), Reset(cancel), Broken];
        let table = [
            (Nothing, true, [Again, Again, Again, Relay(cancel), Unavailable]),
            (
                Nothing,
                false,
                [Refuse, Refuse, Refuse, Relay(cancel), Unavailable],
            ),
            (
                Informed,
                true,
                [Unavailable, Unavailable, Unavailable, Relay(cancel), Unavailable],
            ),
            (Headers, true, [Break, Break, Break, Relay(cancel), Break]),
            (Ended, true, [Settle; 5]),
        ];
        for (response, can_repeat, outcomes) in table {
            let found = losses.map(|loss| verdict(response, loss, can_repeat));
            assert_eq!(found, outcomes, "{response:?}, repeatable: {can_repeat}");
        }
    }
}
