//! Proves that a connection of the pod reaches our listener: a firewall in its namespace can redirect or drop it, and the
//! pod's connects would then fail with us and work without (measured). No proof, no steering.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::netns::Netns;

/// A handshake on loopback takes microseconds; what takes longer than this is dropped somewhere.
const LIMIT: Duration = Duration::from_secs(1);

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
    #[error("a probe on the pod's own loopback ({0}) failed: {1}")]
    Failed(SocketAddr, io::Error),
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
        let answer = timeout(LIMIT, async { read_answer(socket.connect(target).await?).await }).await;
        match answer.map_err(|_| ProbeError::Lost(target))? {
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
