//! Clients whose connections are not read for a while: nothing of what they sent is lost, and their end is noticed.

use std::io;
use std::time::Duration;

use grpclb_userspace::data::PodStatus;
use grpclb_userspace::model::Protocol;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::rig::{Rig, SLOT, address_of, refusing};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// SETTINGS, and the acknowledgement of the agent's.
const GREETING: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];

const PING: &[u8; 17] = b"\0\0\x08\x06\0\0\0\0\0payloads";

fn slowed(status: &PodStatus) -> u64 {
    let counters = status.counters.iter();
    counters
        .filter(|(name, _)| name == "limit_control_queue_client")
        .map(|(_, count)| *count)
        .sum()
}

/// A client that has read nothing, and can hold little unread.
async fn client(rig: &Rig) -> TcpStream {
    rig.serve(SLOT, Protocol::Http2, &[refusing()]);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8192).expect("a small buffer");
    let address = (address_of(SLOT), rig.port).into();
    let mut client = socket.connect(address).await.expect("the listener accepts");
    client
        .write_all(&[PREFACE, GREETING].concat())
        .await
        .expect("written");
    client
}

#[tokio::test]
async fn each_ping_is_answered_though_thousands_come_before_the_client_reads() {
    const PINGS: usize = 200_000;
    let rig = Rig::start();
    let (from, mut to) = client(&rig).await.into_split();
    let writing = tokio::spawn(async move {
        to.write_all(&PING.repeat(PINGS)).await.expect("written");
        to
    });
    rig.until("the client is slowed", |status| slowed(status) > 0)
        .await;
    let (mut received, mut answered) = (Vec::new(), 0);
    let reading = async {
        while answered < PINGS {
            from.readable().await.expect("readable");
            match from.try_read_buf(&mut received) {
                Ok(0) => panic!("the connection has ended after {answered} answers"),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error} after {answered} answers"),
            }
            let mut at = 0;
            while let Some(&[0, l1, l2, kind, flags]) = received.get(at..at + 5) {
                let end = at + 9 + usize::from(u16::from_be_bytes([l1, l2]));
                if received.len() < end {
                    break;
                }
                answered += usize::from(kind == 6 && flags == 1);
                at = end;
            }
            received.drain(..at);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading)
        .await
        .expect("all answers come");
    drop(writing.await.expect("all was written"));
}

#[tokio::test]
async fn a_reset_is_noticed_though_the_client_is_not_read() {
    let rig = Rig::start();
    let client = client(&rig).await;
    let pings = PING.repeat(1000);
    // Until neither end takes any more.
    while tokio::time::timeout(Duration::from_millis(300), client.writable())
        .await
        .is_ok()
    {
        let _ = client.try_write(&pings);
    }
    let status = rig.status().await;
    assert!(
        slowed(&status) > 0 && status.client_connections == 1,
        "{status:?}"
    );
    // What it has not read makes this a reset.
    drop(client);
    rig.until("the connection is gone", |status| status.client_connections == 0)
        .await;
}
