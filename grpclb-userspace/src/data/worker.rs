//! A worker: a thread, its runtime, the pods and Services that it was told of, and its heartbeat.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use grpclb_engine::Time;
use grpclb_engine::splitter::Budget;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::config::{Config, Leave, Listeners};
use super::news::Hearer;
use super::panics::{self, DieOnPanic, Panic, Turn};
use super::pod::Pod;
use super::services::Services;
use super::status::{PodStatus, WorkerStatus};
use super::ticks::Ticks;
use super::totals::Totals;
use crate::model::PodId;
use crate::netns::Netns;

/// How often the worker shows that its loop turns; the connect hooks leave its pods alone after 500 ms without.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// How often a worker without pods does: a large node has many, and nothing is steered to them.
const IDLE_HEARTBEAT: Duration = Duration::from_millis(250);

/// One read of frames: they are forwarded while the cache still holds them.
pub(super) const FRAMES_READ: usize = 64 * 1024;

/// One read of opaque bytes, and of frames that come faster than that: larger ones cost fewer system calls.
const BULK_READ: usize = 256 * 1024;

/// What the worker is asked to do.
pub(super) enum Command {
    AddPod {
        pod: PodId,
        netns: Arc<Netns>,
        listeners: Listeners,
        shared: bool,
    },
    RemovePod {
        pod: PodId,
        leave: Leave,
        done: oneshot::Sender<()>,
    },
    /// Look at what was told of Services: a pod may use one of them.
    Look,
    Drain {
        done: oneshot::Sender<()>,
    },
    ResetAll,
    Status {
        reply: oneshot::Sender<WorkerStatus>,
    },
}

/// What all pods of a worker share.
pub(super) struct Worker {
    pub index: usize,
    pub config: Config,
    pub services: RefCell<Services>,
    /// Reads of HTTP/2 connections go here.
    pub frames: Scratch,
    /// Reads of opaque connections go here, and those of HTTP/2 connections that have filled the other.
    pub bulk: Scratch,
    pub splitter_config: Arc<grpclb_engine::splitter::Config>,
    /// What all pods of the agent may buffer.
    pub budget: Arc<Budget>,
    /// What pods that have left had counted.
    departed: RefCell<Totals>,
    /// Pods that failed by a panic, since the start.
    panics: Cell<u64>,
    started: Instant,
    pods_made: Cell<u64>,
}

impl Worker {
    /// Now, on the engine's clock.
    pub(super) fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Another seed for each pod of each worker of each start.
    pub(super) fn seed(&self) -> u64 {
        let pod = self.pods_made.replace(self.pods_made.get() + 1);
        grpclb_engine::rng::mix(self.config.seed ^ ((self.index as u64) << 48) ^ pod)
    }

    /// Adds what a pod counted, which has ended.
    pub(super) fn pod_departed(&self, status: &PodStatus) {
        self.departed.borrow_mut().add(status);
    }

    /// Logs and counts the panic that ended a pod, and reports it to the rest of the agent.
    pub(super) fn pod_panicked(&self, pod: &PodId, panic: &Panic) {
        self.panics.set(self.panics.get().saturating_add(1));
        error!(%pod, %panic, "the agent panicked in this pod's turn: the pod's connections are reset");
        (self.config.panicked)(pod, &panic.to_string());
    }
}

/// A buffer that all reads of a worker go into: connections that wait own none.
///
/// Payloads may be handed on by reference; they hold the memory until they are written. So reads take the rest of the
/// buffer until little is left of it, and its beginning again as soon as nothing is held.
pub(super) struct Scratch {
    buffer: RefCell<BytesMut>,
    size: usize,
}

impl Scratch {
    fn new(size: usize) -> Self {
        Self {
            buffer: RefCell::new(BytesMut::with_capacity(size)),
            size,
        }
    }

