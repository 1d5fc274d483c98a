//! What can go wrong in this room, whose fault it is and what to do. In every case the agent stays off and connections go
//! the plain way.

use std::io;
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("built without kernel programs: run cargo xtask build-ebpf, then build grpclb again")]
    NoObject,

    #[error(
        "the kernel programs are of ABI version {found:?}, this agent speaks {expected}: \
         run cargo xtask build-ebpf, then build grpclb again"
    )]
    AbiMismatch { found: Option<u32>, expected: u32 },

    #[error("instance name {0:?}: use 1 to 40 letters, digits, '-' and '_' (bpffs reserves dots)")]
    InstanceName(String),

    #[error("instance {0:?} is alive already: its pins under {path} are locked", path = .1.display())]
    InstanceAlive(String, PathBuf),

    #[error("pins at {path}: {what}: {source}", path = .path.display())]
    Pins {
        path: PathBuf,
        what: &'static str,
        source: io::Error,
    },

    #[error(
        "no cgroup v2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup) or give --cgroup"
    )]
    NoCgroup2,

    #[error("cgroup {path}: {source}", path = .path.display())]
    Cgroup { path: PathBuf, source: io::Error },

    #[error("the kernel took no {what}: {reason}")]
    Load { what: String, reason: String },

    #[error("the kernel lacks what steering needs: {0}")]
    Unsupported(String),

    #[error(
        "not permitted to {what}: grpclb needs CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_SYS_PTRACE \
         (and AppArmor unconfined or SELinux spc_t); it stays off and steers nothing"
    )]
    NotPermitted { what: String },

    #[error(
        "another owner's program {program} stands at {cgroup} ({hook}), attached without BPF_F_ALLOW_MULTI: attaching \
         below it would put it out of effect, so grpclb stays off; attach that program with BPF_F_ALLOW_MULTI or by a \
         link", cgroup = .cgroup.display()
    )]
    WouldOverride {
        program: String,
        cgroup: PathBuf,
        hook: &'static str,
    },

    #[error("the programs are attached to {cgroup}, but a connect of our own was not steered: {reason}", cgroup = .cgroup.display())]
    NotEffective { cgroup: PathBuf, reason: String },

    #[error("table {table}: {reason}")]
    Table { table: &'static str, reason: String },
}
