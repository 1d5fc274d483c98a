//! The attach plan: from what stands where, decides what goes where, or that we stay off. Pure data, no system call.

use std::path::{Path, PathBuf};

use grpclb_abi::program;

use super::{Error, Result};

/// A kernel hook, with `enum bpf_attach_type`'s number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) name: &'static str,
    pub(super) program: &'static str,
    pub(super) attach_type: u32,
    pub(super) need: Need,
}

/// What falls away without a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Steering.
    Always,
    /// Steering over IPv6.
    Ipv6,
    /// Telling the Service of IPv6 connections; `sk_msg`.
    Flows,
}

/// The hooks in the order of attachment: what keeps names true first, `connect` last.
pub(super) const HOOKS: [Hook; 7] = [
    Hook {
        name: "sock_ops",
        program: program::SOCK_OPS,
        attach_type: 3,
        need: Need::Flows,
    },
    Hook {
        name: "getpeername4",
        program: program::PEERNAME4,
        attach_type: 29,
        need: Need::Always,
    },
    Hook {
        name: "getsockname4",
        program: program::SOCKNAME4,
        attach_type: 31,
        need: Need::Always,
    },
    Hook {
        name: "getpeername6",
        program: program::PEERNAME6,
        attach_type: 30,
        need: Need::Ipv6,
    },
    Hook {
        name: "getsockname6",
        program: program::SOCKNAME6,
        attach_type: 32,
        need: Need::Ipv6,
    },
    Hook {
        name: "connect6",
        program: program::CONNECT6,
        attach_type: 11,
        need: Need::Ipv6,
    },
    Hook {
        name: "connect4",
        program: program::CONNECT4,
        attach_type: 10,
        need: Need::Always,
    },
];

/// What was found at one hook of one cgroup.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) cgroup: PathBuf,
    pub(super) hook: &'static str,
    /// `BPF_F_ALLOW_OVERRIDE`, `BPF_F_ALLOW_MULTI` or none.
    pub(super) flags: u32,
    /// "name (id)".
    pub(super) programs: Vec<String>,
}

const BPF_F_ALLOW_MULTI: u32 = 2;

/// What the plan is made from.
#[derive(Clone, Debug)]
pub(super) struct Observed<'a> {
    pub(super) target: &'a Path,
    /// The cgroup of our own sockets; `None` if it cannot be seen.
    pub(super) own: Option<&'a Path>,
    /// Names of the programs that this kernel took.
    pub(super) loaded: &'a [&'static str],
    /// What stands at the target and at every cgroup above it.
    pub(super) standing: &'a [Standing],
}

/// What to attach where, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) ipv6: bool,
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) hook: Hook,
    pub(super) cgroup: PathBuf,
}

/// Decides. An error means: attach nothing.
pub(super) fn plan(observed: &Observed<'_>) -> Result<Plan> {
    refuse_to_override(observed.standing)?;
    let loaded = |hook: &Hook| observed.loaded.contains(&hook.program);
    if let Some(hook) = HOOKS
        .iter()
        .find(|hook| hook.need == Need::Always && !loaded(hook))
    {
        return Err(Error::Unsupported(format!("the hook {}", hook.name)));
    }

    let mut notes = Vec::new();
    let lacking: Vec<&str> = HOOKS
        .iter()
        .filter(|hook| hook.need != Need::Always && !loaded(hook))
        .map(|hook| hook.name)
        .collect();
    if !lacking.is_empty() {
        notes.push(format!(
            "IPv6 is left alone: this kernel has no {}",
            lacking.join(", ")
        ));
    }
    if observed.own.is_none() && lacking.is_empty() {
        notes.push("IPv6 is left alone: our own cgroup cannot be seen from here, so sock_ops would not reach our listeners".into());
    }
    let ipv6 = lacking.is_empty() && observed.own.is_some();

    let mut steps = Vec::new();
    for hook in HOOKS {
        let wanted = match hook.need {
            Need::Always => true,
            Need::Ipv6 => ipv6,
            Need::Flows => loaded(&hook),
        };
        if !wanted {
            continue;
        }
        // Accepted sockets belong to their listener's cgroup: ours.
        if hook.need == Need::Flows
            && let Some(own) = observed.own
            && !own.starts_with(observed.target)
        {
            steps.push(Step {
                hook,
                cgroup: own.to_path_buf(),
            });
        }
        steps.push(Step {
            hook,
            cgroup: observed.target.to_path_buf(),
        });
    }
    Ok(Plan { steps, ipv6, notes })
}

