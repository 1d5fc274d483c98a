//! The kernel room: loads the kernel programs, attaches them where they cannot hurt another owner, and fills their maps.
//!
//! The only room that knows aya. It decides nothing about Services or pods: `app` tells it what to put into the maps.
//! Order of use: [`Kernel::load`] (maps are pinned, nothing is attached) → fill the maps → [`Kernel::attach`] (connect
//! hooks last, then a connect of its own proves that they work) → [`Kernel::detach_connect`] when another instance takes
//! over or the agent drains → drop (everything goes, own pins included). Links are held by the process: when it dies,
//! the kernel lets go of the connect hooks first, then of everything else, and connects are what plain Kubernetes would have made
//! them.

mod attach;
mod cgroup;
pub mod check;
mod clock;
mod error;
mod heartbeat;
mod identify;
mod loader;
mod logs;
mod object;
mod pins;
mod plan;
mod pod;
mod sys;
mod tables;
mod verify;

pub use clock::MachineClock;
pub use error::{Error, Result};
pub use heartbeat::Heartbeat;
pub use identify::Identify;
pub use pins::sweep;
pub use tables::{Backend, Pod, Service};

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{MapError, PerCpuValues};
use aya::programs::{Program, sk_msg::SkMsgLink};
use aya::util::nr_cpus;
use grpclb_abi::{self as abi, COUNTERS, Slot, program};

use attach::Links;
use loader::{Maps, chain, refused};
use logs::Logs;
use pins::Pins;
use plan::{Observed, Plan};
use pod::Plain;
use tables::service_key;
use verify::Finding;

/// What [`Kernel::load`] needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// This agent instance's name: letters, digits, `-` and `_`; unique on the machine (bpffs reserves dots).
    pub instance: String,
    /// Where instances keep their pins, on a bpffs: `/sys/fs/bpf/grpclb`. Made, and its bpffs mounted, if it is missing.
    pub pin_root: PathBuf,
    /// The cgroup (v2) to attach to; without it the pods' cgroup where there is one, else the root.
    pub cgroup: Option<PathBuf>,
    /// Logs of the kernel programs: 0 none (and no cost), 1 errors … 5 everything, each connect included.
    pub log_level: u8,
}

/// The kernel programs and maps of this agent instance. Fields drop in this order: links first, pins last.
pub struct Kernel {
    links: Links,
    sk_msg: Option<SkMsgLink>,
    _logs: Option<Logs>,
    ebpf: Ebpf,
    maps: Maps,
    heartbeat: Heartbeat,
    identify: Identify,
    /// How many entries each slot has in the table of endpoints.
    backends: HashMap<Slot, u32>,
    programs: Vec<&'static str>,
    state: Attached,
    /// Which cgroup of the target's path the links are on.
    target: Option<u64>,
    /// The counters count from the first attachment on.
    counted: bool,
    /// What the kernel did not take, for the operator.
    lacking: Vec<String>,
    options: Options,
    pins: Pins,
}

/// What stands attached, for status and logs.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Attached {
    pub cgroup: PathBuf,
    /// IPv6 is steered too.
    pub ipv6: bool,
    /// A connect of our own was steered (else only the kernel's list of programs says that they run).
    pub verified: bool,
    pub programs: Vec<AttachedProgram>,
    /// Things that an operator should know: what this kernel lacks, what was not verified.
    pub notes: Vec<String>,
}

/// One of our programs and its neighbours at the same hook.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AttachedProgram {
    pub name: &'static str,
    pub id: u32,
    pub hook: &'static str,
    pub cgroup: PathBuf,
    /// The kernel runs it for this cgroup.
    pub runs: bool,
    /// Names and ids of the programs that run before ours, and behind it, whoever attached them.
    pub before: Vec<String>,
    pub after: Vec<String>,
}

impl Kernel {
    /// Loads the programs and pins the maps under `<pin_root>/<instance>/`. Nothing is attached yet. Removes the pins of
    /// instances that died; never a live one's.
    pub fn load(options: &Options) -> Result<Self> {
        Self::load_object(options, object::embedded()?)
    }

