//! Connections that bypass grpclb: made before their pod was steered, or in a gap. They go on to one backend for as long as they
//! live, so they are shown; and reset, paced, when the operator asks for it ("adopt").
//!
//! Asks each pod's namespace for its TCP connections (`sock_diag`). A connection to a Service's address that is in use has that
//! address as its peer, since kube-proxy translates behind the socket; a steered one has the agent's listener. Decides
//! nothing about pods and Services: who asks brings both.

mod message;
mod sockets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::Adopt;
use crate::netns::Netns;
use message::{Connection, Which};
use sockets::Sockets;

/// Counts are not made anew more often than this: a count looks at every connection of every pod.
const FRESH: Duration = Duration::from_secs(1);

/// The addresses of the Services that are steered.
pub type Services = Arc<HashSet<SocketAddr>>;

/// A pod whose connections are looked at.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Names it here, and tells it from a former one of the same id.
    pub incarnation: Arc<str>,
    /// For the log.
    pub name: Arc<str>,
    pub namespace: Arc<Netns>,
}

/// What was found of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Open connections that bypass grpclb, by the Service address that they were made to.
    pub bypassing: BTreeMap<SocketAddr, u64>,
    /// Connections that were reset because the operator asked for it, since the pod is known.
    pub adopted: u64,
}

impl Count {
    pub fn total(&self) -> u64 {
        self.bypassing.values().sum()
    }
}

/// What became of the last wish to adopt a pod's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Which wish.
    pub request: Arc<str>,
    /// How many there were; `None` until they were counted.
    pub found: Option<u64>,
    /// How many of them were reset so far; the others had ended.
    pub reset: u64,
    pub ended: bool,
    /// Why it ended early.
    pub error: Option<String>,
}

/// Counts and resets them. Shared by who shows and who adopts.
#[derive(Debug)]
pub struct Leftovers {
    /// The mark of the agent's own sockets.
    own: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counted: Option<Instant>,
    /// Connections that were reset, ever: what was counted meanwhile is old already.
    resets: u64,
    /// Connections that pods already had when they began to be steered.
    early: u64,
    counts: BTreeMap<Arc<str>, Count>,
    /// The last wish of each pod.
    adoptions: BTreeMap<Arc<str>, Adoption>,
}

impl Leftovers {
    pub fn new(own_mark: u32) -> Arc<Self> {
        Arc::new(Self {
            own: own_mark,
            state: Mutex::default(),
        })
    }

    /// Counts the connections of these pods that bypass grpclb; within a second of the last count, tells that one again.
    /// What is not among `pods` is forgotten. A pod that cannot be asked has no count.
    pub async fn count(self: &Arc<Self>, pods: Vec<Pod>, services: Services) -> BTreeMap<Arc<str>, Count> {
        {
            let state = self.lock();
            if state.counted.is_some_and(|at| at.elapsed() < FRESH) {
                return state.counts.clone();
            }
        }
        let this = Arc::clone(self);
        // Netlink answers within microseconds, but for every pod of the node and every socket of theirs.
        let counted = tokio::task::spawn_blocking(move || this.count_now(&pods, &services));
        counted.await.unwrap_or_default()
    }

    /// Adds up the connections that this pod has already, or had just now, as it begins to be steered: they came too early for
    /// grpclb. Where the pod cannot be asked, none are added.
    pub async fn count_early(self: &Arc<Self>, pod: Pod, services: Services) {
        let this = Arc::clone(self);
        let counted = tokio::task::spawn_blocking(move || {
            match this.bypassing(&pod.namespace, &services, Which::AlsoEnded) {
                Ok((_, connections)) => this.lock().early += connections.len() as u64,
                Err(error) => {
                    tracing::debug!(pod = %pod.name, %error, "cannot look for connections that came too early");
                }
            }
        });
        // It ends early only together with the agent.
        let _ended = counted.await;
    }

    /// How many connections came too early, since the start.
    pub fn early(&self) -> u64 {
        self.lock().early
    }

