//! Logs of the kernel programs, for debugging: a thread that copies them to our own log. At level 0 there is none, and the
//! verifier removes the log statements from the programs, so they cost nothing.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread::JoinHandle;

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe;

use super::loader::refused;
use super::{Error, Result};

/// The thread; dropping this ends it.
#[derive(Debug)]
pub(super) struct Logs {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Logs {
    pub(super) fn start(ebpf: &mut Ebpf) -> Result<Self> {
        let mut logger =
            EbpfLogger::init(ebpf).map_err(|error| refused("read the programs' logs", &error))?;
        let (stopped, stop) = pipe().map_err(|errno| failed(&errno.into()))?;
        let copy = move || {
            loop {
                let mut ready = [
                    PollFd::new(logger.as_fd(), PollFlags::POLLIN),
                    PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                ];
                let polled = poll(&mut ready, PollTimeout::NONE);
                if ready[1].any().unwrap_or(true) {
                    return;
                }
                if polled.is_ok() {
                    logger.flush();
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("kernel-logs".into())
            .spawn(copy)
            .map_err(|error| failed(&error))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own hook.
            drop(thread.join());
        }
    }
}

fn failed(error: &io::Error) -> Error {
    Error::Load {
        what: "the thread for the programs' logs".into(),
        reason: error.to_string(),
    }
}
