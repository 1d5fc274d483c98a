//! RFC 7541 appendix C, every example in both directions, and the rules of its text that examples do not show.

use std::rc::Rc;

use bytes::BytesMut;
use grpclb_engine::hpack::{Decoder, Encoder, Error, Fields, HeaderList, Indexing};

const LIMIT: u32 = 1 << 20;

/// Bytes from hexadecimal digits with spaces, as the RFC prints them.
fn hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("two digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn pairs(list: &HeaderList) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    list.iter()
        .map(|entry| (text(entry.field.name()), text(entry.field.value())))
        .collect()
}

fn lines(text: &str) -> Vec<(String, String)> {
    text.trim()
        .lines()
        .map(|line| line.trim().split_once(": ").expect("a field"))
        .map(|(n, v)| (n.into(), v.into()))
        .collect()
}

/// A decoder and an encoder at the two ends of the RFC's imagined connection.
struct Ends {
    fields: Fields,
    decoder: Decoder,
    encoder: Encoder,
}

impl Ends {
    fn new() -> Self {
        Self {
            fields: Fields::new(1 << 20, 7),
            decoder: Decoder::new(4096),
            encoder: Encoder::new(),
        }
    }

    fn decode(&mut self, block: &[u8]) -> Result<HeaderList, Error> {
        let mut list = HeaderList::new();
        self.decoder
            .decode(block, &mut self.fields, LIMIT, &mut list)
            .map(|()| list)
    }

    fn encode(&mut self, list: &HeaderList) -> BytesMut {
        let mut block = BytesMut::new();
        // Our encoder indexes what was sent before. The RFC's indexes at once, so another encoder sends it first.
        Encoder::new().encode(list, &mut block);
        block.clear();
        self.encoder.encode(list, &mut block);
        block
    }

    /// What the decoder's table holds, newest first: each entry is asked for by its index.
    fn table(&mut self) -> Vec<(String, String)> {
        let mut entries = Vec::new();
        while let Ok(list) = self.decode(&[0x80 | (62 + entries.len() as u8)]) {
            entries.extend(pairs(&list));
        }
        entries
    }

    /// One example: the block means `list`, leaves `table` of `size` bytes, and is what we make of the list.
    fn example(&mut self, block: &str, list: &str, table: &str, size: u32) {
        let block = hex(block);
        let decoded = self.decode(&block).expect("an example of the RFC");
        assert_eq!(pairs(&decoded), lines(list));
        assert_eq!(self.table(), lines(table));
        assert_eq!(self.decoder.table_size(), size);
        assert_eq!(&self.encode(&decoded)[..], block);
        assert_eq!(self.encoder.table_size(), size);
    }
}

#[test]
fn c_2_1_literal_with_indexing() {
    let block = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    Ends::new().example(
        block,
        "custom-key: custom-header",
        "custom-key: custom-header",
        55,
    );
}

#[test]
fn c_2_2_literal_without_indexing() {
    Ends::new().example("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path", "", 0);
}

#[test]
fn c_2_3_literal_never_indexed() {
    let mut ends = Ends::new();
    ends.example(
        "1008 7061 7373 776f 7264 0673 6563 7265 74",
        "password: secret",
        "",
        0,
    );
    let list = ends
        .decode(&hex("1008 7061 7373 776f 7264 0673 6563 7265 74"))
        .unwrap();
    assert_eq!(list.iter().next().unwrap().indexing, Indexing::Never);
}

#[test]
fn c_2_4_indexed() {
    Ends::new().example("82", ":method: GET", "", 0);
}

const FIRST_REQUEST: &str = ":method: GET
    :scheme: http
    :path: /
    :authority: www.example.com";
const SECOND_REQUEST: &str = ":method: GET
    :scheme: http
    :path: /
    :authority: www.example.com
    cache-control: no-cache";
const THIRD_REQUEST: &str = ":method: GET
    :scheme: https
    :path: /index.html
    :authority: www.example.com
    custom-key: custom-value";

/// The three requests of C.3 and C.4 differ by their Huffman coding alone.
fn requests(blocks: [&str; 3]) {
    let mut ends = Ends::new();
    ends.example(blocks[0], FIRST_REQUEST, ":authority: www.example.com", 57);
    ends.example(
        blocks[1],
        SECOND_REQUEST,
        "cache-control: no-cache
        :authority: www.example.com",
        110,
    );
    ends.example(
        blocks[2],
        THIRD_REQUEST,
        "custom-key: custom-value
        cache-control: no-cache
        :authority: www.example.com",
        164,
    );
}

