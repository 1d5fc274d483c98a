//! Servers that behave in unusual ways. Those that answer calls answer each as `Unary` of `grpclb.probe.Probe`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::probe::{Call, Reply};
use crate::wire::{self, Header};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Reads nothing after its SETTINGS
    Unread,
    /// Gives no credit for bodies, and answers nothing
    NoCredit,
    /// Allows no dynamic table, and answers nothing
    NoTable,
    /// Ends each connection by 30 times GOAWAY "`too_many_pings`" at its first request
    TooManyPings,
    /// Sends its SETTINGS 1.5 s after the connection
    LateSettings,
    /// Acknowledges no SETTINGS
    NoAcknowledgement,
    /// Ends each call with `NOT_FOUND` and a message that ends in a space
    TrailingSpaces,
}

impl Kind {
    fn settings(self) -> Vec<(u16, u32)> {
        match self {
            Self::NoCredit => vec![(wire::INITIAL_WINDOW_SIZE, 0)],
            Self::NoTable => vec![(wire::HEADER_TABLE_SIZE, 0)],
            _ => vec![],
        }
    }
}

pub(crate) async fn serve(listen: SocketAddr, name: &str, kind: Kind) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    println!("{{\"listening\":true}}");
    loop {
        let (stream, peer) = listener.accept().await?;
        let connection = Connection {
            name: name.to_owned(),
            peer: peer.ip().to_canonical(),
            kind,
            bodies: HashMap::new(),
            out: Vec::new(),
        };
        // An end of the connection is nothing to tell of.
        tokio::spawn(async move { drop(connection.run(stream).await) });
    }
}

struct Connection {
    name: String,
    peer: IpAddr,
    kind: Kind,
    bodies: HashMap<u32, Vec<u8>>,
    out: Vec<u8>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        if self.kind == Kind::LateSettings {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
        }
        wire::settings(&mut self.out, &self.kind.settings());
        write.write_all(&self.out).await?;
        self.out.clear();
        if self.kind == Kind::Unread {
            std::future::pending::<()>().await;
        }
        let mut read = BufReader::with_capacity(64 << 10, read);
        let mut preface = [0; wire::PREFACE.len()];
        read.read_exact(&mut preface).await?;
        ensure!(preface == wire::PREFACE, "HTTP/2 begins with its preface");
        loop {
            let mut header = [0; wire::FRAME_HEADER];
            read.read_exact(&mut header).await?;
            let header = Header::read(header);
            let mut payload = vec![0; header.len];
            read.read_exact(&mut payload).await?;
            let goes_on = self.handle(header, &payload);
            write.write_all(&self.out).await?;
            self.out.clear();
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Handles one frame; false when the connection ends.
    fn handle(&mut self, header: Header, payload: &[u8]) -> bool {
        match header.kind {
            wire::SETTINGS if !header.is(wire::ACK) && self.kind != Kind::NoAcknowledgement => {
                wire::frame(&mut self.out, wire::SETTINGS, wire::ACK, 0, &[]);
            }
            wire::PING if !header.is(wire::ACK) => {
                wire::frame(&mut self.out, wire::PING, wire::ACK, 0, payload);
            }
            wire::HEADERS if self.kind == Kind::TooManyPings => {
                for _ in 0..30 {
                    wire::goaway(&mut self.out, 0, wire::ENHANCE_YOUR_CALM, "too_many_pings");
                }
                return false;
            }
            wire::HEADERS if header.is(wire::END_STREAM) => self.answer(header.stream, &Call::default()),
            wire::DATA => {
                if self.kind != Kind::NoCredit && header.len > 0 {
                    wire::window_update(&mut self.out, 0, header.len as u32);
                }
                self.read_body(header, payload);
            }
            wire::RST_STREAM => drop(self.bodies.remove(&header.stream)),
            _ => {}
        }
        true
    }

    fn read_body(&mut self, header: Header, payload: &[u8]) {
        if matches!(self.kind, Kind::NoCredit | Kind::NoTable) {
            return;
        }
        let body = self.bodies.entry(header.stream).or_default();
        body.extend_from_slice(payload);
        if header.is(wire::END_STREAM) {
            let body = self.bodies.remove(&header.stream).unwrap_or_default();
            let call = body.get(5..).and_then(|message| Call::decode(message).ok());
            self.answer(header.stream, &call.unwrap_or_default());
        }
    }

    fn answer(&mut self, stream: u32, call: &Call) {
        if matches!(self.kind, Kind::NoCredit | Kind::NoTable) {
            return;
        }
        let mut head = vec![0x88]; // :status 200
        wire::literal(&mut head, "content-type", b"application/grpc");
        wire::headers(&mut self.out, stream, &head, 0);
        let mut trailers = Vec::new();
        if self.kind == Kind::TrailingSpaces {
            wire::literal(&mut trailers, "grpc-status", b"5");
            wire::literal(&mut trailers, "grpc-message", b"no such user: ");
        } else {
            let reply = Reply {
                backend: self.name.clone(),
                peer: self.peer.to_string(),
                id: call.id.clone(),
                payload: call.payload.clone(),
                ..Reply::default()
            };
            wire::message(&mut self.out, stream, &reply.encode_to_vec(), 0);
            wire::literal(&mut trailers, "grpc-status", b"0");
        }
        wire::headers(&mut self.out, stream, &trailers, wire::END_STREAM);
    }
}