    /// [`Kernel::load`] with another object than the embedded one.
    pub fn load_object(options: &Options, object: &[u8]) -> Result<Self> {
        object::check_abi(object)?;
        let pins = Pins::create(&options.pin_root, &options.instance)?;
        let mut loaded = loader::load(options, object, &pins)?;
        let logs = if options.log_level > 0 {
            Some(Logs::start(&mut loaded.ebpf)?)
        } else {
            None
        };
        Ok(Self {
            links: Links::default(),
            sk_msg: None,
            _logs: logs,
            ebpf: loaded.ebpf,
            maps: loaded.maps.tables,
            heartbeat: Heartbeat::new(loaded.maps.heartbeats),
            identify: Identify::new(loaded.maps.accepted),
            backends: HashMap::new(),
            programs: loaded.programs,
            state: Attached::default(),
            target: None,
            counted: false,
            lacking: loaded.notes,
            options: options.clone(),
            pins,
        })
    }

    /// Attaches everything, `connect` last, and proves with a connect of its own that it works.
    /// On an error nothing stays attached.
    pub fn attach(&mut self) -> Result<Attached> {
        let root = cgroup::root()?;
        let target = cgroup::target(self.options.cgroup.as_deref())?;
        let own = cgroup::own(&root);
        let standing = attach::standing(&target, &root)?;
        let Plan { steps, ipv6, notes } = plan::plan(&Observed {
            target: &target,
            own: own.as_deref(),
            loaded: &self.programs,
            standing: &standing,
        })?;
        // Before the links: should it be replaced meanwhile, that shows.
        self.target = cgroup::identity(&target);
        self.links = Links::attach(&self.ebpf, &steps)?;
        self.state = Attached {
            cgroup: target.clone(),
            ipv6,
            notes,
            ..Attached::default()
        };
        if let Err(error) = self.settle(&target) {
            self.links = Links::default();
            return Err(error);
        }
        Ok(self.attached())
    }

    /// Whether the cgroup that the programs are attached to went and another one has its path: that one's processes are not
    /// steered until [`Kernel::attach`] is called again.
    pub fn is_cgroup_replaced(&self) -> bool {
        let now = cgroup::identity(&self.state.cgroup);
        self.target.is_some() && now.is_some() && now != self.target
    }

    /// What is left to do once the links stand.
    fn settle(&mut self, target: &Path) -> Result<()> {
        self.prove(target)?;
        if !std::mem::replace(&mut self.counted, true) {
            // The connects of the proof are nobody's business; from here on figures only grow.
            self.maps
                .counters
                .set(0, no_figures()?, 0)
                .map_err(table("counters"))?;
        }
        self.pins.make_current()
    }

    /// A connect of our own must be steered; where none can be made, the kernel's list must name our program.
    fn prove(&mut self, target: &Path) -> Result<()> {
        let (four, six) = verify::verify(
            target,
            &self.options.instance,
            &mut self.maps,
            &self.heartbeat,
            &self.identify,
            self.state.ipv6,
        );
        match four {
            Finding::Steered => self.state.verified = true,
            Finding::NotSteered(reason) => {
                return Err(Error::NotEffective {
                    cgroup: target.into(),
                    reason,
                });
            }
            Finding::Unknown(reason) => {
                if let Some(idle) = self
                    .links
                    .describe(&self.ebpf)
                    .iter()
                    .find(|program| !program.runs)
                {
                    let reason = format!("the kernel does not run {} for it", idle.name);
                    return Err(Error::NotEffective {
                        cgroup: target.into(),
                        reason,
                    });
                }
                self.state
                    .notes
                    .push(format!("no connect of our own could prove the effect: {reason}"));
            }
        }
        if self.state.ipv6 && self.state.verified && six != Finding::Steered {
            self.state.ipv6 = false;
            self.links.detach_connect6();
            self.state.notes.push(format!(
                "IPv6 is left alone: a connect of our own was not steered ({six:?})"
            ));
        }
        Ok(())
    }

    /// Lets go of `connect4/6` only: new connections go the plain way or to another instance, while sockets that were
    /// steered keep their names. Does nothing when it is not attached.
    pub fn detach_connect(&mut self) {
        self.links.detach_connect();
    }

    /// Enables a pod by its namespace cookie. Its listener must accept by now.
    pub fn put_pod(&mut self, cookie: u64, pod: &Pod) -> Result<()> {
        let accelerate = pod.accelerate && self.attach_sk_msg();
        let value = Plain(pod.to_abi(accelerate));
        self.maps.pods.insert(cookie, value, 0).map_err(table("pods"))
    }