    /// The buffer, empty and with room for a read, until the guard is dropped. Never across an await: the next task
    /// takes it.
    pub(super) fn take(&self) -> RefMut<'_, BytesMut> {
        let mut buffer = self.buffer.borrow_mut();
        buffer.clear();
        if !buffer.try_reclaim(self.size) && buffer.capacity() < self.size / 4 {
            buffer.reserve(self.size);
        }
        buffer
    }
}

/// Starts the thread; the worker runs until the sender is dropped.
///
/// # Errors
/// The thread, its runtime or its timer cannot be made: too many open files, or too many threads.
pub(super) fn start(
    index: usize,
    config: &Config,
    budget: &Arc<Budget>,
    news: Hearer,
) -> io::Result<mpsc::UnboundedSender<Command>> {
    let runtime = || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())?;
        let within = runtime.enter();
        let heartbeat = Ticks::every(IDLE_HEARTBEAT)?;
        drop(within);
        Ok((runtime, heartbeat))
    };
    let (commands, inbox) = mpsc::unbounded_channel();
    let (started, starting) = std::sync::mpsc::sync_channel(1);
    let (config, budget) = (config.clone(), Arc::clone(budget));
    std::thread::Builder::new()
        .name(format!("data-{index}"))
        .spawn(move || {
            let _die = DieOnPanic;
            match runtime() {
                Ok((runtime, heartbeat)) => {
                    let _waits = started.send(Ok(()));
                    runtime.block_on(run(index, config, budget, inbox, news, heartbeat));
                }
                Err(error) => {
                    let _waits = started.send(Err(error));
                }
            }
        })?;
    let ended = || Err(io::Error::other("its thread ended at once"));
    starting.recv().unwrap_or_else(|_| ended())?;
    Ok(commands)
}

async fn run(
    index: usize,
    config: Config,
    budget: Arc<Budget>,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    news: Hearer,
    mut heartbeat: Ticks,
) {
    let splitter_config = Arc::new(splitter_config(&config));
    let worker = Rc::new(Worker {
        index,
        config,
        services: RefCell::new(Services::new(news)),
        frames: Scratch::new(FRAMES_READ),
        bulk: Scratch::new(BULK_READ),
        splitter_config,
        budget,
        departed: RefCell::default(),
        panics: Cell::new(0),
        started: Instant::now(),
        pods_made: Cell::new(0),
    });
    let mut pods = Pods {
        worker,
        present: HashMap::new(),
        leaving: Vec::new(),
    };
    let beat = Arc::clone(&pods.worker.config.heartbeat);
    beat(index);
    loop {
        tokio::select! {
            biased;
            ticked = heartbeat.tick() => {
                ticked.unwrap_or_else(|error| no_timer(index, &error));
                beat(index);
                pods.look();
            }
            command = inbox.recv() => match command {
                Some(command) => {
                    pods.obey(command);
                    let pace = if pods.present.is_empty() { IDLE_HEARTBEAT } else { HEARTBEAT };
                    if pace != heartbeat.period() {
                        beat(index);
                        heartbeat.change(pace).unwrap_or_else(|error| no_timer(index, &error));
                    }
                }
                None => return, // the runtime drops all tasks, which resets their connections
            },
        }
    }
}

fn splitter_config(config: &Config) -> grpclb_engine::splitter::Config {
    grpclb_engine::splitter::Config {
        dial_patience: config.dial.patience,
        connect_timeout: config.dial.connect,
        settings_timeout: config.dial.settings,
        ..grpclb_engine::splitter::Config::new(Arc::clone(&config.node))
    }
}

/// A worker that cannot beat is as good as dead, and its connections with it.
fn no_timer<T>(index: usize, error: &io::Error) -> T {
    tracing::error!(worker = index, %error, "the heartbeat's timer failed: ending, so that the worker's connections are reset");
    std::process::abort()
}

struct Pods {
    worker: Rc<Worker>,
    present: HashMap<PodId, Rc<Pod>>,
    /// Pods that drain, until their last connection has ended.
    leaving: Vec<Weak<Pod>>,
}

