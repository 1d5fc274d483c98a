//! The command line: what people type, and what a command's exit status means. The work is done elsewhere.
//!
//! One file for each command that is more than a call: [`status`] (with [`client`], which asks the agent, and [`render`],
//! which draws) and [`cleanup`].

mod cleanup;
mod client;
mod render;
mod status;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::control::{self, file};
use crate::{app, kernel};

/// What an exit status means. docs/configuration.md has the same table; a test compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or: the answer is yes.
    Success = 0,
    /// The answer is no: the configuration is invalid, this machine lacks something, the agent is not ready.
    No = 1,
    /// The command line is wrong (clap's own status).
    Usage = 2,
    /// No agent answers at the admin address.
    Unreachable = 3,
    /// It was tried and failed; the message says what.
    Failed = 4,
}

impl Exit {
    /// Every status with its meaning, for the documentation.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Success, "done; or the answer is yes"),
        (
            Self::No,
            "the answer is no: the configuration is invalid, this machine lacks something, the agent is not ready",
        ),
        (Self::Usage, "the command line is wrong"),
        (Self::Unreachable, "no agent answers at the admin address"),
        (Self::Failed, "it was tried and failed; the message says what"),
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Gives every gRPC call that this node's pods make to a Service a backend of its own.
#[derive(Debug, Parser)]
#[command(
    name = "grpclb",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(Box<app::Options>),
    Status(status::Options),
    /// Say what this machine has and lacks for grpclb, and what follows
    Check(CheckOptions),
    Cleanup(cleanup::Options),
    /// Print the version
    Version,
}

#[derive(Debug, clap::Args)]
struct CheckOptions {
    /// The cgroup (v2) that the agent would attach to; by default that of the pods (kubepods), else the root
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Where maps would be pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/grpclb")]
    bpffs: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let exit = match CommandLine::parse().command {
        Command::Agent(options) => return agent(&options),
        Command::Status(options) => status::run(&options),
        Command::Check(options) => check_machine(&options),
        Command::Cleanup(options) => cleanup::run(&options),
        Command::Version => print(concat!("grpclb ", env!("CARGO_PKG_VERSION"), "\n"), Exit::Success),
    };
    exit.into()
}

/// All commands and their flags, for the test that holds docs/configuration.md to them.
pub fn command() -> clap::Command {
    <CommandLine as clap::CommandFactory>::command()
}

/// `grpclb agent`. What is wrong with a configuration is printed as it is, so that editors and terminals find
/// `file:line:column:` at the beginning of each line.
fn agent(options: &app::Options) -> ExitCode {
    let error = match app::run(options) {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    let file = match (
        error.downcast_ref::<file::Error>(),
        error.downcast_ref::<control::Error>(),
    ) {
        (Some(error), _) | (_, Some(control::Error::File(error))) => Some(error),
        _ => None,
    };
    match file {
        Some(file::Error::Invalid(problems)) => print_error(&format!("{problems}\n")),
        _ => complain(&format!("{error:#}")),
    }
    if file.is_some() {
        Exit::No.into()
    } else {
        Exit::Failed.into()
    }
}

/// `grpclb check`.
fn check_machine(options: &CheckOptions) -> Exit {
    let report = kernel::check::run(options.cgroup.as_deref(), &options.bpffs);
    let exit = if report.usable() { Exit::Success } else { Exit::No };
    if options.json {
        return print_json(&report, exit);
    }
    let table = kernel::check::table(&report, colours());
    print(&format!("{}\n", table.trim_end()), exit)
}

/// Whether standard output is a terminal that wants colours (<https://no-color.org>).
fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes the answer. A reader that has gone (`grpclb status | head`) is no failure.
fn print(text: &str, exit: Exit) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write the answer: {error}"));
            Exit::Failed
        }
        _ => exit,
    }
}

fn print_json(value: &impl serde::Serialize, exit: Exit) -> Exit {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n"), exit),
        Err(error) => {
            complain(&format!("cannot write the answer as JSON: {error}"));
            Exit::Failed
        }
    }
}

/// Says on standard error what went wrong.
fn complain(message: &str) {
    print_error(&format!("grpclb: {message}\n"));
}

fn print_error(text: &str) {
    // There is nobody left to tell when standard error is gone.
    let _: std::io::Result<()> = std::io::stderr().write_all(text.as_bytes());
}
