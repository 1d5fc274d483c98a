//! What clients note, and what backends do, when bytes reach them.

use grpclb_engine::connection::{Cause, Event, HeadersKind, StreamKey};
use grpclb_engine::frame::ErrorCode;

use super::{Behaviour, Outcome, World};

impl World {
    pub(super) fn client_events(&mut self, n: usize) {
        for event in self.clients[n].side.take_events() {
            match event {
                Event::Headers {
                    tag,
                    headers,
                    end_stream,
                    kind,
                    ..
                } => {
                    let call = &mut self.calls[tag as usize];
                    let text = |name: &str| {
                        headers
                            .get(name)
                            .map(|value| String::from_utf8_lossy(value).into_owned())
                            .unwrap_or_default()
                    };
                    if kind == HeadersKind::Response {
                        call.status = Some(text(":status"));
                        call.content_type = text("content-type");
                    }
                    if end_stream {
                        let http = call.status.clone().unwrap_or_default();
                        call.outcome = Some(Outcome::Status(http, text("grpc-status"), text("grpc-message")));
                    }
                }
                Event::Data {
                    stream,
                    tag,
                    chunk,
                    end_stream,
                } => {
                    self.clients[n]
                        .side
                        .connection
                        .release(stream, chunk.len() as u32);
                    let call = &mut self.calls[tag as usize];
                    call.body.extend_from_slice(&chunk);
                    if end_stream {
                        let http = call.status.clone().unwrap_or_default();
                        call.outcome = Some(Outcome::Status(http, String::new(), String::new()));
                    }
                }
                Event::Reset { tag, code, .. } => {
                    let call = &mut self.calls[tag as usize];
                    if call.outcome.is_none() {
                        call.outcome = Some(Outcome::Reset(code));
                    }
                }
                Event::GoAway { .. } => self.clients[n].goaways += 1,
                Event::Closed { .. } => {
                    for call in self
                        .calls
                        .iter_mut()
                        .filter(|call| call.client == n && call.outcome.is_none())
                    {
                        call.outcome = Some(Outcome::Lost);
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn backend_events(&mut self, n: usize) {
        let link = &mut self.links[n];
        let backend = &mut self.backends[link.backend];
        for event in link.side.take_events() {
            // A call keeps to what its backend did when it began.
            let of = |stream: StreamKey| link.calls.get(&stream).map(|call| call.1);
            let behaviour = match &event {
                Event::Headers { stream, .. } | Event::Data { stream, .. } => {
                    of(*stream).unwrap_or(backend.behaviour)
                }
                _ => backend.behaviour,
            };
            match event {
                Event::Headers {
                    stream,
                    headers,
                    end_stream,
                    kind: HeadersKind::Request,
                    ..
                } => {
                    backend.heard = headers.iter().map(|entry| format!("{:?}", entry.field)).collect();
                    let number = headers.get("call").expect("every call has its number");
                    let number: u32 = String::from_utf8_lossy(number).parse().expect("a number");
                    if behaviour == Behaviour::Refuse {
                        link.side.connection.reset(stream, ErrorCode::REFUSED_STREAM);
                        continue;
                    }
                    *backend.ran.entry(number).or_default() += 1;
                    link.calls.insert(stream, (number, behaviour));
                    match behaviour {
                        Behaviour::Silent | Behaviour::Refuse => {}
                        Behaviour::Reset(code) => link.side.connection.reset(stream, code),
                        Behaviour::HeadersThenReset(code) => {
                            link.side.respond(stream, false);
                            let sent = link.side.drain(self.now);
                            link.wire.to_splitter.push_back((self.now + self.delay, sent));
                            link.side.connection.reset(stream, code);
                        }
                        Behaviour::Early | Behaviour::EarlyReset | Behaviour::EarlyResetAfter(_) => {
                            link.side.respond(stream, false);
                            match behaviour {
                                Behaviour::EarlyResetAfter(bytes) => {
                                    link.side.data(stream, &vec![7; bytes], false);
                                }
                                _ => link.side.data(stream, b"early", false),
                            }
                            link.side.trailers(stream);
                            if behaviour != Behaviour::Early {
                                link.side.connection.reset(stream, ErrorCode::NO_ERROR);
                            }
                        }
                        Behaviour::Echo | Behaviour::Hold | Behaviour::NoCredit => {
                            link.side.respond(stream, false);
                            if end_stream && behaviour != Behaviour::Hold {
                                link.side.trailers(stream);
                            }
                        }
                    }
                }
                Event::Headers { stream, .. } if behaviour == Behaviour::Echo => link.side.trailers(stream),
                Event::Data {
                    stream,
                    chunk,
                    end_stream,
                    ..
                } => {
                    if behaviour != Behaviour::NoCredit {
                        link.side.connection.release(stream, chunk.len() as u32);
                    }
                    if matches!(behaviour, Behaviour::Echo | Behaviour::Hold | Behaviour::NoCredit) {
                        link.side.connection.send_data(stream, chunk, false);
                    }
                    if end_stream && matches!(behaviour, Behaviour::Echo | Behaviour::NoCredit) {
                        link.side.trailers(stream);
                    }
                }
                Event::Reset {
                    cause: Cause::Peer, ..
                } => link.resets.push(self.now),
                _ => {}
            }
        }
    }
}
