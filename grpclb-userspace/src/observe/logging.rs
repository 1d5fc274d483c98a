//! Sets up `tracing`: what is logged, and in which form. Logs go to standard error; standard output is for answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// What `--log` takes when it is not given.
pub const DEFAULT_FILTER: &str = "info";

/// The form of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line, the fields at its top level.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`{filter}` is no log filter ({cause}): expected a level (error, warn, info, debug, trace) or `target=level` pairs, such as `info,grpclb_userspace::data=debug`"
    )]
    Filter {
        filter: String,
        cause: tracing_subscriber::filter::ParseError,
    },
    #[error("logging is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging for the whole process. `filter` is in the form of `RUST_LOG`: `info`, `warn,grpclb=debug`.
pub fn init(filter: &str, format: Format) -> Result<(), Error> {
    let parsed = EnvFilter::builder()
        .parse(with_quiet_client(filter))
        .map_err(|cause| Error::Filter {
            filter: filter.to_owned(),
            cause,
        })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match format {
        Format::Text => builder.finish().try_init()?,
        Format::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// The Kubernetes client logs each failed request as an error of its own; whoever made the request says it better, and once.
fn with_quiet_client(filter: &str) -> String {
    if filter.contains("kube_client") {
        filter.to_owned()
    } else {
        format!("{filter},kube_client=off")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused_and_says_what_is_expected() {
        let error = init("data=loud", Format::Text).unwrap_err().to_string();
        assert!(error.contains("`data=loud` is no log filter"), "{error}");
        assert!(error.contains("error, warn, info, debug, trace"), "{error}");
    }
}
