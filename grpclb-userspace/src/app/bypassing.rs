//! Asks [`crate::leftovers`] for the connections that bypass grpclb, and has them reset where the operator wishes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::status::Known;
use crate::leftovers::{Leftovers, Pod};
use crate::pods::{PodState, PodStatus};

/// How often they are counted when nobody asks.
const INTERVAL: Duration = Duration::from_secs(30);

/// The pods whose connections could be steered: those that leave are plain on purpose.
pub(super) fn pods_of(pods: &[PodStatus]) -> Vec<Pod> {
    let wanted = pods.iter().filter(|pod| pod.state != PodState::Draining);
    wanted.filter_map(pod_of).collect()
}

fn pod_of(pod: &PodStatus) -> Option<Pod> {
    Some(Pod {
        incarnation: Arc::clone(&pod.incarnation),
        name: Arc::clone(&pod.name),
        namespace: pod.netns.clone()?,
    })
}

/// Counts the connections that came too early, when their pod begins to be steered. Adopts as pods ask for it, once they are
/// steered: before that, the connections would come back as they were.
pub(super) async fn watch(
    leftovers: Arc<Leftovers>,
    mut pods: watch::Receiver<Arc<[PodStatus]>>,
    known: watch::Receiver<Arc<Known>>,
) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut wishes = Wishes::default();
    let mut steered = Steered::default();
    loop {
        tokio::select! {
            changed = pods.changed() => if changed.is_err() { return },
            _ = interval.tick() => {
                let (pods, services) = (pods_of(&pods.borrow()), known.borrow().steered());
                leftovers.count(pods, services).await;
            }
        }
        let status = pods.borrow_and_update().clone();
        for pod in steered.news(&status).into_iter().filter_map(pod_of) {
            let services = known.borrow().steered();
            leftovers.count_early(pod, services).await;
        }
        let asked: Vec<_> = wishes
            .news(&status)
            .into_iter()
            .filter_map(|pod| Some((pod_of(pod)?, pod.adopt.clone()?)))
            .collect();
        for (pod, wish) in asked {
            if leftovers.begin(&pod, &wish) {
                let (leftovers, services) = (Arc::clone(&leftovers), known.borrow().steered());
                tokio::spawn(async move {
                    let name = Arc::clone(&pod.name);
                    if let Err(error) = leftovers.adopt(pod, services, wish).await {
                        tracing::error!(pod = %name, %error, "connections that bypass grpclb cannot be reset");
                    }
                });
            }
        }
    }
}

/// Which pods were steered before.
#[derive(Debug, Default)]
struct Steered(BTreeSet<Arc<str>>);

impl Steered {
    /// The pods that are steered for the first time.
    fn news<'p>(&mut self, pods: &'p [PodStatus]) -> Vec<&'p PodStatus> {
        self.0
            .retain(|incarnation| pods.iter().any(|pod| pod.incarnation == *incarnation));
        let steered = pods.iter().filter(|pod| pod.state == PodState::Steered);
        steered
            .filter(|pod| self.0.insert(Arc::clone(&pod.incarnation)))
            .collect()
    }
}

/// Which wish each pod had, so that only a new one counts. One that a pod brings along when it is first seen is old: it was for
/// the connections of another day, and an agent that is restarted or upgraded must reset nothing by itself.
#[derive(Debug, Default)]
struct Wishes(BTreeMap<Arc<str>, Option<Arc<str>>>);

impl Wishes {
    /// The pods whose wish is new. That of a pod which is not steered yet waits.
    fn news<'p>(&mut self, pods: &'p [PodStatus]) -> Vec<&'p PodStatus> {
        self.0
            .retain(|incarnation, _| pods.iter().any(|pod| pod.incarnation == *incarnation));
        let mut news = Vec::new();
        for pod in pods {
            let wish = pod.adopt.as_ref().map(|adopt| Arc::clone(&adopt.request));
            match self.0.entry(Arc::clone(&pod.incarnation)) {
                Entry::Vacant(first) => _ = first.insert(wish),
                Entry::Occupied(mut before) => {
                    if *before.get() != wish && (pod.state == PodState::Steered || wish.is_none()) {
                        before.insert(wish);
                        news.push(pod);
                    }
                }
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Adopt;

    fn pod(state: PodState, wish: Option<&str>) -> [PodStatus; 1] {
        let adopt = wish.map(|request| Adopt {
            request: request.into(),
            rate: 10,
        });
        [PodStatus {
            id: "a".into(),
            incarnation: "a".into(),
            name: "shop/a".into(),
            state,
            reason: None,
            namespace: String::new(),
            cookie: None,
            port: None,
            ipv6: false,
            worker: None,
            addresses: Vec::new(),
            failures: 0,
            ready_after: None,
            netns: None,
            adopt,
        }]
    }

    #[test]
    fn a_pod_is_new_once_and_again_when_it_comes_back() {
        let mut steered = Steered::default();
        let mut news = |pods: &[PodStatus]| steered.news(pods).len();
        assert_eq!(news(&pod(PodState::Probing, None)), 0, "not steered yet");
        assert_eq!(news(&pod(PodState::Steered, None)), 1);
        assert_eq!(news(&pod(PodState::Steered, None)), 0, "once");
        assert_eq!(news(&[]), 0);
        assert_eq!(news(&pod(PodState::Steered, None)), 1, "another one");
    }

    #[test]
    fn a_wish_counts_once_and_only_if_it_is_made_while_the_pod_is_known() {
        let mut wishes = Wishes::default();
        let mut told = |state, wish| {
            let pods = pod(state, wish);
            wishes
                .news(&pods)
                .iter()
                .filter(|pod| pod.adopt.is_some())
                .count()
        };
        assert_eq!(told(PodState::Waiting, Some("of yesterday")), 0);
        assert_eq!(told(PodState::Steered, Some("of yesterday")), 0);
        assert_eq!(told(PodState::Steered, Some("new")), 1);
        assert_eq!(told(PodState::Steered, Some("new")), 0, "once");
        assert_eq!(told(PodState::Probing, Some("newer")), 0, "not steered: it waits");
        assert_eq!(told(PodState::Steered, Some("newer")), 1);
        assert_eq!(told(PodState::Steered, None), 0);
        assert_eq!(
            told(PodState::Steered, Some("new")),
            1,
            "taken away and asked again"
        );
    }
}
