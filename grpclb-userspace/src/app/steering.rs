//! Tells the data plane and the kernel what `pods` and [`super::services`] decided.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use grpclb_abi::Slot;

use super::instances::Instance;
use super::options::Options;
use super::services::Change;
use crate::control::{PodEvent, PodEvents};
use crate::data::{self, DataPlane};
use crate::kernel::{self, Kernel};
use crate::model::{Endpoint, EndpointState, PodSpec};
use crate::pods::{self, Accept, Ended, Leave, Steer, Steering};

/// The kernel room, shared by those who tell it things and the admin who asks. Never held across an `.await`.
#[derive(Clone, Debug)]
pub(super) struct SharedKernel(Arc<Mutex<Kernel>>);

impl SharedKernel {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self(Arc::new(Mutex::new(kernel)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Kernel> {
        // Every call on it leaves the tables in a state that stands for itself, also one that panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers what the pods room asks for.
#[derive(Debug)]
pub(super) struct PodSteering {
    pub(super) kernel: SharedKernel,
    pub(super) data: Arc<DataPlane>,
    /// Only where the pods are Kubernetes'.
    pub(super) events: Option<PodEvents>,
}

impl Steering for PodSteering {
    fn accept(&mut self, pod: Accept) -> anyhow::Result<u32> {
        let worker = self.data.worker_for(&pod.incarnation);
        let listeners = data::Listeners {
            v4: pod.listeners.v4,
            v6: pod.listeners.v6,
        };
        self.data
            .add_pod(pod.incarnation, pod.namespace, listeners, pod.shared);
        Ok(u32::try_from(worker)?)
    }

    fn leave(&mut self, incarnation: &Arc<str>, how: Leave) -> Ended {
        let how = match how {
            Leave::Drain => data::Leave::Drain,
            Leave::Reset => data::Leave::Reset,
        };
        Box::pin(self.data.remove_pod(incarnation, how))
    }

    fn steer(&mut self, cookie: u64, steer: &Steer) -> anyhow::Result<()> {
        let pod = kernel::Pod {
            name: steer.name.to_string(),
            worker: steer.worker,
            port: steer.port,
            ipv6: steer.ipv6,
            accelerate: steer.accelerate,
            source4: steer.addresses.v4,
            source6: steer.addresses.v6,
        };
        self.kernel
            .lock()
            .put_pod(cookie, &pod)
            .context("the kernel's table of pods")
    }

    fn unsteer(&mut self, cookie: u64) {
        if let Err(error) = self.kernel.lock().remove_pod(cookie) {
            tracing::error!(cookie, %error, "a pod cannot be taken out of the kernel's table");
        }
    }

    fn report_panic(&mut self, pod: &PodSpec, reason: &str) {
        if let Some(events) = &self.events {
            events.report(PodEvent {
                uid: Arc::clone(&pod.id),
                name: Arc::clone(&pod.name),
                reason: "AgentPanic",
                message: reason.to_owned(),
            });
        }
    }
}

/// Returns the settings of the pods room.
pub(super) fn pods_config(options: &Options, instance: &Instance) -> pods::Config {
    let probe = pods::Probe {
        target: Slot::PROBE.to_ipv4(),
        token: instance.name().to_owned(),
    };
    pods::Config {
        probe,
        drain_timeout: options.drain_timeout(),
    }
}

/// Carries out one change of the Services.
pub(super) fn tell(change: &Change, kernel: &SharedKernel, data: &DataPlane) -> anyhow::Result<()> {
    match change {
        Change::Steer { address, service } => kernel
            .lock()
            .put_service(address.0, address.1, service)
            .with_context(|| format!("Service {} at {}:{}", service.name, address.0, address.1))?,
        Change::Unsteer { address } => kernel
            .lock()
            .remove_service(address.0, address.1)
            .with_context(|| format!("taking {}:{} out of the kernel's table", address.0, address.1))?,
        Change::List { slot, service } => {
            let endpoints = service.iter().flat_map(|service| &service.endpoints);
            let backends: Vec<_> = endpoints.map(backend).collect();
            kernel
                .lock()
                .put_endpoints(*slot, &backends)
                .context("the kernel's table of endpoints")?;
        }
        Change::Serve { slot, service } => data.set_service(slot.get(), service),
        Change::Retire { slot } => data.remove_service(slot.get()),
    }
    Ok(())
}

fn backend(endpoint: &Endpoint) -> kernel::Backend {
    kernel::Backend {
        id: Arc::clone(&endpoint.id),
        address: endpoint.address,
        weight: endpoint.weight,
        draining: endpoint.state == EndpointState::Draining,
    }
}
