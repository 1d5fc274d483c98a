//! The messages of `NETLINK_SOCK_DIAG` (`sock_diag(7)`, `linux/inet_diag.h`): bytes in, bytes out. Pure.
//!
//! Written by hand, since it is two requests and one answer: the crates that know `sock_diag` lack `SOCK_DESTROY`. Integers are in
//! the machine's order but for ports and addresses, which are in the network's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// A bit for each TCP state (`linux/tcp_states.h`).
const ESTABLISHED: u32 = 1 << 1;
/// On their way to the end, at least from one side: from `FIN_WAIT1` to `LAST_ACK` but for `CLOSE`, and `CLOSING`.
const ENDING: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 11;
const ALL_STATES: u32 = u32::MAX;
/// The attribute with a socket's `SO_MARK`; told to who has `CAP_NET_ADMIN`.
const INET_DIAG_MARK: u16 = 15;

const HEADER: usize = 16;
const ID: usize = 48;
/// `struct inet_diag_msg`.
const ANSWER: usize = 72;
const REQUEST: usize = HEADER + 8 + ID;

/// A connection of the namespace that was asked, from one of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    /// 0 where none was set.
    pub(super) mark: u32,
    family: u8,
    /// The kernel's `inet_diag_sockid`, with the socket's cookie: names this socket and no later one.
    id: [u8; ID],
}

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Connection(Connection),
    /// The list is complete.
    Done,
    /// 0: done as asked.
    Error(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's answer to sock_diag is cut off")]
pub(super) struct Truncated;

/// Which connections are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Established,
    /// Those, too, that have ended within the last minute (`TIME_WAIT`) or are about to.
    AlsoEnded,
}

/// Asks for the TCP connections of one family.
pub(super) fn list(family: u8, which: Which) -> [u8; REQUEST] {
    let states = match which {
        Which::Established => ESTABLISHED,
        Which::AlsoEnded => ESTABLISHED | ENDING,
    };
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    request(SOCK_DIAG_BY_FAMILY, flags, family, states, &[0; ID])
}

/// Asks to reset one.
pub(super) fn destroy(connection: &Connection) -> [u8; REQUEST] {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    request(SOCK_DESTROY, flags, connection.family, ALL_STATES, &connection.id)
}

fn request(kind: u16, flags: u16, family: u8, states: u32, id: &[u8; ID]) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[16] = family;
    bytes[17] = IPPROTO_TCP;
    bytes[20..24].copy_from_slice(&states.to_ne_bytes());
    bytes[24..].copy_from_slice(id);
    bytes
}

/// The messages of one datagram.
pub(super) fn answers(mut datagram: &[u8]) -> Result<Vec<Answer>, Truncated> {
    let mut found = Vec::new();
    while !datagram.is_empty() {
        let length = u32_at(datagram, 0)? as usize;
        let message = datagram.get(..length).ok_or(Truncated)?;
        let body = message.get(HEADER..).ok_or(Truncated)?;
        match u16_at(message, 4)? {
            NLMSG_DONE => found.push(Answer::Done),
            NLMSG_ERROR => found.push(Answer::Error(u32_at(body, 0)?.cast_signed())),
            SOCK_DIAG_BY_FAMILY => found.extend(connection(body)?.map(Answer::Connection)),
            _ => {}
        }
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
    }
    Ok(found)
}

fn connection(body: &[u8]) -> Result<Option<Connection>, Truncated> {
    let answer = body.get(..ANSWER).ok_or(Truncated)?;
    let id: [u8; ID] = answer[4..4 + ID].try_into().map_err(|_| Truncated)?;
    let family = answer[0];
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let address = |at: usize| -> Option<IpAddr> {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&id[at..at + 16]);
        match family {
            AF_INET => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
            // An IPv6 socket may speak IPv4.
            AF_INET6 => Some(Ipv6Addr::from(bytes).to_canonical()),
            _ => None,
        }
    };
    let (Some(local), Some(peer)) = (address(4), address(20)) else {
        return Ok(None);
    };
    Ok(Some(Connection {
        local: SocketAddr::new(local, port(0)),
        peer: SocketAddr::new(peer, port(2)),
        mark: mark(&body[ANSWER..])?,
        family,
        id,
    }))
}

/// Looks for the mark among the attributes.
fn mark(mut attributes: &[u8]) -> Result<u32, Truncated> {
    while attributes.len() >= 4 {
        let length = u16_at(attributes, 0)? as usize;
        let attribute = attributes.get(..length).ok_or(Truncated)?;
        if length < 4 {
            return Err(Truncated);
        }
        if u16_at(attribute, 2)? == INET_DIAG_MARK {
            return u32_at(attribute, 4);
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(0)
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Truncated> {
    let bytes = bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u16::from_ne_bytes).ok_or(Truncated)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Truncated> {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_ne_bytes).ok_or(Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message.resize(aligned(message.len()), 0);
        message
    }

    /// One connection 10.0.0.1:40000 → 10.96.0.1:443 with this mark, behind an attribute of odd length.
    fn established(mark: u32) -> Vec<u8> {
        let mut body = vec![0; ANSWER];
        body[0] = AF_INET;
        body[4..6].copy_from_slice(&40_000_u16.to_be_bytes());
        body[6..8].copy_from_slice(&443_u16.to_be_bytes());
        body[8..12].copy_from_slice(&[10, 0, 0, 1]);
        body[24..28].copy_from_slice(&[10, 96, 0, 1]);
        body.extend([5, 0, 8, 0, 0, 0, 0, 0]);
        body.extend(8_u16.to_ne_bytes());
        body.extend(INET_DIAG_MARK.to_ne_bytes());
        body.extend(mark.to_ne_bytes());
        body
    }

    #[test]
    fn a_list_is_read_to_its_end() {
        let mut datagram = answer(SOCK_DIAG_BY_FAMILY, &established(7));
        datagram.extend(answer(99, &[1, 2, 3]));
        datagram.extend(answer(NLMSG_DONE, &[0; 4]));
        let read = answers(&datagram).unwrap();
        let [Answer::Connection(connection), Answer::Done] = &read[..] else {
            panic!("{read:?}");
        };
        assert_eq!(connection.local, "10.0.0.1:40000".parse().unwrap());
        assert_eq!(connection.peer, "10.96.0.1:443".parse().unwrap());
        assert_eq!(connection.mark, 7);
        assert_eq!(destroy(connection)[24..], connection.id);
    }

    #[test]
    fn an_error_is_a_negative_number_and_a_confirmation_is_0() {
        let refused = answers(&answer(NLMSG_ERROR, &(-95_i32).to_ne_bytes()));
        assert_eq!(refused, Ok(vec![Answer::Error(-95)]));
        assert_eq!(answers(&answer(NLMSG_ERROR, &[0; 4])), Ok(vec![Answer::Error(0)]));
    }

    /// Nothing that the kernel could send makes this panic or run for ever.
    #[test]
    fn an_answer_cut_off_anywhere_is_an_error_or_less() {
        let whole = answer(SOCK_DIAG_BY_FAMILY, &established(7));
        for end in 1..whole.len() {
            assert_eq!(answers(&whole[..end]), Err(Truncated), "{end}");
        }
        for length in 0..=whole.len() as u32 + 1 {
            let mut wrong = whole.clone();
            wrong[..4].copy_from_slice(&length.to_ne_bytes());
            let _ = answers(&wrong);
        }
    }
}
