//! What a Service's port says about its protocol: `appProtocol` first, then the port's name, then nothing. Pure.

use crate::control::kubernetes::wire;
use crate::model::Protocol;

/// `appProtocol` that means HTTP/2 with prior knowledge.
const HTTP2: [&str; 4] = ["grpc", "kubernetes.io/h2c", "h2c", "http2"];

/// A port's name that begins so means the same.
const HTTP2_NAMES: [&str; 3] = ["grpc", "h2c", "http2"];

/// Names of other protocols: a port is called so, or so with `-` and more behind it (the convention that Istio made common).
const OTHER_NAMES: [&str; 33] = [
    "amqp",
    "amqps",
    "cassandra",
    "dns",
    "ftp",
    "http",
    "http1",
    "https",
    "imap",
    "imaps",
    "kafka",
    "ldap",
    "ldaps",
    "mariadb",
    "memcached",
    "mongo",
    "mongodb",
    "mqtt",
    "mysql",
    "nats",
    "pop3",
    "postgres",
    "postgresql",
    "redis",
    "smtp",
    "ssh",
    "ssl",
    "stomp",
    "tcp",
    "thrift",
    "tls",
    "ws",
    "wss",
];

/// Ports at which, by custom, the server speaks first: peeking would hold up each connection for a second.
const SERVER_FIRST: [(u16, &str); 12] = [
    (21, "FTP"),
    (22, "SSH"),
    (23, "Telnet"),
    (25, "SMTP"),
    (110, "POP3"),
    (119, "NNTP"),
    (143, "IMAP"),
    (587, "SMTP"),
    (3306, "MySQL"),
    (4222, "NATS"),
    (5900, "VNC"),
    (33060, "MySQL"),
];

/// The protocol of a port that may be balanced, or why it may not.
pub(super) fn of(port: &wire::ServicePort) -> Result<Protocol, String> {
    match port.protocol.as_str() {
        "TCP" | "" => {}
        other => return Err(format!("it is a {other} port: only TCP carries HTTP/2 here")),
    }
    if let Some(declared) = port
        .app_protocol
        .as_deref()
        .filter(|declared| !declared.is_empty())
    {
        if HTTP2.iter().any(|http2| declared.eq_ignore_ascii_case(http2)) {
            return Ok(Protocol::Http2);
        }
        return Err(format!(
            "its appProtocol is {declared:?}, which is not HTTP/2; for HTTP/2 it would be \"grpc\" or \"kubernetes.io/h2c\""
        ));
    }
    let name = port.name.as_str();
    // Its own protocol, mostly over HTTP/1.1.
    let grpc_web = is_called(name, "grpc-web");
    if !grpc_web && HTTP2_NAMES.iter().any(|http2| name.starts_with(http2)) {
        return Ok(Protocol::Http2);
    }
    if grpc_web || OTHER_NAMES.iter().any(|other| is_called(name, other)) {
        return Err(format!(
            "its name {name:?} is that of another protocol; if it is HTTP/2, set its appProtocol to \"kubernetes.io/h2c\""
        ));
    }
    if let Some((number, what)) = SERVER_FIRST
        .iter()
        .find(|(number, _)| i32::from(*number) == port.port)
    {
        return Err(format!(
            "{number} is the port of {what}, in which the server speaks first; if it is HTTP/2, set its appProtocol to \
             \"kubernetes.io/h2c\""
        ));
    }
    Ok(Protocol::Detect)
}

fn is_called(name: &str, protocol: &str) -> bool {
    name.strip_prefix(protocol)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, app_protocol: Option<&str>, number: i32) -> wire::ServicePort {
        wire::ServicePort {
            name: name.to_owned(),
            protocol: "TCP".to_owned(),
            port: number,
            app_protocol: app_protocol.map(str::to_owned),
            ..wire::ServicePort::default()
        }
    }

    #[test]
    fn app_protocol_is_asked_before_the_name() {
        for http2 in ["grpc", "kubernetes.io/h2c", "h2c", "http2", "GRPC"] {
            assert_eq!(
                of(&port("mysql", Some(http2), 3306)),
                Ok(Protocol::Http2),
                "{http2}"
            );
        }
        for other in ["http", "https", "kubernetes.io/ws", "example.com/own"] {
            assert!(of(&port("grpc", Some(other), 80)).unwrap_err().contains(other));
        }
    }

    #[test]
    fn names_that_say_http2_need_no_detection() {
        for name in ["grpc", "grpc-api", "grpcs", "h2c", "http2-public"] {
            assert_eq!(of(&port(name, None, 80)), Ok(Protocol::Http2), "{name}");
        }
    }

    #[test]
    fn names_of_other_protocols_are_left_alone() {
        for name in [
            "http",
            "http-web",
            "https",
            "tcp-x",
            "redis",
            "grpc-web",
            "grpc-web-ui",
        ] {
            assert!(of(&port(name, None, 80)).unwrap_err().contains(name), "{name}");
        }
    }

    #[test]
    fn names_that_say_nothing_are_detected() {
        for name in ["", "api", "web", "httpx", "metrics", "tcpfoo"] {
            assert_eq!(of(&port(name, None, 8080)), Ok(Protocol::Detect), "{name}");
        }
    }

    #[test]
    fn the_usual_server_first_ports_are_not_peeked_at_unless_they_say_that_they_are_http2() {
        assert!(of(&port("", None, 3306)).unwrap_err().contains("MySQL"));
        assert_eq!(of(&port("", Some("grpc"), 3306)), Ok(Protocol::Http2));
        assert_eq!(of(&port("grpc", None, 3306)), Ok(Protocol::Http2));
    }

    #[test]
    fn only_tcp_is_balanced() {
        for protocol in ["UDP", "SCTP"] {
            let mut port = port("grpc", Some("grpc"), 80);
            port.protocol = protocol.to_owned();
            assert!(of(&port).unwrap_err().contains(protocol));
        }
    }
}
