//! Peers that write whatever a test wants, right or wrong, in the place of a client or of a backend's connection.

use bytes::BytesMut;
use grpclb_engine::connection::Role;
use grpclb_engine::frame::{ErrorCode, Frame, PREFACE, Reader};
use grpclb_engine::splitter::{ConnId, Ended, SocketError, UpstreamId};

use super::{SERVICE, World};
use crate::support::{flags, kinds, raw};

/// One such peer, and what it was told.
pub struct Wild {
    id: ConnId,
    /// What the splitter has not used of the peer's bytes.
    input: BytesMut,
    reader: Reader,
    unread: BytesMut,
    /// Frames of the splitter's that no expectation has looked at.
    pub heard: Vec<Frame>,
    /// It reads nothing.
    pub deaf: bool,
    /// The splitter has ended the connection.
    pub over: bool,
}

/// SETTINGS, and the acknowledgement of the splitter's.
pub fn greeting() -> Vec<u8> {
    let frames = [
        raw(kinds::SETTINGS, 0, 0, &[]),
        raw(kinds::SETTINGS, flags::ACK, 0, &[]),
    ];
    frames.concat()
}

impl Wild {
    fn new(id: ConnId) -> Self {
        Self {
            id,
            input: BytesMut::new(),
            reader: Reader::new(),
            unread: BytesMut::new(),
            heard: Vec::new(),
            deaf: false,
            over: false,
        }
    }

    /// Which end it plays.
    pub fn role(&self) -> Role {
        match self.id {
            ConnId::Client(_) => Role::Client,
            ConnId::Upstream(_) => Role::Server,
        }
    }

    /// The code and the debug data of the last GOAWAY that it was told.
    pub fn goaway(&self) -> Option<(ErrorCode, String)> {
        self.heard.iter().rev().find_map(|frame| match frame {
            Frame::GoAway { code, debug, .. } => Some((*code, String::from_utf8_lossy(debug).into_owned())),
            _ => None,
        })
    }

    pub(super) fn input(&mut self) -> (ConnId, &mut BytesMut) {
        (self.id, &mut self.input)
    }

    /// Bytes of the peer's that the splitter has not used.
    pub fn unread(&self) -> usize {
        self.input.len()
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        if self.unread.starts_with(PREFACE) {
            let _preface = self.unread.split_to(PREFACE.len());
        }
        let next = |reader: &mut Reader, unread: &mut BytesMut| reader.next(unread, 1 << 20);
        while let Some(frame) = next(&mut self.reader, &mut self.unread).expect("our frames are right") {
            self.heard.push(frame);
        }
    }
}

impl World {
    /// A client of which nothing is known but its preface.
    pub fn wild_client(&mut self) -> usize {
        let id = self
            .splitter
            .open_client(self.now, SERVICE)
            .expect("the Service is set");
        self.wilds.push(Wild::new(ConnId::Client(id)));
        let wild = self.wilds.len() - 1;
        self.say(wild, PREFACE);
        wild
    }

    /// The connection that was made last to a backend that is wild.
    pub fn wild_backend(&self) -> usize {
        self.wilds
            .iter()
            .rposition(|wild| matches!(wild.id, ConnId::Upstream(_)))
            .expect("a connection to a wild backend")
    }

    /// A wild peer's bytes reach the splitter; nothing else moves.
    pub fn say(&mut self, wild: usize, bytes: &[u8]) {
        let wild = &mut self.wilds[wild];
        wild.input.extend_from_slice(bytes);
        self.splitter.handle_input(self.now, wild.id, &mut wild.input);
    }

    /// The peer reads again: writes what there is for it.
    pub fn flush_wild_peer(&mut self, wild: usize) {
        self.flush_wild(self.wilds[wild].id);
    }

    /// The peer's socket breaks.
    pub fn leave(&mut self, wild: usize) {
        self.wilds[wild].over = true;
        self.splitter
            .handle_closed(self.now, self.wilds[wild].id, Ended::Error(SocketError::Reset));
        self.run();
    }

    pub(super) fn accept_wild(&mut self, id: UpstreamId) {
        self.wilds.push(Wild::new(ConnId::Upstream(id)));
    }

    /// Writes what there is for this connection, if it is a wild peer's; whether it is.
    pub(super) fn flush_wild(&mut self, id: ConnId) -> bool {
        let Some(wild) = self.wilds.iter_mut().find(|wild| wild.id == id) else {
            return false;
        };
        while !wild.deaf
            && let Some(output) = self.splitter.transmit(self.now, id)
        {
            let mut slices = [std::io::IoSlice::new(&[]); 64];
            let filled = output.slices(&mut slices);
            let bytes: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .collect();
            output.advance(bytes.len());
            wild.hear(&bytes);
        }
        true
    }

    /// The splitter ends the connection; whether it was a wild peer's.
    pub(super) fn end_wild(&mut self, id: ConnId) -> bool {
        let Some(wild) = self.wilds.iter_mut().find(|wild| wild.id == id) else {
            return false;
        };
        // Now that nothing follows, even the deaf may look.
        (wild.over, wild.deaf) = (true, false);
        self.flush_wild(id)
    }
}