#[test]
fn c_3_requests_without_huffman() {
    requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn c_4_requests_with_huffman() {
    requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

/// The three responses of C.5 and C.6, through a table of 256 bytes that evicts.
fn responses(blocks: [&str; 3]) {
    let mut ends = Ends::new();
    ends.decode(&hex("3fe1 01")).expect("a size update to 256");
    ends.encoder.set_max_table_size(256);
    assert_eq!(&ends.encode(&HeaderList::new())[..], hex("3fe1 01"));
    let first = ":status: 302
        cache-control: private
        date: Mon, 21 Oct 2013 20:13:21 GMT
        location: https://www.example.com";
    let first_table = "location: https://www.example.com
        date: Mon, 21 Oct 2013 20:13:21 GMT
        cache-control: private
        :status: 302";
    ends.example(blocks[0], first, first_table, 222);
    let second = ":status: 307
        cache-control: private
        date: Mon, 21 Oct 2013 20:13:21 GMT
        location: https://www.example.com";
    let second_table = ":status: 307
        location: https://www.example.com
        date: Mon, 21 Oct 2013 20:13:21 GMT
        cache-control: private";
    ends.example(blocks[1], second, second_table, 222);
    let third = ":status: 200
        cache-control: private
        date: Mon, 21 Oct 2013 20:13:22 GMT
        location: https://www.example.com
        content-encoding: gzip
        set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let third_table = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1
        content-encoding: gzip
        date: Mon, 21 Oct 2013 20:13:22 GMT";
    ends.example(blocks[2], third, third_table, 215);
}

#[test]
fn c_5_responses_without_huffman() {
    responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32
         3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970
         7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61
         6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ]);
}

#[test]
fn c_6_responses_with_huffman() {
    responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad
         1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2
         e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}

#[test]
fn broken_blocks_have_the_error_that_the_rfc_names() {
    let cases: [(&str, &str, Error); 15] = [
        ("§6.1 index zero", "80", Error::UnknownIndex { index: 0 }),
        (
            "§2.3.3 one beyond the static table",
            "be",
            Error::UnknownIndex { index: 62 },
        ),
        (
            "§2.3.3 a name beyond the tables",
            "7e 01 61",
            Error::UnknownIndex { index: 62 },
        ),
        (
            "§5.1 more than 32 bits",
            "ff ff ff ff ff 7f",
            Error::IntegerOverflow,
        ),
        (
            "§5.1 too many bytes",
            "ff 80 80 80 80 80 00",
            Error::IntegerOverflow,
        ),
        ("§5.1 cut integer", "ff 80", Error::Truncated),
        ("§5.2 string longer than the block", "40 0a 61", Error::Truncated),
        ("§5.2 no string", "40", Error::Truncated),
        ("§5.2 no value", "40 01 61", Error::Truncated),
        (
            "§5.2 a string of 4 GiB",
            "40 7f 80 ff ff ff 0f 61",
            Error::Truncated,
        ),
        ("§5.2 EOS in a value", "41 84 ff ff ff ff", Error::Huffman),
        ("§5.2 EOS in a name", "40 84 ff ff ff ff 00", Error::Huffman),
        ("§5.2 eight bits of padding", "41 82 07 ff", Error::Huffman),
        (
            "§6.3 above our setting",
            "3f e2 1f",
            Error::TableTooLarge {
                size: 4097,
                max: 4096,
            },
        ),
        (
            "§4.2 a size update after a field",
            "82 20",
            Error::LateTableSizeUpdate,
        ),
    ];
    for (rule, block, error) in cases {
        assert_eq!(Ends::new().decode(&hex(block)).err(), Some(error), "{rule}");
    }
}

#[test]
fn an_entry_larger_than_the_table_empties_it_and_is_no_error() {
    let mut ends = Ends::new();
    ends.decode(&hex("40 01 61 01 62")).unwrap();
    assert_eq!(ends.table(), lines("a: b"));
    let value = "63".repeat(4096);
    let list = ends.decode(&hex(&format!("40 01 61 7f 81 1f {value}"))).unwrap();
    assert_eq!(list.get("a").map(<[u8]>::len), Some(4096));
    assert_eq!((ends.table(), ends.decoder.table_size()), (vec![], 0));
}

