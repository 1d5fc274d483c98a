//! What makes a header list a well-formed HTTP message section (RFC 9113 §8.1 to §8.3, §8.5).
//!
//! Fields by themselves are judged once, when they are interned ([`crate::hpack::Field::fault`]); this is about the list:
//! pseudo-fields, their order and number, CONNECT, content-length. A malformed message is a stream error `PROTOCOL_ERROR`.

use std::rc::Rc;

use crate::hpack::{Field, FieldFault, FieldKind, HeaderList};

/// Which message section a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Request,
    /// Informational (1xx) and final responses.
    Response,
    Trailers,
}

/// Why a message is malformed: a stream error `PROTOCOL_ERROR` (RFC 9113 §8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0}")]
    Field(#[from] FieldFault),
    #[error("a pseudo-field after a regular field")]
    PseudoAfterRegular,
    #[error("a pseudo-field twice")]
    DuplicatePseudo,
    #[error("a pseudo-field that does not belong into this message")]
    MisplacedPseudo,
    #[error("a pseudo-field is missing")]
    MissingPseudo,
    #[error("an empty :method, :scheme or :path, or a :path that does not begin with a slash")]
    PseudoValue,
    #[error("a :status that is not three digits from 100 on")]
    Status,
    #[error("CONNECT with a :scheme or :path, or without an :authority")]
    Connect,
    #[error("a content-length that is not one number")]
    ContentLength,
}

/// What a valid list says that the connection needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Summary {
    /// Bytes of content that the sender has announced.
    pub content_length: Option<u64>,
    /// Of a response: 100 to 999. Zero otherwise.
    pub status: u16,
    pub method: Method,
}

impl Summary {
    /// A response that another one follows.
    pub const fn is_informational(&self) -> bool {
        self.status / 100 == 1
    }
}

/// Methods whose messages follow rules of their own (RFC 9110 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    Other,
    /// Its response has no content, whatever its content-length.
    Head,
    Connect,
}

/// Whether `list` is well-formed as a `message`, and what it says. Extended CONNECT (RFC 8441) is not: we never offer it.
pub fn validate(list: &HeaderList, message: Message) -> Result<Summary, Malformed> {
    let mut pseudo = Pseudo::default();
    let mut regular_seen = false;
    let mut content_length = None;
    for entry in list {
        let field = &entry.field;
        if let Some(fault) = field.fault() {
            return Err(fault.into());
        }
        let kind = field.kind();
        if kind.is_pseudo() {
            if regular_seen {
                return Err(Malformed::PseudoAfterRegular);
            }
            pseudo.put(field)?;
            continue;
        }
        regular_seen = true;
        if kind == FieldKind::ContentLength {
            let length = parse_content_length(field.value()).ok_or(Malformed::ContentLength)?;
            if content_length
                .replace(length)
                .is_some_and(|earlier| earlier != length)
            {
                return Err(Malformed::ContentLength);
            }
        }
    }
    let (status, method) = match message {
        Message::Request => (0, pseudo.request()?),
        Message::Response => (pseudo.response()?, Method::Other),
        Message::Trailers if pseudo.is_empty() => (0, Method::Other),
        Message::Trailers => return Err(Malformed::MisplacedPseudo),
    };
    Ok(Summary {
        content_length,
        status,
        method,
    })
}

/// RFC 9110 §8.6: digits and nothing else. `None` also beyond 64 bits.
fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte & 0xf)),
        _ => None,
    })
}

/// The pseudo-fields of one list, each at most once.
#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a Rc<Field>>,
    scheme: Option<&'a Rc<Field>>,
    authority: Option<&'a Rc<Field>>,
    path: Option<&'a Rc<Field>>,
    protocol: Option<&'a Rc<Field>>,
    status: Option<&'a Rc<Field>>,
}

impl<'a> Pseudo<'a> {
    fn put(&mut self, field: &'a Rc<Field>) -> Result<(), Malformed> {
        let place = match field.kind() {
            FieldKind::Method => &mut self.method,
            FieldKind::Scheme => &mut self.scheme,
            FieldKind::Authority => &mut self.authority,
            FieldKind::Path => &mut self.path,
            FieldKind::Protocol => &mut self.protocol,
            FieldKind::Status => &mut self.status,
            _ => return Err(Malformed::MisplacedPseudo),
        };
        if place.replace(field).is_some() {
            Err(Malformed::DuplicatePseudo)
        } else {
            Ok(())
        }
    }

    fn is_empty(&self) -> bool {
        self.status.is_none() && !self.has_request_fields()
    }

    fn has_request_fields(&self) -> bool {
        [self.method, self.scheme, self.authority, self.path, self.protocol]
            .iter()
            .any(Option::is_some)
    }

    /// RFC 9113 §8.3.1, and §8.5 for CONNECT.
    fn request(&self) -> Result<Method, Malformed> {
        if self.status.is_some() || self.protocol.is_some() {
            return Err(Malformed::MisplacedPseudo);
        }
        let method = self.method.ok_or(Malformed::MissingPseudo)?.value();
        if method == b"CONNECT" {
            return match (self.scheme, self.path, self.authority) {
                (None, None, Some(authority)) if !authority.value().is_empty() => Ok(Method::Connect),
                _ => Err(Malformed::Connect),
            };
        }
        let scheme = self.scheme.ok_or(Malformed::MissingPseudo)?.value();
        let path = self.path.ok_or(Malformed::MissingPseudo)?.value();
        let http = scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
        // Other schemes have paths of their own form.
        let path_is_right = !http || path.starts_with(b"/") || (path == b"*" && method == b"OPTIONS");
        if method.is_empty() || scheme.is_empty() || !path_is_right {
            return Err(Malformed::PseudoValue);
        }
        Ok(if method == b"HEAD" {
            Method::Head
        } else {
            Method::Other
        })
    }

    /// RFC 9113 §8.3.2.
    fn response(&self) -> Result<u16, Malformed> {
        if self.has_request_fields() {
            return Err(Malformed::MisplacedPseudo);
        }
        let status = self.status.ok_or(Malformed::MissingPseudo)?.value();
        match *status {
            [hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
                let digits = [hundreds, tens, ones].map(|digit| u16::from(digit & 0xf));
                Ok(digits.into_iter().fold(0_u16, |number, digit| {
                    number.saturating_mul(10).saturating_add(digit)
                }))
            }
            _ => Err(Malformed::Status),
        }
    }
}
