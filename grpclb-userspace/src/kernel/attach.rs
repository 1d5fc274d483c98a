//! Applies the attach plan and keeps the links; dropping them detaches, `connect` first.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use aya::Ebpf;
use aya::programs::{ProgramFd, loaded_programs};
use nix::sys::resource::{Resource, getrlimit};

use super::loader::refused;
use super::plan::{HOOKS, Hook, Standing, Step};
use super::{AttachedProgram, Error, Result, cgroup, sys};

/// The connect hooks' links have the highest descriptors of the process, so that the kernel lets go of them first when it is
/// killed: before the pods' listeners, which would refuse who is still steered to them, and before the connections that were
/// relayed, whose clients come back at once. Above the descriptors that an agent needs for 15,000 connections; the kernel's table
/// of them, whose sizes are powers of two, takes 256 KiB for it.
const CONNECT_DESCRIPTORS: u64 = 32_000;

/// Our links. Fields drop in this order: new connections are let go of before what keeps the old ones' names true.
#[derive(Debug, Default)]
pub(super) struct Links {
    connect: Vec<(&'static str, OwnedFd)>,
    others: Vec<OwnedFd>,
    steps: Vec<Step>,
}

impl Links {
    /// Attaches one step after the other. On an error what was attached is let go of.
    pub(super) fn attach(ebpf: &Ebpf, steps: &[Step]) -> Result<Self> {
        let mut links = Self::default();
        for step in steps {
            let cgroup = open(&step.cgroup)?;
            let what = format!("attach {} to {}", step.hook.name, step.cgroup.display());
            let program = program_of(ebpf, step.hook.program, &what)?;
            let link = sys::link_to_cgroup(program, &cgroup, step.hook.attach_type)
                .map_err(|error| refused(&what, &error))?;
            if is_connect(&step.hook) {
                let link = sys::move_above(link, first_of_connect());
                links.connect.push((step.hook.name, link));
            } else {
                links.others.push(link);
            }
            links.steps.push(step.clone());
        }
        Ok(links)
    }

    /// Lets go of `connect4/6`.
    pub(super) fn detach_connect(&mut self) {
        self.steps.retain(|step| !is_connect(&step.hook));
        self.connect.clear();
    }

    /// Lets go of `connect6` only.
    pub(super) fn detach_connect6(&mut self) {
        self.steps.retain(|step| step.hook.name != "connect6");
        self.connect.retain(|(hook, _)| *hook != "connect6");
    }

    /// Each of our programs with its neighbours, as the kernel runs them now.
    pub(super) fn describe(&self, ebpf: &Ebpf) -> Vec<AttachedProgram> {
        let names = program_names();
        let name = |id: &u32| {
            names
                .get(id)
                .map_or_else(|| format!("? ({id})"), |name| format!("{name} ({id})"))
        };
        let describe = |step: &Step| {
            let id = program_id(ebpf, step.hook.program)?;
            let running =
                sys::query_cgroup(&File::open(&step.cgroup).ok()?, step.hook.attach_type, true).ok()?;
            let place = running.programs.iter().position(|other| *other == id);
            let (before, after) = match place {
                Some(place) => (&running.programs[..place], &running.programs[place + 1..]),
                None => (&[][..], &running.programs[..]),
            };
            Some(AttachedProgram {
                name: step.hook.program,
                id,
                hook: step.hook.name,
                cgroup: step.cgroup.clone(),
                runs: place.is_some(),
                before: before.iter().map(name).collect(),
                after: after.iter().map(name).collect(),
            })
        };
        self.steps.iter().filter_map(describe).collect()
    }
}

/// Where the connect hooks' descriptors begin: below the limit where that is lower, with room for both families.
fn first_of_connect() -> RawFd {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(limit, _)| limit);
    let first = limit.saturating_sub(2).min(CONNECT_DESCRIPTORS);
    RawFd::try_from(first).unwrap_or_default()
}

fn is_connect(hook: &Hook) -> bool {
    hook.name.starts_with("connect")
}

/// What stands at our hooks of this cgroup and of every one above it.
pub(super) fn standing(target: &Path, root: &Path) -> Result<Vec<Standing>> {
    let names = program_names();
    let mut found = Vec::new();
    for path in std::iter::once(target.to_path_buf()).chain(cgroup::ancestors(target, root)) {
        let file = open(&path)?;
        for hook in HOOKS {
            let query = match sys::query_cgroup(&file, hook.attach_type, false) {
                Ok(query) => query,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(Error::NotPermitted {
                        what: format!("query the programs of {}", path.display()),
                    });
                }
                // A hook that this kernel does not know holds nothing.
                Err(_) => continue,
            };
            let programs = query.programs.iter().map(|id| match names.get(id) {
                Some(name) => format!("{name} ({id})"),
                None => format!("? ({id})"),
            });
            let programs = programs.collect();
            found.push(Standing {
                cgroup: path.clone(),
                hook: hook.name,
                flags: query.flags,
                programs,
            });
        }
    }
    Ok(found)
}

fn program_of<'a>(ebpf: &'a Ebpf, name: &str, what: &str) -> Result<&'a ProgramFd> {
    let unknown = || Error::Load {
        what: what.into(),
        reason: "it is no program of ours".into(),
    };
    let program = ebpf.program(name).ok_or_else(unknown)?;
    program.fd().map_err(|error| refused(what, &error))
}

fn program_id(ebpf: &Ebpf, name: &str) -> Option<u32> {
    ebpf.program(name)?.info().ok().map(|info| info.id())
}

fn program_names() -> BTreeMap<u32, String> {
    loaded_programs()
        .filter_map(std::result::Result::ok)
        .map(|info| (info.id(), info.name_as_str().unwrap_or("?").to_owned()))
        .collect()
}

fn open(cgroup: &Path) -> Result<File> {
    File::open(cgroup).map_err(|source| Error::Cgroup {
        path: cgroup.to_path_buf(),
        source,
    })
}
