//! Every outcome of every event in every state of a stream, in one committed file.

use std::fmt::Write as _;

use grpclb_engine::connection::{Outcome, State, StreamEvent};

/// `GRPCLB_UPDATE_SNAPSHOTS=1 cargo test -p grpclb-engine --test connection states` writes the file anew; review its diff.
#[test]
fn every_state_and_event_has_the_committed_outcome() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/connection/states.snapshot");
    let table = table();
    if std::env::var_os("GRPCLB_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, &table).expect("the snapshot is writable");
    }
    let committed = std::fs::read_to_string(path).expect("the snapshot is committed");
    assert!(table == committed, "the table of states changed:\n{table}");
}

#[test]
fn a_closed_stream_stays_closed_and_an_idle_one_is_never_sent_on() {
    for state in [
        State::Ended,
        State::ResetByPeer,
        State::ResetByUs,
        State::Forgotten,
    ] {
        for event in StreamEvent::ALL {
            let next = state.on(event);
            assert!(
                !matches!(next, Outcome::To(state) if state.is_active()),
                "{state:?} on {event:?}: {next:?}"
            );
        }
    }
}

fn table() -> String {
    let mut text = String::from("# state            event             outcome\n");
    for state in State::ALL {
        for event in StreamEvent::ALL {
            let outcome = match state.on(event) {
                Outcome::To(next) if next == state => "stays".to_owned(),
                Outcome::To(next) => format!("-> {next:?}"),
                Outcome::Ignore => "ignored".to_owned(),
                Outcome::StreamError(code) => format!("RST_STREAM {code}"),
                Outcome::ConnectionError(code) => format!("GOAWAY {code}"),
                Outcome::Forbidden => "never sent".to_owned(),
            };
            let (state, event) = (format!("{state:?}"), format!("{event:?}"));
            writeln!(text, "{state:<18} {event:<17} {outcome}").expect("a String takes everything");
        }
    }
    text
}
