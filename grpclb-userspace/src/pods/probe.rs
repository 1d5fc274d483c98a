//! Proves that a connection of the pod reaches our listener: a firewall in its namespace can redirect or drop it, and the
//! pod's connects would then fail with us and work without (measured). No proof, no steering.
//!
//! A slow agent is not a firewall. The kernel completes handshakes without the agent, so a probe whose handshake is done was
//! not dropped, however long the answer takes; and one whose handshake is not done was not dropped either while connections
//! wait on the listener to be accepted: a full queue makes the kernel drop SYNs.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::netns::Netns;

/// A handshake on loopback takes microseconds, and an agent that is not busy answers in less than a millisecond.
const LIMIT: Duration = Duration::from_secs(1);

/// The state LISTEN in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// What the probe dials and expects.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The reserved slot's address: the relay answers there with `token` and closes.
    pub target: Ipv4Addr,
    /// Names this agent instance: another one's listener must not pass for ours.
    pub token: String,
}

/// The probe came through over IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// And over IPv6.
    pub ipv6: bool,
    /// Why not, where there is a listener for it.
    pub note: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("cannot enter the namespace: {0}")]
    Enter(io::Error),
    #[error(
        "a probe on the pod's own loopback ({0}) was refused: a firewall in its namespace redirects or rejects it; \
         exempt the interface lo"
    )]
    Refused(SocketAddr),
    #[error(
        "a probe on the pod's own loopback ({0}) did not arrive within 1 s: a firewall in its namespace drops it; \
         exempt the interface lo"
    )]
    Lost(SocketAddr),
    #[error(
        "a probe on the pod's own loopback ({0}) reached something else: a firewall in its namespace redirects it; \
         exempt the interface lo"
    )]
    WrongAnswer(SocketAddr),
    /// Connections wait on our listener: nothing drops them.
    #[error(
        "a probe on the pod's own loopback ({0}) was not answered within 1 s: the agent is busy and accepts late"
    )]
    Busy(SocketAddr),
    /// The handshake was completed, by us or by something that a firewall redirects to.
    #[error(
        "a probe on the pod's own loopback ({0}) was accepted and not answered within 1 s: the agent may be busy, or a firewall \
         in its namespace redirects it to something else; exempt the interface lo"
    )]
    Unanswered(SocketAddr),
    #[error("a probe on the pod's own loopback ({0}) failed: {1}")]
    Failed(SocketAddr, io::Error),
}

impl ProbeError {
    /// Whether the probe was late rather than dropped, and then whether it waits in our listener's queue for sure.
    pub(super) fn is_late(&self) -> Option<bool> {
        match self {
            Self::Busy(_) => Some(true),
            Self::Unanswered(_) => Some(false),
            _ => None,
        }
    }
}

impl Probe {
    /// Dials the listener from within the namespace, over IPv4 and, where it listens there, over IPv6. What is wrong with
    /// IPv6 only turns IPv6 off.
    pub async fn run(&self, namespace: &Netns, port: u16, ipv6: bool) -> Result<Arrived, ProbeError> {
        self.dial(namespace, SocketAddr::from((self.target, port)))
            .await?;
        if !ipv6 {
            return Ok(Arrived {
                ipv6: false,
                note: None,
            });
        }
        match self
            .dial(namespace, SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
            .await
        {
            Ok(()) => Ok(Arrived {
                ipv6: true,
                note: None,
            }),
            Err(error @ ProbeError::Busy(_)) => Err(error),
            Err(error) => Ok(Arrived {
                ipv6: false,
                note: Some(format!("not steered over IPv6: {error}")),
            }),
        }
    }

    async fn dial(&self, namespace: &Netns, target: SocketAddr) -> Result<(), ProbeError> {
        let open = || {
            if target.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }
        };
        let socket = namespace
            .run(open)
            .and_then(|socket| socket)
            .map_err(ProbeError::Enter)?;
        let deadline = Instant::now() + LIMIT;
        let is_busy = || are_waiting(namespace, target);
        let Ok(connected) = timeout_at(deadline, socket.connect(target)).await else {
            return Err(if is_busy() {
                ProbeError::Busy(target)
            } else {
                ProbeError::Lost(target)
            });
        };
        let answer = match connected {
            Ok(stream) => match timeout_at(deadline, read_answer(stream)).await {
                Ok(answer) => answer,
                Err(_) if is_busy() => return Err(ProbeError::Busy(target)),
                Err(_) => return Err(ProbeError::Unanswered(target)),
            },
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) if answer == self.token.as_bytes() => Ok(()),
            Ok(_) => Err(ProbeError::WrongAnswer(target)),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Err(ProbeError::Refused(target)),
                // `[::1]` cannot carry the reserved slot. Our listener resets what nothing steered to it: it was reached.
                io::ErrorKind::ConnectionReset if target.is_ipv6() => Ok(()),
                io::ErrorKind::ConnectionReset => Err(ProbeError::WrongAnswer(target)),
                _ => Err(ProbeError::Failed(target, error)),
            },
        }
    }
}

/// All that comes until the end, but never more than a token may have.
async fn read_answer(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    (&mut stream).take(256).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Returns whether connections wait on a listener at the port of `target` in this namespace, as far as that can be read.
fn are_waiting(namespace: &Netns, target: SocketAddr) -> bool {
    let table = if target.is_ipv4() { "tcp" } else { "tcp6" };
    let look = || {
        let lines = BufReader::new(File::open(format!("/proc/thread-self/net/{table}"))?).lines();
        // Listeners stand before all connections, of which there may be thousands.
        let listeners = lines
            .skip(1)
            .map_while(|line| line.ok().filter(|line| is_listener(line)));
        io::Result::Ok(
            listeners
                .filter_map(|line| waiting(&line, target.port()))
                .any(|count| count > 0),
        )
    };
    namespace.run(look).and_then(|found| found).unwrap_or(false)
}

fn is_listener(line: &str) -> bool {
    line.split_ascii_whitespace().nth(3) == Some(LISTEN)
}

/// Returns how many connections wait to be accepted, from the line of a listener at this port in `/proc/net/tcp`:
/// `0: 00000000:6FEB 00000000:0000 0A 00000000:00000003 …` (its receive queue, here 3).
fn waiting(line: &str, port: u16) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (_, local_port) = fields.next()?.rsplit_once(':')?;
    let (_, queue) = fields.nth(2)?.split_once(':')?;
    let is_ours = u16::from_str_radix(local_port, 16).ok()? == port;
    u32::from_str_radix(queue, 16).ok().filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: &str =
        "   0: 00000000:6FEB 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 1 1";

    #[test]
    fn queue_of_a_listener_is_read_from_its_line() {
        assert!(is_listener(LISTENER));
        assert_eq!(waiting(LISTENER, 0x6feb), Some(3));
        assert_eq!(waiting(LISTENER, 0x6fec), None);
        let v6 = LISTENER.replace("00000000:6FEB", "00000000000000000000000001000000:6FEB");
        assert_eq!(waiting(&v6, 0x6feb), Some(3));
        assert!(!is_listener(&LISTENER.replace(" 0A ", " 01 ")));
    }

    #[test]
    fn malformed_line_has_no_queue() {
        for line in [
            "",
            "0:",
            "0: x",
            "0: 1:2 3:4 0A",
            "0: 1:6FEB 3:4 0A 5",
            "0: 1:6FEB 3:4 0A 5:z",
        ] {
            assert_eq!(waiting(line, 0x6feb), None, "{line:?}");
        }
    }
}
