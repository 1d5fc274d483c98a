//! What HPACK costs a relayed call: nanoseconds for each field block, decoded, validated and encoded again.
//! `cargo bench -p grpclb-engine --bench hpack`. The best of several rounds counts, for noise only ever adds.

#[path = "support/sender.rs"]
mod sender;

use std::hint::black_box;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use grpclb_engine::frame::{Frame, MIN_MAX_FRAME_SIZE, Reader, StreamId, write_data_header, write_headers};
use grpclb_engine::hpack::{Decoder, Encoder, Fields, HeaderList, Indexing};
use grpclb_engine::message::{Message, validate};

use sender::Sender;

const CALLS: usize = 4096;
const ROUNDS: usize = 30;
const LIST_LIMIT: u32 = 1 << 20;

/// One connection's blocks, one a call.
struct Traffic {
    name: &'static str,
    message: Message,
    blocks: Vec<Vec<u8>>,
}

fn main() {
    println!(
        "{:<44} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "ns per block", "bytes in", "decode", "+valid", "1 out", "10 out", "bytes out"
    );
    for traffic in [
        grpc_go_request(),
        grpc_go_request_with_metadata(),
        h2load_request(),
        response(),
        trailers(),
    ] {
        report(&traffic);
    }
    println!();
    frames();
}

/// What grpc-go sends with each call: it indexes everything, and its grpc-timeout is always another one.
fn grpc_go_request() -> Traffic {
    let blocks = blocks(|call, block| {
        block.put_slice(&[0x83, 0x86]);
        block.indexed(":path", "/helloworld.Greeter/SayHello");
        block.indexed(":authority", "greeter.default.svc:50051");
        block.indexed("content-type", "application/grpc");
        block.indexed("user-agent", "grpc-go/1.77.0");
        block.indexed("te", "trailers");
        block.changing("grpc-timeout", &format!("{}u", 9_999_999 - call * 37));
    });
    Traffic {
        name: "request of grpc-go, 8 fields, new timeout",
        message: Message::Request,
        blocks,
    }
}

fn grpc_go_request_with_metadata() -> Traffic {
    let blocks = blocks(|call, block| {
        block.put_slice(&[0x83, 0x86]);
        block.indexed(":path", "/helloworld.Greeter/SayHello");
        block.indexed(":authority", "greeter.default.svc:50051");
        block.indexed("content-type", "application/grpc");
        block.indexed("user-agent", "grpc-go/1.77.0");
        block.indexed("te", "trailers");
        block.indexed("authorization", &format!("Bearer {}", "abcDEF0123".repeat(40)));
        block.changing("grpc-timeout", &format!("{}u", 9_999_999 - call * 37));
        block.changing(
            "traceparent",
            &format!("00-{:032x}-{:016x}-01", call * 7919, call * 104_729),
        );
    });
    Traffic {
        name: "the same with a token and a traceparent",
        message: Message::Request,
        blocks,
    }
}

/// What nghttp2's clients send: the path is never put into a table.
fn h2load_request() -> Traffic {
    let blocks = blocks(|_, block| {
        block.put_slice(&[0x83, 0x86, 0x04]);
        block.string("/helloworld.Greeter/SayHello");
        block.indexed(":authority", "127.0.0.1:50051");
        block.indexed("content-type", "application/grpc");
        block.indexed("user-agent", "h2load nghttp2/1.52.0");
        block.indexed("te", "trailers");
    });
    Traffic {
        name: "request of h2load, path kept out of the table",
        message: Message::Request,
        blocks,
    }
}

fn response() -> Traffic {
    let blocks = blocks(|_, block| {
        block.put_slice(&[0x88]);
        block.indexed("content-type", "application/grpc");
    });
    Traffic {
        name: "response, 2 fields",
        message: Message::Response,
        blocks,
    }
}

