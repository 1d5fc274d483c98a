//! The pods of a worker take turns: one whose connections all have something to say does not keep another waiting for all of them.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use grpclb_userspace::data::{Config, Listeners, Turn};
use grpclb_userspace::model::{NetnsRef, Protocol};
use grpclb_userspace::netns::Netns;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::h2_peers::Echo;
use crate::rig::{Rig, SLOT, address_of, config, pod};

const CONNECTIONS: usize = 30;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0grpclbok";

/// Holds the worker in an input turn of the pod `client`, and counts such turns until the other pod has one.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The worker shall stop in the next turn; then, it has stopped.
    armed: bool,
    stopped: bool,
    /// Input turns of the pod since it was let go.
    turns: usize,
    /// The same when the other pod had its turn.
    turns_before_other: Option<usize>,
}

impl Gate {
    fn on_turn(&self, turned: &str, turn: Turn) {
        if turn != Turn::Input {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if turned != &*pod() {
            let turns = state.turns;
            state.turns_before_other.get_or_insert(turns);
            return self.changed.notify_all();
        }
        if state.armed {
            (state.armed, state.stopped) = (false, true);
            self.changed.notify_all();
            while state.stopped {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            return;
        }
        state.turns += 1;
        drop(state);
        // Its input costs much more than a turn has.
        std::thread::park_timeout(Duration::from_millis(3));
    }

    fn wait_until(&self, holds: impl Fn(&State) -> bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = Duration::from_secs(10);
        let (_state, late) = self
            .changed
            .wait_timeout_while(state, limit, |state| !holds(state))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!late.timed_out(), "not within 10 s");
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_with_many_readable_connections_leaves_another_its_turn() {
    let gate = Arc::new(Gate::default());
    let hook = Arc::clone(&gate);
    let rig = Rig::with(&Config {
        on_turn: Some(Arc::new(move |pod, turn| hook.on_turn(pod, turn))),
        ..config(1)
    });
    let echo = Echo::start("a").await;
    rig.serve(SLOT, Protocol::Http2, &[echo.address]);
    let v4 = std::net::TcpListener::bind("0.0.0.0:0").expect("a listener");
    let other_port = v4.local_addr().expect("its address").port();
    let netns = Arc::new(Netns::open(&NetnsRef::Host).expect("root opens its own namespace"));
    rig.plane
        .add_pod("other".into(), netns, Listeners { v4, v6: None }, false);

    let mut many = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = rig.connect(SLOT).await;
        client.write_all(PREFACE).await.expect("written");
        many.push(client);
    }
    let mut other = TcpStream::connect((address_of(SLOT), other_port))
        .await
        .expect("accepted");
    other.write_all(PREFACE).await.expect("written");
    rig.until("all are connected", |status| {
        status.client_connections == CONNECTIONS
    })
    .await;
    gate.wait_until(|state| state.turns_before_other.is_some());

    // While the worker stands still, all connections get something to read, the other pod's last.
    gate.change(|state| state.armed = true);
    many[0].write_all(PING).await.expect("written");
    gate.wait_until(|state| state.stopped);
    for client in &mut many[1..] {
        client.write_all(PING).await.expect("written");
    }
    other.write_all(PING).await.expect("written");
    gate.change(|state| {
        (state.stopped, state.turns, state.turns_before_other) = (false, 0, None);
    });
    gate.wait_until(|state| state.turns_before_other.is_some());
    let turns = gate
        .state
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .turns_before_other;
    assert!(
        turns <= Some(3),
        "{turns:?} of {CONNECTIONS} connections were read before"
    );
}
