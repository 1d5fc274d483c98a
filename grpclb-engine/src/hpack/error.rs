//! Why a field block cannot be decoded.

/// The peer's field block is broken. The decoder's table may no longer match the peer's, so each of these is a
/// connection error `COMPRESSION_ERROR` (RFC 9113 §4.3, RFC 7541 §2 and §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the peer's field block ends within a field")]
    Truncated,
    /// RFC 7541 §5.1: more than 32 bits, or more bytes than those take.
    #[error("the peer's field block holds an integer that is too large")]
    IntegerOverflow,
    /// RFC 7541 §5.2: a code of the end-of-string symbol, or padding that is longer than 7 bits or not all ones.
    #[error("the peer's field block holds a broken Huffman string")]
    Huffman,
    /// RFC 7541 §2.3.3 and §6.1.
    #[error("the peer's field block refers to entry {index}, which its table does not have")]
    UnknownIndex { index: u32 },
    /// RFC 7541 §6.3.
    #[error("the peer wants a table of {size} bytes, we allow {max}")]
    TableTooLarge { size: u32, max: u32 },
    /// RFC 7541 §4.2.
    #[error("the peer changes its table's size after the first field of a block")]
    LateTableSizeUpdate,
    /// RFC 9113 §4.3.1.
    #[error(
        "the peer acknowledged a smaller table, but does not begin its field block by shrinking it to {max} bytes"
    )]
    MissingTableSizeUpdate { max: u32 },
}
