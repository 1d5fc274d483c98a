//! The maps. Names, keys and values are those of `grpclb-abi`; a kernel test holds the names to `grpclb_abi::map::PINS`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, SkStorage, SockHash};
use aya_ebpf::macros::btf_map;
use grpclb_abi::{
    Accepted, Backend, BackendKey, Counters, Flow, Instance, MAX_BACKENDS, MAX_FLOWS, MAX_PODS, MAX_SERVICES,
    MAX_SOCKETS, MAX_WORKERS, Pod, Service, ServiceKey, Steered,
};

/// Filled by the agent only, so the kernel need not keep free entries ready.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "grpclb_pods")]
pub static PODS: HashMap<u64, Pod, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "grpclb_services")]
pub static SERVICES: HashMap<ServiceKey, Service, MAX_SERVICES, ON_DEMAND> = HashMap::new();

#[btf_map(name = "grpclb_backends")]
pub static BACKENDS: HashMap<BackendKey, Backend, MAX_BACKENDS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "grpclb_beats")]
pub static HEARTBEATS: Array<u64, { MAX_WORKERS as usize + 1 }> = Array::new();

#[btf_map(name = "grpclb_counters")]
pub static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();

#[btf_map(name = "grpclb_steered")]
pub static STEERED: SkStorage<Steered> = SkStorage::new();

#[btf_map(name = "grpclb_accepted")]
pub static ACCEPTED: SkStorage<Accepted> = SkStorage::new();

#[btf_map(name = "grpclb_flows")]
pub static FLOWS: LruHashMap<Flow, Accepted, MAX_FLOWS> = LruHashMap::new();

#[btf_map(name = "grpclb_sockets")]
pub static SOCKETS: SockHash<Flow, MAX_SOCKETS> = SockHash::new();

#[btf_map(name = "grpclb_instance")]
pub static INSTANCE: Array<Instance, 1> = Array::new();
