//! Collects what the admin answers: every room is asked, none is waited for in vain.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use grpclb_abi::Slot;
use imbl::OrdMap;
use tokio::sync::watch;

use super::bypassing;
use super::delays::Delays;
use super::explain::{self, Facts};
use super::opaque::{ENOUGH, Opaque};
use super::readiness::Readiness;
use super::services::usable;
use super::steering::SharedKernel;
use super::watchdog::Beats;
use crate::admin::StatusSource;
use crate::control::{Explainer, Health};
use crate::data::{self, DataPlane, WorkerStatus};
use crate::kernel;
use crate::leftovers::{Adoption, Count, Leftovers};
use crate::model::{self, Desired, Protocol, ServiceId, ServicePort};
use crate::observe::explain::{Explanation, Question};
use crate::observe::{process, status as told};
use crate::pods::{PodState, PodStatus};

/// The workers answer within microseconds; one that does not is stuck: its last answer then stands, and says so.
const DATA_ANSWERS: Duration = Duration::from_millis(500);

/// Where every part of the status is found.
#[derive(Debug)]
pub(super) struct Collector {
    pub(super) node: String,
    pub(super) instance: String,
    pub(super) pins: PathBuf,
    pub(super) started: Instant,
    pub(super) phase: watch::Receiver<told::Phase>,
    pub(super) readiness: Readiness,
    pub(super) health: watch::Receiver<Health>,
    pub(super) kernel: SharedKernel,
    pub(super) attach_error: Mutex<Option<String>>,
    pub(super) beats: Arc<Beats>,
    pub(super) data: Arc<DataPlane>,
    /// The workers' last answers.
    pub(super) answers: Mutex<Vec<Arc<WorkerStatus>>>,
    pub(super) pods: watch::Receiver<Arc<[PodStatus]>>,
    pub(super) leftovers: Arc<Leftovers>,
    pub(super) services: watch::Sender<Arc<Known>>,
    pub(super) delays: Delays,
    /// Knows of endpoints that get no calls, too.
    pub(super) explainer: Option<Explainer>,
    /// Whether Services that nobody has used are told of: a cluster can have ten thousand.
    pub(super) lists_all: bool,
    /// What the check is to look at, as the agent was told.
    pub(super) cgroup: Option<PathBuf>,
    pub(super) bpffs: PathBuf,
    pub(super) checking: tokio::sync::Mutex<()>,
}

/// The Services as they were taken up last.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) wanted: Arc<Desired>,
    /// Those that are served, with their slots.
    pub(super) served: OrdMap<ServiceId, Slot>,
    /// Ports left alone since they carry something else, and when they are looked at again.
    pub(super) opaque: BTreeMap<ServiceId, Instant>,
    /// How often that was found.
    pub(super) opaque_found: u64,
    /// Made when it is asked for.
    steered: OnceLock<Arc<HashSet<SocketAddr>>>,
}

impl Known {
    pub(super) fn new(wanted: Arc<Desired>, served: OrdMap<ServiceId, Slot>, opaque: &Opaque) -> Self {
        Self {
            wanted,
            served,
            opaque: opaque.all(),
            opaque_found: opaque.found(),
            steered: OnceLock::new(),
        }
    }

    /// The addresses whose connections are steered.
    pub(super) fn steered(&self) -> Arc<HashSet<SocketAddr>> {
        let of = |service: &ServicePort| {
            let port = service.port;
            let addresses = service.addresses.clone().into_iter();
            addresses.map(move |address| SocketAddr::new(address, port))
        };
        let steered = || {
            let services = self.served.keys().filter_map(|id| self.wanted.services.get(id));
            let usable =
                services.filter(|service| usable(service) > 0 && !self.opaque.contains_key(&service.id));
            Arc::new(usable.flat_map(|service| of(service)).collect())
        };
        Arc::clone(self.steered.get_or_init(steered))
    }
}

/// What the data plane says, by worker.
#[derive(Debug)]
struct Data {
    workers: Vec<Arc<WorkerStatus>>,
    /// Those that did not answer in time.
    late: Vec<bool>,
}

impl Data {
    fn pods(&self) -> impl Iterator<Item = &data::PodStatus> {
        self.workers.iter().flat_map(|worker| &worker.pods)
    }

