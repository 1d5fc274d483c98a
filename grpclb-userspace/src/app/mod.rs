//! The agent: wires the rooms together and carries it through its life.
//!
//! Start: the configuration is read → a place among the instances → kernel programs loaded, maps filled → data workers →
//! listeners in the pods, each proved by a probe → attached, `connect` last → predecessors are asked to hand over.
//! End: `connect` detached → clients are told to go (GOAWAY) → connections run out, up to a limit → exit.
//!
//! Three kinds of threads, so that none can hurt another: the data workers, the admin's, and the one of this file, on
//! which everything is decided that is not a call's. Whatever fails here, connections go the plain way.
//!
//! - [`options`]: the command line; [`services`]: what is told of Services, and in which order; [`opaque`]: which are left alone;
//! - [`steering`]: tells it; [`status`]: collects what the admin answers; [`readiness`]: who stands in the way;
//! - [`explain`]: why a pod's calls are balanced or not;
//! - [`bypassing`]: connections that are not steered, shown and adopted; [`delays`]: how long changes take;
//! - [`memory`]: how much of it calls may hold, and what goes back to the system;
//! - [`instances`]: other agents of this node, handing over; [`signals`]: told to end;
//! - [`watchdog`]: ends the process when a worker stands still.

mod bypassing;
mod delays;
mod explain;
mod instances;
mod memory;
mod opaque;
mod options;
mod process;
mod readiness;
mod services;
mod signals;
mod status;
mod steering;
mod watchdog;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use grpclb_abi::{MARK, Slot};
use tokio::sync::{mpsc, watch};

pub use instances::sweep;
pub use options::{Metrics, Options};

use crate::admin::{self, Admin};
use crate::control::{self, Health, Source, file};
use crate::data::{self, DataPlane};
use crate::kernel::{self, Kernel};
use crate::leftovers::Leftovers;
use crate::model::Desired;
use crate::observe::{logging, status::Phase};
use crate::pods::{self, PodStatus};
use delays::Delays;
use instances::{HandOver, Instance};
use memory::Memory;
use readiness::Readiness;
use services::Services;
use signals::Signals;
use status::Collector;
use steering::{PodSteering, SharedKernel, pods_config, tell};
use watchdog::Beats;

/// How often an attachment or a table entry that the kernel refused is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often it is looked whether the pods' cgroup still is the one that the programs are attached to: a stat(2).
const CGROUP_CHECK: Duration = Duration::from_secs(1);
/// How often the admin's ports are tried while a predecessor holds them.
const PORT_RETRY: Duration = Duration::from_millis(100);
/// Attaching does not wait longer than this for the first probes: a pod that comes later is steered later.
const FIRST_PODS: Duration = Duration::from_secs(5);

/// Runs `grpclb agent` until it is told to end. `Ok` carries the exit status.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.check
        && let Source::File(path) = options.source()
    {
        let desired = file::load(&path)?;
        let (services, pods) = (desired.services.len(), desired.pods.len());
        println!("{}: valid; ports: {services}, pods: {pods}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    logging::init(&options.log, options.log_format)?;
    data::install_panic_hook();
    process::prepare(options.workers())?;
    let runtime = process::runtime().context("cannot start the agent's runtime")?;
    let outcome = runtime.block_on(async { Agent::start(options)?.live().await });
    // Not `drop`, which would wait for tasks that nobody needs any more.
    runtime.shutdown_background();
    outcome
}

/// A started agent. Fields drop in this order: the admin first, the kernel's links before the listeners in the pods.
struct Agent<'o> {
    options: &'o Options,
    admin: Option<Admin>,
    collector: Arc<Collector>,
    kernel: SharedKernel,
    data: Arc<DataPlane>,
    memory: Memory,
    services: Services,
    control: control::Watch,
    /// What `pods` is to keep: follows `control` until the agent drains.
    pods_wanted: watch::Sender<Arc<Desired>>,
    pods_status: watch::Receiver<Arc<[PodStatus]>>,
    readiness: Readiness,
    phase: watch::Sender<Phase>,
    /// Connections of ports that declare nothing, as they show whether they are HTTP/2: one message for each.
    detected: mpsc::UnboundedReceiver<(u32, bool)>,
    hand_over: mpsc::Receiver<HandOver>,
    signals: Signals,
    instance: Instance,
}

