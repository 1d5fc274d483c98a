//! One client pod: its splitter, its sockets, its tasks, and how it leaves.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use grpclb_engine::balance::Service;
use grpclb_engine::splitter::{ServiceKey, ServiceView, Splitter};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use super::accept::accept_loop;
use super::config::Listeners;
use super::driver::{self, Driver};
use super::legs::Legs;
use super::panics::{Contained, DieOnPanic, Panic, Turn, contain};
use super::status::{AcceptCounters, OpaqueCounters, PodStatus, ServiceStatus};
use super::totals::Kept;
use super::turns::{self, Turns};
use super::undetected::Undetected;
use super::worker::Worker;
use crate::model::{PodId, Protocol};
use crate::netns::Netns;

/// A pod that drains is done when no client has been there for this long: a connect that was steered before the drain
/// may arrive a second later (a SYN that was lost, a throttled pod).
const QUIET: Duration = Duration::from_secs(2);

/// A client pod on its worker.
pub(super) struct Pod {
    pub id: PodId,
    pub worker: Rc<Worker>,
    pub netns: Arc<Netns>,
    pub splitter: RefCell<Splitter>,
    pub legs: RefCell<Legs>,
    pub driver: Driver,
    pub counters: RefCell<Counters>,
    pub undetected: Undetected,
    /// The namespace holds many pods' clients (`host`).
    shared: bool,
    /// Services that the splitter was told of: those that this pod's clients have dialled.
    known: RefCell<HashSet<u32>>,
    /// Totals of endpoints that left the pod's subset, by the Service's slot.
    kept: RefCell<HashMap<u32, Kept>>,
    tasks: RefCell<JoinSet<()>>,
    clients: Cell<usize>,
    client_left: Notify,
    draining: Cell<bool>,
    pub turns: Turns,
    gone: Cell<bool>,
    /// A panic ended the pod: what is left of it is an empty shell.
    failed: Cell<bool>,
}

/// What is counted outside the engine.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub accept: AcceptCounters,
    pub opaque: OpaqueCounters,
    /// Opaque connections that are open.
    pub opaque_open: usize,
    /// And those of each Service, by its slot, since the start.
    pub opaque_by_service: HashMap<u32, u64>,
}

impl Pod {
    /// Starts the pod's accept loops and its driver.
    pub(super) fn start(
        worker: Rc<Worker>,
        id: PodId,
        netns: Arc<Netns>,
        listeners: Listeners,
        shared: bool,
    ) -> Rc<Self> {
        let splitter = new_splitter(&worker);
        let pod = Rc::new(Self {
            id,
            worker,
            netns,
            splitter: RefCell::new(splitter),
            legs: RefCell::default(),
            driver: Driver::default(),
            counters: RefCell::default(),
            undetected: Undetected::default(),
            shared,
            known: RefCell::default(),
            kept: RefCell::default(),
            tasks: RefCell::default(),
            clients: Cell::new(0),
            client_left: Notify::new(),
            draining: Cell::new(false),
            turns: Turns::default(),
            gone: Cell::new(false),
            failed: Cell::new(false),
        });
        pod.spawn(driver::run(Rc::clone(&pod)));
        pod.spawn(turns::run(Rc::clone(&pod)));
        for listener in std::iter::once(listeners.v4).chain(listeners.v6) {
            pod.spawn(accept_loop(Rc::clone(&pod), listener));
        }
        pod
    }

