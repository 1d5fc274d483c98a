//! The program that is counted: built from the working tree or with the engine of another commit, and run under callgrind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{progress, workspace};

/// The declaration of the benchmark, for commits that do not have it yet.
const MANIFEST: &str = "\n[[bench]]\nname = \"calls\"\nharness = false\n";

/// glibc copies memory by the widest instructions of the CPU: without these all x86-64 machines count the same.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX2,-AVX2_Usable,-ERMS,-FSRM";

/// The built benchmark.
pub(super) struct Program {
    path: PathBuf,
}

/// Where callgrind's counts are kept, one file a scenario.
pub(super) fn folder() -> PathBuf {
    workspace::target().join("instructions")
}

impl Program {
    /// Builds the benchmark in release, with the engine of `commit` if it is given.
    pub(super) fn build(commit: Option<&str>) -> Result<Self> {
        let Some(commit) = commit else {
            return Self::build_in(&workspace::root());
        };
        let tree = folder().join("tree");
        remove_tree(&tree)?;
        fs::create_dir_all(folder())?;
        progress::run(
            &format!("a working tree of {commit}"),
            git()
                .args(["worktree", "add", "--force", "--detach"])
                .arg(&tree)
                .arg(commit),
        )?;
        let program = copy_benchmark(&tree).and_then(|()| Self::build_in(&tree));
        remove_tree(&tree)?;
        program
    }

    fn build_in(root: &Path) -> Result<Self> {
        let mut build = workspace::cargo();
        build
            .current_dir(root)
            .env("CARGO_TARGET_DIR", workspace::target())
            .args(["build", "--release", "-p", "grpclb-engine", "--bench", "calls"])
            .arg("--message-format=json-render-diagnostics");
        let finished = progress::run_to_end("the benchmark of relayed calls", &mut build)?;
        if !finished.status.success() {
            progress::show_failure(&finished);
            bail!("building the benchmark: {}", finished.status);
        }
        let path = executable(&finished.output).context("cargo names no executable of the benchmark")?;
        Ok(Self { path })
    }

    /// The scenarios' names, and the calls of each that count.
    pub(super) fn scenarios(&self) -> Result<Vec<(String, u64)>> {
        let listed = Command::new(&self.path)
            .arg("--list")
            .output()
            .context("cannot run the benchmark")?;
        let listed = String::from_utf8(listed.stdout)?;
        let scenario = |line: &str| {
            let (name, calls) = line.split_once('\t')?;
            Some((name.to_owned(), calls.parse().ok()?))
        };
        listed
            .lines()
            .map(|line| scenario(line).with_context(|| format!("the benchmark lists `{line}`")))
            .collect()
    }

    /// Instructions of the splitter for all counted calls of one scenario.
    pub(super) fn count(&self, scenario: &str) -> Result<u64> {
        fs::create_dir_all(folder())?;
        let name: String = scenario
            .chars()
            .filter(|c| *c != ',')
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let out = folder().join(format!("{name}.callgrind"));
        let mut valgrind = Command::new("valgrind");
        valgrind
            // The environment lies on the stack and moves all that is below it.
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("GLIBC_TUNABLES", TUNABLES)
            .args(["--tool=callgrind", "--toggle-collect=calls::entry::*"])
            .arg("--zero-before=calls::count_from_here")
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(&self.path)
            .arg(scenario);
        progress::run(&format!("callgrind: {scenario}"), &mut valgrind)?;
        let text = fs::read_to_string(&out).with_context(|| format!("cannot read {}", out.display()))?;
        // Calls that began before the warm-up ended: callgrind_annotate takes the cost of none for the caller's own.
        fs::write(&out, text.replace("\ncalls=0 ", "\ncalls=1 "))?;
        match total(&text) {
            Some(0) => bail!(
                "callgrind saw no entry of the splitter in {}",
                self.path.display()
            ),
            Some(instructions) => Ok(instructions),
            None => bail!("{} has no line `totals:`", out.display()),
        }
    }
}

/// The last total: there is one for each dump.
fn total(counts: &str) -> Option<u64> {
    let line = counts
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals:"))?;
    line.trim().parse().ok()
}

/// The path of the executable in cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "calls")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
}

/// Puts the benchmark of the working tree into another tree of the repository.
fn copy_benchmark(tree: &Path) -> Result<()> {
    let engine = tree.join("grpclb-engine");
    for folder in ["benches/calls", "benches/support"] {
        let (from, to) = (
            workspace::root().join("grpclb-engine").join(folder),
            engine.join(folder),
        );
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let manifest = engine.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).context("the commit has no grpclb-engine/Cargo.toml")?;
    if !text.contains("name = \"calls\"") {
        fs::write(&manifest, text + MANIFEST)?;
    }
    Ok(())
}

/// Removes the working tree of an earlier run, if it is there.
fn remove_tree(tree: &Path) -> Result<()> {
    if !tree.exists() {
        return Ok(());
    }
    progress::run(
        "the working tree is removed",
        git().args(["worktree", "remove", "--force"]).arg(tree),
    )
}

/// The abbreviated hash of a commit.
pub(super) fn short_name(commit: &str) -> Result<String> {
    let printed = git()
        .args(["rev-parse", "--short=7", "--verify", commit])
        .output()
        .context("cannot run git")?;
    if !printed.status.success() {
        bail!(
            "git rev-parse: {}",
            String::from_utf8_lossy(&printed.stderr).trim()
        );
    }
    Ok(String::from_utf8(printed.stdout)?.trim().to_owned())
}

fn git() -> Command {
    let mut git = Command::new("git");
    git.current_dir(workspace::root());
    git
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_is_the_last_one() {
        assert_eq!(total("events: Ir\ntotals: 3\n\ntotals: 17\n"), Some(17));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn executable_is_the_benchmark_of_that_name() {
        let messages = "   Compiling x\n\
            {\"target\":{\"name\":\"other\"},\"executable\":\"/a\"}\n\
            {\"target\":{\"name\":\"calls\"},\"executable\":\"/target/calls-1\"}\n";
        assert_eq!(executable(messages), Some("/target/calls-1".into()));
    }
}