    /// The slots of Services that a pod has used, be it there or gone.
    fn used(&self) -> HashSet<u32> {
        let now = self
            .pods()
            .flat_map(|pod| &pod.services)
            .map(|service| service.slot);
        let departed = self
            .workers
            .iter()
            .flat_map(|worker| worker.departed.services.keys().copied());
        now.chain(departed).collect()
    }

    fn departed(&self, slot: Slot) -> impl Iterator<Item = &data::ServiceTotals> {
        self.workers
            .iter()
            .filter_map(move |worker| worker.departed.services.get(&slot.get()))
    }
}

impl StatusSource for Collector {
    fn status(&self) -> Pin<Box<dyn Future<Output = told::Status> + Send + '_>> {
        Box::pin(self.collect())
    }

    fn readiness(&self) -> told::Readiness {
        let reasons = self.readiness.reasons();
        told::Readiness {
            ready: reasons.is_empty(),
            reasons,
        }
    }

    fn check(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>> {
        Box::pin(self.checked())
    }

    fn explain(&self, question: Question) -> Pin<Box<dyn Future<Output = Explanation> + Send + '_>> {
        Box::pin(self.explained(question))
    }
}

impl Collector {
    /// Remembers why the programs are not attached; `None` when they are.
    pub(super) fn attach_failed(&self, error: Option<&kernel::Error>) {
        *self.attach_error.lock().unwrap_or_else(PoisonError::into_inner) = error.map(ToString::to_string);
    }

    async fn collect(&self) -> told::Status {
        let data = self.ask_workers().await;
        let known = Arc::clone(&self.services.borrow());
        let pods = Arc::clone(&self.pods.borrow());
        let bypassing = self
            .leftovers
            .count(bypassing::pods_of(&pods), known.steered())
            .await;
        let pod_of = |pod: &PodStatus| told::Pod {
            adoption: self.leftovers.adoption(&pod.incarnation).map(adoption_of),
            ..pod_of(pod, bypassing.get(&pod.incarnation), &data)
        };
        told::Status {
            node: self.node.clone(),
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            phase: *self.phase.borrow(),
            readiness: StatusSource::readiness(self),
            source: self.source(),
            kernel: self.kernel(),
            process: self.process(),
            workers: self.workers(&data),
            pods: pods.iter().map(pod_of).collect(),
            services: self
                .told_services(&known, &data)
                .map(|service| service_of(service, &known, &data))
                .collect(),
            early_connections: self.leftovers.early(),
            pod_panics: data.workers.iter().map(|worker| worker.panics).sum(),
            services_known: known.wanted.services.len() as u64,
            services_left_alone: known.wanted.left_alone.services.len() as u64,
            counters: counters(&data, &known),
        }
    }

    fn process(&self) -> told::Process {
        let memory = self.data.memory();
        told::Process {
            budget_bytes: memory.budget as u64,
            held_bytes: memory.held as u64,
            ..process::read()
        }
    }

