//! Bytes in, frames out: the only parser of frames. It never waits for a whole DATA frame and copies no payload.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Error, ErrorCode, FRAME_HEADER_LEN, Frame, MAX_WINDOW, Priority, SettingsPayload, StreamId, flag, kind,
};

/// Least bytes of DATA to hand on before the end of their frame. A sender whose bytes trickle in must not become, through
/// us, one of many tiny frames: receivers end connections for those, and ours are shared.
const MIN_PIECE: usize = 1024;

/// Reads the frames of one connection, in whatever pieces they arrive.
///
/// After a connection error the reader must not be asked again; after a stream error it goes on with the next frame.
#[derive(Debug, Default)]
pub struct Reader {
    /// A frame whose payload is handed on or dropped as it arrives.
    open: Open,
    /// Nothing but this stream's CONTINUATION may come next (RFC 9113 §4.3).
    block: Option<StreamId>,
}

#[derive(Debug, Default)]
enum Open {
    #[default]
    Nothing,
    Data {
        stream: StreamId,
        /// Data still to come, above zero.
        left: u32,
        /// Padding that follows it.
        padding: u32,
        end_stream: bool,
    },
    /// Padding, or a frame that nobody wants.
    Skip { left: u32 },
}

struct FrameHeader {
    len: u32,
    kind: u8,
    flags: u8,
    stream: StreamId,
}

impl Reader {
    pub fn new() -> Self {
        Self::default()
    }

    /// A piece of a DATA frame has been handed on, and more of its data is to come.
    pub const fn is_within_data(&self) -> bool {
        matches!(self.open, Open::Data { .. })
    }

    /// The next frame or piece of DATA in `input`, which loses what was read. `None`: more input is needed.
    ///
    /// `max_frame_size` is what our SETTINGS allow. A longer frame is a connection error whatever its type, as
    /// RFC 9113 §4.2 demands for most of them and §5.4.1 allows for the others.
    pub fn next(&mut self, input: &mut BytesMut, max_frame_size: u32) -> Result<Option<Frame>, Error> {
        match self.open {
            Open::Nothing => {}
            Open::Data {
                stream,
                left,
                padding,
                end_stream,
            } => {
                return Ok(self.data_piece(input, stream, left, padding, end_stream, 0));
            }
            Open::Skip { left } => {
                if !self.skip(input, left) {
                    return Ok(None);
                }
            }
        }
        let Some(header) = FrameHeader::peek(input) else {
            return Ok(None);
        };
        if header.len > max_frame_size {
            return Err(Error::TooLong {
                len: header.len,
                max: max_frame_size,
            });
        }
        match self.block {
            Some(stream) if header.kind != kind::CONTINUATION || header.stream != stream => {
                return Err(Error::BlockInterrupted { stream });
            }
            None if header.kind == kind::CONTINUATION => {
                header.on_stream("CONTINUATION")?;
                return Err(Error::NothingToContinue {
                    stream: header.stream,
                });
            }
            _ => {}
        }
        match header.kind {
            kind::DATA => self.data(&header, input),
            kind::HEADERS
            | kind::PRIORITY
            | kind::RST_STREAM
            | kind::SETTINGS
            | kind::PUSH_PROMISE
            | kind::PING
            | kind::GOAWAY
            | kind::WINDOW_UPDATE
            | kind::CONTINUATION => self.whole(&header, input).transpose(),
            unknown => {
                input.advance(FRAME_HEADER_LEN);
                self.skip(input, header.len);
                Ok(Some(Frame::Unknown {
                    kind: unknown,
                    stream: header.stream,
                    len: header.len,
                }))
            }
        }
    }

    /// Begins a DATA frame (RFC 9113 §6.1). Its header stays in `input` until a piece of its data is there as well.
    fn data(&mut self, header: &FrameHeader, input: &mut BytesMut) -> Result<Option<Frame>, Error> {
        header.on_stream("DATA")?;
        let mut before = FRAME_HEADER_LEN;
        let (mut left, mut padding) = (header.len, 0);
        if header.has(flag::PADDED) {
            if left == 0 {
                return Err(Error::WrongLength {
                    frame: "DATA",
                    len: 0,
                });
            }
            let Some(&pad_length) = input.get(FRAME_HEADER_LEN) else {
                return Ok(None);
            };
            before += 1;
            padding = u32::from(pad_length);
            left = (left - 1)
                .checked_sub(padding)
                .ok_or(Error::Padding { frame: "DATA" })?;
        }
        if !is_piece(input.len() - before, left) {
            return Ok(None);
        }
        input.advance(before);
        Ok(self.data_piece(
            input,
            header.stream,
            left,
            padding,
            header.has(flag::END_STREAM),
            header.len,
        ))
    }

