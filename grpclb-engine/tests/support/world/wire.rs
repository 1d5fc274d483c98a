//! How bytes, dials and time move in a [`World`].

use std::collections::HashMap;
use std::time::Duration;

use grpclb_engine::Time;
use grpclb_engine::connection::Role;
use grpclb_engine::frame::ErrorCode;
use grpclb_engine::splitter::{Action, ConnId, DialError, Ended, SocketError};

use super::{Link, Outcome, Side, Wire, World};

impl World {
    pub(super) fn next_event(&self) -> Option<Time> {
        let wires = self
            .clients
            .iter()
            .filter(|client| !client.over)
            .map(|client| (&client.wire, client.deaf, ConnId::Client(client.id)));
        let wires = wires.chain(self.links.iter().filter(|link| !link.over).map(|link| {
            let frozen = self.backends[link.backend].frozen;
            (&link.wire, frozen, ConnId::Upstream(link.id))
        }));
        let due = wires.flat_map(|(wire, deaf, id)| {
            let to_peer = wire.to_peer.front().filter(|_| !deaf).map(|(at, _)| *at);
            // A backend that is frozen sends nothing; a deaf client does.
            let read = self.splitter.wants_input(id) && !(deaf && matches!(id, ConnId::Upstream(_)));
            let to_splitter = wire.to_splitter.front().filter(|_| read);
            [to_peer, to_splitter.map(|(at, _)| *at)]
        });
        let dials = self.dials.iter().map(|(at, ..)| Some(*at));
        let peers = self
            .clients
            .iter()
            .filter(|client| !client.over)
            .map(|client| &client.side);
        let peers = peers.chain(self.links.iter().filter(|link| !link.over).map(|link| &link.side));
        let timers = peers.map(|side| side.connection.poll_timeout());
        let next = due
            .chain(dials)
            .chain(timers)
            .chain([self.splitter.poll_timeout()])
            .flatten()
            .min();
        // Peers' deadlines may be in the past for a moment; time still has to move.
        next.map(|next| next.max(self.now + Duration::from_nanos(1)))
    }

    pub(super) fn timeouts(&mut self) {
        self.splitter.handle_timeout(self.now);
        for client in &mut self.clients {
            client.side.timeout(self.now);
        }
        for link in &mut self.links {
            link.side.timeout(self.now);
        }
    }

    /// One round over everything; whether anything moved.
    pub fn step(&mut self) -> bool {
        let mut moved = self.act();
        moved |= self.flush_splitter();
        for n in 0..self.clients.len() {
            moved |= self.step_client(n);
        }
        for n in 0..self.links.len() {
            moved |= self.step_link(n);
        }
        moved
    }

    pub(super) fn act(&mut self) -> bool {
        let mut moved = false;
        while let Some(action) = self.splitter.poll_action() {
            moved = true;
            match action {
                Action::Dial { upstream, endpoint } => {
                    let backend = self
                        .backends
                        .iter()
                        .position(|backend| backend.endpoint.is_same(&endpoint));
                    let backend = backend.expect("only known endpoints are dialled");
                    self.backends[backend].dials += 1;
                    let due = self.now + self.dial_delay + self.backends[backend].slow;
                    self.dials.push((due, upstream, backend));
                }
                Action::CloseClient { client, .. } if self.end_wild(ConnId::Client(client)) => {}
                Action::CloseUpstream { upstream, .. } if self.end_wild(ConnId::Upstream(upstream)) => {}
                Action::CloseClient { client, .. } => {
                    self.flush(ConnId::Client(client));
                    let n = self
                        .clients
                        .iter()
                        .position(|known| known.id == client)
                        .expect("a known client");
                    self.deliver_all_to_client(n);
                    self.clients[n].over = true;
                    for call in self
                        .calls
                        .iter_mut()
                        .filter(|call| call.client == n && call.outcome.is_none())
                    {
                        call.outcome = Some(Outcome::Lost);
                    }
                }
                Action::CloseUpstream { upstream, .. } => {
                    self.flush(ConnId::Upstream(upstream));
                    self.dials.retain(|(_, id, _)| *id != upstream);
                    if let Some(link) = self.links.iter_mut().find(|link| link.id == upstream) {
                        link.over = true;
                    }
                }
                Action::ResumeInput { id } => self.resume(id),
            }
        }
        let due: Vec<_> = self.dials.extract_if(.., |(at, ..)| *at <= self.now).collect();
        for (at, id, backend) in due {
            match self.backends[backend].accepts {
                Some(true) => {
                    moved = true;
                    self.opened += 1;
                    assert!(
                        self.splitter.handle_dialed(self.now, id, Ok(())),
                        "dials that are over are withdrawn"
                    );
                    if self.backends[backend].wild {
                        self.accept_wild(id);
                        continue;
                    }
                    self.links.push(Link {
                        id,
                        backend,
                        side: Side::new(Role::Server, self.backends[backend].config.clone()),
                        wire: Wire::default(),
                        calls: HashMap::new(),
                        resets: Vec::new(),
                        over: false,
                    });
                    if self.backends[backend].farewell {
                        self.server(backend).connection.go_away(ErrorCode::NO_ERROR, "");
                    }
                }
                Some(false) => {
                    moved = true;
                    let _ = self.splitter.handle_dialed(
                        self.now,
                        id,
                        Err(DialError::Socket(self.backends[backend].refuses_with)),
                    );
                }
                None => self.dials.push((at + Duration::from_hours(1), id, backend)),
            }
        }
        moved
    }

