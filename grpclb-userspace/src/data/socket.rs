//! The options that every relayed socket carries, and how such sockets end.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use grpclb_engine::splitter::SocketError;
use nix::errno::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How much unsent data the kernel takes before it calls the socket full (`TCP_NOTSENT_LOWAT`). What waits stays with
/// us, where a reset or a GOAWAY can still overtake it, and the kernel's buffers stay small.
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// How long sent data may stay unacknowledged before the peer counts as dead (gRFC A18's default).
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// A silent peer is probed after this time, then at this interval.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Returns the engine's name of an error. An error that is not the system's counts as number 0.
pub(super) fn socket_error(error: &io::Error) -> SocketError {
    let number = error.raw_os_error().unwrap_or(0);
    match Errno::from_raw(number) {
        Errno::ECONNREFUSED => SocketError::Refused,
        Errno::ECONNRESET => SocketError::Reset,
        Errno::ECONNABORTED => SocketError::Aborted,
        Errno::EPIPE => SocketError::BrokenPipe,
        Errno::ETIMEDOUT => SocketError::TimedOut,
        Errno::EHOSTUNREACH => SocketError::HostUnreachable,
        Errno::EHOSTDOWN => SocketError::HostDown,
        Errno::ENETUNREACH => SocketError::NetworkUnreachable,
        Errno::ENETDOWN => SocketError::NetworkDown,
        Errno::EPERM => SocketError::NotPermitted,
        Errno::EACCES => SocketError::PermissionDenied,
        Errno::EADDRNOTAVAIL => SocketError::AddressNotAvailable,
        Errno::EMFILE | Errno::ENFILE => SocketError::TooManyFiles,
        Errno::ENOBUFS => SocketError::NoBuffers,
        Errno::ENOMEM => SocketError::NoMemory,
        _ => SocketError::Other(number),
    }
}

/// Sets what accepted sockets inherit from their listener (Linux copies these at accept, which saves four system calls
/// a connection).
pub(super) fn prepare_listener(listener: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_nonblocking(true)?;
    prepare_relayed(&socket)
}

/// Sets what a socket to a backend carries, before it connects, for which it is given `connect_timeout`.
pub(super) fn prepare_upstream(
    socket: &socket2::Socket,
    mark: Option<u32>,
    connect_timeout: Duration,
) -> io::Result<()> {
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    // It bounds the connect, too, whose end is the caller's to decide.
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT.max(connect_timeout)))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    prepare_relayed(&SockRef::from(socket))
}

/// Sets what differs once the socket is connected.
pub(super) fn upstream_connected(socket: &impl AsFd, connect_timeout: Duration) -> io::Result<()> {
    if connect_timeout > USER_TIMEOUT {
        SockRef::from(socket).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    }
    Ok(())
}

fn prepare_relayed(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    // Our death must not look like a clean end of stream (measured: without this, kill -9 gives both sides a FIN).
    socket.set_linger(Some(Duration::ZERO))
}

/// Ends a connection in order: the caller has sent all and shut its side down. From here on closing sends no reset.
pub(super) fn lift_linger(socket: &impl AsFd) {
    // A failure leaves the reset in place, which a peer that has had our FIN no longer minds.
    let _ = SockRef::from(socket).set_linger(None);
}

/// Ends our direction of the connection: the peer reads an end of stream after all that was sent.
pub(super) fn shutdown_write(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).shutdown(std::net::Shutdown::Write)
}

/// Lets the kernel take what it wants again: opaque bytes gain nothing from waiting with us.
pub(super) fn lift_notsent_lowat(socket: &impl AsFd) {
    // 0 is the kernel's default; a failure costs speed only.
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(0);
}

/// Reads once, up to the buffer's spare capacity. Less than that means that the socket is empty: the stream then waits
/// for its next event without another system call that would only say so.
pub(super) fn read(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    read_at_most(stream, buffer, usize::MAX)
}

/// As [`read`], and not more than `most` bytes.
pub(super) fn read_at_most(stream: &TcpStream, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
    let room = buffer.capacity().saturating_sub(buffer.len()).min(most);
    let read = stream.try_read_buf(&mut buffer.limit(most))?;
    if 0 < read && read < room {
        forget_readiness(stream, Interest::READABLE);
    }
    Ok(read)
}

/// Completes when the peer has closed its side or reset the connection, though what it sent before is still unread.
pub(super) async fn read_closed(stream: &TcpStream) {
    // tokio counts the end of stream (EPOLLRDHUP) as readiness for priority data as well, and plain data not.
    while let Ok(ready) = stream.ready(Interest::PRIORITY).await {
        if ready.is_read_closed() {
            return;
        }
        let _ = stream.try_io(Interest::PRIORITY, || {
            Err::<(), _>(io::ErrorKind::WouldBlock.into())
        });
    }
}

/// Tells tokio that the socket would block. Safe from lost wake-ups: events are edges, and one that comes after this
/// read is reported by the next poll of this same thread; an end of stream is kept by tokio in any case.
fn forget_readiness(stream: &TcpStream, interest: Interest) {
    let _ = stream.try_io(interest, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are those of the system.
    #[test]
    fn socket_error_names_each_number_that_it_knows() {
        let mut named = 0;
        for number in 1..=133 {
            let error = socket_error(&io::Error::from_raw_os_error(number));
            if error == SocketError::Other(number) {
                assert_eq!(error.to_string(), format!("socket error (errno {number})"));
                continue;
            }
            let (errno, said) = (Errno::from_raw(number), error.to_string());
            named += 1;
            // ENFILE is the same to an operator.
            let name = if errno == Errno::ENFILE {
                Errno::EMFILE
            } else {
                errno
            };
            assert!(said.ends_with(&format!(" ({name:?})")), "{said}");
        }
        assert_eq!(named, 16);
        assert_eq!(
            socket_error(&io::Error::other("no number")),
            SocketError::Other(0)
        );
    }
}