    /// Hands on what has arrived of `left` bytes of data.
    fn data_piece(
        &mut self,
        input: &mut BytesMut,
        stream: StreamId,
        left: u32,
        padding: u32,
        end_stream: bool,
        flow_controlled: u32,
    ) -> Option<Frame> {
        let here = input.len().min(left as usize);
        if !is_piece(here, left) {
            return None;
        }
        let chunk = take(input, here);
        let left = left - here as u32;
        if left == 0 {
            self.skip(input, padding);
        } else {
            self.open = Open::Data {
                stream,
                left,
                padding,
                end_stream,
            };
        }
        Some(Frame::Data {
            stream,
            chunk,
            flow_controlled,
            end_stream: end_stream && left == 0,
        })
    }

    /// Drops `left` bytes, now or as they arrive; whether all of them were there.
    fn skip(&mut self, input: &mut BytesMut, left: u32) -> bool {
        let here = input.len().min(left as usize);
        input.advance(here);
        let left = left - here as u32;
        self.open = if left == 0 {
            Open::Nothing
        } else {
            Open::Skip { left }
        };
        left == 0
    }

    /// A frame that is handed over whole. Its length is checked before its payload is waited for.
    fn whole(&mut self, header: &FrameHeader, input: &mut BytesMut) -> Option<Result<Frame, Error>> {
        if let Err(error) = header.check() {
            return Some(Err(error));
        }
        let end = FRAME_HEADER_LEN + header.len as usize;
        if input.len() < end {
            return None;
        }
        let frame = if header.keeps_payload() {
            input.advance(FRAME_HEADER_LEN);
            header.parse_shared(input.split_to(header.len as usize))
        } else {
            let frame = header.parse_fixed(&input[FRAME_HEADER_LEN..end]);
            input.advance(end);
            frame
        };
        if let Ok(
            Frame::Headers {
                stream, end_headers, ..
            }
            | Frame::Continuation {
                stream, end_headers, ..
            },
        ) = frame
        {
            self.block = (!end_headers).then_some(stream);
        }
        Some(frame)
    }
}