fn trailers() -> Traffic {
    let blocks = blocks(|_, block| {
        block.indexed("grpc-status", "0");
        block.indexed("grpc-message", "");
    });
    Traffic {
        name: "trailers, 2 fields",
        message: Message::Trailers,
        blocks,
    }
}

fn blocks(fill: impl Fn(usize, &mut Sender)) -> Vec<Vec<u8>> {
    let mut sender = Sender::default();
    let mut call = |number| {
        fill(number, &mut sender);
        std::mem::take(&mut sender.block)
    };
    (0..CALLS).map(&mut call).collect()
}

fn report(traffic: &Traffic) {
    let decode = relay(traffic, false, 0);
    let validated = relay(traffic, true, 0);
    let one = relay(traffic, true, 1);
    let ten = relay(traffic, true, 10);
    let bytes_in = traffic.blocks.iter().map(Vec::len).sum::<usize>() / CALLS;
    println!(
        "{:<44} {:>8} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>9}",
        traffic.name, bytes_in, decode.0, validated.0, one.0, ten.0, ten.1
    );
}

/// Nanoseconds a block, and bytes a block that left, with as many outputs in turn.
fn relay(traffic: &Traffic, validated: bool, outputs: usize) -> (f64, usize) {
    let mut best = f64::INFINITY;
    let mut left = 0;
    for _ in 0..ROUNDS {
        let mut fields = Fields::new(1 << 20, 1);
        let mut decoder = Decoder::new(4096);
        let mut encoders: Vec<Encoder> = (0..outputs).map(|_| Encoder::new()).collect();
        let mut list = HeaderList::new();
        let mut out = BytesMut::with_capacity(64 * 1024);
        left = 0;
        let start = Instant::now();
        for (call, block) in traffic.blocks.iter().enumerate() {
            decoder
                .decode(black_box(block), &mut fields, LIST_LIMIT, &mut list)
                .expect("a right block");
            if validated {
                black_box(validate(&list, traffic.message).expect("a right message"));
            }
            if outputs > 0 {
                encoders[call % outputs].encode(&list, &mut out);
                left += out.len();
                out.clear();
            }
        }
        best = best.min(start.elapsed().as_nanos() as f64 / CALLS as f64);
        assert!(list.iter().all(|entry| entry.indexing != Indexing::Never));
    }
    (best, left / CALLS)
}

/// Reading and writing frames: HEADERS of 40 bytes and DATA of 100, as a small unary call has them.
fn frames() {
    let mut wire = BytesMut::new();
    for call in 0..CALLS as u32 {
        let stream = StreamId::new(2 * call + 1);
        write_headers(&mut wire, stream, false, MIN_MAX_FRAME_SIZE, |out| {
            out.put_bytes(0x82, 40);
        });
        write_data_header(&mut wire, stream, 100, true);
        wire.put_bytes(7, 100);
    }
    let (mut read, mut written) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        let mut input = BytesMut::from(&wire[..]);
        let mut reader = Reader::new();
        let mut frames = 0;
        let start = Instant::now();
        while let Some(frame) = reader
            .next(black_box(&mut input), MIN_MAX_FRAME_SIZE)
            .expect("right frames")
        {
            frames += usize::from(!matches!(black_box(frame), Frame::Unknown { .. }));
        }
        read = read.min(start.elapsed().as_nanos() as f64 / frames as f64);
        let mut out = BytesMut::with_capacity(wire.len());
        let start = Instant::now();
        for call in 0..CALLS as u32 {
            let stream = StreamId::new(2 * call + 1);
            write_headers(black_box(&mut out), stream, false, MIN_MAX_FRAME_SIZE, |out| {
                out.put_slice(&[0x82; 40]);
            });
            write_data_header(black_box(&mut out), stream, 100, true);
            out.put_slice(&[7; 100]);
        }
        written = written.min(start.elapsed().as_nanos() as f64 / (2 * CALLS) as f64);
    }
    println!("ns per frame, HEADERS and DATA in turn: read {read:.0}, write {written:.0}");
}
