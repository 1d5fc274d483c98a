//! Clients that are told to go, and take their time to read.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use grpclb_engine::Time;
use grpclb_engine::balance::{Endpoint, Policy, Service, State};
use grpclb_engine::frame::PREFACE;
use grpclb_engine::splitter::{Action, Config, ConnId, DialError, How, Splitter};

use crate::support::{SERVICE, flags, greeting, kinds, raw};

/// A splitter without sockets: nothing that it says is read.
struct Unread {
    now: Time,
    splitter: Splitter,
}

impl Unread {
    /// Time passes; everything that may leave moves to outputs that nobody empties.
    fn advance(&mut self, duration: Duration) {
        self.now += duration;
        self.splitter.handle_timeout(self.now);
        while let Some(id) = self.splitter.poll_dirty() {
            let _ = self.splitter.transmit(self.now, id);
        }
    }
}

#[test]
fn a_draining_client_has_thirty_seconds_to_read_its_last_bytes() {
    let mut world = Unread {
        now: Time::ZERO,
        splitter: Splitter::new(Arc::new(Config::new("n1")), 7, Arc::default()),
    };
    let service = Service {
        name: "echo".into(),
        policy: Policy::RoundRobin,
        subset: 20,
        per_connection: false,
        endpoints: Arc::new([Endpoint {
            id: "pod-0".into(),
            address: ([10, 0, 0, 1], 50051).into(),
            weight: 1,
            state: State::Ready,
        }]),
    };
    world.splitter.set_service(world.now, SERVICE, Arc::new(service));
    let client = world.splitter.open_client(world.now, SERVICE).unwrap();
    let whole = flags::END_HEADERS | flags::END_STREAM;
    let request = raw(kinds::HEADERS, whole, 1, b"\x83\x86\x84\x01\x01a");
    let mut input = BytesMut::from(&[&PREFACE[..], &greeting(), &request].concat()[..]);
    world
        .splitter
        .handle_input(world.now, ConnId::Client(client), &mut input);
    let Some(Action::Dial { upstream, .. }) = world.splitter.poll_action() else {
        panic!("the call causes a dial");
    };
    let refused = Err(DialError::Socket(grpclb_engine::splitter::SocketError::Refused));
    assert!(!world.splitter.handle_dialed(world.now, upstream, refused));
    world.splitter.drain(world.now);
    // The client answers neither of the two PINGs behind GOAWAY.
    for _ in 0..3 {
        world.advance(Duration::from_secs(1));
    }
    let graceful = Action::CloseClient {
        client,
        how: How::Graceful,
    };
    assert_eq!(world.splitter.poll_action(), Some(graceful));
    for _ in 0..28 {
        world.advance(Duration::from_secs(1));
        assert_eq!(world.splitter.poll_action(), None);
        let output = world.splitter.transmit(world.now, ConnId::Client(client));
        assert!(
            output.is_some_and(|output| !output.is_empty()),
            "it may still read"
        );
    }
    world.advance(Duration::from_secs(3));
    let reset = Action::CloseClient {
        client,
        how: How::Reset,
    };
    assert_eq!(world.splitter.poll_action(), Some(reset));
    assert!(world.splitter.is_idle());
}
