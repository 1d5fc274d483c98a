//! A header field as the interner keeps it: decoded, judged once, and with its literal as it came.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use bytes::BytesMut;

use super::FIELD_OVERHEAD;
use super::literal::Literal;

/// What a field's name means to an HTTP/2 intermediary or to gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`
    Authority,
    /// `:path`
    Path,
    /// `:protocol` (RFC 8441)
    Protocol,
    /// `:status`
    Status,
    /// Any other name that begins with a colon.
    UnknownPseudo,
    /// `connection`, `proxy-connection`, `keep-alive`, `transfer-encoding`, `upgrade` (RFC 9113 §8.2.2)
    ConnectionSpecific,
    /// `te`, which may say `trailers` and nothing else.
    Te,
    /// `content-length`
    ContentLength,
    /// `content-type`
    ContentType,
    /// `grpc-timeout`
    GrpcTimeout,
    /// `grpc-status`
    GrpcStatus,
    /// Everything else.
    Regular,
}

impl FieldKind {
    pub const fn is_pseudo(self) -> bool {
        matches!(
            self,
            Self::Method
                | Self::Scheme
                | Self::Authority
                | Self::Path
                | Self::Protocol
                | Self::Status
                | Self::UnknownPseudo
        )
    }

    fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            [b':', ..] => Self::UnknownPseudo,
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
                Self::ConnectionSpecific
            }
            b"te" => Self::Te,
            b"content-length" => Self::ContentLength,
            b"content-type" => Self::ContentType,
            b"grpc-timeout" => Self::GrpcTimeout,
            b"grpc-status" => Self::GrpcStatus,
            _ => Self::Regular,
        }
    }
}

/// Why a field makes the message that carries it malformed (RFC 9113 §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FieldFault {
    #[error("a field without a name")]
    EmptyName,
    #[error(
        "a field name with upper-case, control or other forbidden characters, or of more than 65535 bytes"
    )]
    Name,
    #[error("a pseudo-field that HTTP/2 does not know")]
    UnknownPseudo,
    #[error(
        "a field value that holds a control character, or a pseudo-field, content-length or te that begins or ends with a space or tab"
    )]
    Value,
    #[error("a :method that is no token, or a :scheme, :authority or :path that is not UTF-8")]
    PseudoBytes,
    #[error("a connection-specific field, which HTTP/2 forbids")]
    ConnectionSpecific,
    #[error("a te field that says more than trailers")]
    Te,
}

/// A field's name. Equal names of one [`super::Fields`] are one object.
pub struct Name {
    pub(super) id: u64,
    text: Box<[u8]>,
    /// The literal as it first came, with its length in front.
    wire: Box<[u8]>,
    kind: FieldKind,
    fault: Option<FieldFault>,
    static_index: u8,
    /// Kept by the interner, which counts its memory.
    interned: Cell<bool>,
}

impl Name {
    /// `static_index`: the first entry of the static table with this name, or zero.
    pub(super) fn new(id: u64, text: &[u8], literal: Literal<'_>, static_index: u8) -> Self {
        let kind = FieldKind::of(text);
        let mut wire = BytesMut::with_capacity(literal.payload.len() + 2);
        literal.write(&mut wire);
        Self {
            id,
            text: text.into(),
            wire: wire.as_ref().into(),
            kind,
            fault: name_fault(text, kind),
            static_index,
            interned: Cell::new(static_index != 0),
        }
    }

    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The string literal (RFC 7541 §5.2) to send, length and Huffman bit included.
    pub(super) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The first entry of the static table with this name.
    pub(super) fn static_index(&self) -> Option<u32> {
        (self.static_index != 0).then_some(self.static_index.into())
    }

    /// Bytes of memory that the name takes.
    pub(super) fn footprint(&self) -> usize {
        SHARED + size_of::<Self>() + boxed(&self.text) + boxed(&self.wire)
    }

    pub(super) fn set_interned(&self, interned: bool) {
        self.interned.set(interned);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text.escape_ascii())
    }
}

/// A name and a value, shared as `Rc<Field>` by every list and table of a pod that holds them.
pub struct Field {
    pub(super) id: u64,
    pub(super) name: Rc<Name>,
    /// The literal's payload as received; where that is Huffman-coded, the decoded value follows it.
    data: Box<[u8]>,
    payload_len: u32,
    size: u32,
    huffman: bool,
    fault: Option<FieldFault>,
    sent: Cell<bool>,
    /// Kept by the interner, which counts its memory.
    interned: Cell<bool>,
}

impl Field {
    /// `value` is what `literal` says.
    pub(super) fn new(id: u64, name: Rc<Name>, value: &[u8], literal: Literal<'_>) -> Self {
        let data = if literal.huffman {
            [literal.payload, value].concat().into()
        } else {
            value.into()
        };
        let fault = name.fault.or_else(|| value_fault(value, name.kind));
        let size = (name.text.len() + value.len()) as u32 + FIELD_OVERHEAD;
        Self {
            id,
            name,
            data,
            payload_len: literal.payload.len() as u32,
            size,
            huffman: literal.huffman,
            fault,
            sent: Cell::new(false),
            interned: Cell::new(false),
        }
    }

