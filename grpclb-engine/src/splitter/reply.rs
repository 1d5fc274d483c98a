//! Local replies: errors that we answer ourselves, in the form that the request's content type asks for, and no longer than
//! the client's `SETTINGS_MAX_HEADER_LIST_SIZE` allows. Which call gets one is decided in `answer`.

use std::fmt::Write as _;
use std::rc::Rc;

use bytes::Bytes;

use super::grpc_web;
use crate::hpack::{FIELD_OVERHEAD, Field, Fields, HeaderList, Indexing};

/// The gRPC status codes that we use (github.com/grpc/grpc/blob/master/doc/statuscodes.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    ResourceExhausted = 8,
    Unavailable = 14,
}

impl Status {
    const fn grpc(self) -> &'static str {
        match self {
            Self::ResourceExhausted => "8",
            Self::Unavailable => "14",
        }
    }
}

/// A content type longer than this is not repeated in the reply.
const LONGEST_CONTENT_TYPE: usize = 128;

/// The form of a local reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Status and message in trailers, or in the one header section of a response without content.
    Grpc,
    /// Trailers as a frame in the body.
    GrpcWeb,
    /// The same in base64.
    GrpcWebText,
    /// An HTTP status with a line of text.
    Plain,
}

impl Form {
    /// The form for a request with this content type: a gRPC type by itself, or with `+` and a message format, or with `;`
    /// and parameters. Media types are case-insensitive (RFC 9110 §8.3.1).
    pub(super) fn of(content_type: Option<&Rc<Field>>) -> Self {
        let Some(value) = content_type.map(|field| field.value()) else {
            return Self::Plain;
        };
        let is = |form: Self| {
            let name = form.content_type().as_bytes();
            value.split_at_checked(name.len()).is_some_and(|(start, rest)| {
                start.eq_ignore_ascii_case(name) && matches!(rest.first(), None | Some(b'+' | b';'))
            })
        };
        [Self::Grpc, Self::GrpcWeb, Self::GrpcWebText]
            .into_iter()
            .find(|&form| is(form))
            .unwrap_or(Self::Plain)
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Grpc => "application/grpc",
            Self::GrpcWeb => "application/grpc-web",
            Self::GrpcWebText => "application/grpc-web-text",
            Self::Plain => "text/plain; charset=utf-8",
        }
    }
}

/// An error for a call of which the client has seen nothing.
pub(super) struct Failure<'a> {
    pub(super) status: Status,
    /// The HTTP status for requests that are not gRPC.
    pub(super) http: &'static str,
    pub(super) message: &'a str,
    /// The request's.
    pub(super) content_type: Option<&'a Rc<Field>>,
    /// The request's method is HEAD: the reply has no content.
    pub(super) head: bool,
    /// The client's `SETTINGS_MAX_HEADER_LIST_SIZE`, in bytes.
    pub(super) limit: u32,
}

/// A whole response. Without content, its headers end the stream.
pub(super) struct Reply {
    pub(super) headers: Rc<HeaderList>,
    pub(super) content: Option<Bytes>,
}

impl Failure<'_> {
    /// The reply in the request's form; the message is shortened, and what is not needed left out, so that it fits.
    /// `None`: not even the least of it does.
    pub(super) fn reply(&self, fields: &mut Fields) -> Option<Reply> {
        let form = Form::of(self.content_type);
        let mut list = HeaderList::new();
        let status = if form == Form::Plain { self.http } else { "200" };
        push(fields, &mut list, ":status", status);
        let content = match form {
            Form::Grpc => {
                push(fields, &mut list, "grpc-status", self.status.grpc());
                self.push_content_type(fields, &mut list, form);
                push_message(fields, &mut list, self.message, self.limit);
                None
            }
            Form::GrpcWeb | Form::GrpcWebText => {
                self.push_content_type(fields, &mut list, form);
                let message = percent_encode(self.message, usize::MAX);
                let frame = grpc_web::trailers_frame(self.status.grpc(), &message);
                Some(if form == Form::GrpcWeb {
                    frame
                } else {
                    grpc_web::base64(&frame)
                })
            }
            Form::Plain => {
                let length = self.message.len().to_string();
                push_if_fits(fields, &mut list, "content-type", form.content_type(), self.limit);
                push_if_fits(fields, &mut list, "content-length", &length, self.limit);
                Some(self.message.as_bytes().to_vec())
            }
        };
        (list.size() <= self.limit as usize).then(|| Reply {
            headers: Rc::new(list),
            content: content.filter(|_| !self.head).map(Bytes::from),
        })
    }

    /// Pushes the request's own content type, or the plain one of its form where that is too long.
    fn push_content_type(&self, fields: &mut Fields, list: &mut HeaderList, form: Form) {
        let own = self.content_type.filter(|field| {
            field.value().len() <= LONGEST_CONTENT_TYPE
                && list.size().saturating_add(field.size() as usize) <= self.limit as usize
        });
        match own {
            Some(field) => list.push(Rc::clone(field), Indexing::Index),
            None => push(fields, list, "content-type", form.content_type()),
        }
    }
}

