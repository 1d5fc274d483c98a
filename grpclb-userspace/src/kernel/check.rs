//! `grpclb check`: what this kernel and machine have and lack, line by line, and what follows from it.
//!
//! Everything is probed, nothing compared by version: distributions backport. Lines are data ([`Report`]); how they are
//! printed stands at the end. Nothing stays loaded, nothing is attached, nothing on the machine is changed.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};
use grpclb_abi::program;

use super::plan::{HOOKS, Need};
use super::{Error, attach, cgroup, loader, object, pins, plan};

/// What the check found.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Report {
    pub lines: Vec<Line>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Line {
    /// What: "BTF", "cgroup v2", "hook connect4".
    pub subject: String,
    pub verdict: Verdict,
    /// What was found: a path, a number, an error.
    pub found: String,
    /// What follows; empty when all is well.
    pub follows: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Something is off, steering works.
    Limited,
    /// grpclb stays off here.
    Missing,
}

const STAYS_OFF: &str = "grpclb stays off: every connection goes the plain way";
const NO_IPV6: &str = "IPv6 is left alone, IPv4 is steered";
const NO_SK_MSG: &str = "no acceleration (an opt-in that is off by default); steering is whole";

impl Report {
    /// Whether steering is possible at all.
    pub fn usable(&self) -> bool {
        self.lines.iter().all(|line| line.verdict != Verdict::Missing)
    }
}

/// Looks at this machine. `cgroup` and `pin_root` as in [`super::Options`].
pub fn run(cgroup: Option<&Path>, pin_root: &Path) -> Report {
    let mut lines = vec![kernel(), btf()];
    lines.extend(capabilities());
    lines.push(bpffs(pin_root));
    lines.extend(cgroups(cgroup));
    lines.extend(helpers());
    lines.push(map(
        "map socket storage",
        MapType::SkStorage,
        Verdict::Missing,
        STAYS_OFF,
    ));
    lines.push(map(
        "map socket hash",
        MapType::SockHash,
        Verdict::Limited,
        NO_SK_MSG,
    ));
    lines.extend(programs());
    Report { lines }
}

fn kernel() -> Line {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    ok("kernel", release.trim())
}

/// Socket storage wants types with its map, and bpftool prints fields by them.
fn btf() -> Line {
    if aya::features().btf().is_none() {
        return bad("BTF", Verdict::Missing, "none was taken from us", STAYS_OFF);
    }
    let vmlinux = Path::new("/sys/kernel/btf/vmlinux");
    if vmlinux.exists() {
        ok("BTF", &vmlinux.display().to_string())
    } else {
        ok("BTF", "for our own types")
    }
}

/// Bits of `CapEff` in `/proc/self/status` (capability.h).
const CAPABILITIES: [(u32, &str); 4] = [
    (39, "CAP_BPF"),
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
];

fn capabilities() -> Vec<Line> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = effective_capabilities(&status);
    let line = |(bit, name): (u32, &str)| {
        if effective & (1 << bit) != 0 {
            ok(name, "held")
        } else {
            bad(name, Verdict::Missing, "not held", STAYS_OFF)
        }
    };
    CAPABILITIES.into_iter().map(line).collect()
}

