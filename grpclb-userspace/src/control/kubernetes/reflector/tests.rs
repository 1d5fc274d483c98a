//! Lists and watches of an API server of a few lines: what is told of them.

use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::control::kubernetes::{Options, wire};

#[test]
fn what_has_a_meaning_in_a_query_is_escaped() {
    assert_eq!(
        escaped("!service.kubernetes.io/headless,a=b c"),
        "%21service.kubernetes.io%2Fheadless%2Ca%3Db%20c"
    );
}

/// A field of a protobuf message: its tag and bytes. All lengths are below 128.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn enveloped(message: &[u8]) -> Vec<u8> {
    [b"k8s\0", &*field(2, message)].concat()
}

/// A Service of the namespace `shop`, with a label.
fn service(name: &str, label: &[u8]) -> Vec<u8> {
    let label = [field(1, b"key"), field(2, label)].concat();
    let metadata = [
        field(1, name.as_bytes()),
        field(3, b"shop"),
        field(6, b"7"),
        field(11, &label),
    ];
    field(1, &metadata.concat())
}

/// One answer of the server: a watch that sends the objects as a list, or a page of a list.
fn answer(request: &str, objects: &[Vec<u8>]) -> Vec<u8> {
    if !request.contains("watch=1") {
        let list = [
            field(1, &field(2, b"9")),
            objects.iter().flat_map(|object| field(2, object)).collect(),
        ];
        return enveloped(&list.concat());
    }
    let frame = |kind: &str, object: &[u8]| {
        let event = [field(1, kind.as_bytes()), field(2, &field(1, &enveloped(object)))].concat();
        [&u32::try_from(event.len()).unwrap().to_be_bytes()[..], &event].concat()
    };
    let end = wire::PartialObjectMetadata {
        metadata: Some(ObjectMeta {
            resource_version: "9".to_owned(),
            annotations: [("k8s.io/initial-events-end".to_owned(), "true".to_owned())].into(),
            ..ObjectMeta::default()
        }),
    };
    let mut frames: Vec<u8> = objects.iter().flat_map(|object| frame("ADDED", object)).collect();
    frames.extend(frame("BOOKMARK", &end.encode_to_vec()));
    frames
}

/// Answers one request on each connection. Lists are streamed only if that is asked for here.
async fn serve(listener: TcpListener, streams_lists: bool, objects: Vec<Vec<u8>>) {
    while let Ok((mut connection, _)) = listener.accept().await {
        let request = head(&mut connection).await;
        let refused = request.contains("sendInitialEvents") && !streams_lists;
        let status = if refused { "400 Bad Request" } else { "200 OK" };
        let body = answer(&request, &objects);
        let head = format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection
            .write_all(&[head.as_bytes(), &body].concat())
            .await
            .unwrap();
    }
}

async fn head(connection: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// What is told of a server that has these Services, until its list has ended.
fn told(streams_lists: bool, objects: Vec<Vec<u8>>) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("grpclb-reflector-{}-{streams_lists}", std::process::id());
        let kubeconfig = std::env::temp_dir().join(name);
        let server = format!("http://{}", listener.local_addr().unwrap());
        let text = format!(
            r#"{{"clusters": [{{"name": "c", "cluster": {{"server": "{server}"}}}}],
            "contexts": [{{"name": "c", "context": {{"cluster": "c", "user": "u"}}}}],
            "users": [{{"name": "u", "user": {{}}}}], "current-context": "c"}}"#
        );
        std::fs::write(&kubeconfig, text).unwrap();
        let api = Api::new(&Options {
            node: "node".to_owned(),
            kubeconfig: Some(kubeconfig.clone()),
            run_dir: std::env::temp_dir(),
        });
        std::fs::remove_file(kubeconfig).unwrap();
        let (tell, mut news) = mpsc::channel(8);
        let reflector = Reflector::<wire::Service, _> {
            api: api.unwrap(),
            collection: Collection {
                kind: Kind::Services,
                path: "/api/v1/services",
                accept_list: wire::ACCEPT,
                accept_watch: wire::ACCEPT,
                spread: Duration::ZERO,
                optional: false,
            },
            selector: String::new(),
            tell,
            wrap: |told| told,
        };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(serve(listener, streams_lists, objects));
        tasks.spawn(reflector.run());
        let mut told = Vec::new();
        loop {
            told.push(match news.recv().await.unwrap() {
                Told::Listing => continue,
                Told::Is(object) => format!("is {}", object.metadata().name),
                Told::Gone(object) => format!("gone {}", object.metadata().name),
                Told::Skipped(object) => {
                    format!("skipped {} of position {}", object.metadata.name, object.position)
                }
                Told::Listed => return told,
                Told::Confirmed => "confirmed".to_owned(),
                Told::Failed(error) => return vec![error],
            });
        }
    })
}

#[test]
fn list_ends_although_an_object_cannot_be_decoded() {
    let objects = || {
        vec![
            service("first", b"x"),
            service("cart", b"\xff"),
            service("last", b"x"),
        ]
    };
    for streams_lists in [false, true] {
        assert_eq!(
            told(streams_lists, objects()),
            ["is first", "gone cart", "skipped cart of position 2", "is last"]
        );
    }
}