    /// The Services that are told of: those that a pod has used since the agent started, or all.
    fn told_services<'k>(&self, known: &'k Known, data: &Data) -> impl Iterator<Item = &'k Arc<ServicePort>> {
        let used = (!self.lists_all).then(|| data.used());
        let services = known.wanted.services.values();
        services.filter(move |service| {
            let is_used = |used: &HashSet<u32>| {
                let slot = known.served.get(&service.id).map(|slot| slot.get());
                slot.is_some_and(|slot| used.contains(&slot))
            };
            used.as_ref().is_none_or(is_used)
        })
    }

    /// Looks at the machine as `grpclb check` does; one look at a time, for it loads programs.
    async fn checked(&self) -> String {
        let _one = self.checking.lock().await;
        let (cgroup, bpffs) = (self.cgroup.clone(), self.bpffs.clone());
        let check = move || serde_json::to_string(&kernel::check::run(cgroup.as_deref(), &bpffs));
        let report = tokio::task::spawn_blocking(check).await;
        report.map_or_else(|error| error.to_string(), Result::unwrap_or_default)
    }

    /// Answers why a pod's calls are balanced, or are not.
    async fn explained(&self, question: Question) -> Explanation {
        let agent = self.collect().await;
        let known = Arc::clone(&self.services.borrow());
        let pods = Arc::clone(&self.pods.borrow());
        let (pod, service) = explain::names(&known, &question);
        let mut judged = HashMap::new();
        if let Some(explainer) = &self.explainer {
            for port in explain::ports(&known, &service, question.port) {
                let endpoints = explainer.endpoints(port.id.clone()).await;
                judged.insert(port.id.clone(), endpoints);
            }
        }
        let counts = self
            .leftovers
            .count(bypassing::pods_of(&pods), known.steered())
            .await;
        let incarnation = pods.iter().find(|known| *known.name == *pod);
        let data = self.ask_workers().await;
        let relayed = data
            .pods()
            .filter(|relayed| incarnation.is_some_and(|pod| *relayed.pod == *pod.incarnation));
        let facts = Facts {
            agent: &agent,
            known: &known,
            pods: &pods,
            relayed: relayed.collect(),
            bypassing: incarnation.and_then(|pod| counts.get(&pod.incarnation)),
            judged: &judged,
        };
        explain::explain(&question, &facts)
    }

    /// Asks every worker. Totals must not fall because one is late: its last answer counts.
    async fn ask_workers(&self) -> Data {
        let answers = self.data.status(DATA_ANSWERS).await;
        let late = answers.iter().map(Option::is_none).collect();
        let mut last = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        last.resize_with(answers.len(), Arc::default);
        for (last, answer) in last.iter_mut().zip(answers) {
            if let Some(answer) = answer {
                *last = Arc::new(answer);
            }
        }
        Data {
            workers: last.clone(),
            late,
        }
    }

    fn source(&self) -> told::Source {
        let health = self.health.borrow();
        told::Source {
            name: health.origin.to_string(),
            age_seconds: health.read_at.elapsed().as_secs(),
            generation: health.generation,
            error: health.error.clone(),
            switched_off: health.switched_off.clone(),
            bad_values: health.bad_values,
            undecodable_objects: health.undecodable_objects,
            in_force: self.delays.told(),
        }
    }

    fn kernel(&self) -> told::Kernel {
        let kernel = self.kernel.lock();
        let attached = kernel.attached();
        let program = |program: &kernel::AttachedProgram| told::Program {
            name: program.name.to_owned(),
            id: program.id,
            attached: program.runs,
        };
        let error = self
            .attach_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let notes = (!attached.notes.is_empty()).then(|| attached.notes.join("; "));
        told::Kernel {
            cgroup: (!attached.programs.is_empty()).then(|| attached.cgroup.display().to_string()),
            pins: self.pins.display().to_string(),
            programs: attached.programs.iter().map(program).collect(),
            counters: kernel
                .counters()
                .into_iter()
                .map(|(name, figure)| (name.to_owned(), figure))
                .collect(),
            error: error.or(notes),
        }
    }

    fn workers(&self, data: &Data) -> Vec<told::Worker> {
        let worker = |(index, age): (usize, Duration)| {
            let pods = || data.pods().filter(|pod| pod.worker == index);
            told::Worker {
                index: index as u32,
                heartbeat_age_ms: age.as_millis() as u64,
                pods: pods().count() as u64,
                connections: pods().map(clients).sum(),
                late: data.late.get(index).copied().unwrap_or(true),
            }
        };
        self.beats.ages().into_iter().enumerate().map(worker).collect()
    }
}

fn pod_of(pod: &PodStatus, bypassing: Option<&Count>, data: &Data) -> told::Pod {
    let relayed = data.pods().find(|relayed| *relayed.pod == *pod.incarnation);
    let endpoints = relayed
        .into_iter()
        .flat_map(|relayed| &relayed.services)
        .flat_map(|service| &service.endpoints);
    told::Pod {
        id: pod.id.to_string(),
        name: pod.name.to_string(),
        netns: pod.namespace.clone(),
        state: match pod.state {
            // Probed and not reached: left alone on purpose. Without a listener yet: not there yet.
            PodState::Probing if pod.failures > 0 => told::PodState::Unsteered,
            PodState::Paused => told::PodState::Unsteered,
            PodState::Waiting | PodState::Probing => told::PodState::Pending,
            PodState::Steered => told::PodState::Steered,
            PodState::Draining => told::PodState::Draining,
        },
        reason: pod.reason.clone(),
        cookie: pod.cookie,
        port: pod.port,
        worker: pod.worker,
        connections: relayed.map_or(0, clients),
        upstreams: relayed.map_or(0, |relayed| relayed.upstream_connections as u64),
        streams: endpoints.map(|endpoint| endpoint.streams as u64).sum(),
        bypassing: bypassing.map_or(0, Count::total),
        bypassing_to: bypassing.map(|count| count.bypassing.clone()).unwrap_or_default(),
        adopted: bypassing.map_or(0, |count| count.adopted),
        adoption: None,
        ready_after_ms: pod.ready_after.map(|after| after.as_millis() as u64),
    }
}

