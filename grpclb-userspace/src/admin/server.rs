//! The admin's sockets: a thread, two listeners, and limits that make a slow or greedy client harmless.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use super::answer::{Port, answer};
use super::{Config, Error, StatusSource};

/// Connections at a time, for each port; more wait in the backlog.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last, whatever its client does with it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// The bytes and fields of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// The admin at work; dropped, its ports close and its thread ends.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Where the admin answers; with the port that the kernel chose, where port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the metrics are scraped.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin's thread panicked");
        }
    }
}

/// See [`super::start`].
pub(super) fn start(config: &Config, source: Arc<dyn StatusSource>) -> Result<Admin, Error> {
    if !config.admin.ip().is_loopback() {
        return Err(Error::NotLoopback(config.admin));
    }
    let mut listeners = vec![(Port::Admin, listen(config.admin, "the admin", "--admin")?)];
    if let Some(address) = config.metrics {
        listeners.push((Port::Metrics, listen(address, "metrics", "--metrics")?));
    }
    let bound: Vec<Option<SocketAddr>> = listeners
        .iter()
        .map(|(_, listener)| listener.local_addr().ok())
        .collect();

    let (stop, stopped) = watch::channel(false);
    let (started, starting) = std::sync::mpsc::sync_channel(1);
    // The runtime lives and dies on its own thread: the caller may be within another one, which must not drop it.
    let serve = move || match runtime(listeners) {
        Ok((runtime, listeners)) => {
            let _ = started.send(Ok(()));
            runtime.block_on(run(listeners, source, stopped));
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    };
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(serve)
        .map_err(Error::Thread)?;
    let ended = || Err(io::Error::other("it ended at once"));
    starting
        .recv()
        .unwrap_or_else(|_| ended())
        .map_err(Error::Thread)?;
    Ok(Admin {
        address: bound.first().copied().flatten().unwrap_or(config.admin),
        metrics: config
            .metrics
            .map(|wanted| bound.get(1).copied().flatten().unwrap_or(wanted)),
        stop,
        thread: Some(thread),
    })
}

type Listeners<L> = Vec<(Port, L)>;

fn runtime(listeners: Listeners<std::net::TcpListener>) -> io::Result<(Runtime, Listeners<TcpListener>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let guard = runtime.enter();
    let listeners = listeners
        .into_iter()
        .map(|(port, listener)| Ok((port, TcpListener::from_std(listener)?)))
        .collect::<io::Result<_>>()?;
    drop(guard);
    Ok((runtime, listeners))
}

/// Answers until `stopped`, or until the [`Admin`] that could say so is gone. Dropping the runtime then ends every task.
async fn run(
    listeners: Listeners<TcpListener>,
    source: Arc<dyn StatusSource>,
    mut stopped: watch::Receiver<bool>,
) {
    for (port, listener) in listeners {
        tokio::spawn(accept(port, listener, Arc::clone(&source)));
    }
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Opens a port, for this agent alone: while a predecessor has it, `app` tries again. `SO_REUSEADDR` ignores connections of
/// the predecessor that are in `TIME_WAIT`. `[::]` is both families, or IPv4 where the kernel knows no other.
fn listen(
    address: SocketAddr,
    purpose: &'static str,
    option: &'static str,
) -> Result<std::net::TcpListener, Error> {
    let open = |address: SocketAddr| -> io::Result<std::net::TcpListener> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(128)?;
        Ok(socket.into())
    };
    let everywhere = Ipv6Addr::UNSPECIFIED;
    let opened = match open(address) {
        Err(error)
            if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) && address.ip() == everywhere =>
        {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        opened => opened,
    };
    opened.map_err(|cause| Error::Listen {
        address,
        purpose,
        option,
        cause,
    })
}

async fn accept(port: Port, listener: TcpListener, source: Arc<dyn StatusSource>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = Arc::clone(&source);
                tokio::spawn(async move {
                    // Both outcomes end the connection; neither is worth a log line.
                    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serve(port, stream, source)).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: they come back when connections end.
                tracing::warn!("the admin cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn serve(port: Port, stream: TcpStream, source: Arc<dyn StatusSource>) -> hyper::Result<()> {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(port, request.method(), request.uri(), &source).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
