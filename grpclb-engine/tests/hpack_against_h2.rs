//! The codec between a client and a server of the h2 crate, joined by in-memory pipes: each frame is read, each field
//! block decoded and encoded anew, and both ends must see the messages that the other one sent. So our decoder meets a
//! foreign encoder, our encoder a foreign decoder, and our writers a foreign reader, with tables of all sizes.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use grpclb_engine::frame::{
    Frame, MIN_MAX_FRAME_SIZE, PREFACE, Reader, SettingId, StreamId, write_data_header, write_goaway,
    write_headers, write_ping, write_rst_stream, write_settings, write_settings_ack, write_window_update,
};
use grpclb_engine::hpack::{DEFAULT_TABLE_SIZE, Decoder, Encoder, Fields, HeaderList, Indexing};
use grpclb_engine::message::{Message, validate};
use grpclb_engine::rng::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

/// One direction of the relay: frames of `from` go to `to`.
struct Direction {
    reader: Reader,
    decoder: Decoder,
    encoder: Encoder,
    fields: Fields,
    /// The field block that is being collected.
    block: BytesMut,
    block_ends_stream: bool,
    /// The receiver's `SETTINGS_HEADER_TABLE_SIZE` of each SETTINGS that the sender has yet to acknowledge.
    unacknowledged: VecDeque<Option<u32>>,
    lists: usize,
    never_indexed: usize,
}

impl Direction {
    fn new(seed: u64) -> Self {
        Self {
            reader: Reader::new(),
            decoder: Decoder::new(DEFAULT_TABLE_SIZE),
            encoder: Encoder::new(),
            fields: Fields::new(1 << 16, seed),
            block: BytesMut::new(),
            block_ends_stream: false,
            unacknowledged: VecDeque::new(),
            lists: 0,
            never_indexed: 0,
        }
    }

    fn relay_block(&mut self, stream: StreamId, is_request: bool, out: &mut BytesMut) {
        let block = self.block.split();
        let mut list = HeaderList::new();
        self.decoder
            .decode(&block, &mut self.fields, 1 << 20, &mut list)
            .expect("the h2 crate's field block");
        let message = match list.get(":status") {
            Some(_) => Message::Response,
            None if is_request && list.get(":method").is_some() => Message::Request,
            None => Message::Trailers,
        };
        validate(&list, message).expect("the h2 crate's message");
        self.lists += 1;
        self.never_indexed += list
            .iter()
            .filter(|entry| entry.indexing == Indexing::Never)
            .count();
        // Small frames, so that long lists go out with CONTINUATIONs.
        write_headers(out, stream, self.block_ends_stream, MIN_MAX_FRAME_SIZE, |out| {
            self.encoder.encode(&list, out);
        });
    }

    /// Writes the frame anew. `back` is the other direction, which settings and their ACKs concern.
    fn relay(&mut self, frame: Frame, is_request: bool, back: &mut Self, out: &mut BytesMut) {
        match frame {
            Frame::Headers {
                stream,
                fragment,
                end_stream,
                end_headers,
                ..
            } => {
                self.block.extend_from_slice(&fragment);
                self.block_ends_stream = end_stream;
                if end_headers {
                    self.relay_block(stream, is_request, out);
                }
            }
            Frame::Continuation {
                stream,
                fragment,
                end_headers,
            } => {
                self.block.extend_from_slice(&fragment);
                if end_headers {
                    self.relay_block(stream, is_request, out);
                }
            }
            Frame::Data {
                stream,
                chunk,
                flow_controlled,
                end_stream,
            } => {
                assert!(flow_controlled == 0 || flow_controlled as usize >= chunk.len());
                write_data_header(out, stream, chunk.len() as u32, end_stream);
                out.extend_from_slice(&chunk);
            }
            Frame::Settings(settings) => {
                let settings: Vec<_> = settings.iter().collect();
                let table = settings
                    .iter()
                    .rfind(|(id, _)| *id == SettingId::HEADER_TABLE_SIZE);
                let table = table.map(|&(_, size)| size);
                if let Some(size) = table {
                    back.encoder.set_max_table_size(size);
                }
                back.unacknowledged.push_back(table);
                write_settings(out, &settings);
            }
            Frame::SettingsAck => {
                // Our encoder may shrink its table a block earlier than the sender of the ACK shrinks its own.
                if let Some(size) = self.unacknowledged.pop_front().expect("an ACK of something") {
                    self.decoder.set_max_table_size(size);
                }
                write_settings_ack(out);
            }
            Frame::Ping { ack, payload } => write_ping(out, ack, payload),
            Frame::RstStream { stream, code } => write_rst_stream(out, stream, code),
            Frame::WindowUpdate { stream, increment } => write_window_update(out, stream, increment),
            Frame::GoAway {
                last_stream,
                code,
                debug,
            } => write_goaway(out, last_stream, code, &debug),
            other => panic!("the h2 crate sends no {other:?}"),
        }
    }
}