fn adoption_of(adoption: Adoption) -> told::Adoption {
    told::Adoption {
        request: adoption.request.to_string(),
        found: adoption.found,
        reset: adoption.reset,
        ended: adoption.ended,
        error: adoption.error,
    }
}

fn clients(pod: &data::PodStatus) -> u64 {
    (pod.client_connections + pod.opaque_connections) as u64
}

fn service_of(service: &ServicePort, known: &Known, data: &Data) -> told::Service {
    let slot = known.served.get(&service.id).copied();
    let reason = if service.protocol == Protocol::Plain {
        Some("its port says that it is not HTTP/2".to_owned())
    } else if usable(service) == 0 {
        Some("it has no endpoint".to_owned())
    } else if slot.is_none() {
        Some("no slot is free".to_owned())
    } else {
        known.opaque.get(&service.id).map(|until| {
            let minutes = until.saturating_duration_since(Instant::now()).as_secs().div_ceil(60);
            format!("{ENOUGH} connections in a row were not HTTP/2; looked at again in {minutes} min, or when the Service changes")
        })
    };
    let used = || {
        let services = data.pods().flat_map(|pod| &pod.services);
        services.filter(|used| slot.is_some_and(|slot| slot.get() == used.slot))
    };
    let departed = || slot.into_iter().flat_map(|slot| data.departed(slot));
    told::Service {
        id: service.id.to_string(),
        addresses: service.addresses.clone(),
        port: service.port,
        protocol: match service.protocol {
            Protocol::Http2 => "http2",
            Protocol::Detect => "detect",
            Protocol::Plain => "plain",
        }
        .to_owned(),
        policy: service.policy.to_string(),
        slot: slot.map(grpclb_abi::Slot::get),
        steered: reason.is_none(),
        reason,
        connections: used().map(|used| used.client_connections as u64).sum(),
        opaque: used().map(|used| used.opaque).sum::<u64>()
            + departed().map(|service| service.opaque).sum::<u64>(),
        endpoints: service
            .endpoints
            .iter()
            .map(|endpoint| endpoint_of(endpoint, used(), departed()))
            .collect(),
    }
}

fn endpoint_of<'d>(
    endpoint: &model::Endpoint,
    used: impl Iterator<Item = &'d data::ServiceStatus>,
    departed: impl Iterator<Item = &'d data::ServiceTotals>,
) -> told::Endpoint {
    let mut told = told::Endpoint {
        id: endpoint.id.to_string(),
        address: endpoint.address,
        weight: endpoint.weight,
        state: match endpoint.state {
            model::EndpointState::Ready => told::EndpointState::Ready,
            model::EndpointState::Draining => told::EndpointState::Draining,
        },
        connections: 0,
        streams: 0,
        calls: 0,
        errors: 0,
    };
    let same = |used: &&data::EndpointStatus| used.id == endpoint.id && used.address == endpoint.address;
    for used in used.flat_map(|service| &service.endpoints).filter(same) {
        if used.failed {
            told.state = told::EndpointState::Failed;
        }
        told.connections += (used.connections + used.opaque) as u64;
        told.streams += used.streams as u64;
        told.calls += used.calls;
        told.errors += used.errors;
    }
    let key = (Arc::clone(&endpoint.id), endpoint.address);
    for totals in departed.filter_map(|service| service.endpoints.get(&key)) {
        told.calls += totals.calls;
        told.errors += totals.errors;
    }
    told
}

/// The data plane's totals, of the pods that are there and of those that have left.
fn counters(data: &Data, known: &Known) -> BTreeMap<String, u64> {
    let mut totals = BTreeMap::from([("ports_found_opaque".to_owned(), known.opaque_found)]);
    let mut count = |name: &str, figure: u64| match totals.get_mut(name) {
        Some(total) => *total += figure,
        None => _ = totals.insert(name.to_owned(), figure),
    };
    for worker in &data.workers {
        for (name, figure) in &worker.departed.counters {
            count(name, *figure);
        }
        for (name, figure) in worker.pods.iter().flat_map(data::PodStatus::totals) {
            count(name, figure);
        }
    }
    totals
}