    /// Disables a pod. No error if it is not there.
    pub fn remove_pod(&mut self, cookie: u64) -> Result<()> {
        absent_is_fine(self.maps.pods.remove(&cookie)).map_err(table("pods"))
    }

    /// Makes a Service's address known, or changes it. With `endpoints` 0, connects to it are left alone.
    pub fn put_service(&mut self, address: IpAddr, port: u16, service: &Service) -> Result<()> {
        let key = Plain(service_key(address, port));
        self.maps
            .services
            .insert(key, Plain(service.to_abi()), 0)
            .map_err(table("services"))
    }

    /// Forgets a Service's address. No error if it is not there.
    pub fn remove_service(&mut self, address: IpAddr, port: u16) -> Result<()> {
        absent_is_fine(self.maps.services.remove(&Plain(service_key(address, port))))
            .map_err(table("services"))
    }

    /// Writes a Service's endpoints for people who look with bpftool; the programs never read them. An empty list
    /// removes them.
    pub fn put_endpoints(&mut self, slot: Slot, endpoints: &[Backend]) -> Result<()> {
        let before = self.backends.get(&slot).copied().unwrap_or(0);
        let now = endpoints.len() as u32;
        let key = |index| {
            Plain(abi::BackendKey {
                slot: slot.get(),
                index,
            })
        };
        let keys: Vec<_> = (0..now).map(key).collect();
        let values: Vec<_> = endpoints
            .iter()
            .map(|endpoint| Plain(endpoint.to_abi()))
            .collect();
        sys::update_batch(&self.maps.backends, &keys, &values).map_err(table("backends"))?;
        for index in now..before {
            absent_is_fine(self.maps.backends.remove(&key(index))).map_err(table("backends"))?;
        }
        if now == 0 {
            self.backends.remove(&slot)
        } else {
            self.backends.insert(slot, now)
        };
        Ok(())
    }

    /// The handle that data workers beat with.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// The handle that tells which Service an accepted IPv6 connection is for.
    pub fn identify(&self) -> Identify {
        self.identify.clone()
    }

    /// Every counter with its name, summed over CPUs.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let Ok(values) = self.maps.counters.get(&0, 0) else {
            return Vec::new();
        };
        let sum = |counter: &abi::Counter| values.iter().map(|Plain(figures)| figures.get(*counter)).sum();
        COUNTERS
            .iter()
            .map(|counter| (counter.name(), sum(counter)))
            .collect()
    }

    /// What is attached now, with the neighbours as they are at this moment.
    pub fn attached(&self) -> Attached {
        let mut attached = self.state.clone();
        attached.programs = self.links.describe(&self.ebpf);
        attached.notes.extend_from_slice(&self.lacking);
        attached
    }

    /// Attaches `sk_msg` for the first pod that asks for it; false if this kernel has none.
    fn attach_sk_msg(&mut self) -> bool {
        if self.sk_msg.is_some() {
            return true;
        }
        let Some(Program::SkMsg(program)) = self.ebpf.program_mut(program::SK_MSG) else {
            return false;
        };
        let attached = program
            .attach(self.maps.sockets.fd())
            .and_then(|id| program.take_link(id));
        match attached {
            Ok(link) => self.sk_msg = Some(link),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "no acceleration: sk_msg cannot be attached"
            ),
        }
        self.sk_msg.is_some()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("options", &self.options)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

fn table<E: StdError + 'static>(table: &'static str) -> impl Fn(E) -> Error {
    move |error| match refused(table, &error) {
        Error::Load { reason, .. } => Error::Table { table, reason },
        other => other,
    }
}

/// Zeros for every CPU.
fn no_figures() -> Result<PerCpuValues<Plain<abi::Counters>>> {
    let failed = |reason: String| Error::Table {
        table: "counters",
        reason,
    };
    let cpus = nr_cpus().map_err(|(file, error)| failed(format!("{file}: {error}")))?;
    PerCpuValues::try_from(vec![Plain(abi::Counters::default()); cpus])
        .map_err(|error| failed(error.to_string()))
}

fn absent_is_fine(removed: std::result::Result<(), MapError>) -> std::result::Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}
