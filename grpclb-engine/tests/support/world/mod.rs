//! A pod's clients, one splitter, and backends, joined by byte queues under a virtual clock. Backends note what they
//! run, so that a test can say "never twice"; clients note how each call ended.

mod peers;
mod wild;
mod wire;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use grpclb_engine::Time;
use grpclb_engine::balance::{Endpoint, Policy, Service, State};
use grpclb_engine::connection::{self, Event, HeadersKind, Role, StreamKey};
use grpclb_engine::frame::ErrorCode;
use grpclb_engine::rng::Rng;
use grpclb_engine::splitter::{
    Action, Budget, ClientId, Config, ConnId, DialError, Ended, OpenClientError, ServiceKey, SocketError,
    Splitter, UpstreamId,
};

pub use self::wild::{Wild, greeting};
use super::Side;

pub const SERVICE: ServiceKey = ServiceKey(1);

/// What a backend does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Runs them: sends the body back, then status 0.
    Echo,
    /// Runs them, sends response headers and the body back, and never ends.
    Hold,
    /// Runs them and says nothing.
    Silent,
    /// `REFUSED_STREAM`, nothing is run.
    Refuse,
    /// Runs them and resets with this code.
    Reset(ErrorCode),
    /// Runs them, sends headers, then resets.
    HeadersThenReset(ErrorCode),
    /// Runs them, answers at once and in full; the request is not read to its end.
    Early,
    /// As [`Behaviour::Early`], then `RST_STREAM(NO_ERROR)`.
    EarlyReset,
    /// As [`Behaviour::EarlyReset`], with so many bytes of content.
    EarlyResetAfter(usize),
    /// As [`Behaviour::Echo`], but gives no stream credit back.
    NoCredit,
}

/// A server at one address.
pub struct Backend {
    pub endpoint: Endpoint,
    pub behaviour: Behaviour,
    pub config: connection::Config,
    /// Dials are answered; `None`: never.
    pub accepts: Option<bool>,
    /// What dials that are not accepted end with.
    pub refuses_with: SocketError,
    /// Bytes are taken and never looked at.
    pub frozen: bool,
    /// How much longer than others it takes to be connected.
    pub slow: Duration,
    /// Says GOAWAY as soon as it is connected.
    pub farewell: bool,
    /// Its connections are the test's to speak on: see [`Wild`].
    pub wild: bool,
    /// The header fields of its last request.
    pub heard: Vec<String>,
    /// Calls that ran, and how often.
    pub ran: BTreeMap<u32, u32>,
    pub dials: u32,
}

/// One connection to a backend.
struct Link {
    id: UpstreamId,
    backend: usize,
    side: Side,
    wire: Wire,
    calls: HashMap<StreamKey, (u32, Behaviour)>,
    /// When `RST_STREAMs` came by it.
    resets: Vec<Time>,
    /// The splitter was told, or has told, that it is over.
    over: bool,
}

/// One client connection.
pub struct Client {
    pub id: ClientId,
    pub side: Side,
    wire: Wire,
    pub over: bool,
    /// The client reads nothing: bytes for it stay on the wire.
    pub deaf: bool,
    /// Bytes that its socket takes while it reads nothing.
    pub socket: usize,
    pub goaways: u32,
}

/// Bytes on their way in both directions, and what the splitter left unread.
#[derive(Default)]
struct Wire {
    to_peer: VecDeque<(Time, Vec<u8>)>,
    to_splitter: VecDeque<(Time, Vec<u8>)>,
    input: BytesMut,
}

/// How a call ended, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response came to its end: HTTP status, grpc-status, grpc-message.
    Status(String, String, String),
    Reset(ErrorCode),
    /// Its connection is gone.
    Lost,
}

/// A call as its client knows it.
pub struct Call {
    pub client: usize,
    pub stream: StreamKey,
    pub body: Vec<u8>,
    pub status: Option<String>,
    /// The response's content type.
    pub content_type: String,
    pub outcome: Option<Outcome>,
}

pub struct World {
    pub now: Time,
    pub splitter: Splitter,
    pub clients: Vec<Client>,
    pub backends: Vec<Backend>,
    links: Vec<Link>,
    pub wilds: Vec<Wild>,
    pub calls: Vec<Call>,
    pub delay: Duration,
    pub dial_delay: Duration,
    /// Bytes are delivered in pieces of this size.
    pub cut: usize,
    dials: Vec<(Time, UpstreamId, usize)>,
    pub policy: Policy,
    pub subset: usize,
    pub per_connection: bool,
    /// Of clients that are opened from here on.
    pub client_config: connection::Config,
    pub rng: Rng,
    pub opened: u32,
}

impl World {
    pub fn new(backends: usize) -> Self {
        Self::with(backends, 7, Config::new("n1"), &Arc::new(Budget::default()))
    }