fn effective_capabilities(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn bpffs(pin_root: &Path) -> Line {
    let path = pin_root.display().to_string();
    if pins::is_on_bpffs(pin_root) {
        ok("bpffs", &path)
    } else if pins::can_mount(pin_root) {
        ok("bpffs", &format!("not mounted for {path}; the agent mounts it"))
    } else {
        bad(
            "bpffs",
            Verdict::Missing,
            &format!("{path} is on none"),
            "mount -t bpf bpf DIRECTORY, or choose another",
        )
    }
}

/// Where the programs would go, and who is there.
fn cgroups(given: Option<&Path>) -> Vec<Line> {
    let root = match cgroup::root() {
        Ok(root) => root,
        Err(error) => return vec![bad("cgroup v2", Verdict::Missing, &error.to_string(), STAYS_OFF)],
    };
    let mut lines = vec![ok("cgroup v2", &root.display().to_string())];
    lines.push(match (given, cgroup::pods(&root)) {
        (Some(given), _) => ok("pods\u{2019} cgroup", &format!("{} (as given)", given.display())),
        (None, Some(found)) => ok("pods\u{2019} cgroup", &found.display().to_string()),
        (None, None) => bad(
            "pods\u{2019} cgroup",
            Verdict::Limited,
            "none below the root",
            "the programs go to the root: they see every process, and steer enabled ones only",
        ),
    });
    match cgroup::target(given).and_then(|target| attach::standing(&target, &root)) {
        Ok(standing) => lines.extend(neighbours(&standing)),
        Err(Error::NotPermitted { what }) => {
            lines.push(bad(
                "other programs",
                Verdict::Missing,
                &format!("not permitted to {what}"),
                STAYS_OFF,
            ));
        }
        Err(error) => lines.push(bad(
            "other programs",
            Verdict::Missing,
            &error.to_string(),
            STAYS_OFF,
        )),
    }
    lines
}

/// Other owners' programs at our hooks, there and above.
fn neighbours(standing: &[plan::Standing]) -> Vec<Line> {
    let mut lines = Vec::new();
    for at in standing.iter().filter(|at| !at.programs.is_empty()) {
        let subject = format!("programs at {}", at.hook);
        let found = format!("{} on {}", at.programs.join(", "), at.cgroup.display());
        lines.push(if plan::allows_ours(at) {
            ok(&subject, &found)
        } else {
            bad(
                &subject,
                Verdict::Missing,
                &found,
                "attached without BPF_F_ALLOW_MULTI: ours would replace it, so grpclb stays off",
            )
        });
    }
    if lines.is_empty() {
        lines.push(ok("other programs", "none at our hooks"));
    }
    lines
}

/// The helpers that the programs call, where they call them.
fn helpers() -> Vec<Line> {
    let connect = ProgramType::CgroupSockAddr;
    let wanted = [
        (
            "netns cookie in connect",
            connect,
            BpfHelper::BPF_FUNC_get_netns_cookie,
            Verdict::Missing,
            STAYS_OFF,
        ),
        (
            "socket storage in connect",
            connect,
            BpfHelper::BPF_FUNC_sk_storage_get,
            Verdict::Missing,
            STAYS_OFF,
        ),
        (
            "netns cookie in sock_ops",
            ProgramType::SockOps,
            BpfHelper::BPF_FUNC_get_netns_cookie,
            Verdict::Limited,
            NO_IPV6,
        ),
        (
            "socket storage in sock_ops",
            ProgramType::SockOps,
            BpfHelper::BPF_FUNC_sk_storage_get,
            Verdict::Limited,
            NO_IPV6,
        ),
        (
            "netns cookie in sk_msg",
            ProgramType::SkMsg,
            BpfHelper::BPF_FUNC_get_netns_cookie,
            Verdict::Limited,
            NO_SK_MSG,
        ),
        (
            "redirect in sk_msg",
            ProgramType::SkMsg,
            BpfHelper::BPF_FUNC_msg_redirect_hash,
            Verdict::Limited,
            NO_SK_MSG,
        ),
    ];
    let line = |(subject, kind, helper, verdict, follows): (&str, _, _, _, &str)| {
        let subject = format!("helper {subject}");
        match is_helper_supported(kind, helper) {
            Ok(true) => ok(&subject, "there"),
            Ok(false) => bad(&subject, verdict, "the kernel has none", follows),
            Err(error) => bad(
                &subject,
                verdict,
                &format!("cannot be probed: {}", loader::chain(&error)),
                follows,
            ),
        }
    };
    wanted.into_iter().map(line).collect()
}

fn map(subject: &str, kind: MapType, verdict: Verdict, follows: &str) -> Line {
    match is_map_supported(kind) {
        Ok(true) => ok(subject, "there"),
        Ok(false) => bad(subject, verdict, "the kernel has none", follows),
        Err(error) => bad(
            subject,
            verdict,
            &format!("cannot be probed: {}", loader::chain(&error)),
            follows,
        ),
    }
}

/// The proof of all that: the kernel is given our programs, and they are let go of again.
fn programs() -> Vec<Line> {
    let tried = match object::embedded().and_then(|object| object::check_abi(object).map(|()| object)) {
        Ok(object) => loader::try_programs(object),
        Err(error) => {
            return vec![bad(
                "our programs",
                Verdict::Missing,
                &error.to_string(),
                STAYS_OFF,
            )];
        }
    };
    let tried = match tried {
        Ok(tried) => tried,
        Err(error) => return vec![bad("our maps", Verdict::Missing, &error.to_string(), STAYS_OFF)],
    };
    let line = |(name, outcome): (&'static str, Result<(), String>)| {
        let hook = HOOKS.iter().find(|hook| hook.program == name);
        let subject = format!("hook {}", hook.map_or("sk_msg", |hook| hook.name));
        let (verdict, follows) = match hook.map(|hook| hook.need) {
            Some(Need::Always) => (Verdict::Missing, STAYS_OFF),
            Some(Need::Ipv6 | Need::Flows) => (Verdict::Limited, NO_IPV6),
            None => (Verdict::Limited, NO_SK_MSG),
        };
        match outcome {
            Ok(()) if name == program::SK_MSG => ok(
                &subject,
                "the kernel takes our program (used where a pod opts in)",
            ),
            Ok(()) => ok(&subject, "the kernel takes our program"),
            Err(error) => bad(&subject, verdict, &error, follows),
        }
    };
    tried.into_iter().map(line).collect()
}

fn ok(subject: &str, found: &str) -> Line {
    Line {
        subject: subject.into(),
        verdict: Verdict::Ok,
        found: found.into(),
        follows: String::new(),
    }
}

fn bad(subject: &str, verdict: Verdict, found: &str, follows: &str) -> Line {
    Line {
        subject: subject.into(),
        verdict,
        found: found.into(),
        follows: follows.into(),
    }
}

/// The report for people: a mark, the subject, what was found, and below it what follows.
pub fn table(report: &Report, colour: bool) -> String {
    let paint = |code: &str, text: &str| {
        if colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let width = report
        .lines
        .iter()
        .map(|line| line.subject.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for line in &report.lines {
        let mark = match line.verdict {
            Verdict::Ok => paint("32", "\u{2713}"),
            Verdict::Limited => paint("33", "!"),
            Verdict::Missing => paint("31", "\u{2717}"),
        };
        let padding = " ".repeat(width - line.subject.chars().count());
        // A String takes every write.
        let _ = writeln!(out, "{mark} {}{padding}  {}", line.subject, line.found);
        if !line.follows.is_empty() {
            let _ = writeln!(
                out,
                "  {}  {}",
                " ".repeat(width),
                paint("1", &format!("\u{2192} {}", line.follows))
            );
        }
    }
    let limited = report.lines.iter().any(|line| line.verdict == Verdict::Limited);
    let summary = match (report.usable(), limited) {
        (true, false) => paint("32", "grpclb can steer here."),
        (true, true) => paint("33", "grpclb can steer here, with the limits above."),
        (false, _) => paint("31", "grpclb cannot steer here."),
    };
    let _ = writeln!(out, "\n{summary}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_missing_thing_makes_the_machine_unusable_and_a_limit_does_not() {
        let limited = bad("a", Verdict::Limited, "x", "y");
        assert!(
            Report {
                lines: vec![ok("b", "x"), limited.clone()]
            }
            .usable()
        );
        assert!(
            !Report {
                lines: vec![limited, bad("c", Verdict::Missing, "x", "y")]
            }
            .usable()
        );
    }

    #[test]
    fn capabilities_are_read_from_the_kernels_mask() {
        let status = "Name:\tgrpclb\nCapPrm:\t0000000000000000\nCapEff:\t0000008000001000\n";
        assert_eq!(effective_capabilities(status), 1 << 39 | 1 << 12);
        assert_eq!(effective_capabilities("CapEff:\tnonsense"), 0);
    }

    #[test]
    fn the_table_says_what_follows_below_what_was_found() {
        let report = Report {
            lines: vec![
                ok("BTF", "there"),
                bad("hook connect6", Verdict::Limited, "EINVAL", NO_IPV6),
            ],
        };
        let table = table(&report, false);
        assert_eq!(
            table,
            "\u{2713} BTF            there\n! hook connect6  EINVAL\n                 \u{2192} IPv6 is left alone, IPv4 is \
             steered\n\ngrpclb can steer here, with the limits above.\n"
        );
    }
}
