//! Asks [`crate::leftovers`] for the connections that bypass grpclb, and has them reset where the operator wishes.

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

/// Adopts as pods ask for it, once they are steered: before that, the connections would come back as they were.
pub(super) async fn adopt(
    leftovers: Arc<Leftovers>,
    mut pods: watch::Receiver<Arc<[PodStatus]>>,
    known: watch::Receiver<Arc<Known>>,
) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = pods.changed() => if changed.is_err() { return },
            _ = interval.tick() => {
                let (pods, services) = (pods_of(&pods.borrow()), known.borrow().steered());
                leftovers.count(pods, services).await;
            }
        }
        let asked: Vec<_> = pods
            .borrow_and_update()
            .iter()
            .filter(|pod| pod.state == PodState::Steered)
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