/// Trailers for a gRPC response that cannot be finished; `None`: they do not fit into `limit`, the client's
/// `SETTINGS_MAX_HEADER_LIST_SIZE` in bytes.
pub(super) fn trailers(
    fields: &mut Fields,
    status: Status,
    message: &str,
    limit: u32,
) -> Option<Rc<HeaderList>> {
    let mut list = HeaderList::new();
    push(fields, &mut list, "grpc-status", status.grpc());
    push_message(fields, &mut list, message, limit);
    (list.size() <= limit as usize).then(|| Rc::new(list))
}

fn push(fields: &mut Fields, list: &mut HeaderList, name: &str, value: &str) {
    list.push(fields.intern(name.as_bytes(), value.as_bytes()), Indexing::Index);
}

fn push_if_fits(fields: &mut Fields, list: &mut HeaderList, name: &str, value: &str, limit: u32) {
    let size = [name.len(), value.len(), FIELD_OVERHEAD as usize]
        .into_iter()
        .fold(list.size(), usize::saturating_add);
    if size <= limit as usize {
        push(fields, list, name, value);
    }
}

/// Pushes as much of the message as fits.
fn push_message(fields: &mut Fields, list: &mut HeaderList, message: &str, limit: u32) {
    const NAME: &str = "grpc-message";
    let taken = list
        .size()
        .saturating_add(const { NAME.len() + FIELD_OVERHEAD as usize });
    let message = percent_encode(message, (limit as usize).saturating_sub(taken));
    if !message.is_empty() {
        // Messages differ: they would only push useful fields out of the tables.
        let field = fields.intern(NAME.as_bytes(), message.as_bytes());
        list.push(field, Indexing::Without);
    }
}

/// As the gRPC protocol wants `grpc-message`: all but printable ASCII, and the percent sign, as `%XX`. Ends before the
/// character that would make it longer than `most` bytes.
fn percent_encode(message: &str, most: usize) -> String {
    let mut encoded = String::new();
    for character in message.chars() {
        let end = encoded.len();
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            if matches!(byte, b' '..=b'~') && byte != b'%' {
                encoded.push(char::from(byte));
            } else {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        if encoded.len() > most {
            encoded.truncate(end);
            break;
        }
    }
    // A field's value must not end with a space (RFC 9113 §8.2.1).
    encoded.truncate(encoded.trim_end().len());
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &mut Fields, content_type: &str) -> Form {
        Form::of(Some(&fields.intern(b"content-type", content_type.as_bytes())))
    }

    #[test]
    fn messages_are_percent_encoded_as_grpc_asks() {
        let message = "grpclb-agent/n1: 100% ü\n";
        assert_eq!(
            percent_encode(message, usize::MAX),
            "grpclb-agent/n1: 100%25 %C3%BC%0A"
        );
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let cuts = ["", "", "", "", "", "", "%C3%BC", "%C3%BC", "%C3%BC a"];
        for (most, expected) in cuts.into_iter().enumerate() {
            assert_eq!(percent_encode("ü a", most), expected, "{most} bytes");
        }
    }

    #[test]
    fn exact_content_types_decide_the_form() {
        let mut fields = Fields::new(1 << 20, 7);
        for (content_type, expected) in [
            ("application/grpc", Form::Grpc),
            ("Application/gRPC", Form::Grpc),
            ("application/grpc+proto", Form::Grpc),
            ("application/grpc;charset=utf-8", Form::Grpc),
            ("application/grpc-web", Form::GrpcWeb),
            ("application/grpc-web+proto", Form::GrpcWeb),
            ("application/grpc-web-text", Form::GrpcWebText),
            ("application/grpc-web-text+proto;a=b", Form::GrpcWebText),
            ("application/grpcfoo", Form::Plain),
            ("application/grpc-webfoo", Form::Plain),
            ("application/grpc-foo", Form::Plain),
            ("application/grp", Form::Plain),
            ("text/html", Form::Plain),
            ("", Form::Plain),
        ] {
            assert_eq!(form(&mut fields, content_type), expected, "{content_type}");
        }
        assert_eq!(Form::of(None), Form::Plain);
    }

    /// Whatever the limit: a reply never exceeds it, and says more the more it may.
    #[test]
    fn replies_fit_into_every_limit() {
        let mut fields = Fields::new(1 << 20, 7);
        let message = "grpclb-agent/n1: 100 % of ü ".repeat(20);
        for content_type in ["application/grpc+proto", "application/grpc-web", "text/html"] {
            let content_type = fields.intern(b"content-type", content_type.as_bytes());
            let mut before = 0;
            for limit in 0..2000 {
                let failure = Failure {
                    status: Status::Unavailable,
                    http: "503",
                    message: &message,
                    content_type: Some(&content_type),
                    head: false,
                    limit,
                };
                let size = failure.reply(&mut fields).map_or(0, |reply| reply.headers.size());
                assert!(size <= limit as usize && size + 70 > before, "limit {limit}");
                before = before.max(size);
                let trailers = trailers(&mut fields, Status::Unavailable, &message, limit);
                assert!(trailers.is_none_or(|list| list.size() <= limit as usize));
            }
            assert!(before > 42);
        }
    }
}
