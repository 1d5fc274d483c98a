//! A byte relay that balances nothing: each connection goes to the next backend, bytes are copied both ways. It is the
//! floor that any user-space hop pays, and so the measure of what splitting costs on top.
//!
//! Usage: `relay LISTEN BACKEND…`

use std::env;

use anyhow::{Context, Result, ensure};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

/// As large as the pieces in which the agent reads, so that both make the same number of system calls.
const BUFFER: usize = 64 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let listen = arguments.next().context("usage: relay LISTEN BACKEND…")?;
    let backends: Vec<String> = arguments.collect();
    ensure!(!backends.is_empty(), "usage: relay LISTEN BACKEND…");
    let listener = TcpListener::bind(&listen)
        .await
        .with_context(|| format!("listening on {listen}"))?;
    for backend in backends.iter().cycle() {
        let (mut client, _) = listener.accept().await?;
        let backend = backend.clone();
        tokio::spawn(async move {
            if let Err(error) = relay(&mut client, &backend).await {
                eprintln!("relay to {backend}: {error}");
            }
        });
    }
    Ok(())
}

async fn relay(client: &mut TcpStream, backend: &str) -> std::io::Result<()> {
    let mut server = TcpStream::connect(backend).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(client, &mut server, BUFFER, BUFFER).await?;
    Ok(())
}