impl FrameHeader {
    fn peek(input: &[u8]) -> Option<Self> {
        let &[l0, l1, l2, kind, flags, s0, s1, s2, s3] = input.first_chunk::<FRAME_HEADER_LEN>()?;
        Some(Self {
            len: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: StreamId::new(u32::from_be_bytes([s0, s1, s2, s3])),
        })
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn on_stream(&self, frame: &'static str) -> Result<(), Error> {
        if self.stream.is_connection() {
            Err(Error::NotOnConnection { frame })
        } else {
            Ok(())
        }
    }

    fn on_connection(&self, frame: &'static str) -> Result<(), Error> {
        if self.stream.is_connection() {
            Ok(())
        } else {
            Err(Error::NotOnStream {
                frame,
                stream: self.stream,
            })
        }
    }

    fn length(&self, frame: &'static str, right: impl FnOnce(u32) -> bool) -> Result<(), Error> {
        if right(self.len) {
            Ok(())
        } else {
            Err(Error::WrongLength { frame, len: self.len })
        }
    }

    /// What the nine bytes of the header show to be wrong: connection errors all of them.
    fn check(&self) -> Result<(), Error> {
        match self.kind {
            kind::HEADERS => {
                self.on_stream("HEADERS")?;
                let least = u32::from(self.has(flag::PADDED)) + if self.has(flag::PRIORITY) { 5 } else { 0 };
                self.length("HEADERS", |len| len >= least)
            }
            kind::CONTINUATION => self.on_stream("CONTINUATION"),
            // A wrong length is a stream error, and so waits for the payload to be skipped.
            kind::PRIORITY => self.on_stream("PRIORITY"),
            kind::RST_STREAM => {
                self.on_stream("RST_STREAM")?;
                self.length("RST_STREAM", |len| len == 4)
            }
            kind::SETTINGS => {
                self.on_connection("SETTINGS")?;
                self.length("SETTINGS", |len| {
                    if self.has(flag::ACK) {
                        len == 0
                    } else {
                        len.is_multiple_of(6)
                    }
                })
            }
            kind::PUSH_PROMISE => {
                self.on_stream("PUSH_PROMISE")?;
                self.length("PUSH_PROMISE", |len| len >= 4 + u32::from(self.has(flag::PADDED)))
            }
            kind::PING => {
                self.on_connection("PING")?;
                self.length("PING", |len| len == 8)
            }
            kind::GOAWAY => {
                self.on_connection("GOAWAY")?;
                self.length("GOAWAY", |len| len >= 8)
            }
            kind::WINDOW_UPDATE => self.length("WINDOW_UPDATE", |len| len == 4),
            _ => Ok(()),
        }
    }

    /// Whether the frame hands on a part of its payload, and so shares its memory.
    const fn keeps_payload(&self) -> bool {
        match self.kind {
            kind::HEADERS | kind::CONTINUATION | kind::GOAWAY => true,
            kind::SETTINGS => !self.has(flag::ACK),
            _ => false,
        }
    }

    /// The frame in `payload`, whose length [`Self::check`] has found right.
    fn parse_shared(&self, mut payload: BytesMut) -> Result<Frame, Error> {
        let stream = self.stream;
        match self.kind {
            kind::HEADERS => {
                let padding = if self.has(flag::PADDED) {
                    payload.get_u8()
                } else {
                    0
                };
                let priority = self.has(flag::PRIORITY).then(|| parse_priority(&mut payload));
                let block = payload.len().checked_sub(padding.into());
                payload.truncate(block.ok_or(Error::Padding { frame: "HEADERS" })?);
                Ok(Frame::Headers {
                    stream,
                    fragment: payload.freeze(),
                    end_stream: self.has(flag::END_STREAM),
                    end_headers: self.has(flag::END_HEADERS),
                    priority,
                })
            }
            kind::CONTINUATION => Ok(Frame::Continuation {
                stream,
                fragment: payload.freeze(),
                end_headers: self.has(flag::END_HEADERS),
            }),
            kind::GOAWAY => Ok(Frame::GoAway {
                last_stream: StreamId::new(payload.get_u32()),
                code: ErrorCode(payload.get_u32()),
                debug: payload.freeze(),
            }),
            _ => SettingsPayload::parse(payload.freeze()).map(Frame::Settings),
        }
    }

    /// The same for frames of a few numbers, which are copied.
    fn parse_fixed(&self, mut payload: &[u8]) -> Result<Frame, Error> {
        let stream = self.stream;
        match self.kind {
            kind::PRIORITY if payload.len() == 5 => Ok(Frame::Priority {
                stream,
                priority: parse_priority(&mut payload),
            }),
            kind::PRIORITY => Err(Error::PriorityLength {
                stream,
                len: self.len,
            }),
            kind::RST_STREAM => Ok(Frame::RstStream {
                stream,
                code: ErrorCode(payload.get_u32()),
            }),
            kind::PUSH_PROMISE => {
                let padding = if self.has(flag::PADDED) {
                    payload.get_u8()
                } else {
                    0
                };
                let promised = StreamId::new(payload.get_u32());
                if payload.len() < padding.into() {
                    return Err(Error::Padding {
                        frame: "PUSH_PROMISE",
                    });
                }
                if !promised.is_server_initiated() {
                    return Err(Error::PromisedStream { promised });
                }
                Ok(Frame::PushPromise { stream, promised })
            }
            kind::PING => Ok(Frame::Ping {
                ack: self.has(flag::ACK),
                payload: payload.get_u64().to_be_bytes(),
            }),
            kind::WINDOW_UPDATE => match payload.get_u32() & MAX_WINDOW {
                0 if stream.is_connection() => Err(Error::ZeroIncrement),
                0 => Err(Error::ZeroStreamIncrement { stream }),
                increment => Ok(Frame::WindowUpdate { stream, increment }),
            },
            _ => Ok(Frame::SettingsAck),
        }
    }
}

/// Whether `here` of `left` bytes of data are enough to hand on.
fn is_piece(here: usize, left: u32) -> bool {
    here >= MIN_PIECE.min(left as usize)
}

fn parse_priority(payload: &mut impl Buf) -> Priority {
    let dependency = payload.get_u32();
    Priority {
        depends_on: StreamId::new(dependency),
        exclusive: dependency >> 31 == 1,
        weight: payload.get_u8(),
    }
}

/// The first `len` bytes, sharing `input`'s memory.
fn take(input: &mut BytesMut, len: usize) -> Bytes {
    if len == 0 {
        Bytes::new()
    } else {
        input.split_to(len).freeze()
    }
}
