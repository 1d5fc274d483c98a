//! The proxies that grpclb is measured beside: how each is configured and started. Each runs one worker, in the client's
//! own namespace, so that every one of them takes the very same path to the backends.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A proxy that listens on [`Peer::listen`] and balances over the backends.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Whether it gives each call a backend of its own. The relay does not: it is the floor of any user-space hop.
    pub(crate) balances: bool,
    pub(crate) listen: SocketAddr,
    program: PathBuf,
    arguments: Vec<String>,
    /// What the program says about itself, for the report.
    pub(crate) version: String,
}

impl Peer {
    /// The command that runs it in the foreground.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

/// The byte relay, `HAProxy`, nginx and Envoy; what is not installed is left out and named in the second value.
pub(crate) fn all(
    folder: &Path,
    backends: &[SocketAddr],
    relay: &Path,
    envoy: Option<&Path>,
) -> Result<(Vec<Peer>, Vec<String>)> {
    let mut peers = vec![relay_peer(relay, backends)];
    let mut missing = Vec::new();
    for (name, peer) in [
        ("HAProxy", haproxy(folder, backends)?),
        ("nginx", nginx(folder, backends)?),
        (
            "Envoy",
            envoy
                .map(|program| envoy_peer(program, folder, backends))
                .transpose()?
                .flatten(),
        ),
    ] {
        match peer {
            Some(peer) => peers.push(peer),
            None => missing.push(name.to_owned()),
        }
    }
    Ok((peers, missing))
}

fn relay_peer(program: &Path, backends: &[SocketAddr]) -> Peer {
    let listen = local(7100);
    let mut arguments = vec![listen.to_string()];
    arguments.extend(backends.iter().map(ToString::to_string));
    Peer {
        name: "relay",
        balances: false,
        listen,
        program: program.to_owned(),
        arguments,
        version: "a byte relay on tokio, one backend a connection".to_owned(),
    }
}

fn haproxy(folder: &Path, backends: &[SocketAddr]) -> Result<Option<Peer>> {
    let Some(version) = version_of("haproxy", &["-v"]) else {
        return Ok(None);
    };
    let listen = local(7101);
    let mut servers = String::new();
    for (n, at) in backends.iter().enumerate() {
        writeln!(servers, "  server s{n} {at} proto h2")?;
    }
    let config = format!(
        "global\n  nbthread 1\n  maxconn 8000\n  tune.h2.initial-window-size 1048576\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend in\n  bind {listen} proto h2\n  default_backend out\n\
         backend out\n  balance roundrobin\n  http-reuse always\n{servers}"
    );
    let path = write(folder, "haproxy.cfg", &config)?;
    Ok(Some(Peer {
        name: "HAProxy",
        balances: true,
        listen,
        program: "haproxy".into(),
        arguments: vec!["-db".into(), "-f".into(), path],
        version,
    }))
}

fn nginx(folder: &Path, backends: &[SocketAddr]) -> Result<Option<Peer>> {
    let Some(version) = version_of("nginx", &["-v"]) else {
        return Ok(None);
    };
    let listen = local(7102);
    let mut servers = String::new();
    for at in backends {
        writeln!(servers, "    server {at};")?;
    }
    let at = folder.display();
    // Limits that would end connections in the middle of a run are lifted; everything else is nginx's default.
    let config = format!(
        "daemon off; worker_processes 1; pid {at}/nginx.pid; error_log {at}/nginx.log crit;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log off; client_max_body_size 0; client_body_temp_path {at}/nginx-body; \
         proxy_temp_path {at}/nginx-proxy; fastcgi_temp_path {at}/nginx-fcgi; uwsgi_temp_path {at}/nginx-uwsgi; \
         scgi_temp_path {at}/nginx-scgi;\n\
         keepalive_requests 1000000000; http2_max_requests 1000000000; http2_max_concurrent_streams 1000;\n\
         upstream out {{\n{servers}    keepalive 256; keepalive_requests 1000000000;\n  }}\n\
         server {{ listen {listen} http2; location / {{ grpc_pass grpc://out; grpc_socket_keepalive on; }} }}\n}}\n"
    );
    let path = write(folder, "nginx.conf", &config)?;
    Ok(Some(Peer {
        name: "nginx",
        balances: true,
        listen,
        program: "nginx".into(),
        arguments: vec!["-c".into(), path],
        version,
    }))
}

fn envoy_peer(program: &Path, folder: &Path, backends: &[SocketAddr]) -> Result<Option<Peer>> {
    let Some(version) = version_of(program, &["--version"]) else {
        return Ok(None);
    };
    let listen = local(7103);
    let endpoint = |at: &SocketAddr| serde_json::json!({"endpoint": {"address": {"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}}}});
    let config = serde_json::json!({
        "static_resources": {
            "listeners": [{
                "address": {"socket_address": {"address": listen.ip().to_string(), "port_value": listen.port()}},
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "in",
                        "codec_type": "HTTP2",
                        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "out", "timeout": "0s"}}]}]},
                        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
                    }
                }]}]
            }],
            "clusters": [{
                "name": "out",
                "type": "STATIC",
                "connect_timeout": "5s",
                "lb_policy": "ROUND_ROBIN",
                "circuit_breakers": {"thresholds": [{"max_connections": 10000, "max_requests": 100_000, "max_pending_requests": 100_000}]},
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}}
                }},
                "load_assignment": {"cluster_name": "out", "endpoints": [{"lb_endpoints": backends.iter().map(endpoint).collect::<Vec<_>>()}]}
            }]
        }
    });
    let path = write(folder, "envoy.json", &config.to_string())?;
    let arguments = [
        "--config-path",
        &path,
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ];
    Ok(Some(Peer {
        name: "Envoy",
        balances: true,
        listen,
        program: program.to_owned(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        version,
    }))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<String> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.display().to_string())
}

/// The first line that a program prints about its version; `None` when it cannot be run.
fn version_of(program: impl AsRef<Path>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program.as_ref()).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    // Some print their own path before it.
    let version = line
        .rsplit_once("version:")
        .map_or(line, |(_, version)| version.trim());
    Some(version.to_owned())
}