/// A program attached without MULTI at or above the target would be put out of effect by ours (measured: with
/// `ALLOW_OVERRIDE` a connect that it denied went through), or the kernel refuses ours.
fn refuse_to_override(standing: &[Standing]) -> Result<()> {
    let Some(found) = standing
        .iter()
        .find(|at| !at.programs.is_empty() && !allows_ours(at))
    else {
        return Ok(());
    };
    Err(Error::WouldOverride {
        program: found.programs.join(", "),
        cgroup: found.cgroup.clone(),
        hook: found.hook,
    })
}

/// Whether programs of other owners stay in effect beside these.
pub(super) fn allows_ours(at: &Standing) -> bool {
    at.flags & BPF_F_ALLOW_MULTI != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 7] = [
        program::CONNECT4,
        program::CONNECT6,
        program::PEERNAME4,
        program::PEERNAME6,
        program::SOCKNAME4,
        program::SOCKNAME6,
        program::SOCK_OPS,
    ];

    fn observed<'a>(
        own: Option<&'a Path>,
        loaded: &'a [&'static str],
        standing: &'a [Standing],
    ) -> Observed<'a> {
        Observed {
            target: Path::new("/cg/kubepods"),
            own,
            loaded,
            standing,
        }
    }

    fn standing(flags: u32) -> Vec<Standing> {
        vec![Standing {
            cgroup: "/cg".into(),
            hook: "connect4",
            flags,
            programs: vec!["other (7)".into()],
        }]
    }

    #[test]
    fn connect_goes_last() {
        let own = Path::new("/cg/kubepods/agent");
        let plan = plan(&observed(Some(own), &ALL, &[])).unwrap();
        let order: Vec<_> = plan.steps.iter().map(|step| step.hook.name).collect();
        assert_eq!(order[5..], ["connect6", "connect4"]);
        assert!(plan.ipv6 && plan.notes.is_empty());
    }

    #[test]
    fn sock_ops_reaches_our_listeners_where_we_are_no_pod() {
        let own = Path::new("/cg/system.slice");
        let plan = plan(&observed(Some(own), &ALL, &[])).unwrap();
        let cgroups: Vec<_> = plan
            .steps
            .iter()
            .filter(|step| step.hook.name == "sock_ops")
            .map(|step| step.cgroup.as_path())
            .collect();
        assert_eq!(cgroups, [own, Path::new("/cg/kubepods")]);
    }

    #[test]
    fn what_is_missing_for_ipv6_turns_only_ipv6_off() {
        let own = Path::new("/cg/kubepods/agent");
        for missing in [program::SOCK_OPS, program::CONNECT6, program::SOCKNAME6] {
            let loaded: Vec<_> = ALL.into_iter().filter(|name| *name != missing).collect();
            let plan = plan(&observed(Some(own), &loaded, &[])).unwrap();
            assert!(!plan.ipv6);
            assert_eq!(plan.notes.len(), 1, "{missing}");
            assert_eq!(plan.steps.last().unwrap().hook.name, "connect4");
            assert!(plan.steps.iter().all(|step| step.hook.need != Need::Ipv6));
        }
    }

    #[test]
    fn without_getpeername_we_stay_off() {
        let loaded: Vec<_> = ALL
            .into_iter()
            .filter(|name| *name != program::PEERNAME4)
            .collect();
        assert!(matches!(
            plan(&observed(None, &loaded, &[])),
            Err(Error::Unsupported(_))
        ));
    }

    #[test]
    fn another_owners_program_without_multi_keeps_us_off() {
        for flags in [0, 1] {
            let standing = standing(flags);
            assert!(matches!(
                plan(&observed(None, &ALL, &standing)),
                Err(Error::WouldOverride { .. })
            ));
        }
        assert!(plan(&observed(None, &ALL, &standing(BPF_F_ALLOW_MULTI))).is_ok());
    }
}
