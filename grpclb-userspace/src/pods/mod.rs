//! The pods room: keeps a listener in the namespace of every wanted pod, proves that it is reached, and only then has the
//! kernel steer the pod there.
//!
//! Decisions are made in [`plan`], pure and as a table; [`steps`] applies them, one step a pod at a time, so that one
//! pod's trouble never delays another. [`sandbox`] finds the namespaces of Kubernetes' pods. What other rooms have to do is
//! asked for through [`Steering`]: this room knows neither the kernel nor the relay.
//!
//! A pod whose namespace goes has its connections reset: a plain close would keep the namespace alive for more than a
//! minute (measured). A pod that is disabled is taken from the kernel first; its connections end in order.

mod listener;
mod pause;
mod plan;
mod probe;
mod sandbox;
mod status;
mod steps;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch as channel};

pub use listener::{Addresses, ListenError, Listeners, PORTS};
pub use probe::{Arrived, Probe, ProbeError};
pub use status::{PodState, PodStatus};

use crate::model::{Desired, PodSpec};
use crate::netns::Netns;
use steps::Pods;

/// How often namespaces are compared with what their names stand for: a stat(2) for each pod.
const RESYNC: Duration = Duration::from_secs(1);

/// What this room asks of the others; `app` answers with the data plane and the kernel room.
pub trait Steering: Send {
    /// Accept from these listeners from now on. Returns the data worker that has the pod.
    fn accept(&mut self, pod: Accept) -> anyhow::Result<u32>;
    /// Stop accepting. Connections are reset, or end in their own time; [`Ended`] completes when none is left.
    fn leave(&mut self, incarnation: &Arc<str>, how: Leave) -> Ended;
    /// Send the connections of this namespace to the listener. Also changes what was said before.
    fn steer(&mut self, cookie: u64, steer: &Steer) -> anyhow::Result<()>;
    /// Send no more of them.
    fn unsteer(&mut self, cookie: u64);
    /// Reports that the relay panicked in this pod's turn, and that the pod is not steered for a while.
    fn report_panic(&mut self, pod: &PodSpec, reason: &str);
}

/// A panic of the relay in a pod's turn: the pod's listeners are closed, its connections reset.
#[derive(Clone, Debug)]
pub struct Panicked {
    /// As in [`Accept`].
    pub incarnation: Arc<str>,
    /// The message and location.
    pub panic: String,
}

/// Completes when nothing of a pod is left. What it stands for goes on without being polled.
pub type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A pod's listeners for the relay.
#[derive(Debug)]
pub struct Accept {
    /// Unique among all incarnations of all pods: the pod's id, or `id~2` for its second incarnation.
    pub incarnation: Arc<str>,
    pub namespace: Arc<Netns>,
    pub listeners: Listeners,
    /// The namespace belongs to more than one pod: connections to backends are not shared.
    pub shared: bool,
}

/// A pod for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    /// For people, as [`crate::model::PodSpec::name`].
    pub name: Arc<str>,
    pub worker: u32,
    pub port: u16,
    pub ipv6: bool,
    pub accelerate: bool,
    pub addresses: Addresses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Drain,
    Reset,
}

/// Settings of the room.
#[derive(Clone, Debug)]
pub struct Config {
    pub probe: Probe,
    /// How long the connections of a disabled pod may run on.
    pub drain_timeout: Duration,
}

/// Returns the task that keeps the pods as `desired` wants them. Must be called within a tokio runtime.
///
/// # Errors
/// The kernel gives no inotify instance: too many open files, or `fs.inotify.max_user_instances` are in use.
pub fn start<S: Steering>(
    config: Config,
    desired: channel::Receiver<Arc<Desired>>,
    steering: S,
    status: channel::Sender<Arc<[PodStatus]>>,
    panics: mpsc::UnboundedReceiver<Panicked>,
) -> io::Result<impl Future<Output = ()>> {
    let pods = Pods::new(config, steering)?;
    let names = watch::NamesWatch::new()?;
    Ok(run(pods, names, desired, status, panics))
}

/// Runs until whoever wants pods is gone.
async fn run<S: Steering>(
    mut pods: Pods<S>,
    mut names: watch::NamesWatch,
    mut desired: channel::Receiver<Arc<Desired>>,
    status: channel::Sender<Arc<[PodStatus]>>,
    mut panics: mpsc::UnboundedReceiver<Panicked>,
) {
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let wanted = desired.borrow_and_update().clone();
        pods.look_for(&wanted.pods);
        let wake = pods.reconcile(&wanted.pods);
        // A sandbox that is being made is looked at every 2 ms: who follows the status need not wake up for that.
        status.send_if_modified(|told| {
            let now = pods.status();
            let changed = *told != now;
            *told = now;
            changed
        });
        let wake = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(panicked) = panics.recv() => pods.panicked(&panicked),
            changed = desired.changed() => if changed.is_err() { return },
            Some(outcome) = pods.probes.join_next() => pods.probed(outcome),
            Some(ended) = pods.departures.join_next() => pods.ended(ended),
            () = names.changed() => pods.look_again(true),
            uids = pods.sandboxes.changed() => pods.sandboxes_changed(&uids),
            _ = resync.tick() => {
                names.watch_again();
                pods.look_again(false);
                pods.resync_sandboxes();
            }
            () = wake => {}
        }
    }
}
