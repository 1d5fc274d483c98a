//! Connecting to a backend from within the client pod's network namespace, so that the backend sees the pod's address
//! and the pod's NetworkPolicy holds.
//!
//! Not here: how long a dial may take. For HTTP/2 the splitter ends it, for other connections [`super::opaque`]; dropping the
//! future ends the connect.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use super::config::Config;
use super::socket;
use crate::netns::Netns;

/// Connects, and carries every option of [`socket::prepare_upstream`].
///
/// # Errors
/// What connect(2) says of the backend; what entering the namespace says (`netns`).
pub(super) async fn dial(netns: &Netns, address: SocketAddr, config: &Config) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = netns.run(|| Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP)))??;
    socket::prepare_upstream(&socket, config.mark, config.dial.connect)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into())?;
    poll_fn(|cx| stream.poll_write_ready(cx)).await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    socket::upstream_connected(&stream, config.dial.connect)?;
    Ok(stream)
}
