//! What header lists cost: fields are bounded in number, and each list's memory is counted as it is made.

use bytes::{BufMut, BytesMut};
use grpclb_engine::hpack::{Decoder, Encoder, Error, Fields, HeaderList, Indexing, MAX_FIELDS};
use grpclb_engine::rng::Rng;

const LIMIT: u32 = 1 << 20;

fn decoded(block: &[u8], fields: &mut Fields) -> HeaderList {
    let mut list = HeaderList::new();
    Decoder::new(4096)
        .decode(block, fields, LIMIT, &mut list)
        .expect("a right block");
    list
}

/// A literal without indexing, its name and value shorter than 127 bytes.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0, name.len() as u8], name, &[value.len() as u8], value].concat()
}

#[test]
fn a_list_of_more_fields_than_the_limit_is_oversized_and_the_table_goes_on() {
    let mut fields = Fields::new(1 << 20, 1);
    let mut decoder = Decoder::new(4096);
    let mut list = HeaderList::new();
    let mut block = vec![0x82; MAX_FIELDS];
    decoder
        .decode(&block, &mut fields, LIMIT, &mut list)
        .expect("right");
    assert_eq!((list.len(), list.oversized()), (MAX_FIELDS, false));
    // Behind the limit: an indexed field, one that enters the table, and ones that do not.
    block.push(0x84);
    block.extend(b"\x40\x05after\x05limit");
    block.extend(literal(b"x", b"y"));
    block.extend(b"\x1f\x2f\x01z");
    decoder
        .decode(&block, &mut fields, LIMIT, &mut list)
        .expect("right");
    assert_eq!((list.len(), list.oversized()), (MAX_FIELDS, true));
    decoder
        .decode(&[0xbe], &mut fields, LIMIT, &mut list)
        .expect("right");
    assert_eq!(list.get("after"), Some(&b"limit"[..]));
    assert!(!list.oversized());
}

#[test]
fn errors_behind_the_limit_are_still_errors() {
    for wrong in [
        &b"\xff"[..],        // an integer that is cut
        b"\xfe",             // an index that no table has
        b"\x0f\xff\x01\x00", // a name that no table has
        b"\x00\x81\x00\x00", // Huffman padding of zeros
        b"\x00\x01a\x05b",   // a value that is cut
        b"\x20",             // a table size within a block
    ] {
        let block = [&vec![0x82; MAX_FIELDS + 1][..], wrong].concat();
        let mut list = HeaderList::new();
        let result = Decoder::new(4096).decode(&block, &mut Fields::new(1 << 20, 1), LIMIT, &mut list);
        assert!(result.is_err(), "{wrong:x?}");
    }
}

#[test]
fn what_is_left_out_of_a_list_is_neither_interned_nor_kept() {
    let mut fields = Fields::new(1 << 20, 1);
    let mut block = vec![0x82; MAX_FIELDS + 1];
    for n in 0..1000 {
        block.extend(literal(format!("name-{n}").as_bytes(), b"value"));
    }
    let before = (fields.len(), fields.footprint());
    assert!(decoded(&block, &mut fields).oversized());
    assert_eq!((fields.len(), fields.footprint()), before);
}

#[test]
fn a_lists_memory_is_its_entries_and_the_fields_that_the_interner_does_not_keep() {
    let mut fields = Fields::new(1 << 20, 1);
    let mut interned = HeaderList::new();
    let mut own = HeaderList::new();
    // Larger than any table: not interned.
    let value = vec![b'v'; 10_000];
    interned.push(fields.intern(b"x", b"y"), Indexing::Index);
    own.push(fields.intern(b"x", &value), Indexing::Index);
    assert!(interned.memory() < 200, "{}", interned.memory());
    assert!((10_000..10_500).contains(&own.memory()), "{}", own.memory());
    // Without room for sharing, every list pays for its fields and their names.
    let mut fields = Fields::new(0, 1);
    let mut alone = HeaderList::new();
    alone.push(fields.intern(&[b'n'; 500], &[b'v'; 500]), Indexing::Index);
    // The name twice: its text and its literal.
    assert!((1500..2000).contains(&alone.memory()), "{}", alone.memory());
    alone.clear();
    assert!(alone.memory() < 200, "{}", alone.memory());
}

#[test]
fn a_list_is_charged_by_what_it_becomes_when_it_is_encoded() {
    // 4 KiB once, then one byte for each further 4 KiB.
    let mut block = BytesMut::new();
    block.put_slice(b"\x40\x01a\x7f\xa1\x1e");
    block.put_bytes(b'x', 4000);
    block.put_bytes(0xbe, 249);
    let mut fields = Fields::new(1 << 20, 1);
    let list = decoded(&block, &mut fields);
    assert_eq!((list.len(), list.oversized()), (250, false));
    let mut encoder = Encoder::new();
    encoder.set_max_table_size(0);
    let mut out = BytesMut::new();
    encoder.encode(&list, &mut out);
    assert!(
        out.len() > 1_000_000 && list.memory() >= out.len(),
        "{} for {}",
        list.memory(),
        out.len()
    );
}

