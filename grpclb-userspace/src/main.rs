//! The binary `grpclb`: everything is in the library, where tests reach it.

fn main() -> std::process::ExitCode {
    grpclb_userspace::cli::run()
}
