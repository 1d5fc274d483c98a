//! From the file as written to what is wanted: every value checked, and all that is wrong told at once.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use grpclb_engine::balance::Policy;
use serde_saphyr::{Location, Spanned};

use super::check;
use super::problem::Collector;
use super::schema;
use crate::model::{Desired, Endpoint, EndpointState, NetnsRef, PodSpec, Protocol, ServicePort};

/// How many endpoints one client pod uses of a Service, unless the file says otherwise.
pub(super) const DEFAULT_SUBSET: u32 = 20;
/// The weight of an endpoint that states none.
pub(super) const DEFAULT_WEIGHT: u32 = 1;

/// What may be written for `protocol`.
pub(super) const PROTOCOLS: &[(&str, Protocol)] = &[
    ("http2", Protocol::Http2),
    ("detect", Protocol::Detect),
    ("plain", Protocol::Plain),
];
/// What may be written for `upstream`, and whether it means connections of one's own.
pub(super) const UPSTREAMS: &[(&str, bool)] = &[("shared", false), ("per-connection", true)];
/// What may be written for `state`.
pub(super) const STATES: &[(&str, EndpointState)] = &[
    ("ready", EndpointState::Ready),
    ("draining", EndpointState::Draining),
];
/// What may be written for `netns`.
const NETNS: &str = "a name under /run/netns, an absolute path, a process id, or `host`";

/// What the file wants. Where problems were noted, the result is incomplete and must not be used.
pub(super) fn desired(file: &schema::File, problems: &mut Collector) -> Desired {
    let mut desired = Desired::default();
    let mut names = Names::default();
    let mut claims = Claims::default();
    for (index, written) in file.services.iter().enumerate() {
        let service = service(
            problems,
            &format!("services[{index}]"),
            written,
            &mut names,
            &mut claims,
        );
        desired.services.extend(
            service
                .into_iter()
                .map(|port| (Arc::clone(&port.id), Arc::new(port))),
        );
    }
    let mut names = Names::default();
    let mut namespaces = Vec::new();
    for (index, written) in file.pods.iter().enumerate() {
        if let Some(pod) = pod(
            problems,
            &format!("pods[{index}]"),
            written,
            &mut names,
            &mut namespaces,
        ) {
            desired.pods.insert(Arc::clone(&pod.id), Arc::new(pod));
        }
    }
    desired
}

/// One Service: a [`ServicePort`] for each of its ports.
fn service(
    problems: &mut Collector,
    key: &str,
    written: &Spanned<schema::Service>,
    names: &mut Names,
    claims: &mut Claims,
) -> Vec<ServicePort> {
    let place = written.referenced;
    let written = &written.value;
    let name = names.take(problems, key, place, written.name.as_ref());
    let addresses = addresses(problems, key, place, written.addresses.as_ref());
    let policies = Policy::ALL.map(|policy| (policy.as_str(), policy));
    let policy = check::word(
        problems,
        &format!("{key}.policy"),
        written.policy.as_ref(),
        &policies,
    );
    let subset = written.subset.as_ref().map_or(DEFAULT_SUBSET, |subset| {
        check::number(problems, &format!("{key}.subset"), subset, &(1..=10_000))
    });
    let upstream = format!("{key}.upstream");
    let per_connection = check::word(problems, &upstream, written.upstream.as_ref(), UPSTREAMS);
    let ports_key = format!("{key}.ports");
    let ports = check::list(
        problems,
        &ports_key,
        place,
        written.ports.as_ref(),
        "ports that clients dial",
    );
    let endpoints_key = format!("{key}.endpoints");
    let backends = backends(
        problems,
        &endpoints_key,
        place,
        written,
        &addresses,
        ports.len() == 1,
    );

    let mut found = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let key = format!("{ports_key}[{index}]");
        let Some(number) = &port.value.port else {
            check::missing(
                problems,
                &format!("{key}.port"),
                port.referenced,
                "a port from 1 to 65535",
            );
            continue;
        };
        let place = number.referenced;
        let number = check::port(problems, &format!("{key}.port"), number);
        let target_port = port.value.target_port.as_ref().map_or(number, |target| {
            check::port(problems, &format!("{key}.target_port"), target)
        });
        let protocol = check::word(
            problems,
            &format!("{key}.protocol"),
            port.value.protocol.as_ref(),
            PROTOCOLS,
        );
        claims.take(problems, &format!("{key}.port"), place, &name, &addresses, number);
        if index == 0 {
            twice(problems, &backends, target_port);
        }
        found.push(ServicePort {
            id: format!("{name}:{number}").into(),
            addresses: addresses.clone(),
            port: number,
            protocol,
            policy,
            subset: subset as usize,
            per_connection,
            endpoints: backends.iter().map(|backend| backend.at(target_port)).collect(),
        });
    }
    found
}