    /// Pseudo-fields with their colon.
    pub fn name(&self) -> &[u8] {
        &self.name.text
    }

    pub fn value(&self) -> &[u8] {
        if self.huffman {
            &self.data[self.payload_len as usize..]
        } else {
            &self.data
        }
    }

    /// The value as received.
    pub(super) fn literal(&self) -> Literal<'_> {
        Literal {
            huffman: self.huffman,
            payload: &self.data[..self.payload_len as usize],
        }
    }

    pub fn kind(&self) -> FieldKind {
        self.name.kind
    }

    /// `Some`: a message with this field is malformed. Judged once, when the field was interned.
    pub fn fault(&self) -> Option<FieldFault> {
        self.fault
    }

    /// Bytes of name and value, and 32 (RFC 7541 §4.1).
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Notes that an encoder sends this field; whether one has done so before.
    pub(super) fn mark_sent(&self) -> bool {
        self.sent.replace(true)
    }

    /// Bytes of memory that the field takes, its name aside.
    pub(super) fn footprint(&self) -> usize {
        SHARED + size_of::<Self>() + boxed(&self.data)
    }

    /// Bytes of memory that are there only for those who hold the field: its own and its name's where the interner, which is
    /// bounded, does not keep them.
    #[inline]
    pub(super) fn unshared_memory(&self) -> usize {
        if self.interned.get() {
            0
        } else {
            self.measure_unshared()
        }
    }

    #[cold]
    fn measure_unshared(&self) -> usize {
        let name = if self.name.interned.get() {
            0
        } else {
            self.name.footprint()
        };
        self.footprint() + name
    }

    pub(super) fn set_interned(&self, interned: bool) {
        self.interned.set(interned);
    }
}

/// What an allocation costs beside its bytes: the allocator's header and rounding.
const ALLOCATION: usize = 16;

/// What an object behind an `Rc` costs beside itself.
const SHARED: usize = ALLOCATION + 2 * size_of::<usize>();

fn boxed(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        bytes.len() + ALLOCATION
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}",
            self.name().escape_ascii(),
            self.value().escape_ascii()
        )
    }
}

/// Bytes of the longest name that the h2 crate takes.
const LONGEST_NAME: usize = 0xffff;

/// RFC 9113 §8.2.2, and §8.2.1 with the stricter rule that it refers to: a name is a token (RFC 9110 §5.1). What is none ends the
/// connection of some stacks (the h2 crate), and ours are shared.
fn name_fault(name: &[u8], kind: FieldKind) -> Option<FieldFault> {
    match kind {
        FieldKind::UnknownPseudo => return Some(FieldFault::UnknownPseudo),
        FieldKind::ConnectionSpecific => return Some(FieldFault::ConnectionSpecific),
        FieldKind::Regular => {}
        _ => return None,
    }
    if name.is_empty() {
        return Some(FieldFault::EmptyName);
    }
    let forbidden = |byte: &u8| !is_token(*byte) || byte.is_ascii_uppercase();
    (name.len() > LONGEST_NAME || name.iter().any(forbidden)).then_some(FieldFault::Name)
}

/// RFC 9110 §5.6.2
const fn is_token(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~'
    ) || byte.is_ascii_alphanumeric()
}

/// RFC 9113 §8.2.1, and §8.2.2 for `te`.
///
/// Control characters are malformed, beyond the RFC's minimum of NUL, CR and LF: HTTP has none in values (RFC 9110 §5.5), strict
/// stacks reset the stream, and the h2 crate ends the connection. The same goes for pseudo-fields that it cannot read.
///
/// Spaces and tabs at the ends of a regular field's value pass, against §8.2.1: gRPC's own stacks send them (an error text that
/// ends with one) and take them, and the call would work without us.
fn value_fault(value: &[u8], kind: FieldKind) -> Option<FieldFault> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let exact = kind.is_pseudo() || matches!(kind, FieldKind::ContentLength | FieldKind::Te);
    // Without a branch, so that several bytes are looked at at once.
    let control = |byte: u8| byte < b' ' && byte != b'\t' || byte == 0x7f;
    if value.iter().fold(false, |found, byte| found | control(*byte))
        || exact && (blank(value.first()) || blank(value.last()))
    {
        return Some(FieldFault::Value);
    }
    match kind {
        FieldKind::Te if !value.eq_ignore_ascii_case(b"trailers") => Some(FieldFault::Te),
        FieldKind::Method if !value.iter().all(|byte| is_token(*byte)) => Some(FieldFault::PseudoBytes),
        FieldKind::Scheme | FieldKind::Authority | FieldKind::Path if std::str::from_utf8(value).is_err() => {
            Some(FieldFault::PseudoBytes)
        }
        _ => None,
    }
}
