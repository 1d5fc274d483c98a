//! Connecting to a backend from within the client pod's network namespace, so that the backend sees the pod's address
//! and the pod's NetworkPolicy holds.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use super::socket;
use crate::netns::Netns;

/// What a backend is given to answer a SYN; then another endpoint is tried.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Connects, and carries every option of [`socket::prepare_upstream`].
///
/// # Errors
/// What connect(2) says of the backend; `TimedOut` after a second; what entering the namespace says (`netns`).
pub(super) async fn dial(netns: &Netns, address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = netns.run(|| Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP)))??;
    socket::prepare_upstream(&socket, mark)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into())?;
    tokio::time::timeout(CONNECT_DEADLINE, poll_fn(|cx| stream.poll_write_ready(cx)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer to connect within a second"))??;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}
