//! Two connections joined by byte queues under a virtual clock.

use std::time::Duration;

use grpclb_engine::Time;
use grpclb_engine::connection::{Config, Role};

use super::Side;

/// A client and a server. Nothing moves and no time passes but by its methods.
pub struct Pair {
    pub client: Side,
    pub server: Side,
    pub now: Time,
    /// Bytes are delivered in pieces of this size.
    pub cut: usize,
}

impl Pair {
    pub fn new(client: Config, server: Config) -> Self {
        Self {
            client: Side::new(Role::Client, client),
            server: Side::new(Role::Server, server),
            now: Time::ZERO,
            cut: usize::MAX,
        }
    }

    /// As the agent sets its connections up, with both prefaces exchanged.
    pub fn connected() -> Self {
        let mut pair = Self::new(Config::to_backend(), Config::to_client());
        pair.settle();
        pair.client.take_events();
        pair
    }

    /// Bytes that the client has for the server are delivered; whether there were any.
    pub fn flush_client(&mut self) -> bool {
        let bytes = self.client.transmit(self.now);
        deliver(&mut self.server, self.now, &bytes, self.cut)
    }

    /// Bytes that the server has for the client are delivered; whether there were any.
    pub fn flush_server(&mut self) -> bool {
        let bytes = self.server.transmit(self.now);
        deliver(&mut self.client, self.now, &bytes, self.cut)
    }

    /// Moves bytes to and fro until there are none. No time passes.
    pub fn settle(&mut self) {
        while self.flush_client() | self.flush_server() {}
    }

    /// Time passes, and both sides hear of it.
    pub fn advance(&mut self, duration: Duration) {
        self.now += duration;
        self.client.timeout(self.now);
        self.server.timeout(self.now);
    }

    /// Goes from deadline to deadline, settling in between, until `until` has been reached.
    pub fn run(&mut self, until: Time) {
        self.settle();
        loop {
            let deadlines = [
                self.client.connection.poll_timeout(),
                self.server.connection.poll_timeout(),
            ];
            match deadlines.into_iter().flatten().min() {
                Some(next) if next <= until => {
                    let step = next.since(self.now).max(Duration::from_nanos(1));
                    self.advance(step);
                    self.settle();
                }
                _ => break,
            }
        }
        self.advance(until.since(self.now));
        self.settle();
    }
}

fn deliver(side: &mut Side, now: Time, bytes: &[u8], cut: usize) -> bool {
    for piece in bytes.chunks(cut) {
        side.receive(now, piece);
    }
    !bytes.is_empty()
}
