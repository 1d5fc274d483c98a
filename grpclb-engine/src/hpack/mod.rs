//! HPACK (RFC 7541), made for relaying header fields from one connection's context to another's.
//!
//! One [`Fields`] per client pod interns each header field that its connections carry: decoded, validated and given an
//! id once, with the literal kept as it came. A [`Decoder`] (one a connection) turns a field block into a
//! [`HeaderList`] of shared [`Field`]s: an indexed field is a table lookup and a reference count. An [`Encoder`] (one a
//! connection) writes such a list: a field in its table is one lookup by id, any other one a copy of the literal as
//! received, so relaying does no Huffman work.
//!
//! What makes a list a valid request or response is [`crate::message`]'s subject, not this room's.

#[expect(clippy::arithmetic_side_effects, reason = "sizes of what is in memory")]
mod decoder;
#[expect(clippy::arithmetic_side_effects, reason = "sizes of what is in memory")]
mod encoder;
mod error;
#[expect(clippy::arithmetic_side_effects, reason = "sizes of what is in memory")]
mod field;
#[expect(clippy::arithmetic_side_effects, reason = "sizes of what is in memory")]
mod fields;
#[expect(
    clippy::arithmetic_side_effects,
    reason = "bit counts of at most 64, of codes of at most 30 bits"
)]
pub mod huffman;
#[expect(
    clippy::arithmetic_side_effects,
    reason = "at most five groups of seven bits, in 64"
)]
mod integer;
#[expect(clippy::arithmetic_side_effects, reason = "sizes of what is in memory")]
mod list;
mod lists;
mod literal;
mod partial;
mod static_table;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use error::Error;
pub use field::{Field, FieldFault, FieldKind, Name};
pub use fields::Fields;
pub use list::{HeaderField, HeaderList, Indexing};

/// What an entry takes beyond its name and value, in tables (RFC 7541 §4.1) and in lists (RFC 9113 §6.5.2).
pub const FIELD_OVERHEAD: u32 = 32;

/// Most fields of one list. Each costs memory and work whatever its size, and a table lets a peer name one with a byte.
pub const MAX_FIELDS: usize = 1000;

/// `SETTINGS_HEADER_TABLE_SIZE` before any SETTINGS (RFC 9113 §6.5.2), and the most that we use of a peer's table.
pub const DEFAULT_TABLE_SIZE: u32 = 4096;