    pub fn with(backends: usize, seed: u64, config: Config, budget: &Arc<Budget>) -> Self {
        let mut world = Self {
            now: Time::ZERO + Duration::from_secs(100),
            splitter: Splitter::new(Arc::new(config), seed, Arc::clone(budget)),
            clients: Vec::new(),
            backends: Vec::new(),
            links: Vec::new(),
            wilds: Vec::new(),
            calls: Vec::new(),
            delay: Duration::ZERO,
            dial_delay: Duration::ZERO,
            cut: usize::MAX,
            dials: Vec::new(),
            policy: Policy::RoundRobin,
            subset: 20,
            per_connection: false,
            client_config: connection::Config::to_backend(),
            rng: Rng::seeded(seed),
            opened: 0,
        };
        for _ in 0..backends {
            world.add_backend();
        }
        world.publish();
        world
    }

    pub fn add_backend(&mut self) -> usize {
        let n = self.backends.len();
        self.backends.push(Backend {
            endpoint: Endpoint {
                id: format!("pod-{n}").into(),
                address: SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 50051)),
                weight: 1,
                state: State::Ready,
            },
            behaviour: Behaviour::Echo,
            config: connection::Config::to_client(),
            accepts: Some(true),
            refuses_with: SocketError::Refused,
            frozen: false,
            slow: Duration::ZERO,
            farewell: false,
            wild: false,
            heard: Vec::new(),
            ran: BTreeMap::new(),
            dials: 0,
        });
        n
    }

    /// Tells the splitter of all backends.
    pub fn publish(&mut self) {
        let all: Vec<usize> = (0..self.backends.len()).collect();
        self.publish_only(&all);
    }

    /// Tells the splitter of these backends.
    pub fn publish_only(&mut self, which: &[usize]) {
        let service = Service {
            name: "echo.default:grpc".into(),
            policy: self.policy,
            subset: self.subset,
            per_connection: self.per_connection,
            endpoints: which.iter().map(|&n| self.backends[n].endpoint.clone()).collect(),
        };
        self.splitter.set_service(self.now, SERVICE, Arc::new(service));
    }

    pub fn client(&mut self) -> usize {
        self.try_client().expect("the Service is set")
    }

    /// A client's connection, unless the splitter does not take it.
    pub fn try_client(&mut self) -> Result<usize, OpenClientError> {
        let id = self.splitter.open_client(self.now, SERVICE)?;
        self.clients.push(Client {
            id,
            side: Side::new(Role::Client, self.client_config.clone()),
            wire: Wire::default(),
            over: false,
            deaf: false,
            socket: usize::MAX,
            goaways: 0,
        });
        self.advance(self.delay * 4);
        Ok(self.clients.len() - 1)
    }

    /// Begins a gRPC call; its number.
    pub fn open(&mut self, client: usize, body: &[u8], end: bool) -> usize {
        self.open_as(client, "application/grpc", body, end)
    }

    pub fn open_as(&mut self, client: usize, content_type: &str, body: &[u8], end: bool) -> usize {
        self.open_with(client, &[("content-type", content_type)], body, end)
    }

    /// Begins a call with these header fields beside the usual ones.
    pub fn open_with(&mut self, client: usize, fields: &[(&str, &str)], body: &[u8], end: bool) -> usize {
        let number = self.calls.len();
        let name = number.to_string();
        let side = &mut self.clients[client].side;
        let mut all = vec![
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "echo.default:50051"),
            (":path", "/echo.Echo/Call"),
        ];
        all.extend(fields);
        all.extend([("te", "trailers"), ("call", &name)]);
        let headers = side.headers(&all);
        let ends = end && body.is_empty();
        let stream = side
            .connection
            .open(self.now, number as u32, headers, ends)
            .expect("the splitter has room");
        if !ends {
            side.connection
                .send_data(stream, Bytes::copy_from_slice(body), end);
        }
        self.calls.push(Call {
            client,
            stream,
            body: Vec::new(),
            status: None,
            content_type: String::new(),
            outcome: None,
        });
        number
    }

    pub fn send(&mut self, call: usize, body: &[u8], end: bool) {
        let Call { client, stream, .. } = self.calls[call];
        self.clients[client]
            .side
            .connection
            .send_data(stream, Bytes::copy_from_slice(body), end);
    }

    pub fn cancel(&mut self, call: usize) {
        let Call { client, stream, .. } = self.calls[call];
        self.clients[client]
            .side
            .connection
            .reset(stream, ErrorCode::CANCEL);
    }

    /// A unary call, run to its end or until nothing moves.
    pub fn call(&mut self, client: usize, body: &[u8]) -> usize {
        let call = self.open(client, body, true);
        self.run();
        call
    }

    pub fn outcome(&self, call: usize) -> Option<&Outcome> {
        self.calls[call].outcome.as_ref()
    }

    pub fn is_ok(&self, call: usize) -> bool {
        matches!(self.outcome(call), Some(Outcome::Status(http, grpc, _)) if http == "200" && grpc == "0")
    }

    /// The message of our own error.
    pub fn message(&self, call: usize) -> &str {
        match self.outcome(call) {
            Some(Outcome::Status(_, _, message)) => message,
            other => panic!("call {call} ended with {other:?}"),
        }
    }

    /// How many calls each backend ran.
    pub fn spread(&self) -> Vec<usize> {
        self.backends.iter().map(|backend| backend.ran.len()).collect()
    }

    /// How often the call ran, on all backends.
    pub fn runs(&self, call: usize) -> u32 {
        self.backends
            .iter()
            .filter_map(|backend| backend.ran.get(&(call as u32)))
            .sum()
    }

    /// Open connections to this backend.
    pub fn connections(&self, backend: usize) -> usize {
        self.links
            .iter()
            .filter(|link| link.backend == backend && !link.over)
            .count()
    }

    /// Streams at all backends that have not ended there.
    pub fn running(&self) -> usize {
        let open = self.links.iter().filter(|link| !link.over);
        open.map(|link| link.side.connection.streams()).sum()
    }

    /// When `RST_STREAMs` came to backends, for each connection that there ever was.
    pub fn resets(&self) -> impl Iterator<Item = &[Time]> {
        self.links.iter().map(|link| &link.resets[..])
    }

    /// The backend's side of its newest connection.
    pub fn server(&mut self, backend: usize) -> &mut Side {
        let link = self
            .links
            .iter_mut()
            .rev()
            .find(|link| link.backend == backend && !link.over);
        &mut link.expect("a connection is open").side
    }

    /// All sides of a backend.
    pub fn servers(&mut self, backend: usize) -> impl Iterator<Item = &mut Side> {
        self.links
            .iter_mut()
            .filter(move |link| link.backend == backend && !link.over)
            .map(|link| &mut link.side)
    }

    /// The backend says GOAWAY on all connections, orderly.
    pub fn shut_down(&mut self, backend: usize) {
        let now = self.now;
        for side in self.servers(backend) {
            side.connection.shutdown(now);
        }
    }

    /// All connections of the backend break, with what is on the wire.
    pub fn kill(&mut self, backend: usize) {
        self.kill_with(backend, SocketError::Reset);
    }

    /// As [`World::kill`]: each socket ends with this error.
    pub fn kill_with(&mut self, backend: usize, error: SocketError) {
        let dead: Vec<usize> = (0..self.links.len())
            .filter(|&n| self.links[n].backend == backend && !self.links[n].over)
            .collect();
        for n in dead {
            self.break_link(n, error);
        }
    }

    fn break_link(&mut self, n: usize, error: SocketError) {
        self.links[n].over = true;
        let id = ConnId::Upstream(self.links[n].id);
        self.splitter.handle_closed(self.now, id, Ended::Error(error));
    }

    /// A connection to some backend breaks.
    pub fn break_one(&mut self) {
        let open: Vec<usize> = (0..self.links.len()).filter(|&n| !self.links[n].over).collect();
        if !open.is_empty() {
            let n = open[self.rng.below(open.len() as u64) as usize];
            self.break_link(n, SocketError::Reset);
        }
    }

    /// The client's socket breaks.
    pub fn drop_client(&mut self, client: usize) {
        self.clients[client].over = true;
        self.splitter.handle_closed(
            self.now,
            ConnId::Client(self.clients[client].id),
            Ended::Error(SocketError::Reset),
        );
        for call in self
            .calls
            .iter_mut()
            .filter(|call| call.client == client && call.outcome.is_none())
        {
            call.outcome = Some(Outcome::Lost);
        }
    }

    /// Moves bytes until none can move. No time passes but what is on the wire.
    pub fn run(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Time passes, millisecond by millisecond where something happens.
    pub fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run();
        let mut in_a_row = 0;
        while let Some(next) = self.next_event().filter(|&next| next <= end) {
            let soon = next.since(self.now) < Duration::from_nanos(2);
            in_a_row = if soon { in_a_row + 1 } else { 0 };
            assert!(in_a_row < 1000, "a timer stays due");
            self.now = self.now.max(next);
            self.timeouts();
            self.run();
        }
        self.now = end;
        self.timeouts();
        self.run();
    }

    /// The backend ends this held call, if it runs here.
    pub fn finish(&mut self, call: usize) {
        for link in self.links.iter_mut().filter(|link| !link.over) {
            let found = link.calls.iter().find(|(_, (number, _))| *number == call as u32);
            if let Some((&stream, _)) = found {
                link.side.trailers(stream);
            }
        }
    }

    /// Which backend ran the call.
    pub fn backend_of(&self, call: usize) -> Option<usize> {
        self.backends
            .iter()
            .position(|backend| backend.ran.contains_key(&(call as u32)))
    }
}
