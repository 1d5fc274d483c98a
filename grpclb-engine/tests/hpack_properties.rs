//! HPACK under random use, repeatable by seed: a plain model of the peer's encoder on one side, and on the other our
//! encoder read back by a second decoder, as a relay joins them. Sizes of both tables change on the way.

use bytes::{BufMut, BytesMut};
use grpclb_engine::hpack::{Decoder, Encoder, Fields, HeaderList, Indexing, huffman};
use grpclb_engine::rng::Rng;

const LIMIT: u32 = 1 << 20;

type Pair = (Vec<u8>, Vec<u8>);

/// What one list says, and how.
fn contents(list: &HeaderList) -> Vec<(Pair, Indexing)> {
    let pair = |field: &grpclb_engine::hpack::Field| (field.name().to_vec(), field.value().to_vec());
    list.iter()
        .map(|entry| (pair(&entry.field), entry.indexing))
        .collect()
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.below(from.len() as u64) as usize]
}

/// Fields as they come in life: few names, values that repeat and values that do not, now and then a huge one.
fn random_pair(rng: &mut Rng) -> Pair {
    const COMMON: [(&str, &str); 8] = [
        (":method", "POST"),
        (":path", "/helloworld.Greeter/SayHello"),
        (":authority", "greeter:50051"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("cookie", ""),
        ("x-same", "again"),
        ("grpc-encoding", "identity"),
    ];
    const NAMES: [&str; 6] = ["x-same", "date", "grpc-timeout", "x-trace-bin", ":status", ""];
    if rng.below(2) == 0 {
        let (name, value) = pick(rng, &COMMON);
        return (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    }
    let name = pick(rng, &NAMES).as_bytes().to_vec();
    let value = match rng.below(20) {
        0 => random_bytes(rng, 5000),
        1..8 => random_bytes(rng, 40),
        _ => format!("{}u", rng.below(30)).into_bytes(),
    };
    (name, value)
}

fn random_bytes(rng: &mut Rng, below: u64) -> Vec<u8> {
    (0..rng.below(below)).map(|_| rng.next_u64() as u8).collect()
}

/// The peer's encoder, as plain as can be: a list for a table, and chance for a policy.
struct Peer {
    table: Vec<Pair>,
    capacity: usize,
    max: usize,
}

impl Peer {
    fn size(&self) -> usize {
        self.table
            .iter()
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum()
    }

    fn evict(&mut self) {
        while self.size() > self.capacity {
            self.table.pop();
        }
    }

    fn resize(&mut self, capacity: usize, block: &mut BytesMut) {
        self.capacity = capacity;
        self.evict();
        put_integer(block, 0x20, 5, capacity);
    }

    fn field(&mut self, rng: &mut Rng, pair: &Pair, block: &mut BytesMut) -> Indexing {
        let indexed = self.table.iter().position(|entry| entry == pair);
        if let Some(position) = indexed
            && rng.below(8) > 0
        {
            put_integer(block, 0x80, 7, 62 + position);
            return Indexing::Index;
        }
        let (indexing, flags, prefix) = match rng.below(6) {
            0 => (Indexing::Without, 0x00, 4),
            1 => (Indexing::Never, 0x10, 4),
            _ => (Indexing::Index, 0x40, 6),
        };
        match self.table.iter().position(|(name, _)| *name == pair.0) {
            Some(position) if rng.below(4) > 0 => put_integer(block, flags, prefix, 62 + position),
            _ => {
                block.put_u8(flags);
                put_string(rng, block, &pair.0);
            }
        }
        put_string(rng, block, &pair.1);
        if indexing == Indexing::Index {
            self.table.insert(0, pair.clone());
            self.evict();
        }
        indexing
    }
}

fn put_integer(block: &mut BytesMut, flags: u8, prefix: u32, value: usize) {
    let full = (1 << prefix) - 1;
    if value < full {
        return block.put_u8(flags | value as u8);
    }
    block.put_u8(flags | full as u8);
    let mut rest = value - full;
    while rest >= 128 {
        block.put_u8(rest as u8 | 0x80);
        rest /= 128;
    }
    block.put_u8(rest as u8);
}

fn put_string(rng: &mut Rng, block: &mut BytesMut, text: &[u8]) {
    let mut coded = text.to_vec();
    let huffman = rng.below(2) == 0;
    if huffman {
        coded.clear();
        huffman::encode(text, &mut coded);
    }
    put_integer(block, if huffman { 0x80 } else { 0 }, 7, coded.len());
    block.extend_from_slice(&coded);
}

#[test]
fn any_blocks_mean_what_their_sender_meant_and_go_on_as_they_came() {
    for seed in 0..80 {
        let mut rng = Rng::seeded(seed);
        let mut peer = Peer {
            table: vec![],
            capacity: 4096,
            max: 4096,
        };
        // A small limit now and then: what is not interned must work as well.
        let mut fields = Fields::new(*pick(&mut rng, &[0, 500, 10_000, 1 << 20]), seed);
        let mut decoder = Decoder::new(4096);
        let mut encoders: Vec<(Encoder, Fields, Decoder)> = (0..3)
            .map(|end| (Encoder::new(), Fields::new(1 << 16, end), Decoder::new(4096)))
            .collect();
        let mut list = HeaderList::new();
        for round in 0..200 {
            let at = format!("seed {seed}, block {round}");
            let mut block = BytesMut::new();
            if rng.below(10) == 0 {
                // Our SETTINGS changed and the peer has acknowledged it: it shrinks where it must.
                peer.max = *pick(&mut rng, &[0, 33, 64, 200, 4096, 9000]);
                decoder.set_max_table_size(peer.max as u32);
                if peer.max < peer.capacity {
                    peer.resize(peer.max, &mut block);
                }
            }
            if rng.below(10) == 0 {
                let capacity = rng.below(peer.max as u64 + 1) as usize;
                peer.resize(capacity, &mut block);
            }
            let mut meant = Vec::new();
            for _ in 0..rng.below(10) {
                let pair = random_pair(&mut rng);
                let indexing = peer.field(&mut rng, &pair, &mut block);
                meant.push((pair, indexing));
            }
            decoder.decode(&block, &mut fields, LIMIT, &mut list).expect(&at);
            assert_eq!(contents(&list), meant, "{at}");
            assert_eq!(decoder.table_size() as usize, peer.size(), "{at}");
            assert_eq!(
                list.size(),
                meant
                    .iter()
                    .map(|((n, v), _)| n.len() + v.len() + 32)
                    .sum::<usize>()
            );

            // One input feeds many outputs: each call goes to one of them.
            let output = rng.below(encoders.len() as u64) as usize;
            let (encoder, far_fields, far_decoder) = &mut encoders[output];
            if rng.below(10) == 0 {
                let size = *pick(&mut rng, &[0, 40, 100, 1000, 4096, 100_000]);
                encoder.set_max_table_size(size);
                far_decoder.set_max_table_size(size);
            }
            let mut relayed = BytesMut::new();
            encoder.encode(&list, &mut relayed);
            let mut received = HeaderList::new();
            far_decoder
                .decode(&relayed, far_fields, LIMIT, &mut received)
                .expect(&at);
            assert_eq!(encoder.table_size(), far_decoder.table_size(), "{at}");
            assert!(encoder.table_size() <= 4096, "{at}");
            for ((sent, indexing), (arrived, found)) in meant.iter().zip(contents(&received)) {
                assert_eq!(*sent, arrived, "{at}");
                // Never-indexed must stay, and nothing becomes it; the table's use is otherwise the encoder's affair.
                assert_eq!(
                    *indexing == Indexing::Never,
                    found == Indexing::Never,
                    "{at}: {sent:?}"
                );
                assert!(
                    *indexing == Indexing::Index || found != Indexing::Index,
                    "{at}: {sent:?}"
                );
            }
            assert_eq!(received.len(), meant.len(), "{at}");
        }
    }
}

#[test]
fn every_cut_of_a_block_is_an_error_or_ends_between_two_fields() {
    for seed in 0..50 {
        let mut rng = Rng::seeded(seed);
        let mut peer = Peer {
            table: vec![],
            capacity: 4096,
            max: 4096,
        };
        let mut block = BytesMut::new();
        let mut ends = vec![0];
        for _ in 0..6 {
            let (name, mut value) = random_pair(&mut rng);
            value.truncate(60);
            peer.field(&mut rng, &(name, value), &mut block);
            ends.push(block.len());
        }
        for cut in 0..block.len() {
            let mut list = HeaderList::new();
            let result =
                Decoder::new(4096).decode(&block[..cut], &mut Fields::new(1 << 16, 1), LIMIT, &mut list);
            match ends.iter().position(|&end| end == cut) {
                Some(fields) => assert_eq!((result, list.len()), (Ok(()), fields), "seed {seed}, cut {cut}"),
                None => assert!(result.is_err(), "seed {seed}, cut {cut}"),
            }
        }
    }
}

#[test]
fn arbitrary_bytes_never_exceed_the_bounds() {
    for seed in 0..3000 {
        let mut rng = Rng::seeded(seed);
        let mut fields = Fields::new(20_000, seed);
        let mut decoder = Decoder::new(512);
        let mut list = HeaderList::new();
        for _ in 0..4 {
            let block = random_bytes(&mut rng, 200);
            let result = decoder.decode(&block, &mut fields, 1000, &mut list);
            assert!(decoder.table_size() <= 512 && list.size() <= 1000 && fields.footprint() <= 20_000);
            if result.is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_block_of_references_to_one_large_entry_is_cut_at_the_limit() {
    // The "HPACK bomb": 4 KiB once, then one byte for each further 4 KiB.
    let mut block = BytesMut::new();
    block.put_slice(b"\x40\x01a");
    put_integer(&mut block, 0, 7, 4000);
    block.put_bytes(b'x', 4000);
    block.put_bytes(0xbe, 100_000);
    let mut list = HeaderList::new();
    let mut fields = Fields::new(1 << 20, 1);
    Decoder::new(4096)
        .decode(&block, &mut fields, 65_536, &mut list)
        .expect("a right block");
    assert!(list.oversized());
    assert_eq!((list.len(), list.size()), (16, 16 * 4033));
    assert!(fields.footprint() < 10_000);
}

#[test]
fn the_interner_lets_go_of_what_no_table_and_no_list_holds() {
    let mut fields = Fields::new(1 << 20, 1);
    let kept: Vec<_> = (0..50)
        .map(|n| fields.intern(b"kept", format!("{n}").as_bytes()))
        .collect();
    for n in 0..100_000 {
        fields.intern(
            format!("name-{}", n % 500).as_bytes(),
            format!("value {n}").as_bytes(),
        );
    }
    assert!(fields.len() < 500, "{} fields are kept", fields.len());
    for (n, field) in kept.iter().enumerate() {
        assert!(std::rc::Rc::ptr_eq(
            field,
            &fields.intern(b"kept", format!("{n}").as_bytes())
        ));
    }
}

#[test]
fn equal_fields_are_one_object_while_they_live() {
    let mut fields = Fields::new(1 << 20, 1);
    let (one, other) = (fields.intern(b"a", b"b"), fields.intern(b"a", b"b"));
    assert!(std::rc::Rc::ptr_eq(&one, &other));
    // The value "b\0" and the tail of "b" must not be taken for each other.
    assert_eq!(fields.intern(b"a", b"b\0").value(), b"b\0");
    assert_eq!(fields.intern(b"a", b"").value(), b"");
}
