//! Asks the kernel for the TCP connections of one network namespace, and resets some of them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::{self, Answer, Connection, Which};
use crate::netns::Netns;

/// The kernel fills datagrams of up to 32 KiB.
const DATAGRAM: usize = 64 * 1024;

/// A netlink socket within a namespace. Does not keep the namespace from ending for longer than it lives.
#[derive(Debug)]
pub(super) struct Sockets {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Sockets {
    /// Opens it.
    pub(super) fn of(namespace: &Netns) -> io::Result<Self> {
        let open = || {
            socket(
                AddressFamily::Netlink,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkSockDiag,
            )
        };
        let socket = namespace.run(open)??;
        // The kernel answers at once or not at all.
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(1))?;
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Its TCP connections.
    pub(super) fn connections(&mut self, which: Which) -> io::Result<Vec<Connection>> {
        let mut found = Vec::new();
        for family in [message::AF_INET, message::AF_INET6] {
            self.send(&message::list(family, which))?;
            loop {
                let mut answers = self.receive()?.into_iter();
                let ended = answers.try_for_each(|answer| match answer {
                    Answer::Connection(connection) => {
                        found.push(connection);
                        Ok(())
                    }
                    Answer::Done => Err(None),
                    // A kernel without IPv6 has no such sockets.
                    Answer::Error(code) if code == -(Errno::ENOENT as i32) => Err(None),
                    Answer::Error(code) => Err(Some(io::Error::from_raw_os_error(-code))),
                });
                match ended {
                    Ok(()) => {}
                    Err(None) => break,
                    Err(Some(error)) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    /// Resets a connection: both of its ends see it. `false`: it has ended by itself.
    pub(super) fn reset(&mut self, connection: &Connection) -> io::Result<bool> {
        self.send(&message::destroy(connection))?;
        match self.receive()?.first() {
            Some(Answer::Error(0)) => Ok(true),
            Some(Answer::Error(code)) if code.abs() == Errno::ENOENT as i32 => Ok(false),
            Some(Answer::Error(code)) => Err(io::Error::from_raw_os_error(-code)),
            _ => Err(io::Error::other("the kernel did not confirm the reset")),
        }
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), request, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Vec<Answer>> {
        let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
        message::answers(&self.buffer[..length]).map_err(io::Error::other)
    }
}
