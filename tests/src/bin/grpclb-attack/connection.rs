//! One raw client connection, and the figures that all connections of an attack share.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use crate::wire::{self, Header};

/// What happened to an attack.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    connected: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    requests: AtomicU64,
    responses: AtomicU64,
    /// Resets by code, GOAWAYs by text, connections that ended by reason.
    events: Mutex<BTreeMap<String, u64>>,
}

impl Figures {
    pub(crate) fn count_requests(&self, count: u64) {
        self.requests.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, event: String) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        *events.entry(event).or_default() += 1;
    }

    pub(crate) fn to_json(&self) -> Value {
        let number = |value: &AtomicU64| value.load(Ordering::Relaxed);
        json!({
            "connected": number(&self.connected), "sent_bytes": number(&self.sent_bytes),
            "received_bytes": number(&self.received_bytes), "requests": number(&self.requests),
            "responses": number(&self.responses),
            "events": *self.events.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// The sending side of a connection. Its receiving side is read in a task of its own, unless the attack reads nothing.
#[derive(Debug)]
pub(crate) struct Connection {
    write: OwnedWriteHalf,
    read: Option<OwnedReadHalf>,
    figures: Arc<Figures>,
    replies: Arc<Mutex<Vec<u8>>>,
    ended: watch::Receiver<bool>,
    end: Option<watch::Sender<bool>>,
    next_stream: u32,
}

impl Connection {
    /// A connection on which nothing was sent.
    pub(crate) async fn connect(target: SocketAddr, figures: &Arc<Figures>) -> io::Result<Self> {
        let stream = TcpStream::connect(target)
            .await
            .inspect_err(|error| figures.note(format!("connect: {}", error.kind())))?;
        stream.set_nodelay(true)?;
        figures.connected.fetch_add(1, Ordering::Relaxed);
        let (read, write) = stream.into_split();
        let (end, ended) = watch::channel(false);
        Ok(Self {
            write,
            read: Some(read),
            figures: Arc::clone(figures),
            replies: Arc::default(),
            ended,
            end: Some(end),
            next_stream: 1,
        })
    }

    /// A connection that has sent its preface and `settings`, and whose responses are read.
    pub(crate) async fn open(
        target: SocketAddr,
        figures: &Arc<Figures>,
        settings: &[(u16, u32)],
    ) -> io::Result<Self> {
        let mut connection = Self::silent(target, figures, settings).await?;
        connection.start_reading();
        Ok(connection)
    }

    /// As [`Self::open`], of which nothing is read until [`Self::start_reading`].
    pub(crate) async fn silent(
        target: SocketAddr,
        figures: &Arc<Figures>,
        settings: &[(u16, u32)],
    ) -> io::Result<Self> {
        let mut connection = Self::connect(target, figures).await?;
        let mut out = wire::PREFACE.to_vec();
        wire::settings(&mut out, settings);
        connection.send(&out).await?;
        Ok(connection)
    }

    pub(crate) fn start_reading(&mut self) {
        if let (Some(read), Some(end)) = (self.read.take(), self.end.take()) {
            let (figures, replies) = (Arc::clone(&self.figures), Arc::clone(&self.replies));
            tokio::spawn(async move {
                let reason = read_frames(read, &figures, &replies).await;
                figures.note(format!("ended: {}", reason.kind()));
                let _ = end.send(true);
            });
        }
    }

    /// The next stream's id.
    pub(crate) fn stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        stream
    }

    /// Sends frames, those that what was received asks for before them.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = {
            let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *replies)
        };
        out.extend_from_slice(bytes);
        self.write.write_all(&out).await?;
        self.figures
            .sent_bytes
            .fetch_add(out.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until the peer has ended the connection, for ever where nothing is read.
    pub(crate) async fn wait_for_end(&mut self) {
        let _ = self.send(&[]).await;
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

async fn read_frames(read: OwnedReadHalf, figures: &Figures, replies: &Mutex<Vec<u8>>) -> io::Error {
    let mut read = BufReader::with_capacity(64 << 10, read);
    loop {
        if let Err(error) = read_frame(&mut read, figures, replies).await {
            return error;
        }
    }
}

async fn read_frame(
    read: &mut BufReader<OwnedReadHalf>,
    figures: &Figures,
    replies: &Mutex<Vec<u8>>,
) -> io::Result<()> {
    let mut header = [0; wire::FRAME_HEADER];
    read.read_exact(&mut header).await?;
    let header = Header::read(header);
    let mut payload = vec![0; header.len];
    read.read_exact(&mut payload).await?;
    figures
        .received_bytes
        .fetch_add((wire::FRAME_HEADER + header.len) as u64, Ordering::Relaxed);
    let reply = |kind, payload: &[u8]| {
        let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
        wire::frame(&mut replies, kind, wire::ACK, 0, payload);
    };
    match header.kind {
        wire::HEADERS => {
            figures.responses.fetch_add(1, Ordering::Relaxed);
        }
        wire::SETTINGS if !header.is(wire::ACK) => reply(wire::SETTINGS, &[]),
        wire::PING if !header.is(wire::ACK) => reply(wire::PING, &payload),
        wire::RST_STREAM => figures.note(format!("reset: {}", wire::number(&payload))),
        wire::GOAWAY => {
            let debug = payload.get(8..).unwrap_or_default();
            let code = wire::number(payload.get(4..).unwrap_or_default());
            figures.note(format!("goaway: {code} {}", String::from_utf8_lossy(debug)));
        }
        _ => {}
    }
    Ok(())
}
