//! The command line: what people type, and what a command's exit status means. The work is done elsewhere.
//!
//! One file for each command: [`status`], [`explain`], [`adopt`], [`bugreport`], [`check`], [`cleanup`]; `grpclb agent` is
//! [`crate::app`]. Whom a command asks is [`whom`]'s; [`client`] asks one agent, [`cluster`] finds and reaches all of them,
//! [`fleet`] puts their answers together, [`render`] draws, and [`failure`] is why there is no answer.

mod adopt;
mod bugreport;
mod check;
mod cleanup;
mod client;
mod cluster;
mod explain;
mod failure;
mod fleet;
mod render;
mod status;
mod whom;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{FromArgMatches as _, Parser, Subcommand};

use crate::app;
use crate::control::{self, file};
use failure::Failure;

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
    /// No agent answers, or no API server.
    Unreachable = 3,
    /// It was tried and failed; the message says what.
    Failed = 4,
    /// The API server does not permit it.
    Forbidden = 5,
    /// There is no such pod, Service, namespace or node.
    Unknown = 6,
}

impl Exit {
    /// Every status with its meaning, for the documentation.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Success, "done; or the answer is yes"),
        (
            Self::No,
            "the answer is no: the configuration is invalid, this machine lacks something, the agent is not ready",
        ),
        (Self::Usage, "the command line is wrong"),
        (Self::Unreachable, "no agent answers, or no API server"),
        (Self::Failed, "it was tried and failed; the message says what"),
        (
            Self::Forbidden,
            "the API server does not permit it; the message names the right that is missing",
        ),
        (Self::Unknown, "there is no such pod, Service, namespace or node"),
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
    Explain(explain::Options),
    Adopt(adopt::Options),
    Bugreport(bugreport::Options),
    Check(check::Options),
    Cleanup(cleanup::Options),
    /// Print the version
    Version,
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let exit = match command_line().command {
        Command::Agent(options) => return agent(&options),
        Command::Status(options) => ask(status::run(&options)),
        Command::Explain(options) => ask(explain::run(&options)),
        Command::Adopt(options) => ask(adopt::run(&options)),
        Command::Bugreport(options) => ask(bugreport::run(&options)),
        Command::Check(options) => check::run(&options),
        Command::Cleanup(options) => cleanup::run(&options),
        Command::Version => print(concat!("grpclb ", env!("CARGO_PKG_VERSION"), "\n"), Exit::Success),
    };
    exit.into()
}

/// Reads the command line; what is wrong with it ends the process, as clap does.
fn command_line() -> CommandLine {
    let mut command = command();
    if is_kubectl_plugin() {
        command = command.bin_name("kubectl grpclb");
    }
    match CommandLine::from_arg_matches(&command.get_matches()) {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    }
}

/// Whether it was called as `kubectl grpclb`: a plugin is a program whose name says so.
fn is_kubectl_plugin() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name.as_deref().and_then(|path| path.file_name());
    name.is_some_and(|name| name == "kubectl-grpclb")
}

/// Runs a command that asks others, and says why it has no answer.
fn ask(command: impl Future<Output = Result<Exit, Failure>>) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime
        .map_err(Failure::Runtime)
        .and_then(|runtime| runtime.block_on(command));
    outcome.unwrap_or_else(|failure| {
        complain(&failure.to_string());
        failure.exit()
    })
}

/// All commands and their flags, for the test that holds docs/configuration.md to them.
pub fn command() -> clap::Command {
    let statuses = Exit::ALL.map(|(exit, meaning)| format!("  {}  {meaning}", exit as u8));
    let statuses = format!("Exit status:\n{}", statuses.join("\n"));
    let command = <CommandLine as clap::CommandFactory>::command();
    command
        .mut_subcommands(|command| command.after_long_help(statuses.clone()))
        .after_help(statuses)
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
        _ => complain(&with_causes(&error)),
    }
    if file.is_some() {
        Exit::No.into()
    } else {
        Exit::Failed.into()
    }
}

/// An error with its causes; one that the error before it tells already is not repeated.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
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

/// As [`print_json`], all on one line.
fn print_json_line(value: &impl serde::Serialize, exit: Exit) -> Exit {
    match serde_json::to_string(value) {
        Ok(text) => print(&(text + "\n"), exit),
        Err(error) => {
            complain(&format!("cannot write the answer as JSON: {error}"));
            Exit::Failed
        }
    }
}

/// Writes a page; one of many takes the place of the one before, where the reader is a terminal.
fn print_page(text: &str, one_of_many: bool, exit: Exit) -> Exit {
    match (one_of_many, std::io::stdout().is_terminal()) {
        (true, true) => print(&format!("\x1b[H\x1b[2J\x1b[3J{text}"), exit),
        (true, false) => print(&format!("{text}\n"), exit),
        (false, _) => print(text, exit),
    }
}

/// Says on standard error what went wrong.
fn complain(message: &str) {
    print_error(&format!("grpclb: {message}\n"));
}

/// What an API server, a file or an agent wrote may be within it.
fn print_error(text: &str) {
    let text = render::escaped_lines(text);
    // There is nobody left to tell when standard error is gone.
    let _: std::io::Result<()> = std::io::stderr().write_all(text.as_bytes());
}