    fn count_now(&self, pods: &[Pod], services: &Services) -> BTreeMap<Arc<str>, Count> {
        let resets_before = self.lock().resets;
        let mut found = BTreeMap::new();
        for pod in pods {
            match self.bypassing(&pod.namespace, services, Which::Established) {
                Ok((_, connections)) => {
                    let mut bypassing = BTreeMap::new();
                    for connection in connections {
                        *bypassing.entry(connection.peer).or_insert(0) += 1;
                    }
                    found.insert(Arc::clone(&pod.incarnation), bypassing);
                }
                Err(error) => {
                    tracing::debug!(pod = %pod.name, %error, "cannot look for connections that bypass grpclb");
                }
            }
        }
        let mut state = self.lock();
        state.counted = (state.resets == resets_before).then(Instant::now);
        let known = |incarnation: &Arc<str>| pods.iter().any(|pod| pod.incarnation == *incarnation);
        state.adoptions.retain(|incarnation, _| known(incarnation));
        let before = std::mem::take(&mut state.counts);
        let adopted =
            |incarnation: &Arc<str>| before.get(incarnation).map_or(0, |count: &Count| count.adopted);
        state.counts = found
            .into_iter()
            .map(|(incarnation, bypassing)| {
                let adopted = adopted(&incarnation);
                (incarnation, Count { bypassing, adopted })
            })
            .collect();
        state.counts.clone()
    }

    fn bypassing(
        &self,
        namespace: &Netns,
        services: &Services,
        which: Which,
    ) -> io::Result<(Sockets, Vec<Connection>)> {
        let mut sockets = Sockets::of(namespace)?;
        let mut connections = sockets.connections(which)?;
        connections.retain(|found| services.contains(&found.peer) && found.mark != self.own);
        Ok((sockets, connections))
    }

    /// Takes up a wish to adopt the pod's connections: `true` once for each request, for who then calls [`Self::adopt`].
    #[must_use]
    pub fn begin(&self, pod: &Pod, wish: &Adopt) -> bool {
        let incarnation = Arc::clone(&pod.incarnation);
        let begun = Adoption {
            request: Arc::clone(&wish.request),
            ..Adoption::default()
        };
        let mut state = self.lock();
        if state
            .adoptions
            .get(&incarnation)
            .is_some_and(|known| known.request == wish.request)
        {
            return false;
        }
        state.adoptions.insert(incarnation, begun);
        true
    }

    /// What became of the pod's last wish; `None` if it had none.
    pub fn adoption(&self, incarnation: &Arc<str>) -> Option<Adoption> {
        self.lock().adoptions.get(incarnation).cloned()
    }

    /// Notes how far the adoption of a pod has come; a newer wish's is not touched.
    fn note(&self, pod: &Pod, wish: &Adopt, note: impl FnOnce(&mut Adoption)) {
        let mut state = self.lock();
        let adoption = state.adoptions.get_mut(&pod.incarnation);
        if let Some(adoption) = adoption.filter(|adoption| adoption.request == wish.request) {
            note(adoption);
        }
    }

    /// Resets the pod's connections that bypass grpclb, at most `wish.rate` a second. Calls on them fail; what a client opens
    /// instead is steered. Returns how many were reset.
    pub async fn adopt(self: Arc<Self>, pod: Pod, services: Services, wish: Adopt) -> io::Result<u64> {
        let outcome = self.reset_all(&pod, services, &wish).await;
        self.note(&pod, &wish, |adoption| {
            adoption.ended = true;
            adoption.error = outcome.as_ref().err().map(ToString::to_string);
        });
        outcome
    }

    async fn reset_all(self: &Arc<Self>, pod: &Pod, services: Services, wish: &Adopt) -> io::Result<u64> {
        let pause = Duration::from_secs(1) / wish.rate.max(1);
        let this = Arc::clone(self);
        let namespace = Arc::clone(&pod.namespace);
        let listed =
            tokio::task::spawn_blocking(move || this.bypassing(&namespace, &services, Which::Established));
        let (mut sockets, connections) = listed.await.map_err(io::Error::other)??;
        let (mut reset, found) = (0, connections.len());
        self.note(pod, wish, |adoption| adoption.found = Some(found as u64));
        let mut pace = tokio::time::interval(pause);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for connection in connections {
            pace.tick().await;
            // 65 µs each: no need of another thread.
            if sockets.reset(&connection)? {
                tracing::debug!(pod = %pod.name, peer = %connection.peer, local = %connection.local, "adopted: reset");
                reset += 1;
                self.note(pod, wish, |adoption| adoption.reset = reset);
                let mut state = self.lock();
                state.resets += 1;
                let count = state.counts.entry(Arc::clone(&pod.incarnation)).or_default();
                count.adopted += 1;
                if let Some(left) = count.bypassing.get_mut(&connection.peer) {
                    *left = left.saturating_sub(1);
                }
            }
        }
        if found > 0 {
            tracing::info!(
                pod = %pod.name, request = %wish.request, found, reset,
                "adopted: connections that bypassed grpclb were reset as asked"
            );
        }
        Ok(reset)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
