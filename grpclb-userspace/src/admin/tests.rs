//! The admin over real sockets on loopback: what each port answers, and what a bad client gets.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use super::*;
use crate::observe::status::Readiness;

/// A source that tells one thing, or never answers.
struct Fixed(Option<Status>);

impl StatusSource for Fixed {
    fn status(&self) -> Pin<Box<dyn Future<Output = Status> + Send + '_>> {
        Box::pin(async {
            match &self.0 {
                Some(status) => status.clone(),
                None => std::future::pending().await,
            }
        })
    }

    fn readiness(&self) -> Readiness {
        let status = self.0.as_ref();
        status.map(|status| status.readiness.clone()).unwrap_or_default()
    }

    fn check(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>> {
        Box::pin(async { "{}".to_owned() })
    }

    fn explain(&self, question: Question) -> Pin<Box<dyn Future<Output = Explanation> + Send + '_>> {
        Box::pin(async move {
            Explanation {
                pod: question.pod,
                service: question.service,
                ..Explanation::default()
            }
        })
    }
}

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn serve(status: Option<Status>) -> Admin {
    start(
        &Config {
            admin: ANY,
            metrics: Some(ANY),
        },
        Arc::new(Fixed(status)),
    )
    .unwrap()
}

fn ready() -> Status {
    Status {
        node: "n".to_owned(),
        readiness: Readiness {
            ready: true,
            reasons: Vec::new(),
        },
        ..Status::default()
    }
}

fn dial(address: SocketAddr) -> socket2::Socket {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// Sends `request` as it is; the whole answer until the server closes.
fn send(address: SocketAddr, request: &str) -> String {
    let mut socket = dial(address);
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// Asks for a page; the status line, the head's other lines in lower case, and the body.
fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String, String) {
    let answer = send(
        address,
        &format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, head) = head.split_once("\r\n").unwrap();
    (status.to_owned(), head.to_lowercase(), body.to_owned())
}

#[test]
fn the_status_is_json_and_reads_back_as_it_was() {
    let admin = serve(Some(ready()));
    let (status, head, body) = ask(admin.address(), "GET", "/status");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(serde_json::from_str::<Status>(&body).unwrap(), ready());
}

#[test]
fn an_explanation_is_json_and_a_bad_question_is_400_with_a_sentence() {
    let admin = serve(Some(ready()));
    let (status, head, body) = ask(admin.address(), "GET", "/explain?pod=client&service=cart:1");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(head.contains("content-type: application/json"), "{head}");
    let explanation: Explanation = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (explanation.pod.as_str(), explanation.service.as_str()),
        ("client", "cart")
    );
    let (status, _, body) = ask(admin.address(), "GET", "/explain?pod=client");
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
    assert!(
        body.starts_with("expected /explain?pod=NAME&service=NAME:PORT"),
        "{body}"
    );
    let metrics = admin.metrics_address().unwrap();
    assert_eq!(
        ask(metrics, "GET", "/explain?pod=a&service=b").0,
        "HTTP/1.1 404 Not Found"
    );
}

#[test]
fn readiness_is_200_or_503_with_every_reason() {
    let admin = serve(Some(ready()));
    assert_eq!(ask(admin.address(), "GET", "/readyz").0, "HTTP/1.1 200 OK");
    let reasons = vec!["no BTF".to_owned(), "pod a waits".to_owned()];
    let admin = serve(Some(Status {
        readiness: Readiness {
            ready: false,
            reasons,
        },
        ..ready()
    }));
    let (status, _, body) = ask(admin.address(), "GET", "/readyz");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body, "not ready\nno BTF\npod a waits\n");
    assert_eq!(ask(admin.address(), "GET", "/livez").0, "HTTP/1.1 200 OK");
}

#[test]
fn the_metrics_port_has_the_metrics_and_nothing_else() {
    let admin = serve(Some(ready()));
    let metrics = admin.metrics_address().unwrap();
    for address in [metrics, admin.address()] {
        let (status, head, body) = ask(address, "GET", "/metrics");
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("\ngrpclb_ready 1\n"), "{body}");
    }
    for path in ["/status", "/"] {
        assert_eq!(ask(metrics, "GET", path).0, "HTTP/1.1 404 Not Found", "{path}");
    }
}

#[test]
fn the_default_of_the_metrics_port_is_for_both_families() {
    let config = Config {
        admin: ANY,
        metrics: Some(SocketAddr::new(DEFAULT_METRICS.ip(), 0)),
    };
    let admin = start(&config, Arc::new(Fixed(Some(ready())))).unwrap();
    let port = admin.metrics_address().unwrap().port();
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let (status, _, _) = ask(SocketAddr::new(ip, port), "GET", "/readyz");
        assert_eq!(status, "HTTP/1.1 200 OK", "{ip}");
    }
}