/// Why the agent stops steering.
enum End {
    Signal,
    Successor(HandOver),
}

impl<'o> Agent<'o> {
    /// Everything up to the point at which only the kernel's links are missing.
    fn start(options: &'o Options) -> anyhow::Result<Self> {
        let signals = Signals::new()?;
        let control = control::watch(&options.source())?;
        let instance = Instance::claim(&options.run_dir, &options.instance())?;
        let hand_over = instance.listen()?;
        let readiness = Readiness::default();
        let (phase, _) = watch::channel(Phase::Starting);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            instance = instance.name(),
            node = options.node(),
            "starting"
        );

        let kernel = Kernel::load(&kernel::Options {
            instance: instance.name().to_owned(),
            pin_root: options.bpffs.clone(),
            cgroup: options.cgroup.clone(),
            log_level: options.kernel_log,
        })
        .context("kernel side")?;
        let beats = Beats::new(options.workers());
        let (tell_detected, detected) = mpsc::unbounded_channel();
        let (tell_panics, panics) = mpsc::unbounded_channel();
        let data = start_data(options, &instance, &kernel, &beats, tell_detected, tell_panics)
            .context("data plane")?;
        let data = Arc::new(data);
        watchdog::start(Arc::clone(&beats)).context("cannot start the watchdog's thread")?;
        let kernel = SharedKernel::new(kernel);

        let (pods_wanted, wanted) = watch::channel(Arc::default());
        let (tell_status, pods_status) = watch::channel(Arc::from([]));
        let steering = PodSteering {
            kernel: kernel.clone(),
            data: Arc::clone(&data),
            events: control.events.clone(),
        };
        let pods_config = pods_config(options, &instance);
        let pods = pods::start(pods_config, wanted, steering, tell_status, panics)
            .context("cannot watch the pods' namespaces (see fs.inotify.max_user_instances)")?;
        tokio::spawn(pods);