#[test]
fn a_name_may_come_from_the_entry_that_its_field_drives_out() {
    // §4.4: the table holds one entry of 34 bytes; the new one is named after it.
    let mut ends = Ends::new();
    ends.decode(&hex("3f 03")).unwrap();
    ends.decode(&hex("40 01 61 01 62")).unwrap();
    let list = ends.decode(&hex("7e 01 63")).unwrap();
    assert_eq!(pairs(&list), lines("a: c"));
    assert_eq!(ends.table(), lines("a: c"));
}

#[test]
fn size_updates_evict_and_any_number_of_them_may_begin_a_block() {
    let mut ends = Ends::new();
    ends.decode(&hex("40 01 61 01 62 40 01 63 01 64")).unwrap();
    assert_eq!(ends.decoder.table_size(), 68);
    // To 34, to 0, to 4096, then a field.
    let list = ends.decode(&hex("3f 03 20 3f e1 1f 82")).unwrap();
    assert_eq!(pairs(&list), lines(":method: GET"));
    assert_eq!(ends.decoder.table_size(), 0);
}

#[test]
fn a_peer_that_acknowledged_a_smaller_table_must_begin_by_shrinking_it() {
    // RFC 9113 §4.3.1.
    let shrunk = |sizes: &[u32], block: &str| {
        let mut ends = Ends::new();
        for &size in sizes {
            ends.decoder.set_max_table_size(size);
        }
        ends.decode(&hex(block)).map(|_| ())
    };
    assert_eq!(
        shrunk(&[100], "82"),
        Err(Error::MissingTableSizeUpdate { max: 100 })
    );
    assert_eq!(
        shrunk(&[100], ""),
        Err(Error::MissingTableSizeUpdate { max: 100 })
    );
    assert_eq!(shrunk(&[100], "3f 45 82"), Ok(()), "shrunk to 100");
    assert_eq!(shrunk(&[100], "20 82"), Ok(()), "shrunk to 0");
    assert_eq!(
        shrunk(&[100], "3f 46 82"),
        Err(Error::TableTooLarge { size: 101, max: 100 })
    );
    // §4.2 of RFC 7541: the smallest of several bounds must be signalled.
    assert_eq!(
        shrunk(&[100, 4096], "82"),
        Err(Error::MissingTableSizeUpdate { max: 100 })
    );
    assert_eq!(
        shrunk(&[100, 4096], "3f e1 1f 82"),
        Err(Error::MissingTableSizeUpdate { max: 100 })
    );
    assert_eq!(shrunk(&[100, 4096], "3f 45 3f e1 1f 82"), Ok(()));
    assert_eq!(
        shrunk(&[100, 200], "3f 46 82"),
        Err(Error::MissingTableSizeUpdate { max: 100 })
    );
    assert_eq!(
        shrunk(&[200, 100], "3f 46 82"),
        Err(Error::TableTooLarge { size: 101, max: 100 })
    );
    // A larger bound asks for nothing, and a table that is small enough already need not shrink again.
    assert_eq!(shrunk(&[8192], "82"), Ok(()));
    let mut ends = Ends::new();
    ends.decode(&hex("20")).unwrap();
    ends.decoder.set_max_table_size(0);
    assert!(ends.decode(&hex("82")).is_ok());
}

#[test]
fn an_encoder_announces_the_smallest_and_the_last_size_before_its_next_block() {
    let mut encoder = Encoder::new();
    let block = |encoder: &mut Encoder| {
        let mut block = BytesMut::new();
        encoder.encode(&HeaderList::new(), &mut block);
        block.to_vec()
    };
    encoder.set_max_table_size(4096);
    assert_eq!(block(&mut encoder), hex(""), "nothing has changed");
    encoder.set_max_table_size(65_536);
    assert_eq!(block(&mut encoder), hex(""), "we use no more than 4096");
    encoder.set_max_table_size(0);
    encoder.set_max_table_size(100);
    assert_eq!(block(&mut encoder), hex("20 3f 45"), "to 0, then to 100");
    assert_eq!(block(&mut encoder), hex(""), "announced once");
    encoder.set_max_table_size(50);
    encoder.set_max_table_size(30);
    assert_eq!(block(&mut encoder), hex("3e"), "to 30");
    encoder.set_max_table_size(1 << 30);
    assert_eq!(block(&mut encoder), hex("3f e1 1f"), "back to 4096");
}