/// The addresses that clients dial.
fn addresses(
    problems: &mut Collector,
    key: &str,
    place: Location,
    written: Option<&Spanned<Vec<Spanned<String>>>>,
) -> Vec<IpAddr> {
    let key = format!("{key}.addresses");
    let mut found = Vec::new();
    for (index, written) in check::list(problems, &key, place, written, "addresses that clients dial")
        .iter()
        .enumerate()
    {
        let key = format!("{key}[{index}]");
        let Some(ip) = check::address(problems, &key, written) else {
            continue;
        };
        if found.contains(&ip) {
            problems.add(
                written.referenced,
                key,
                format!("`{ip}` is listed twice in this Service"),
            );
        } else {
            found.push(ip);
        }
    }
    found
}

/// An endpoint before it is known for which port of the Service.
struct Backend {
    /// Its address: the key, and where it stands.
    key: String,
    place: Location,
    id: Arc<str>,
    ip: IpAddr,
    port: Option<u16>,
    weight: u32,
    state: EndpointState,
}

impl Backend {
    fn at(&self, target_port: u16) -> Endpoint {
        Endpoint {
            id: Arc::clone(&self.id),
            address: SocketAddr::new(self.ip, self.port.unwrap_or(target_port)),
            weight: self.weight,
            state: self.state,
        }
    }
}

/// The endpoints. An empty list is a Service scaled to zero, and legal; no list is a mistake.
fn backends(
    problems: &mut Collector,
    key: &str,
    place: Location,
    service: &schema::Service,
    addresses: &[IpAddr],
    single_port: bool,
) -> Vec<Backend> {
    let Some(list) = &service.endpoints else {
        check::missing(problems, key, place, "a list of endpoints (`[]` for none yet)");
        return Vec::new();
    };
    let mut found = Vec::new();
    for (index, written) in list.value.iter().enumerate() {
        found.extend(backend(
            problems,
            &format!("{key}[{index}]"),
            written,
            addresses,
            single_port,
        ));
    }
    found
}

/// Notes endpoints that are there twice.
fn twice(problems: &mut Collector, backends: &[Backend], target_port: u16) {
    let mut seen: HashMap<SocketAddr, Location> = HashMap::new();
    for backend in backends {
        let address = backend.at(target_port).address;
        if let Some(first) = seen.insert(address, backend.place) {
            let message = format!(
                "{address} is an endpoint of this Service already, in line {}",
                first.line()
            );
            problems.add(backend.place, backend.key.as_str(), message);
        }
    }
}

/// One endpoint.
fn backend(
    problems: &mut Collector,
    key: &str,
    written: &Spanned<schema::Endpoint>,
    addresses: &[IpAddr],
    single_port: bool,
) -> Option<Backend> {
    let place = written.referenced;
    let written = &written.value;
    let id = written.id.as_ref().filter(|id| !id.value.is_empty());
    if id.is_none() {
        let place = written.id.as_ref().map_or(place, |id| id.referenced);
        check::missing(
            problems,
            &format!("{key}.id"),
            place,
            "the pod's UID, or another name of its own",
        );
    }
    let weight = written.weight.as_ref().map_or(DEFAULT_WEIGHT, |weight| {
        check::number(problems, &format!("{key}.weight"), weight, &(1..=65_535))
    });
    let state = check::word(problems, &format!("{key}.state"), written.state.as_ref(), STATES);
    let port = written.port.as_ref().map(|port| {
        let key = format!("{key}.port");
        if !single_port {
            let message = "an endpoint of a Service with several ports has no port of its own: expected `target_port` \
                           at each of the Service's ports";
            problems.add(port.referenced, key.as_str(), message);
        }
        check::port(problems, &key, port)
    });
    let key = format!("{key}.address");
    let Some(address) = &written.address else {
        check::missing(problems, &key, place, "the backend's IP address");
        return None;
    };
    let ip = check::address(problems, &key, address)?;
    if !addresses.is_empty() && !addresses.iter().any(|service| service.is_ipv4() == ip.is_ipv4()) {
        let (this, other) = if ip.is_ipv4() {
            ("IPv4", "IPv6")
        } else {
            ("IPv6", "IPv4")
        };
        let message =
            format!("`{ip}` is {this}, and every address of the Service is {other}: expected {other}");
        problems.add(address.referenced, key.as_str(), message);
    }
    let id = id?.value.as_str().into();
    Some(Backend {
        key,
        place: address.referenced,
        id,
        ip,
        port,
        weight,
        state,
    })
}

