//! What went wrong on the way to the API server, in one line for people.

use std::error::Error;

/// kube names its kind of error first; that it could not do what was asked says the sentence around it.
const KIND: &str = "ServiceError: ";
/// rustls ends with an address where programmers may read on.
const MANUAL: &str = ": https://docs.rs/";

/// An error with what caused it: the outermost words alone say nothing.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    let text = text.strip_prefix(KIND).unwrap_or(&text);
    text.split(MANUAL).next().unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Chain(&'static str, #[source] Option<Box<Chain>>);

    #[test]
    fn each_cause_is_told_once_and_what_is_for_programmers_is_not() {
        let broken = "peer closed connection without sending TLS close_notify: \
                      https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";
        let cause = Chain(broken, None);
        let repeated = Chain("error reading a body from connection", Some(Box::new(cause)));
        let error = Chain(
            "ServiceError: error reading a body from connection",
            Some(Box::new(repeated)),
        );
        assert_eq!(
            with_causes(&error),
            "error reading a body from connection: peer closed connection without sending TLS close_notify"
        );
        assert_eq!(with_causes(&Chain("refused", None)), "refused");
    }
}