#[test]
fn lists_beyond_the_limit_are_cut_and_marked_but_the_table_goes_on() {
    let mut ends = Ends::new();
    let block = hex("40 01 61 01 62 40 01 63 01 64 40 01 65 01 66");
    let mut list = HeaderList::new();
    ends.decoder
        .decode(&block, &mut ends.fields, 68, &mut list)
        .unwrap();
    assert_eq!((pairs(&list), list.size()), (lines("a: b\nc: d"), 68));
    assert!(list.oversized());
    assert_eq!(ends.table(), lines("e: f\nc: d\na: b"));
    // What would fit again after the field that did not is left out as well: no list has a hole.
    let block = hex("40 01 61 04 62 62 62 62 40 01 63 01 64");
    ends.decoder
        .decode(&block, &mut ends.fields, 34, &mut list)
        .unwrap();
    assert!(list.is_empty() && list.oversized());
    ends.decode(&hex("40 01 65 01 66")).unwrap();
    // The list is as good as new for the next block.
    ends.decoder
        .decode(&hex("be"), &mut ends.fields, 34, &mut list)
        .unwrap();
    assert_eq!((pairs(&list), list.oversized()), (lines("e: f"), false));
}

#[test]
fn never_indexed_and_unindexed_fields_stay_so_even_where_a_table_has_them() {
    let mut ends = Ends::new();
    let indexed = ends.decode(&hex("40 01 61 01 62")).unwrap();
    assert_eq!(&ends.encode(&indexed)[..], hex("40 01 61 01 62"));
    assert_eq!(&ends.encode(&indexed)[..], hex("be"));
    for block in ["0f 2f 01 62", "1f 2f 01 62"] {
        let list = ends.decode(&hex(block)).unwrap();
        assert!(Rc::ptr_eq(
            &list.iter().next().unwrap().field,
            &indexed.iter().next().unwrap().field
        ));
        assert_eq!(&ends.encode(&list)[..], hex(block));
    }
}

#[test]
fn a_value_sent_once_is_not_put_into_the_table_beside_its_name() {
    let mut ends = Ends::new();
    let first = ends.decode(&hex("40 01 61 01 62")).unwrap();
    let other = ends.decode(&hex("7e 01 63")).unwrap();
    let mut block = BytesMut::new();
    let cases = [
        (&first, "40 01 61 01 62"),
        (&first, "be"),
        (&other, "0f 2f 01 63"),
        (&other, "7e 01 63"),
        (&other, "be"),
    ];
    for (list, expected) in cases {
        block.clear();
        ends.encoder.encode(list, &mut block);
        assert_eq!(&block[..], hex(expected));
    }
}

#[test]
fn odd_lengths_of_a_literal_are_made_regular_on_the_way() {
    // The length of the value, 127, in more bytes than it takes.
    let value = "62".repeat(127);
    let mut ends = Ends::new();
    let list = ends
        .decode(&hex(&format!("00 01 61 7f 80 80 80 00 {value}")))
        .unwrap();
    assert_eq!(&ends.encode(&list)[..], hex(&format!("00 01 61 7f 00 {value}")));
}

#[test]
fn a_literal_of_what_the_static_table_has_goes_out_as_an_index() {
    let mut ends = Ends::new();
    // `:method: POST`, plain and with a name of its own, and `:path: /` Huffman-coded.
    let list = ends
        .decode(&hex("40 07 3a6d6574686f64 04 504f5354 44 81 63"))
        .unwrap();
    assert_eq!(&ends.encode(&list)[..], hex("83 84"));
}

#[test]
fn a_name_stays_known_while_any_entry_has_it() {
    let mut ends = Ends::new();
    // Two entries named "a"; a table of two drives the older one out, then the name still has an index.
    ends.encoder.set_max_table_size(68);
    ends.encode(&HeaderList::new());
    for (block, expected) in [
        ("40 01 61 01 62", "40 01 61 01 62"),
        ("7e 01 63", "7e 01 63"),
        ("7f 00 01 64", "7e 01 64"),
    ] {
        let list = ends.decode(&hex(block)).unwrap();
        assert_eq!(&ends.encode(&list)[..], hex(expected));
    }
    // Entries of another name drive both out: the name is new again.
    for block in ["40 01 78 01 79", "7e 01 7a"] {
        let list = ends.decode(&hex(block)).unwrap();
        ends.encode(&list);
    }
    let list = ends.decode(&hex("40 01 61 01 65")).unwrap();
    assert_eq!(&ends.encode(&list)[..], hex("40 01 61 01 65"));
}