    /// Runs a task of this pod: it is dropped, with its sockets, when the pod goes. `None` if it has gone.
    pub(super) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) -> Option<AbortHandle> {
        if self.gone.get() {
            return None;
        }
        let task = Contained::new(Rc::clone(self), task);
        let task = self.tasks.borrow_mut().spawn_local(async move {
            let _die = DieOnPanic; // of what handles a panic
            task.await;
        });
        Some(task)
    }

    /// Runs code of this pod for the worker's loop. `None` if it panics, which fails the pod, or if the pod has failed.
    pub(super) fn enter<T>(&self, turn: Turn, code: impl FnOnce() -> T) -> Option<T> {
        if self.failed.get() {
            return None;
        }
        let result = contain(|| {
            self.turn(turn);
            code()
        });
        result.map_err(|panic| self.fail(&panic)).ok()
    }

    /// Marks an entry into this pod's code.
    #[inline]
    pub(super) fn turn(&self, turn: Turn) {
        if let Some(on_turn) = &self.worker.config.on_turn {
            on_turn(&self.id, turn);
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Ends the pod after a panic in its turn: its sockets are reset, its listeners closed and its memory given back, whatever
    /// state the panic left them in. Called from outside of the pod's code, so that nothing of the pod is borrowed.
    pub(super) fn fail(&self, panic: &Panic) {
        if self.failed.replace(true) {
            return; // of a task that was dropped
        }
        self.gone.set(true);
        let counted = contain(|| self.status());
        self.worker
            .pod_departed(&counted.unwrap_or_else(|_| self.status_without_engine()));
        drop(self.tasks.take()); // each task is dropped, in its own `Contained`, when the loop next comes to it
        let (legs, splitter) = (
            self.legs.take(),
            self.splitter.replace(new_splitter(&self.worker)),
        );
        for dropped in [contain(|| drop(legs)), contain(|| drop(splitter))] {
            if let Err(panic) = dropped {
                debug!(pod = %self.id, %panic, "a second panic, while the pod's state was dropped");
            }
        }
        self.client_left.notify_one();
        self.worker.pod_panicked(&self.id, panic);
    }

    /// Forgets the tasks that have ended.
    pub(super) fn reap(&self, cx: &mut Context<'_>) {
        let mut tasks = self.tasks.borrow_mut();
        while let std::task::Poll::Ready(Some(_)) = tasks.poll_join_next(cx) {}
    }

    /// Sees to it that the splitter knows this Service; `None` if there is none. What the Service's port declares.
    pub(super) fn learn_service(&self, slot: u32) -> Option<Protocol> {
        let (service, protocol) = {
            let mut services = self.worker.services.borrow_mut();
            let entry = services.begin_use(slot)?;
            (Arc::clone(entry.service(self.shared)), entry.protocol())
        };
        if self.known.borrow_mut().insert(slot) {
            self.tell_service(slot, Some(&service));
        }
        Some(protocol)
    }

    /// The Service of this slot was set or removed.
    pub(super) fn service_changed(&self, slot: u32) {
        if !self.known.borrow().contains(&slot) {
            return;
        }
        let service = {
            let services = self.worker.services.borrow();
            let entry = services.get(slot);
            if let Some(entry) = entry {
                if let Some(kept) = self.kept.borrow_mut().get_mut(&slot) {
                    kept.service_changed(entry.port());
                }
            } else {
                self.known.borrow_mut().remove(&slot);
                self.kept.borrow_mut().remove(&slot);
            }
            entry.map(|entry| Arc::clone(entry.service(self.shared)))
        };
        self.tell_service(slot, service.as_ref());
    }

    fn tell_service(&self, slot: u32, service: Option<&Arc<Service>>) {
        let mut splitter = self.splitter.borrow_mut();
        match service {
            Some(service) => splitter.set_service(self.worker.now(), ServiceKey(slot), Arc::clone(service)),
            None => splitter.remove_service(self.worker.now(), ServiceKey(slot)),
        }
        self.driver.wake();
    }

    /// The pod holds all the memory that it may: whoever reads for it slows down.
    pub(super) fn is_short(&self) -> bool {
        self.splitter.borrow().is_short()
    }

    /// Counts a client's connection for as long as the guard lives.
    pub(super) fn client_opened(self: &Rc<Self>) -> OpenClient {
        self.clients.set(self.clients.get() + 1);
        OpenClient(Rc::clone(self))
    }

    /// Tells the clients to go; connections that were on their way are still served.
    pub(super) fn begin_drain(&self) {
        self.draining.set(true);
        self.splitter.borrow_mut().drain(self.worker.now());
        self.driver.wake();
    }

    /// Completes when the last client has gone and none has come for [`QUIET`].
    pub(super) async fn drained(&self) {
        loop {
            while self.clients.get() > 0 && !self.failed.get() {
                self.client_left.notified().await;
            }
            if self.failed.get() {
                return self.client_left.notify_one();
            }
            let accepted = self.counters.borrow().accept.accepted;
            tokio::time::sleep(QUIET).await;
            if self.clients.get() == 0 && self.counters.borrow().accept.accepted == accepted {
                return self.client_left.notify_one(); // another may wait, too
            }
        }
    }

    /// Ends every task and with it every socket, by a reset. Completes when none is left.
    pub(super) async fn reset(&self) {
        self.gone.set(true);
        let mut tasks = self.tasks.take();
        tasks.shutdown().await;
        self.legs.borrow_mut().clear();
    }

    /// For people.
    pub(super) fn status(&self) -> PodStatus {
        let (counters, splitter, now) = (self.counters.borrow(), self.splitter.borrow(), self.worker.now());
        let mut kept = self.kept.borrow_mut();
        let mut service = |view: &ServiceView| {
            let opaque = counters.opaque_by_service.get(&view.key.0).copied().unwrap_or(0);
            let mut status = ServiceStatus::new(view, opaque);
            kept.entry(view.key.0).or_default().keep(&mut status);
            status
        };
        PodStatus {
            client_connections: self.legs.borrow().clients(),
            upstream_connections: self.legs.borrow().upstreams(),
            buffered: splitter.buffered(),
            held: splitter.held(),
            services: splitter.describe(now).iter().map(&mut service).collect(),
            counters: splitter.stats().iter().collect(),
            ..self.status_without_engine()
        }
    }

    /// The part of [`Self::status`] that the splitter has no share in.
    fn status_without_engine(&self) -> PodStatus {
        let counters = self.counters.borrow();
        PodStatus {
            pod: self.id.to_string(),
            worker: self.worker.index,
            draining: self.draining.get(),
            client_connections: 0,
            upstream_connections: 0,
            opaque_connections: counters.opaque_open,
            accept: counters.accept,
            opaque: counters.opaque,
            buffered: 0,
            held: 0,
            services: Vec::new(),
            counters: Vec::new(),
        }
    }
}

fn new_splitter(worker: &Worker) -> Splitter {
    Splitter::new(
        Arc::clone(&worker.splitter_config),
        worker.seed(),
        Arc::clone(&worker.budget),
    )
}

/// A client's connection that is open.
pub(super) struct OpenClient(Rc<Pod>);

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.0.clients.set(self.0.clients.get().saturating_sub(1));
        self.0.client_left.notify_one();
    }
}