#[test]
fn a_kubelet_may_probe_the_metrics_port_and_is_told_no_reasons() {
    let admin = serve(Some(Status {
        readiness: Readiness {
            ready: false,
            reasons: vec!["something about a pod".to_owned()],
        },
        ..ready()
    }));
    let metrics = admin.metrics_address().unwrap();
    assert_eq!(ask(metrics, "GET", "/livez").0, "HTTP/1.1 200 OK");
    let (status, _, body) = ask(metrics, "GET", "/readyz");
    assert_eq!(
        (&*status, &*body),
        ("HTTP/1.1 503 Service Unavailable", "not ready\n")
    );
}

#[test]
fn nothing_can_be_changed_and_unknown_pages_say_what_there_is() {
    let admin = serve(Some(ready()));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let (status, head, _) = ask(admin.address(), method, "/status");
        assert_eq!(status, "HTTP/1.1 405 Method Not Allowed", "{method}");
        assert!(head.contains("allow: get, head"), "{head}");
    }
    let (status, _, body) = ask(admin.address(), "GET", "/quit");
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    assert_eq!(
        body,
        "no such page; there is /status, /explain, /check, /readyz, /livez and /metrics\n"
    );
}

#[test]
fn head_answers_without_a_body() {
    let admin = serve(Some(ready()));
    let (status, head, body) = ask(admin.address(), "HEAD", "/status");
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
    assert!(head.contains("content-length: "), "{head}");
}

#[test]
fn a_source_that_does_not_answer_costs_503_and_the_process_is_alive_still() {
    let admin = serve(None);
    let (status, _, body) = ask(admin.address(), "GET", "/status");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(body.contains("did not tell its status within 2 s"), "{body}");
    assert_eq!(ask(admin.address(), "GET", "/livez").0, "HTTP/1.1 200 OK");
}

#[test]
fn a_slow_client_is_cut_off_and_keeps_nobody_waiting() {
    let admin = serve(Some(ready()));
    let mut slow = dial(admin.address());
    slow.write_all(b"GET /status HTTP/1.1\r\nhost:").unwrap();
    assert_eq!(ask(admin.address(), "GET", "/livez").0, "HTTP/1.1 200 OK");
    let mut answer = Vec::new();
    // It ends within the read timeout of `dial`, or this fails.
    let _ = slow.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
}

#[test]
fn a_head_that_is_too_large_or_no_http_is_refused() {
    let admin = serve(Some(ready()));
    let large = format!(
        "GET /livez HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "y".repeat(20_000)
    );
    assert!(send_leniently(admin.address(), &large).starts_with("HTTP/1.1 431"));
    let many = format!("GET /livez HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(100));
    assert!(send_leniently(admin.address(), &many).starts_with("HTTP/1.1 431"));
    assert!(send_leniently(admin.address(), "not http\r\n\r\n").starts_with("HTTP/1.1 400"));
}

/// As [`send`], for answers after which the server resets because it has not read everything.
fn send_leniently(address: SocketAddr, request: &str) -> String {
    let mut socket = dial(address);
    let _ = socket.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn more_clients_than_are_served_at_a_time_wait_and_are_served() {
    let admin = serve(Some(ready()));
    let idle: Vec<_> = (0..32).map(|_| dial(admin.address())).collect();
    let address = admin.address();
    let waiting = std::thread::spawn(move || ask(address, "GET", "/livez").0);
    drop(idle);
    assert_eq!(waiting.join().unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn the_admin_is_for_this_machine_alone() {
    let everywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let config = Config {
        admin: everywhere,
        metrics: None,
    };
    let error = start(&config, Arc::new(Fixed(None))).unwrap_err();
    assert!(error.to_string().contains("not a loopback address"), "{error}");
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_the_option_and_is_free_when_its_owner_ends() {
    let first = serve(Some(ready()));
    let config = Config {
        admin: ANY,
        metrics: Some(first.address()),
    };
    let error = start(&config, Arc::new(Fixed(None))).unwrap_err().to_string();
    assert!(
        error.contains(&first.address().to_string()) && error.contains("--metrics"),
        "{error}"
    );
    assert_eq!(ask(first.address(), "GET", "/livez").0, "HTTP/1.1 200 OK");
    drop(first);
    start(&config, Arc::new(Fixed(None))).unwrap();
}