#[test]
fn a_lists_memory_does_not_change_until_the_list_does() {
    let mut fields = Fields::new(1 << 20, 1);
    let block: Vec<u8> = (0..100)
        .flat_map(|n| literal(format!("name-{n}").as_bytes(), b"value"))
        .collect();
    let list = decoded(&block, &mut fields);
    let charged = list.memory();
    // Sweeps of the interner come and go.
    for n in 0..10_000 {
        fields.intern(b"other", format!("{n}").as_bytes());
    }
    assert_eq!(list.memory(), charged);
    let mut shorter = list.clone();
    shorter.retain(|field| field.name() == b"name-7");
    assert!(shorter.memory() <= charged && shorter.size() < list.size());
}

/// The table's entries after a block, by index.
fn table(decoder: &mut Decoder, fields: &mut Fields) -> Vec<String> {
    let entries = (62..=126).map_while(|index: u8| {
        let mut entry = HeaderList::new();
        decoder.decode(&[0x80 | index], fields, LIMIT, &mut entry).ok()?;
        Some(format!("{:?}", entry.iter().next()?.field))
    });
    entries.collect()
}

/// The block decoded in pieces that end at `cuts`; then what the table has.
fn in_pieces(block: &[u8], cuts: &[usize]) -> Result<(HeaderList, u32, Vec<String>), Error> {
    let mut fields = Fields::new(1 << 20, 1);
    let (mut decoder, mut list, mut waiting) = (Decoder::new(4096), HeaderList::new(), BytesMut::new());
    let mut from = 0;
    for (n, &to) in cuts.iter().enumerate() {
        waiting.extend_from_slice(&block[from..to]);
        if n == 0 {
            decoder.decode_beginning(&mut waiting, &mut fields, LIMIT, &mut list)?;
        } else {
            decoder.decode_rest(&mut waiting, &mut fields, false)?;
        }
        assert!(waiting.len() <= 64 << 10, "{} bytes wait", waiting.len());
        from = to;
    }
    waiting.extend_from_slice(&block[from..]);
    decoder.decode_rest(&mut waiting, &mut fields, true)?;
    assert!(waiting.is_empty());
    Ok((list, decoder.table_size(), table(&mut decoder, &mut fields)))
}

/// A literal field with a plain name and value of these lengths, above 127.
fn long(first: u8, name: usize, value: usize) -> Vec<u8> {
    let mut out = vec![first];
    for len in [name, value] {
        let mut rest = len - 127;
        out.push(0x7f);
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        out.extend(std::iter::repeat_n(b'x', len));
    }
    out
}

#[test]
fn a_block_in_pieces_leaves_the_table_that_the_whole_block_leaves() {
    let mut rng = Rng::seeded(5);
    let small = |n: u64| [&b"\x40\x04na"[..], &n.to_be_bytes()[6..], b"\x01v"].concat();
    for round in 0..40 {
        let mut block = vec![0x82, 0x86, 0x84];
        for n in 0..20 {
            match rng.below(8) {
                0 => block.extend(long(0x40, 200, 70_000 + rng.below(200_000) as usize)),
                1 => block.extend(long(0x00, 70_000 + rng.below(99_999) as usize, 300)),
                2 => block.extend(long(0x10, 80_000, 90_000)),
                3 => block.extend(long(0x40, 90_000, 150)),
                _ => block.extend((0..40).flat_map(|more| small(40 * n + more))),
            }
        }
        block.extend(small(7));
        let (mut cuts, mut at) = (Vec::new(), 0);
        loop {
            at += 1 + rng.below(16_384) as usize;
            if at >= block.len() {
                break;
            }
            cuts.push(at);
        }
        let (list, size, pieces) = in_pieces(&block, &cuts).expect("a right block");
        assert!(list.oversized());
        let mut fields = Fields::new(1 << 20, 1);
        let mut decoder = Decoder::new(4096);
        let mut whole = HeaderList::new();
        decoder
            .decode(&block, &mut fields, LIMIT, &mut whole)
            .expect("a right block");
        assert_eq!(size, decoder.table_size(), "round {round}");
        assert_eq!(pieces, table(&mut decoder, &mut fields), "round {round}");
        assert!(!pieces.is_empty());
    }
}

#[test]
fn a_block_in_pieces_that_ends_within_a_field_is_an_error() {
    let block = [&[0x82][..], &long(0x40, 80_000, 90_000)].concat();
    let cuts = |end: usize| -> Vec<usize> {
        (1..=end / 1000)
            .map(|n| n * 1000)
            .filter(|&at| at < end)
            .collect()
    };
    for end in [
        2000,
        70_000,
        80_004,
        80_005,
        80_006,
        80_007,
        80_008,
        100_000,
        block.len() - 1,
    ] {
        let result = in_pieces(&block[..end], &cuts(end));
        assert_eq!(result.err(), Some(Error::Truncated), "{end}");
    }
    assert!(in_pieces(&block, &cuts(block.len())).is_ok());
}