/// One pod.
fn pod(
    problems: &mut Collector,
    key: &str,
    written: &Spanned<schema::Pod>,
    names: &mut Names,
    taken: &mut Vec<(NetnsRef, Location)>,
) -> Option<PodSpec> {
    let name = names.take(problems, key, written.referenced, written.value.name.as_ref());
    let key = format!("{key}.netns");
    let Some(netns) = &written.value.netns else {
        check::missing(problems, &key, written.referenced, NETNS);
        return None;
    };
    let Some(reference) = netns_ref(&netns.value) else {
        let message = format!("`{}` names no network namespace: expected {NETNS}", netns.value);
        problems.add(netns.referenced, key, message);
        return None;
    };
    if let Some((_, first)) = taken.iter().find(|(namespace, _)| *namespace == reference) {
        let message = format!(
            "`{}` is a pod already, in line {}: expected each namespace once",
            netns.value,
            first.line()
        );
        problems.add(netns.referenced, key, message);
    }
    taken.push((reference.clone(), netns.referenced));
    let accelerate = written.value.accelerate.unwrap_or(false);
    Some(PodSpec {
        accelerate,
        ..PodSpec::new(name.into(), reference)
    })
}

/// A namespace as people write it. A name of digits only is a process id: such a namespace is given by its path.
fn netns_ref(written: &str) -> Option<NetnsRef> {
    if written == "host" {
        return Some(NetnsRef::Host);
    }
    if written.starts_with('/') {
        return Some(NetnsRef::Path(PathBuf::from(written)));
    }
    if !written.is_empty() && written.bytes().all(|byte| byte.is_ascii_digit()) {
        return written
            .parse()
            .ok()
            .filter(|&pid: &u32| pid > 0)
            .map(NetnsRef::Pid);
    }
    let name = !written.is_empty() && written != "." && written != ".." && !written.contains(['/', '\0']);
    name.then(|| NetnsRef::Name(written.to_owned()))
}

/// The names that are taken, and where they stand.
#[derive(Default)]
struct Names(HashMap<String, Location>);

impl Names {
    /// The name at `key`: it must be there, be a name, and be the only one.
    fn take(
        &mut self,
        problems: &mut Collector,
        key: &str,
        place: Location,
        written: Option<&Spanned<String>>,
    ) -> String {
        let key = format!("{key}.name");
        let Some(written) = written else {
            check::missing(problems, &key, place, "a name of its own");
            return String::new();
        };
        let name = &written.value;
        let acceptable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if name.is_empty() || name.len() > 253 || !name.chars().all(acceptable) {
            let message =
                format!("`{name}` is no name: expected 1 to 253 of letters, digits, `-`, `_`, `.` and `/`");
            problems.add(written.referenced, key, message);
        } else if let Some(first) = self.0.get(name) {
            let message = format!(
                "`{name}` is taken, in line {}: expected a name of its own",
                first.line()
            );
            problems.add(written.referenced, key, message);
        } else {
            self.0.insert(name.clone(), written.referenced);
        }
        name.clone()
    }
}

/// Which Service has which address and port.
#[derive(Default)]
struct Claims(HashMap<SocketAddr, String>);

impl Claims {
    fn take(
        &mut self,
        problems: &mut Collector,
        key: &str,
        place: Location,
        service: &str,
        addresses: &[IpAddr],
        port: u16,
    ) {
        if port == 0 {
            return; // told already
        }
        for &address in addresses {
            let address = SocketAddr::new(address, port);
            match self.0.get(&address) {
                Some(owner) => problems.add(
                    place,
                    key,
                    format!(
                        "{address} belongs to Service `{owner}` already: expected another port or address"
                    ),
                ),
                None => {
                    self.0.insert(address, service.to_owned());
                }
            }
        }
    }
}
