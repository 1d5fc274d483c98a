//! The data plane without the kernel room, for profiling: clients dial the listener's loopback address themselves.
//!
//! ```text
//! cargo run --release --example loopback -- 9000 127.0.0.1:8001 127.0.0.1:8002
//! h2load -n 100000 -c 1 -m 100 -d body http://127.1.0.1:9000/
//! ```
//!
//! The first argument is the port, the others are the backends. One worker, one pod (this machine's namespace, pooled),
//! one Service. Needs root, as the agent does. Prints the pod's status when its input ends.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use grpclb_userspace::data::{Config, DataPlane, Listeners};
use grpclb_userspace::model::{Endpoint, EndpointState, NetnsRef, Protocol, ServicePort};
use grpclb_userspace::netns::Netns;

/// 127.1.0.1.
const SLOT: u32 = 0x01_0001;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().context("which port?")?.parse()?;
    let backends = args
        .map(|backend| backend.parse())
        .collect::<Result<Vec<SocketAddr>, _>>()?;

    let plane = DataPlane::start(&Config {
        workers: 1,
        node: Arc::from("loopback"),
        mark: None,
        probe_slot: 0xff_fffe,
        probe_token: Arc::from("loopback"),
        heartbeat: Arc::new(|_| {}),
        identify: Arc::new(|_| None),
        detected: Arc::new(|_, _| ()),
        panicked: Arc::new(|_, _| ()),
        dial: grpclb_userspace::data::DialTimes::default(),
        on_turn: None,
        seed: 1,
    })?;
    plane.set_service(SLOT, &service(&backends));
    let listeners = Listeners {
        v4: TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?,
        v6: None,
    };
    plane.add_pod(
        Arc::from("loopback"),
        Arc::new(Netns::open(&NetnsRef::Host)?),
        listeners,
        false,
    );

    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    println!("{:#?}", runtime.block_on(plane.status(Duration::from_secs(1))));
    Ok(())
}

fn service(backends: &[SocketAddr]) -> Arc<ServicePort> {
    let endpoints = backends.iter().map(|address| Endpoint {
        id: Arc::from(address.to_string()),
        address: *address,
        weight: 1,
        state: EndpointState::Ready,
    });
    Arc::new(ServicePort {
        id: Arc::from("loopback/backends:80"),
        addresses: vec![Ipv4Addr::new(127, 1, 0, 1).into()],
        port: 80,
        protocol: Protocol::Http2,
        policy: grpclb_engine::balance::Policy::RoundRobin,
        subset: 20,
        per_connection: false,
        endpoints: endpoints.collect(),
    })
}