        let leftovers = Leftovers::new(MARK);
        let collector = Arc::new(Collector {
            node: options.node(),
            instance: instance.name().to_owned(),
            pins: options.bpffs.join(instance.name()),
            started: Instant::now(),
            phase: phase.subscribe(),
            readiness: readiness.clone(),
            health: control.health.clone(),
            kernel: kernel.clone(),
            attach_error: std::sync::Mutex::new(None),
            beats,
            data: Arc::clone(&data),
            answers: std::sync::Mutex::default(),
            pods: pods_status.clone(),
            leftovers: Arc::clone(&leftovers),
            explainer: control.explainer.clone(),
            lists_all: !options.kubernetes,
            cgroup: options.cgroup.clone(),
            bpffs: options.bpffs.clone(),
            checking: tokio::sync::Mutex::default(),
            services: watch::channel(Arc::default()).0,
            delays: Delays::default(),
        });
        tokio::spawn(bypassing::watch(
            leftovers,
            pods_status.clone(),
            collector.services.subscribe(),
        ));
        Ok(Self {
            options,
            admin: None,
            collector,
            kernel,
            memory: Memory::new(Arc::clone(&data)),
            data,
            services: Services::new(),
            control,
            pods_wanted,
            pods_status,
            readiness,
            phase,
            detected,
            hand_over,
            signals,
            instance,
        })
    }

    /// From the attachment to the end.
    async fn live(mut self) -> anyhow::Result<ExitCode> {
        let end = self.steer().await;
        self.phase.send_replace(Phase::Draining);
        let _not_ready = self
            .readiness
            .hold("draining: new connections are not steered by this instance");
        self.kernel.lock().detach_connect();
        let mut signals_left = 2;
        // A container that ended would be started again, and take over from its successor: it waits to be told.
        let stays = self.options.kubernetes && matches!(end, End::Successor(_));
        match end {
            End::Signal => {
                tracing::info!(limit = ?self.options.drain_timeout(), "told to end: draining");
                signals_left -= 1;
            }
            End::Successor(HandOver { successor, done }) => {
                tracing::info!(%successor, limit = ?self.options.drain_timeout(), "handed over: draining");
                // The successor wants our ports, unless each of us has a pod's own.
                if !self.options.kubernetes {
                    self.admin = None;
                }
                let _gone: Result<(), ()> = done.send(());
            }
        }
        let mut drained = std::pin::pin!(self.data.drain(self.options.drain_timeout()));
        let mut is_drained = false;
        loop {
            tokio::select! {
                ended = &mut drained, if !is_drained => {
                    is_drained = true;
                    let left = if ended { "every connection has ended" } else { "the drain limit is reached; resetting the rest" };
                    tracing::info!("{left}");
                    if !stays || signals_left < 2 {
                        return Ok(ExitCode::SUCCESS);
                    }
                    self.data.reset_all();
                }
                () = self.signals.next() => {
                    signals_left -= 1;
                    if is_drained {
                        return Ok(ExitCode::SUCCESS);
                    }
                    if signals_left == 0 {
                        tracing::warn!("told to end again: resetting what is left");
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                Some(HandOver { done, .. }) = self.hand_over.recv() => {
                    let _gone: Result<(), ()> = done.send(());
                }
            }
        }
    }

    /// Attaches and keeps everything as it is wanted, until told to end.
    async fn steer(&mut self) -> End {
        let mut not_attached = Some(
            self.readiness
                .hold("waiting for the first state of the configuration"),
        );
        let mut no_ports = None;
        let mut first_state = Some(self.control.health.clone());
        // Both at once: the first try of each.
        let mut retry = tokio::time::interval(RETRY);
        let mut cgroup_check = tokio::time::interval(CGROUP_CHECK);
        cgroup_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut port_retry = tokio::time::interval(PORT_RETRY);
        port_retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.signals.next() => return End::Signal,
                Some(request) = self.hand_over.recv() => return End::Successor(request),
                () = synced(first_state.as_mut()), if first_state.is_some() => {
                    first_state = None;
                    self.take_up();
                    let (services, pods) = (self.services.served().len(), self.pods_wanted.borrow().pods.len());
                    tracing::info!(services, pods, "the first state is taken up");
                    self.first_pods().await;
                    self.memory.synced();
                }
                _ = retry.tick(), if first_state.is_none() => {
                    if let Some(guard) = &not_attached {
                        match self.attach() {
                            Ok(()) => {
                                not_attached = None;
                                self.phase.send_replace(Phase::Running);
                                if !self.options.no_takeover {
                                    self.instance.take_over().await;
                                }
                                process::give_back_memory();
                            }
                            Err(error) => guard.now(format!("the kernel programs are not attached: {error}")),
                        }
                    }
                    // Also what the kernel's tables refused before.
                    self.take_up();
                    self.memory.look(Instant::now());
                }
                _ = cgroup_check.tick(), if not_attached.is_none() => {
                    if let Err(error) = self.follow_cgroup() {
                        let reason = format!("the kernel programs are not attached: {error}");
                        not_attached = Some(self.readiness.hold(reason));
                    }
                }
                _ = port_retry.tick(), if self.admin.is_none() => {
                    if let Err(error) = self.open_admin() && no_ports.is_none() {
                        tracing::warn!(%error, "the admin cannot answer yet; trying on");
                        no_ports = Some(self.readiness.hold(error.to_string()));
                    } else if self.admin.is_some() {
                        no_ports = None;
                    }
                }
                Some((slot, http2)) = self.detected.recv() => self.detected(slot, http2),
                () = until(self.services.opaque().wake()) => {
                    let changes = self.services.look_again(Instant::now());
                    self.tell_all(&changes);
                }
                Ok(()) = self.control.desired.changed(), if first_state.is_none() => {
                    if self.take_up() {
                        self.collector.delays.note(self.control.health.borrow().read_at.elapsed());
                    }
                }
            }
        }
    }

    fn attach(&self) -> kernel::Result<()> {
        let attached = self.kernel.lock().attach();
        match &attached {
            Ok(attached) => {
                tracing::info!(cgroup = %attached.cgroup.display(), ipv6 = attached.ipv6, "attached: steering");
                for note in &attached.notes {
                    tracing::warn!("{note}");
                }
            }
            Err(error) => tracing::error!(%error, "not attached: connections go the plain way"),
        }
        self.collector.attach_failed(attached.as_ref().err());
        attached.map(|_| ())
    }

    /// Attaches again if another cgroup has taken the place of the pods'.
    fn follow_cgroup(&self) -> kernel::Result<()> {
        if !self.kernel.lock().is_cgroup_replaced() {
            return Ok(());
        }
        tracing::warn!("the pods' cgroup was replaced: attaching to the new one");
        self.attach()
    }

    fn open_admin(&mut self) -> Result<(), admin::Error> {
        let source = Arc::clone(&self.collector);
        self.admin = Some(admin::start(&self.options.admin(), source)?);
        Ok(())
    }

    /// Tells the data plane, the kernel and the pods room what is wanted now. Returns whether a Service has changed.
    fn take_up(&mut self) -> bool {
        let desired = self.control.desired.borrow_and_update().clone();
        let (changes, errors) = self.services.update(&desired.services);
        for error in errors {
            tracing::error!(%error, "a Service is not steered");
        }
        self.tell_all(&changes);
        if !changes.is_empty() {
            // In a busy cluster several times a second.
            tracing::debug!(
                services = desired.services.len(),
                changes = changes.len(),
                "Services taken up"
            );
        }
        self.pods_wanted.send_if_modified(|wanted| {
            let changed = wanted.pods != desired.pods;
            *wanted = desired;
            changed
        });
        !changes.is_empty()
    }

    /// A connection of a port that declares nothing has shown what it is.
    fn detected(&mut self, slot: u32, http2: bool) {
        let Ok(slot) = Slot::new(slot) else { return };
        let changes = self.services.detected(slot, http2, Instant::now());
        if !changes.is_empty() {
            self.tell_all(&changes);
        }
    }

    /// Carries out changes of the Services, and shows them.
    fn tell_all(&mut self, changes: &[services::Change]) {
        for change in changes {
            if let Err(error) = tell(change, &self.kernel, &self.data) {
                tracing::error!(
                    error = format!("{error:#}"),
                    "not told to the kernel; trying again later"
                );
                if let services::Change::Steer { address, .. } = change {
                    self.services.not_told(address);
                }
            }
        }
        let wanted = self.control.desired.borrow().clone();
        let known = status::Known::new(wanted, self.services.served(), self.services.opaque());
        self.collector.services.send_replace(Arc::new(known));
    }

    /// Waits until every pod was tried once, so that attaching finds them steered; not for long.
    async fn first_pods(&mut self) {
        let wanted = self.pods_wanted.borrow().pods.len();
        let _not_ready = self.readiness.hold("the pods have not all been tried yet");
        let tried = |pods: &Arc<[PodStatus]>| pods.len() >= wanted && pods.iter().all(PodStatus::settled);
        if tokio::time::timeout(FIRST_PODS, self.pods_status.wait_for(tried))
            .await
            .is_err()
        {
            tracing::warn!("not every pod could be tried in time; those that are left follow later");
        }
    }
}

