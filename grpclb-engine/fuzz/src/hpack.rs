//! HPACK: any bytes are fields or an error, within bounds; and what is decoded survives our encoder.

use bytes::BytesMut;
use grpclb_engine::hpack::{Decoder, Encoder, Fields, HeaderList, Indexing};
use grpclb_engine::message::{Message, validate};

const TABLE: u32 = 300;
const LIST: u32 = 4000;
const INTERNED: usize = 8000;

/// Blocks of one connection, each behind a byte with its length; 255 stands for a change of the table's size.
pub fn run(data: &[u8]) {
    let mut near = (Decoder::new(TABLE), Fields::new(INTERNED, 1));
    let mut far = (Decoder::new(4096), Fields::new(INTERNED, 2));
    let mut encoder = Encoder::new();
    let (mut list, mut received) = (HeaderList::new(), HeaderList::new());
    let mut rest = data;
    while let Some((&len, after)) = rest.split_first() {
        if let (255, Some((&size, after))) = (len, after.split_first()) {
            near.0.set_max_table_size(u32::from(size));
            encoder.set_max_table_size(u32::from(size) * 20);
            far.0.set_max_table_size(u32::from(size) * 20);
            rest = after;
            continue;
        }
        let (block, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        let result = near.0.decode(block, &mut near.1, LIST, &mut list);
        assert!(
            near.0.table_size() <= TABLE,
            "a table of {} bytes",
            near.0.table_size()
        );
        assert!(
            near.1.footprint() <= INTERNED,
            "{} bytes interned",
            near.1.footprint()
        );
        assert!(list.size() <= LIST as usize);
        if result.is_err() {
            return;
        }
        for message in [Message::Request, Message::Response, Message::Trailers] {
            // Any verdict will do, as long as there is one.
            let _ = validate(&list, message);
        }
        let mut relayed = BytesMut::new();
        encoder.encode(&list, &mut relayed);
        far.0
            .decode(&relayed, &mut far.1, LIST, &mut received)
            .expect("what our encoder writes");
        assert_eq!(encoder.table_size(), far.0.table_size());
        assert_eq!(list.len(), received.len());
        for (sent, arrived) in list.iter().zip(&received) {
            assert_eq!(
                (sent.field.name(), sent.field.value()),
                (arrived.field.name(), arrived.field.value())
            );
            assert_eq!(
                sent.indexing == Indexing::Never,
                arrived.indexing == Indexing::Never
            );
        }
    }
}
