//! Connects over and over without saying a word, until standard input ends: what becomes of new connections, by thousands a second.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;

/// A progress line is printed each so many connects.
const PROGRESS: u64 = 100;

/// Prints how far it is, and at the end how many connections came about and why others did not.
pub(crate) async fn run(target: SocketAddr) -> anyhow::Result<()> {
    let (mut connected, mut errors) = (0_u64, BTreeMap::<String, u64>::new());
    let enough = tokio::spawn(async {
        let mut ignored = [0; 64];
        while tokio::io::stdin()
            .read(&mut ignored)
            .await
            .is_ok_and(|length| length > 0)
        {}
    });
    let mut tried = 0;
    while !enough.is_finished() {
        let socket = match target {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Ends by a reset, which leaves no port waiting.
        socket.set_zero_linger()?;
        match socket.connect(target).await {
            Ok(_) => connected += 1,
            Err(error) => *errors.entry(error.kind().to_string()).or_default() += 1,
        }
        tried += 1;
        if tried % PROGRESS == 0 {
            println!("{}", json!({"progress": tried}));
        }
    }
    println!("{}", json!({"connected": connected, "errors": errors}));
    Ok(())
}
