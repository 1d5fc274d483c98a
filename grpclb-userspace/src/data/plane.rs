//! The handle by which the rest of the agent commands the workers.

use std::sync::Arc;
use std::time::Duration;

use grpclb_engine::splitter::Budget;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::config::{Config, Leave, Listeners, StartError};
use super::news::{News, Teller, news};
use super::socket;
use super::status::WorkerStatus;
use super::worker::{self, Command};
use crate::model::{PodId, ServicePort};
use crate::netns::Netns;

/// The running workers. Commands take effect in the order in which they are given; none of them blocks. What is told of
/// Services is ahead of every command and connection that comes after it.
///
/// Dropping it ends the workers, which resets every connection that is left.
#[derive(Debug)]
pub struct DataPlane {
    workers: Vec<Worker>,
    budget: Arc<Budget>,
}

/// Memory of all pods, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Taken from the budget.
    pub held: usize,
    pub budget: usize,
}

#[derive(Debug)]
struct Worker {
    commands: mpsc::UnboundedSender<Command>,
    services: Teller,
}

impl DataPlane {
    /// Starts the workers' threads.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        if config.workers == 0 {
            return Err(StartError::NoWorkers);
        }
        let budget = Arc::new(Budget::default());
        let workers = (0..config.workers)
            .map(|index| {
                let (services, hearer) = news();
                let started = worker::start(index, config, &budget, hearer);
                let commands = started.map_err(|source| StartError::Thread {
                    worker: index,
                    source,
                })?;
                Ok(Worker { commands, services })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { workers, budget })
    }

    /// Sets how many bytes all pods may hold together; 256 MiB until then.
    pub fn set_memory_budget(&self, bytes: usize) {
        self.budget.set_limit(bytes);
    }

    /// Returns how many bytes pods hold.
    pub fn memory(&self) -> Memory {
        Memory {
            held: self.budget.used(),
            budget: self.budget.limit(),
        }
    }

    /// The worker that this pod belongs to, always the same one: the kernel checks that worker's heartbeat.
    pub fn worker_for(&self, pod: &PodId) -> usize {
        // FNV-1a: a handful of bytes, once a pod.
        let hash = pod.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        ((u128::from(grpclb_engine::rng::mix(hash)) * self.workers.len() as u128) >> 64) as usize
    }

    /// Accepts on the pod's listeners from now on. `shared` namespaces (`host`) hold many pods' clients, so their
    /// upstream connections belong to one client connection each. A pod of this name that is there already leaves by
    /// [`Leave::Drain`].
    pub fn add_pod(&self, pod: PodId, netns: Arc<Netns>, listeners: Listeners, shared: bool) {
        // Before this returns: whoever connects from now on must find the options set.
        for listener in std::iter::once(&listeners.v4).chain(&listeners.v6) {
            if let Err(error) = socket::prepare_listener(listener) {
                warn!(%pod, %error, "cannot set the options of the pod's listener");
            }
        }
        let worker = self.worker_for(&pod);
        self.tell(
            worker,
            Command::AddPod {
                pod,
                netns,
                listeners,
                shared,
            },
        );
    }

    /// Completes when nothing of the pod is left: its listeners are closed, its connections ended or reset.
    pub fn remove_pod(&self, pod: &PodId, leave: Leave) -> impl Future<Output = ()> + use<> {
        let (done, gone) = oneshot::channel();
        self.tell(
            self.worker_for(pod),
            Command::RemovePod {
                pod: pod.clone(),
                leave,
                done,
            },
        );
        async { gone.await.unwrap_or(()) }
    }

    /// What connections to this slot are for, from now on; connections that are there follow at once.
    pub fn set_service(&self, slot: u32, service: &Arc<ServicePort>) {
        self.tell_of_service(slot, Some(service));
    }

    /// Its clients are told to go, new connections to the slot are reset.
    pub fn remove_service(&self, slot: u32) {
        self.tell_of_service(slot, None);
    }

    fn tell_of_service(&self, slot: u32, service: Option<&Arc<ServicePort>>) {
        for (index, worker) in self.workers.iter().enumerate() {
            let service = service.map(Arc::clone);
            if worker.services.tell(News { slot, service }) {
                self.tell(index, Command::Look);
            }
        }
    }

    /// Tells every client to go (GOAWAY in two steps) and completes when the last connection has ended, or after
    /// `limit`; true if all ended. The listeners still accept, for connects that were on their way.
    pub fn drain(&self, limit: Duration) -> impl Future<Output = bool> + use<> {
        let waiting: Vec<_> = (0..self.workers.len())
            .map(|worker| {
                let (done, drained) = oneshot::channel();
                self.tell(worker, Command::Drain { done });
                drained
            })
            .collect();
        async move {
            let all = async {
                for worker in waiting {
                    worker.await.unwrap_or(());
                }
            };
            tokio::time::timeout(limit, all).await.is_ok()
        }
    }

    /// Resets every connection and stops listening, in all pods: the end of a drain that took too long, where the process
    /// stays.
    pub fn reset_all(&self) {
        for worker in 0..self.workers.len() {
            self.tell(worker, Command::ResetAll);
        }
    }

    /// Collects a snapshot from every worker, in their order; `None` for one that does not answer within `limit`.
    pub fn status(&self, limit: Duration) -> impl Future<Output = Vec<Option<WorkerStatus>>> + use<> {
        let waiting: Vec<_> = (0..self.workers.len())
            .map(|worker| {
                let (reply, answer) = oneshot::channel();
                self.tell(worker, Command::Status { reply });
                answer
            })
            .collect();
        async move {
            let deadline = tokio::time::Instant::now() + limit;
            let mut workers = Vec::with_capacity(waiting.len());
            for answer in waiting {
                let answer = tokio::time::timeout_at(deadline, answer).await;
                workers.push(answer.ok().and_then(Result::ok));
            }
            workers
        }
    }

    fn tell(&self, worker: usize, command: Command) {
        // A worker ends only with this handle, or with the whole process.
        let _ = self.workers[worker].commands.send(command);
    }
}