impl Pods {
    fn obey(&mut self, command: Command) {
        self.look();
        self.leaving.retain(|pod| pod.strong_count() > 0);
        match command {
            Command::AddPod {
                pod,
                netns,
                listeners,
                shared,
            } => {
                if let Some(former) = self.present.remove(&pod) {
                    self.leave(former, Leave::Drain, None);
                }
                let (worker, id) = (Rc::clone(&self.worker), Arc::clone(&pod));
                match panics::contain(|| Pod::start(worker, id, netns, listeners, shared)) {
                    Ok(added) => _ = self.present.insert(pod, added),
                    Err(panic) => self.worker.pod_panicked(&pod, &panic),
                }
            }
            Command::RemovePod { pod, leave, done } => {
                let former = self.present.remove(&pod);
                if leave == Leave::Reset {
                    // A pod that is gone takes along what drained until now.
                    for old in self
                        .leaving
                        .iter()
                        .filter_map(Weak::upgrade)
                        .filter(|old| old.id == pod)
                    {
                        spawn(async move { old.reset().await });
                    }
                }
                if let Some(former) = former {
                    self.leave(former, leave, Some(done));
                }
            }
            Command::Look => {}
            Command::Drain { done } => {
                let pods: Vec<_> = self.all().collect();
                spawn(async move {
                    for pod in &pods {
                        pod.enter(Turn::Drain, || pod.begin_drain());
                    }
                    for pod in pods {
                        pod.drained().await;
                    }
                    let _ = done.send(());
                });
            }
            Command::ResetAll => {
                for pod in self.all() {
                    spawn(async move { pod.reset().await });
                }
            }
            Command::Status { reply } => {
                let statuses = self.all().map(|pod| pod.enter(Turn::Status, || pod.status()));
                // First: what a pod had counted that fails meanwhile is then among the departed.
                let pods = statuses.flatten().collect();
                let _ = reply.send(WorkerStatus {
                    pods,
                    departed: self.worker.departed.borrow().clone(),
                    panics: self.worker.panics.get(),
                });
            }
        }
    }

    /// Takes up what was told of Services.
    fn look(&mut self) {
        self.present.retain(|_, pod| !pod.has_failed());
        let changed = self.worker.services.borrow_mut().take_changed();
        for slot in changed {
            {
                let services = self.worker.services.borrow();
                let mut departed = self.worker.departed.borrow_mut();
                match services.get(slot) {
                    Some(entry) => departed.service_changed(slot, entry.port()),
                    None => departed.service_gone(slot),
                }
            }
            self.all()
                .for_each(|pod| _ = pod.enter(Turn::ServiceChanged, || pod.service_changed(slot)));
        }
    }

    fn all(&self) -> impl Iterator<Item = Rc<Pod>> {
        self.present
            .values()
            .cloned()
            .chain(self.leaving.iter().filter_map(Weak::upgrade))
            .filter(|pod| !pod.has_failed())
    }

    fn leave(&mut self, pod: Rc<Pod>, leave: Leave, done: Option<oneshot::Sender<()>>) {
        if leave == Leave::Drain {
            self.leaving.push(Rc::downgrade(&pod));
            pod.enter(Turn::Drain, || pod.begin_drain());
        }
        spawn(async move {
            if leave == Leave::Drain {
                pod.drained().await;
            }
            pod.reset().await;
            // In one breath: a status has the pod's figures in one place or the other. A pod that fails adds its own.
            if let Some(status) = pod.enter(Turn::Status, || pod.status()) {
                pod.worker.pod_departed(&status);
            }
            drop(pod); // and with it the last hold on the namespace
            if let Some(done) = done {
                let _ = done.send(());
            }
        });
    }
}

/// Runs a task of the worker, whose panic ends the process.
fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(async move {
        let _die = DieOnPanic;
        task.await;
    });
}