/// Waits for a moment; for ever if there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for the state of a source to be whole. Acting on less would unsteer what a predecessor steers.
async fn synced(health: Option<&mut watch::Receiver<Health>>) {
    let Some(health) = health else { return };
    if health.wait_for(|health| health.synced).await.is_err() {
        // The source has ended, and has said so: what there is stays in use.
        std::future::pending::<()>().await;
    }
}

fn start_data(
    options: &Options,
    instance: &Instance,
    kernel: &Kernel,
    beats: &Arc<Beats>,
    detected: mpsc::UnboundedSender<(u32, bool)>,
    panics: mpsc::UnboundedSender<pods::Panicked>,
) -> Result<DataPlane, data::StartError> {
    let (heartbeat, identify, beats) = (kernel.heartbeat(), kernel.identify(), Arc::clone(beats));
    DataPlane::start(&data::Config {
        workers: options.workers(),
        node: options.node().into(),
        mark: Some(MARK),
        probe_slot: Slot::PROBE.get(),
        probe_token: instance.name().into(),
        heartbeat: Arc::new(move |worker| {
            heartbeat.beat(worker);
            beats.beat(worker);
        }),
        identify: Arc::new(move |socket| identify.service_of(socket).map(Slot::get)),
        detected: Arc::new(move |slot, http2| {
            // Nobody listens while the agent drains.
            let _: Result<(), _> = detected.send((slot, http2));
        }),
        panicked: Arc::new(move |incarnation, panic| {
            let (incarnation, panic) = (Arc::clone(incarnation), panic.to_owned());
            let _: Result<(), _> = panics.send(pods::Panicked { incarnation, panic });
        }),
        on_turn: None,
        seed: process::seed(),
        dial: options.dial(),
    })
}