    /// The splitter reads this connection again: it gets what it has left.
    fn resume(&mut self, id: ConnId) {
        let clients = self.clients.iter_mut().filter(|client| !client.over);
        let clients = clients.map(|client| (ConnId::Client(client.id), &mut client.wire.input));
        let links = self.links.iter_mut().filter(|link| !link.over);
        let links = links.map(|link| (ConnId::Upstream(link.id), &mut link.wire.input));
        let wilds = self.wilds.iter_mut().map(super::Wild::input);
        let mut all = clients.chain(links).chain(wilds);
        if let Some((_, input)) = all.find(|(owner, _)| *owner == id) {
            self.splitter.handle_input(self.now, id, input);
        }
    }

    pub(super) fn flush_splitter(&mut self) -> bool {
        let mut moved = false;
        while let Some(id) = self.splitter.poll_dirty() {
            self.flush(id);
            moved = true;
        }
        moved
    }

    /// Writes what there is for a connection, in pieces, unless its peer does not read.
    pub(super) fn flush(&mut self, id: ConnId) {
        if self.flush_wild(id) {
            return;
        }
        let due = self.now + self.delay;
        let mut room = usize::MAX;
        let wire = match id {
            ConnId::Client(id) => {
                let client = self.clients.iter_mut().find(|client| client.id == id);
                let Some(client) = client else { return };
                if client.deaf {
                    if client.wire.to_peer.len() > 8 {
                        return; // the socket is full
                    }
                    let taken: usize = client.wire.to_peer.iter().map(|(_, bytes)| bytes.len()).sum();
                    room = client.socket.saturating_sub(taken);
                }
                &mut client.wire
            }
            ConnId::Upstream(id) => match self.links.iter_mut().find(|link| link.id == id) {
                Some(link) => &mut link.wire,
                None => return,
            },
        };
        while let Some(output) = self.splitter.transmit(self.now, id) {
            if room == 0 {
                return self.splitter.handle_blocked(id);
            }
            let mut slices = [std::io::IoSlice::new(&[]); 64];
            let filled = output.slices(&mut slices);
            let bytes: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .take(room)
                .collect();
            room -= bytes.len();
            output.advance(bytes.len());
            for piece in bytes.chunks(self.cut) {
                wire.to_peer.push_back((due, piece.to_vec()));
            }
        }
    }

    pub(super) fn step_client(&mut self, n: usize) -> bool {
        let mut moved = false;
        let client = &mut self.clients[n];
        if client.over {
            return false;
        }
        if client.deaf {
            // Only what the client sends moves.
        } else if client.wire.to_peer.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, bytes) = client.wire.to_peer.pop_front().expect("just seen");
            client.side.receive(self.now, &bytes);
            moved = true;
            self.client_events(n);
            if self.clients[n].wire.to_peer.is_empty() {
                self.flush(ConnId::Client(self.clients[n].id));
            }
        }
        let (due, client) = (self.now + self.delay, &mut self.clients[n]);
        let bytes = client.side.drain(self.now);
        client.side.sent.clear();
        moved |= !bytes.is_empty();
        for piece in bytes.chunks(self.cut) {
            client.wire.to_splitter.push_back((due, piece.to_vec()));
        }
        if self.splitter.wants_input(ConnId::Client(client.id))
            && client
                .wire
                .to_splitter
                .front()
                .is_some_and(|(at, _)| *at <= self.now)
        {
            let (_, bytes) = client.wire.to_splitter.pop_front().expect("just seen");
            client.wire.input.extend_from_slice(&bytes);
            self.splitter
                .handle_input(self.now, ConnId::Client(client.id), &mut client.wire.input);
            moved = true;
        } else if client.side.connection.is_closed()
            && client.wire.to_splitter.is_empty()
            && client.side.output.is_empty()
        {
            client.over = true;
            self.splitter
                .handle_closed(self.now, ConnId::Client(client.id), Ended::Eof);
            moved = true;
        }
        moved
    }

    pub(super) fn deliver_all_to_client(&mut self, n: usize) {
        while let Some((_, bytes)) = self.clients[n].wire.to_peer.pop_front() {
            self.clients[n].side.receive(self.now, &bytes);
            self.client_events(n);
        }
    }

    pub(super) fn step_link(&mut self, n: usize) -> bool {
        let link = &mut self.links[n];
        if link.over || self.backends[link.backend].frozen {
            return false;
        }
        let mut moved = false;
        if link.wire.to_peer.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, bytes) = link.wire.to_peer.pop_front().expect("just seen");
            link.side.receive(self.now, &bytes);
            moved = true;
            self.backend_events(n);
        }
        let (due, link) = (self.now + self.delay, &mut self.links[n]);
        let bytes = link.side.drain(self.now);
        link.side.sent.clear();
        moved |= !bytes.is_empty();
        for piece in bytes.chunks(self.cut) {
            link.wire.to_splitter.push_back((due, piece.to_vec()));
        }
        if self.splitter.wants_input(ConnId::Upstream(link.id))
            && link
                .wire
                .to_splitter
                .front()
                .is_some_and(|(at, _)| *at <= self.now)
        {
            let (_, bytes) = link.wire.to_splitter.pop_front().expect("just seen");
            link.wire.input.extend_from_slice(&bytes);
            self.splitter
                .handle_input(self.now, ConnId::Upstream(link.id), &mut link.wire.input);
            moved = true;
        } else if link.side.connection.is_closed()
            && link.wire.to_splitter.is_empty()
            && link.side.output.is_empty()
        {
            link.over = true;
            self.splitter
                .handle_closed(self.now, ConnId::Upstream(link.id), Ended::Eof);
            moved = true;
        }
        moved
    }
}
