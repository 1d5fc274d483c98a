//! Loads the object: makes and pins the maps, gives the programs to the kernel one by one, attaches nothing.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SkStorage, SockHash};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use grpclb_abi::{self as abi, map, program};

use super::plan::HOOKS;
use super::pod::Plain;
use super::{Error, Options, Result, pins::Pins};

/// Typed handles of the maps, before they go to those who use them.
pub(super) struct AllMaps {
    pub(super) tables: Maps,
    pub(super) heartbeats: Array<MapData, u64>,
    pub(super) accepted: SkStorage<MapData, Plain<abi::Accepted>>,
}

/// The tables that the agent fills, and the counters.
pub(super) struct Maps {
    pub(super) pods: HashMap<MapData, u64, Plain<abi::Pod>>,
    pub(super) services: HashMap<MapData, Plain<abi::ServiceKey>, Plain<abi::Service>>,
    pub(super) backends: HashMap<MapData, Plain<abi::BackendKey>, Plain<abi::Backend>>,
    pub(super) counters: PerCpuArray<MapData, Plain<abi::Counters>>,
    pub(super) sockets: SockHash<MapData, Plain<abi::Flow>>,
}

/// What the kernel took.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) maps: AllMaps,
    /// Names of the programs.
    pub(super) programs: Vec<&'static str>,
    /// What the kernel did not take and steering does without, for the operator.
    pub(super) notes: Vec<String>,
}

/// Loads `object`, with the maps pinned in the instance's directory.
pub(super) fn load(options: &Options, object: &[u8], pins: &Pins) -> Result<Loaded> {
    let paths: Vec<(&str, PathBuf)> = map::PINS
        .iter()
        .map(|(name, file)| (*name, pins.directory().join(file)))
        .collect();
    let mut loader = EbpfLoader::new();
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    loader.override_global(aya_log::LEVEL, &options.log_level, true);
    let mut ebpf = loader
        .load(object)
        .map_err(|error| refused("load the maps", &error))?;

    let mut taken = Vec::new();
    let mut notes = Vec::new();
    for name in programs() {
        match load_program(&mut ebpf, name) {
            Ok(()) => taken.push(name),
            Err(error) if is_permission(&error) => return Err(refused(&format!("load {name}"), &error)),
            Err(error) => {
                tracing::debug!(
                    program = name,
                    error = chain(&error),
                    "the kernel took no program"
                );
                notes.push(format!("the kernel took no {name}: {}", first_line(&error)));
            }
        }
    }
    let maps = maps(&mut ebpf, &options.instance)?;
    Ok(Loaded {
        ebpf,
        maps,
        programs: taken,
        notes,
    })
}

/// Gives every program to the kernel and lets go of it again; pins nothing.
pub(super) fn try_programs(object: &[u8]) -> Result<Vec<(&'static str, std::result::Result<(), String>)>> {
    let mut ebpf = EbpfLoader::new()
        .load(object)
        .map_err(|error| refused("load the maps", &error))?;
    let mut attempt = |name| {
        (
            name,
            load_program(&mut ebpf, name).map_err(|error| first_line(&error)),
        )
    };
    Ok(programs().map(&mut attempt).collect())
}

/// All programs of the object.
fn programs() -> impl Iterator<Item = &'static str> {
    HOOKS.iter().map(|hook| hook.program).chain([program::SK_MSG])
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> std::result::Result<(), ProgramError> {
    match ebpf.program_mut(name) {
        Some(Program::CgroupSockAddr(program)) => program.load(),
        Some(Program::SockOps(program)) => program.load(),
        Some(Program::SkMsg(program)) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn maps(ebpf: &mut Ebpf, instance: &str) -> Result<AllMaps> {
    let mut table: Array<MapData, Plain<abi::Instance>> = take(ebpf, map::INSTANCE)?;
    let value = abi::Instance {
        abi_version: abi::ABI_VERSION,
        pid: std::process::id(),
        name: abi::text(instance),
    };
    table
        .set(0, Plain(value), 0)
        .map_err(|error| refused("write the instance's map", &error))?;
    let tables = Maps {
        pods: take(ebpf, map::PODS)?,
        services: take(ebpf, map::SERVICES)?,
        backends: take(ebpf, map::BACKENDS)?,
        counters: take(ebpf, map::COUNTERS)?,
        sockets: take(ebpf, map::SOCKETS)?,
    };
    Ok(AllMaps {
        tables,
        heartbeats: take(ebpf, map::HEARTBEATS)?,
        accepted: take(ebpf, map::ACCEPTED)?,
    })
}

/// The map with this name, as this type; aya compares the sizes of keys and values.
fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let failed = |reason: String| Error::Load {
        what: format!("map {name}"),
        reason,
    };
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| failed("the object has none of this name".into()))?;
    M::try_from(map).map_err(|error| failed(chain(&error)))
}

/// An error of the kernel's in our words.
pub(super) fn refused(what: &str, error: &(dyn StdError + 'static)) -> Error {
    if is_permission(error) {
        Error::NotPermitted { what: what.into() }
    } else {
        Error::Load {
            what: what.into(),
            reason: chain(error),
        }
    }
}

/// EPERM is a lack of rights; EACCES is the verifier, which refuses a program.
fn is_permission(error: &(dyn StdError + 'static)) -> bool {
    causes(error)
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.raw_os_error() == Some(nix::libc::EPERM))
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| StdError::source(*error))
}

/// An error with its causes.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for error in causes(error) {
        let text = error.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

/// The verifier's log is for the debug level.
fn first_line(error: &(dyn StdError + 'static)) -> String {
    chain(error).lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_deep_inside_is_told_as_one() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let denied = Outer(io::Error::from_raw_os_error(nix::libc::EPERM));
        assert!(matches!(refused("load", &denied), Error::NotPermitted { .. }));
        let invalid = Outer(io::Error::from_raw_os_error(nix::libc::EINVAL));
        assert!(
            matches!(refused("load", &invalid), Error::Load { reason, .. } if reason.starts_with("outer: "))
        );
    }
}