/// Carries one direction until its sender closes.
async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    is_request: bool,
    this: &RefCell<Direction>,
    back: &RefCell<Direction>,
) {
    let mut input = BytesMut::new();
    let mut out = BytesMut::new();
    if is_request {
        while input.len() < PREFACE.len() {
            assert_ne!(from.read_buf(&mut input).await.expect("a pipe"), 0, "no preface");
        }
        assert_eq!(input.split_to(PREFACE.len())[..], PREFACE[..]);
        out.extend_from_slice(PREFACE);
    }
    loop {
        loop {
            let this = &mut *this.borrow_mut();
            let Some(frame) = this
                .reader
                .next(&mut input, MIN_MAX_FRAME_SIZE)
                .expect("right frames")
            else {
                break;
            };
            this.relay(frame, is_request, &mut back.borrow_mut(), &mut out);
        }
        // The other end may be gone while this one says good-bye.
        if to.write_all_buf(&mut out).await.is_err() || from.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

fn random_headers(rng: &mut Rng) -> HeaderMap {
    const NAMES: [&str; 9] = [
        "user-agent",
        "content-type",
        "grpc-timeout",
        "te",
        "x-custom",
        "x-other-bin",
        "cookie",
        "authorization",
        "date",
    ];
    let mut headers = HeaderMap::new();
    for _ in 0..rng.below(12) {
        let name = NAMES[rng.below(NAMES.len() as u64) as usize];
        let longest = [8, 8, 8, 100, 100, 6000][rng.below(6) as usize];
        let repeated = format!("value-{}", rng.below(3)).into_bytes();
        let visible = |byte: u64| 0x21 + (byte % 0x5e) as u8;
        let unique = (0..rng.below(longest)).map(|_| visible(rng.next_u64())).collect();
        let value = match (name, rng.below(2)) {
            ("te", _) => b"trailers".to_vec(),
            (_, 0) => repeated,
            _ => unique,
        };
        // Once such a value is in a table, the h2 crate sends it as an index even where it is marked sensitive.
        let is_unique = value.len() > 20;
        let mut value = HeaderValue::from_bytes(&value).expect("a visible value");
        value.set_sensitive(is_unique && rng.below(3) == 0);
        headers.append(HeaderName::from_static(name), value);
    }
    headers
}

/// What one exchange says, in both directions.
struct Exchange {
    path: String,
    request: HeaderMap,
    response: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

fn exchanges(seed: u64) -> Vec<Exchange> {
    let rng = &mut Rng::seeded(seed);
    let mut exchange = |number| Exchange {
        path: format!("/service-{}/method-{}", rng.below(2), number % 7),
        request: random_headers(rng),
        response: random_headers(rng),
        body: vec![number; rng.below(3000) as usize].into(),
        trailers: random_headers(rng),
    };
    (0..60u8).map(&mut exchange).collect()
}

fn sensitive_fields(map: &HeaderMap) -> usize {
    map.values().filter(|value| value.is_sensitive()).count()
}

async fn client(pipe: DuplexStream, table_size: u32, exchanges: &[Exchange], what: &str) {
    let mut builder = h2::client::Builder::new();
    builder
        .header_table_size(table_size)
        .max_header_list_size(1 << 20);
    let (mut send, connection) = builder.handshake::<_, Bytes>(pipe).await.expect("a handshake");
    let calls = async {
        for exchange in exchanges {
            send = send.ready().await.expect("room for a stream");
            let mut request = Request::post(format!("http://pod:50051{}", exchange.path))
                .body(())
                .expect("a request");
            *request.headers_mut() = exchange.request.clone();
            let (response, mut body) = send.send_request(request, false).expect("a stream");
            body.send_data(exchange.body.clone(), true)
                .expect("an open stream");
            let (parts, mut body) = response.await.expect("a response").into_parts();
            assert_eq!(&exchange.response, &parts.headers, "{what}");
            let mut received = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.expect("a body");
                body.flow_control()
                    .release_capacity(chunk.len())
                    .expect("capacity");
                received.extend_from_slice(&chunk);
            }
            assert_eq!(received, exchange.body, "{what}");
            let trailers = body.trailers().await.expect("trailers").unwrap_or_default();
            assert_eq!(&exchange.trailers, &trailers, "{what}");
        }
        drop(send);
    };
    let ((), ended) = tokio::join!(calls, connection);
    ended.expect("a clean end");
}

async fn server(pipe: DuplexStream, table_size: u32, exchanges: &[Exchange], what: &str) {
    let mut builder = h2::server::Builder::new();
    builder
        .header_table_size(table_size)
        .max_header_list_size(1 << 20);
    let mut connection = builder.handshake::<_, Bytes>(pipe).await.expect("a handshake");
    for exchange in exchanges {
        let (request, mut respond) = connection
            .accept()
            .await
            .expect("a request")
            .expect("a right request");
        assert_eq!(request.uri().path(), exchange.path, "{what}");
        assert_eq!(&exchange.request, request.headers(), "{what}");
        let mut response = Response::new(());
        *response.headers_mut() = exchange.response.clone();
        let mut body = respond.send_response(response, false).expect("an open stream");
        body.send_data(exchange.body.clone(), false)
            .expect("an open stream");
        body.send_trailers(exchange.trailers.clone())
            .expect("an open stream");
    }
    assert!(connection.accept().await.is_none(), "one request too many");
}

#[test]
fn messages_pass_unchanged_between_foreign_ends_with_tables_of_any_size() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    for seed in 0..24 {
        let rng = &mut Rng::seeded(1000 + seed);
        let mut table_size = || [0, 40, 100, 300, 4096, 65_536][rng.below(6) as usize];
        let (client_table, server_table) = (table_size(), table_size());
        let what = format!("seed {seed}, tables of {client_table} and {server_table} bytes");
        let exchanges = exchanges(seed);
        // Narrow pipes cut frames at odd places.
        let width = [17, 1000, 65_536][(seed % 3) as usize];
        let (client_end, client_side) = tokio::io::duplex(width);
        let (server_end, server_side) = tokio::io::duplex(width);
        let (from_client, to_client) = tokio::io::split(client_side);
        let (from_server, to_server) = tokio::io::split(server_side);
        let requests = RefCell::new(Direction::new(seed));
        let responses = RefCell::new(Direction::new(seed));
        runtime.block_on(async {
            tokio::join!(
                client(client_end, client_table, &exchanges, &what),
                server(server_end, server_table, &exchanges, &what),
                carry(from_client, to_server, true, &requests, &responses),
                carry(from_server, to_client, false, &responses, &requests),
            )
        });
        let (requests, responses) = (requests.into_inner(), responses.into_inner());
        assert_eq!(requests.lists, exchanges.len(), "{what}");
        assert!(responses.lists >= exchanges.len(), "{what}");
        // The h2 crate sends sensitive fields never-indexed, though it does not tell whether it received them so.
        let sent: usize = exchanges
            .iter()
            .map(|exchange| sensitive_fields(&exchange.request))
            .sum();
        assert_eq!(requests.never_indexed, sent, "{what}");
        let sent: usize = exchanges
            .iter()
            .map(|exchange| sensitive_fields(&exchange.response) + sensitive_fields(&exchange.trailers))
            .sum();
        assert_eq!(responses.never_indexed, sent, "{what}");
    }
}
